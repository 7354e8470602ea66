"""Times of models for the page."""

import torch

import ttrnn
from pipelines.report.latency import time_models
from ttrnn.model import ModelConfig, VideoClassifier


def test_models_are_timed_on_one_thread_and_those_that_cannot_be_loaded_are_left_out(tmp_path):
    config = ModelConfig(width=8, height=4, classes=("a", "b"), in_modes="4x4x6", hidden_modes="2x2x2", ranks="2x2")
    ttrnn.save(VideoClassifier(config), tmp_path / "model", {})
    before = torch.get_num_threads()
    found = time_models({"0000": tmp_path / "model", "0001": tmp_path / "missing"})
    assert list(found["ms_per_frame"]) == ["0000"]
    low, median, high = found["ms_per_frame"]["0000"]
    assert 0 < low <= median <= high
    assert "one thread" in found["method"]
    assert torch.get_num_threads() == before
