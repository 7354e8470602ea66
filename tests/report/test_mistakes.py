"""The confusion matrix and the stills of wrong clips agree with the predictions of the model."""

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.data.dataset import ShardDataset
from pipelines.evaluation.classifier import open_classifier
from pipelines.report import mistakes, parts
from pipelines.report.mistakes import find_mistakes
from pipelines.training.trainer import fit
from tests.runs import options
from tests.shards import make_shards


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    return ShardDataset.open(make_shards(tmp_path_factory.mktemp("mistakes") / "shards"))


@pytest.fixture(scope="module")
def model_dir(data: ShardDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    fit(options(str(data.place), str(out), epochs=1))
    return out / "model"


def test_counts_and_stills_are_those_of_the_predictions(data: ShardDataset, model_dir: Path) -> None:
    found = find_mistakes(model_dir, data)
    assert found is not None
    split, model = data.split("test"), open_classifier(model_dir)
    scores = {split.clip_ids[index]: model.predict(split[index].frames) for index in range(len(split))}
    wanted, wrong = np.zeros((3, 3), int), {}
    for index, clip_id in enumerate(split.clip_ids):
        predicted = int(scores[clip_id].argmax())
        wanted[split.labels[index][0], predicted] += 1
        if predicted != split.labels[index][0]:
            wrong[clip_id] = index
    assert found["confusion"] == wanted.tolist()
    assert (found["num_clips"], found["num_wrong"]) == (len(split), len(wrong))
    assert {clip["clip_id"] for clip in found["clips"]} <= wrong.keys()
    assert len(found["clips"]) == min(12, len(wrong)) > 0
    values = [clip["score"] for clip in found["clips"]]
    assert values == sorted(values, reverse=True)
    for clip in found["clips"]:
        index = wrong[clip["clip_id"]]
        assert clip["label"] == data.classes[split.labels[index][0]] != clip["predicted"]
        frames = split[index].frames
        image = cv2.imdecode(np.frombuffer(base64.b64decode(clip["image"]), np.uint8), cv2.IMREAD_COLOR)
        assert image.shape[:2] == frames.shape[1:3]


def test_the_page_escapes_names_and_shows_each_number(data: ShardDataset, model_dir: Path) -> None:
    found = find_mistakes(model_dir, data)
    assert found is not None
    found["clips"][0]["clip_id"] = "<script>"
    text = parts.mistakes({"mistakes": {"trial": "0001", **found}, "classes": ["a<b", *data.classes[1:]]})
    assert "<script>" not in text
    assert "a&lt;b" in text
    assert text.count("<figure>") == len(found["clips"])
    for number in np.ravel(found["confusion"]):
        assert f">{number or ''}</td>" in text
    assert parts.mistakes({"mistakes": None}) == parts.mistakes({}) == ""


def test_several_labels_or_very_many_classes_have_no_matrix(
    data: ShardDataset, model_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mistakes, "_MOST_CLASSES", 2)
    found = find_mistakes(model_dir, data)
    assert found is not None
    assert found["confusion"] is None
    several = ShardDataset.open(make_shards(tmp_path / "several", multi_label=True))
    assert find_mistakes(model_dir, several) is None
