"""Shards, runs, sweeps, models and videos are recognised, and arguments of another kind or order are refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.errors import UserError
from pipelines.data.kinds import kind_of
from pipelines.evaluate import evaluate
from pipelines.export import export
from pipelines.pareto import pareto
from pipelines.predict import predict
from pipelines.preprocess import preprocess
from pipelines.reproduce import reproduce
from pipelines.sweep import sweep
from pipelines.train import train
from tests.shards import make_shards
from tests.sweeps import make_sweep

COMMANDS: dict[str, Callable[..., Any]] = {
    "evaluate": evaluate,
    "export": export,
    "pareto": pareto,
    "predict": predict,
    "preprocess": preprocess,
    "train": train,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory of each kind, by the name of the kind."""
    folder = tmp_path_factory.mktemp("kinds")
    make_shards(folder / "shards")
    make_sweep(folder / "sweep")
    for kind in ("run", "model"):
        (folder / kind).mkdir()
        (folder / kind / "config.json").write_text(json.dumps({"format": f"ttrnn-{kind}"}))
    # A figure of a run is no clip.
    (folder / "run" / "confusion.png").touch()
    for name in ("videos/walk/one.avi", "videos/dataset.json", "empty/notes.txt", "lost/train-00000.arrow"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize("kind", ["shards", "sweep", "run", "model", "videos"])
def test_a_directory_is_recognised_by_its_content(folder: Path, kind: str) -> None:
    assert kind_of(str(folder / kind)) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [("empty", None), ("lost", None), ("none", None), ("clip.MP4", "videos"), ("step.onnx", "model"), ("0", None)],
)
def test_files_are_recognised_by_their_names_and_anything_else_is_not(
    folder: Path, name: str, kind: str | None
) -> None:
    assert kind_of(str(folder / name)) == kind


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("train", "videos OUT", "videos holds videos, not shards; make shards first: * preprocess videos shards"),
        ("train", "run OUT", "run is a run, not shards; give * train SHARDS OUT"),
        ("train", "OUT shards", "* wrong order; give shards first: * train shards OUT"),
        ("train", "run shards", "* wrong order; give shards first: * train shards run"),
        (
            "preprocess",
            "shards OUT",
            "shards holds shards, not * give them to train or sweep: * train shards run",
        ),
        (
            "preprocess",
            "OUT videos",
            "* wrong order; give videos first: * preprocess videos OUT",
        ),
        ("predict", "videos model", "* wrong order; give a model first: * predict model videos"),
        ("predict", "a.avi b.avi run", "* wrong order; give a run first: * predict run a.avi b.avi"),
        ("predict", "run shards", "shards holds shards, not videos; evaluate takes shards: * evaluate MODEL shards"),
        ("predict", "run run", "run is a run, not videos; give * predict MODEL VIDEO"),
        ("evaluate", "shards sweep", "* wrong order; give a sweep first: * evaluate sweep shards"),
        ("evaluate", "run run", "run is a run, not shards or videos; give * evaluate MODEL SHARDS"),
        ("export", "shards OUT", "shards holds shards, not * make a sweep first: * sweep --data shards --out sweep"),
        ("export", "OUT sweep", "* wrong order; give a sweep first: * export sweep OUT"),
        ("pareto", "run", "run is a run, not a sweep; export takes it: * export run model"),
        ("pareto", "model", "model is a model, not a sweep; export takes it: * export model model"),
        ("pareto", "videos", "videos holds videos, not a sweep; make a sweep first: * sweep --data videos --out sweep"),
    ],
)
def test_mistaken_arguments_are_answered_with_the_command_that_was_meant(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, words: str, message: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(UserError) as refused:
        COMMANDS[command](*words.split())
    assert re.fullmatch(re.escape(message).replace(r"\*\ ", ".*"), str(refused.value)), refused.value
    assert not Path("OUT").exists()


def test_a_sweep_and_the_table_of_the_paper_take_shards_and_videos_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=r"run is a run, not shards or videos; give .*sweep --data DATA --out OUT"):
        sweep(data="run", out="OUT")
    with pytest.raises(UserError, match=r"sweep is a sweep, not shards or videos; give .*reproduce DATA OUT"):
        reproduce("sweep", "OUT", dataset="ucf11")
    assert not Path("OUT").exists()
