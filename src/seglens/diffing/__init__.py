"""Which latents two models share, between floor and ceiling."""
