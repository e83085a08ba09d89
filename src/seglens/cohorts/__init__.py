"""Files on disk to cases to slices."""
