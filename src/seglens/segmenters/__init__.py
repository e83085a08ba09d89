"""Slices to masks."""
