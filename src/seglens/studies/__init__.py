"""Several cohorts, start to end."""
