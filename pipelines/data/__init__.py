"""Labelled videos to shards, and shards to batches."""
