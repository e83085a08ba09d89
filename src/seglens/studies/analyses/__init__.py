"""Analyses of a study, one file each: inputs, computation, entries of the summary, section of the report."""
