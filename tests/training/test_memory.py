"""pipelines/cost.py: what is foretold of memory and time is about what comes."""

import numpy as np
import pytest
import torch

from pipelines.training import memory as cost
from pipelines.training.options import TrainOptions
from search_spaces import paper
from ttrnn.model import ModelConfig


def config(**values):
    return ModelConfig(width=16, height=12, classes=("a", "b"), **values)


def test_memory_grows_with_parameters_frames_layers_and_on_a_gpu_by_the_frames_themselves():
    tt, dense = config(), config(input="dense")
    for one in (tt, dense):
        assert cost.step_bytes(one, 16, 200, "cpu") > cost.step_bytes(one, 16, 100, "cpu")
        frames = 2 * 16 * 100 * one.frame_size
        assert cost.step_bytes(one, 16, 100, "cuda") == cost.step_bytes(one, 16, 100, "cpu") + frames
    more = dense.num_params - tt.num_params
    assert cost.step_bytes(dense, 16, 100, "cpu") - cost.step_bytes(tt, 16, 100, "cpu") == 32 * more
    assert cost.step_bytes(config(num_layers=2), 1, 100, "cpu") > cost.step_bytes(tt, 1, 100, "cpu")


def test_the_dense_gru_of_the_paper_needs_more_than_its_weights_and_moments():
    one = ModelConfig(width=160, height=120, classes=("a", "b"), input="dense")
    assert 16 * 44_236_800 < cost.step_bytes(one, 16, 1492, "cpu") < 4e9


def test_free_memory_is_some_part_of_what_the_machine_has():
    assert 0 < cost.free_bytes("cpu") < 1 << 50


def test_peak_memory_tells_what_was_held_and_let_go_but_not_what_is_mapped(tmp_path):
    (tmp_path / "file").write_bytes(bytes(64 << 20))
    with cost.peak_memory() as peak:
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
def test_a_step_is_timed_without_touching_the_threads_or_gradients(model):
    train = TrainOptions(shards="s", out="o", precision="float32", **paper.train_options("ucf11", model))
    values = {"input": train.input, "hidden_modes": "2x2x2x2"}
    threads = torch.get_num_threads()
    time = cost.measure_step(train, config(**values))
    assert time.step_s >= 0
    assert 0 <= time.frame_s < 1e-2
    assert time.step_s + time.frame_s > 0
    assert torch.get_num_threads() == threads


def test_time_of_a_training_is_that_of_its_steps_and_frames():
    assert cost.StepTime(0.5, 0.01).training_s(10, 1000, 300) == pytest.approx(5 + 10 + 1)
