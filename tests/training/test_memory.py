"""Test training/memory.py: estimates of memory and time are plausible, peaks are measured."""

import numpy as np
import pytest
import torch

from pipelines.training import memory
from pipelines.training.options import TrainOptions
from search_spaces import paper
from ttrnn.model import ModelConfig


def config(**values):
    return ModelConfig(width=16, height=12, classes=("a", "b"), **values)


def test_memory_grows_with_parameters_frames_and_layers_and_on_a_gpu_with_the_bytes_of_the_frames():
    tt, dense = config(), config(input="dense")
    for one in (tt, dense):
        assert memory.step_bytes(one, 16, 200, "cpu") > memory.step_bytes(one, 16, 100, "cpu")
        frames = 2 * 16 * 100 * one.frame_size
        assert memory.step_bytes(one, 16, 100, "cuda") == memory.step_bytes(one, 16, 100, "cpu") + frames
        encoded = [memory.step_bytes(one, 16, 100, device, "lossless") for device in ("cpu", "cuda")]
        assert encoded[0] == memory.step_bytes(one, 16, 100, "cpu") + 3 * 16 * 100 * one.frame_size
        assert encoded[1] == memory.step_bytes(one, 16, 100, "cuda")
    more = dense.num_params - tt.num_params
    assert memory.step_bytes(dense, 16, 100, "cpu") - memory.step_bytes(tt, 16, 100, "cpu") == 32 * more
    assert memory.step_bytes(config(num_layers=2), 1, 100, "cpu") > memory.step_bytes(tt, 1, 100, "cpu")


def test_behind_a_stem_each_frame_takes_its_output_and_the_gradient_of_that_in_addition():
    plain, stem = config(), config(stem="conv")
    for times in (100, 200):
        more = memory.step_bytes(stem, 16, times, "cpu") - memory.step_bytes(plain, 16, times, "cpu")
        kept = 64 << 20
        assert more == kept + 32 * (stem.num_params - plain.num_params) + 16 * times * 4 * 2 * (3 * 4 * 16)


def test_the_dense_gru_of_the_paper_needs_more_than_its_weights_and_moments():
    one = ModelConfig(width=160, height=120, classes=("a", "b"), input="dense")
    assert 16 * 44_236_800 < memory.step_bytes(one, 16, 1492, "cpu") < 4e9


def test_free_memory_is_positive_and_plausible():
    assert 0 < memory.free_bytes("cpu") < 1 << 50


def test_peak_memory_counts_freed_memory_but_not_mapped_files(tmp_path):
    (tmp_path / "file").write_bytes(bytes(64 << 20))
    with memory.peak_memory() as peak:
        before = peak()
        mapped = np.memmap(tmp_path / "file", mode="r")
        mapped.sum()
        assert peak() < before + (32 << 20)
        held = np.ones(64 << 20, np.uint8)
        after = peak()
        del held
        assert after >= before + (60 << 20)
        assert peak() == after


@pytest.mark.parametrize("model", ["tt-gru", "dense-gru"])
def test_measuring_a_step_does_not_change_the_number_of_threads(model):
    train = TrainOptions(shards="s", out="o", precision="float32", **paper.train_options("ucf11", model))
    values = {"input": train.input, "hidden_modes": "2x2x2x2"}
    threads = torch.get_num_threads()
    time = memory.measure_step(train, config(**values))
    assert time.step_s >= 0
    assert 0 <= time.frame_s < 1e-2
    assert time.step_s + time.frame_s > 0
    assert torch.get_num_threads() == threads


def test_the_time_of_a_training_is_the_sum_over_its_steps_and_frames():
    assert memory.StepTime(0.5, 0.01).training_s(10, 1000, 300) == pytest.approx(5 + 10 + 1)
