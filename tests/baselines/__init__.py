"""Tests of pipelines/baselines."""
