"""Directories that are no whole model (tests/hostile.py): no crash, no hang, nothing run, one line for each."""

import os
import time

import pytest
import torch

import ttrnn
from tests.hostile import corpus
from ttrnn.model import ModelConfig, VideoClassifier

CONFIG = {"width": 4, "height": 3, "channels": 1, "classes": ("walk", "dive"), "hidden_modes": "2x2", "ranks": "2"}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    torch.manual_seed(0)
    ttrnn.save(VideoClassifier(ModelConfig(**CONFIG, recurrent_ranks="2")), folder / "sound", dtype="int8")
    assert ttrnn.load(folder / "sound").config.classes == CONFIG["classes"]
    return corpus(folder / "sound", folder)


def test_the_corpus_is_large(cases):
    assert len(cases) > 500
    assert sum(not case.may_load for case in cases) > 400


def test_each_is_refused_in_one_line_or_is_a_model_after_all(cases, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    wrong = []
    for case in cases:
        start, before = time.monotonic(), sorted(os.listdir(case.path))
        try:
            model = ttrnn.load(case.path)
        except ValueError as error:
            text = str(error)
            if "\n" in text or len(text) > 1000 or not text.isprintable() or str(case.path) not in text:
                wrong.append(f"{case.name}: says {text[:300]!r}")
        except Exception as error:
            wrong.append(f"{case.name}: {type(error).__name__} {str(error)[:200]!r}")
        else:
            if not case.may_load:
                wrong.append(f"{case.name}: was loaded")
            elif not isinstance(model, VideoClassifier) or not all(p.isfinite().all() for p in model.parameters()):
                wrong.append(f"{case.name}: is no model")
        if time.monotonic() - start > 10:
            wrong.append(f"{case.name}: took {time.monotonic() - start:.0f} s")
        if sorted(os.listdir(case.path)) != before:
            wrong.append(f"{case.name}: changed its directory")
    assert not wrong, "\n".join(wrong)
    assert os.listdir(tmp_path) == []
    assert capfd.readouterr() == ("", "")
