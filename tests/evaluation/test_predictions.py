"""Catalogues that a model cannot be evaluated on are refused with the reason, before a video is decoded."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.core.errors import UserError
from pipelines.evaluation.predictions import predict_catalog
from pipelines.storage.location import Location
from tests.trees import touch

MODEL = SimpleNamespace(classes=("a", "b"), task="single_label")


@pytest.mark.parametrize(
    ("stray", "named"),
    [(["c/0.avi"], "c"), (["c/0.avi", "d/0.avi", "d/1.avi"], "c, d")],
    ids=["one clip", "two labels"],
)
def test_labels_that_the_model_does_not_know_are_named(tmp_path: Path, stray: list[str], named: str) -> None:
    touch(tmp_path, *(f"{label}/{i}.avi" for label in "ab" for i in range(9)), *stray)
    with pytest.raises(UserError, match=rf"^MODEL knows the classes a, b; \S+ has others: {named}$"):
        predict_catalog("MODEL", MODEL, Location.of(tmp_path), "test")  # type: ignore[arg-type]


def test_a_split_that_a_catalogue_lacks_is_named(tmp_path: Path) -> None:
    touch(tmp_path, *(f"dev/{label}/{i}.avi" for label in "ab" for i in range(3)))
    with pytest.raises(UserError, match="has no clips in its split 'test'; --split all takes all of them"):
        predict_catalog("MODEL", MODEL, Location.of(tmp_path), "test")  # type: ignore[arg-type]
