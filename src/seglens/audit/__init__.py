"""Audit of a model on patients without labels: how good it is there, on which volumes, and what moved."""
