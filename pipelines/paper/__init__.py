"""Reproduce the table of the paper."""
