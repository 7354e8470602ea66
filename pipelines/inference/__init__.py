"""Classify videos with a trained model."""
