"""Metrics and their confidence intervals, and the evaluation of models."""
