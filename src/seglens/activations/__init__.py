"""What a network computes inside: hooks, extraction, stores."""
