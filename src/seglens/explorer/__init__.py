"""A local web app over the artifacts of a finished run: see a latent, turn it, watch the mask change."""
