"""What a latent means."""
