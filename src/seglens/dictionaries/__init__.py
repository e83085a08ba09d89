"""Activations to sparse latents."""
