"""Checkpoints: restored as they were saved, without a copy in memory; a full disk is an error."""

import errno
import resource
import signal
import tracemalloc

import pytest
import torch
from torch import nn

from pipelines.training.checkpoint import Progress, load_checkpoint, save_checkpoint


def test_a_checkpoint_restores_parts_and_progress(tmp_path):
    path, saved, restored = tmp_path / "checkpoint" / "state.pt", nn.Linear(3, 2), nn.Linear(3, 2)
    progress = Progress(epoch=3, step=2, loss_sum=1.5, record={"epoch": 3, "val_metric": 0.5})
    save_checkpoint(path, {"model": saved, "ema": None}, progress)
    assert load_checkpoint(path, {"model": restored, "ema": None}) == progress
    for name, value in saved.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value)


def test_no_buffer_holds_a_checkpoint_as_a_whole(tmp_path):
    path, model = tmp_path / "checkpoint" / "state.pt", nn.Sequential(*(nn.Linear(500, 500) for _ in range(8)))
    tracemalloc.start()
    try:
        save_checkpoint(path, {"model": model}, Progress())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < path.stat().st_size / 4


def test_a_full_disk_is_an_error_and_leaves_the_older_checkpoint(tmp_path):
    path, model = tmp_path / "checkpoint" / "state.pt", nn.Linear(300, 200)
    save_checkpoint(path, {"model": model}, Progress(epoch=1))
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save_checkpoint(path, {"model": model}, Progress(epoch=2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG
    assert load_checkpoint(path, {"model": model}).epoch == 1
    assert [file.name for file in path.parent.iterdir()] == ["state.pt"]
