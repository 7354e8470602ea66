"""Model directories that earlier versions wrote (golden/) go on loading and giving what they gave.

version-1 was written by ttrnn 0.1.0 before there were dtypes; the others by the version that brought them. A new format
version adds a directory here and changes none.
"""

from pathlib import Path

import pytest
import torch

import ttrnn
from ttrnn.checkpoint import read_config

GOLDEN = Path(__file__).parent / "golden"
EXPECTED: dict[str, list[list[float]]] = {
    "version-1": [[0.569319, -0.665212, 0.110538], [0.728394, -0.260609, 0.115751]],
    "version-2": [[0.569319, -0.665212, 0.110538], [0.728394, -0.260609, 0.115751]],
    "version-2-bfloat16": [[0.572069, -0.664662, 0.107689], [0.731472, -0.260222, 0.116648]],
    "version-2-int8": [[0.574970, -0.633399, 0.111023], [0.744941, -0.251988, 0.098682]],
    "version-3": [[0.050963, 0.073498, 0.151751], [-0.016108, 0.137539, 0.177489]],
}  # fmt: skip


def test_there_is_an_expectation_for_each():
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_model_of_an_earlier_version_gives_what_it_gave(name):
    config = read_config(GOLDEN / name)
    assert config["version"] == int(name.split("-")[1])
    model = ttrnn.load(GOLDEN / name)
    assert model.config.classes == ("läuft", "a|b", "jump, high")
    assert model.config.sampling == {"max_frames": 16, "num_frames": None, "fps": 12.5}
    frames = (torch.arange(2 * 5 * 8 * 12 * 3) * 37 % 251).to(torch.uint8).reshape(2, 5, 8, 12, 3)
    with torch.no_grad():
        logits = model(frames, lengths=[5, 3])
    torch.testing.assert_close(logits, torch.tensor(EXPECTED[name]), rtol=1e-4, atol=1e-5)


def test_a_model_of_an_earlier_version_is_saved_in_the_present_one(tmp_path):
    ttrnn.save(ttrnn.load(GOLDEN / "version-1"), tmp_path / "model")
    assert read_config(tmp_path / "model")["version"] == 2
    old, new = (ttrnn.load(path).state_dict() for path in (GOLDEN / "version-1", tmp_path / "model"))
    torch.testing.assert_close(dict(old), dict(new), rtol=0, atol=0)
