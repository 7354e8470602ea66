"""Metrics, their intervals, and the evaluation of a model."""
