"""Cohorts with planted truth: anatomy, MR physics, lesions and populations, from one seed."""
