"""Changing latents, and what that does."""
