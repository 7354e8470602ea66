"""The frame size of a data set: arrays keep theirs, and nothing is enlarged or mixed silently."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.core.errors import UserError
from pipelines.data.catalog import read_catalog
from pipelines.data.frame_size import settled
from pipelines.data.options import PreprocessOptions
from tests.data.test_id_lists import jester
from tests.trees import touch, write

SHAPES = {"8x8": (3, 8, 8), "32x24": (3, 24, 32), "RGB": (3, 24, 32, 3)}


def arrays(root: Path, shape: tuple[int, ...], kind: str = "u1", start: int = 0) -> Path:
    for label in "ab":
        (root / label).mkdir(parents=True, exist_ok=True)
        for i in range(start, start + 9):
            np.save(root / label / f"{i}.npy", np.zeros(shape, kind))
    return root


def size(root: Path, **given: Any) -> tuple[int | None, ...]:
    options = settled(PreprocessOptions(videos=str(root), out="out", **given), read_catalog(root))
    return options.width, options.height, options.channels


@pytest.mark.parametrize(
    ("shape", "kind", "wanted"),
    [
        ((3, 8, 8), "u1", (8, 8, 1)),
        ((3, 24, 32), "f4", (32, 24, 1)),
        ((3, 24, 32, 1), "f4", (32, 24, 1)),
        ((3, 24, 32, 3), "u1", (32, 24, 3)),
    ],
    ids=str,
)
def test_arrays_keep_their_size(tmp_path: Path, shape: tuple[int, ...], kind: str, wanted: tuple[int, ...]) -> None:
    assert size(arrays(tmp_path, shape, kind)) == wanted
    assert size(tmp_path, width=64, height=48, channels=3) == (64, 48, 3)


def test_a_side_that_is_given_leaves_the_others_to_the_arrays(tmp_path: Path) -> None:
    assert size(arrays(tmp_path, (3, 24, 32, 3)), width=16) == (16, 24, 3)


def test_a_damaged_array_has_no_say(tmp_path: Path) -> None:
    arrays(tmp_path, (3, 8, 8))
    np.save(tmp_path / "a" / "0.npy", np.zeros((5, 5)))
    (tmp_path / "a" / "1.npy").write_bytes(b"")
    assert size(tmp_path) == (8, 8, 1)


def test_videos_and_pictures_have_the_size_of_videos(tmp_path: Path) -> None:
    names = [f"{label}/{i}" for label in "ab" for i in range(9)]
    assert size(touch(tmp_path / "videos", *(f"{name}.avi" for name in names))) == (160, 120, 3)
    assert size(touch(tmp_path / "pictures", *(f"{name}/1.jpg" for name in names)), height=90) == (160, 90, 3)


def test_arrays_of_several_sizes_are_refused_unless_a_size_is_given(tmp_path: Path) -> None:
    arrays(arrays(tmp_path, (3, 8, 8)), (3, 16, 8), start=9)
    told = (
        r"differ in width x height x channels: 8 x 8 x 1 \(18 clips, such as .*\.npy\); 8 x 16 x 1 .* give --width and"
    )
    with pytest.raises(UserError, match=told) as error:
        size(tmp_path)
    assert "\n" not in str(error.value)
    assert size(tmp_path, height=8) == (8, 8, 1)
    with pytest.raises(UserError, match=r"differ in height: 8 \(18 .*; 16 \(18 .*; give --height"):
        size(tmp_path, width=8, channels=1)


def test_arrays_beside_videos_are_refused_unless_a_size_is_given(tmp_path: Path) -> None:
    arrays(tmp_path, (3, 8, 8))
    touch(tmp_path, *(f"videos/{i}.avi" for i in range(9)))
    rows = [f"{label}/{i}.npy,{label}" for label in "ab" for i in range(9)]
    file = write(tmp_path / "clips.csv", "path,label", *rows, *(f"videos/{i}.avi,a" for i in range(9)))
    with pytest.raises(UserError, match=r"8 x 8 x 1 \(18 clips.*; 160 x 120 x 3 \(9 clips, such as .*\.avi\)"):
        size(file)
    assert size(file, width=8, height=8, channels=1) == (8, 8, 1)


def test_an_array_is_known_by_its_content(tmp_path: Path) -> None:
    arrays(tmp_path, (3, 8, 8))
    rows = []
    for array in sorted(tmp_path.rglob("*.npy")):
        array.rename(array.with_suffix(".bin"))
        rows.append(f"{array.parent.name}/{array.stem}.bin,{array.parent.name}")
    assert size(write(tmp_path / "clips.csv", "path,label", *rows)) == (8, 8, 1)


def test_the_rate_of_pictures_is_that_of_the_layout_unless_it_is_given(tmp_path: Path) -> None:
    catalog = read_catalog(jester(tmp_path))
    for given, wanted in ((None, 12), (6.0, 6)):
        options = settled(PreprocessOptions(videos=str(tmp_path), out="out", picture_fps=given), catalog)
        assert options.picture_fps == options.sampling.picture_fps == wanted


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"value_range": "40:20"}, "value_range must be LOW:HIGH"),
        ({"picture_fps": 0.0}, "picture_fps must be above 0"),
        ({"width": 0}, "width must be above 0"),
        ({"channels": 2}, "channels must be 3"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        PreprocessOptions(videos="a", out="b", **given)
