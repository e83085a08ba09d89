"""What each fast path costs beside its peers and its floor; `python -m benchmarks` runs everything."""
