"""pipelines/report/contact_sheet.py: stored frames appear in their place and colours, with names."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.text import Text

from pipelines.core.errors import UserError
from pipelines.data.dataset import Split
from pipelines.data.shards import Clip, write_shard
from pipelines.report import contact_sheet
from pipelines.report.contact_sheet import write_contact_sheet
from pipelines.storage.location import Location
from pipelines.video.frame import FrameSize

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
SHADES = [(20 * i + 20, 0, 0) for i in range(10)]


def clip(label: int, frames: np.ndarray, clip_id: str = "clip.avi") -> Clip:
    return Clip(clip_id, (label,), "", 25.0, frames.astype(np.uint8))


def plain(label: int, colours: list[tuple[int, ...]], size: tuple[int, int] = (4, 8)) -> Clip:
    """A clip with one frame of `size` (height, width) for each colour."""
    return clip(label, np.tile(np.array(colours)[:, None, None, :], (1, *size, 1)))


def draw(path: Path, clips: list[Clip], names: list[str]) -> np.ndarray:
    """The sheet of these clips, uint8 [H, W, 3], RGB."""
    height, width, channels = clips[0].frames.shape[1:]
    write_shard(path / "train-00000.arrow", clips)
    split = Split([path / "train-00000.arrow"], FrameSize(width, height, channels))
    write_contact_sheet(Location.of(path / "sheet.png"), "data", names, split)
    return cv2.cvtColor(cv2.imread(str(path / "sheet.png"), cv2.IMREAD_UNCHANGED), cv2.COLOR_BGR2RGB)


def boxes(sheet: np.ndarray, colour: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """(left, top, width, height) of every rectangle of exactly this colour, from left to right."""
    _, _, found, _ = cv2.connectedComponentsWithStats(np.all(sheet == colour, axis=2).astype(np.uint8))
    for left, top, width, height, area in found[1:]:
        assert area == width * height, (left, top)
    return sorted(tuple(box[:4].tolist()) for box in found[1:])


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Returns the texts on the sheets."""
    written: list[Text] = []
    write = contact_sheet._Page._write
    monkeypatch.setattr(contact_sheet._Page, "_write", lambda *args: written.append(write(*args)) or written[-1])
    return lambda: [text.get_text() for text in written]


def test_colours_are_right_and_classes_are_in_order(tmp_path):
    sheet = draw(tmp_path, [plain(label, [colour] * 4) for label, colour in enumerate((RED, GREEN, BLUE))], list("abc"))
    tops = []
    for colour in (RED, GREEN, BLUE):
        found = boxes(sheet, colour)
        assert [box[2:] for box in found] == [(128, 64)] * 4, "4 frames of 8 x 4 pixels, 16 times as large"
        assert len({top for _, top, _, _ in found}) == 1
        tops.append(found[0][1])
    assert tops[0] + 64 < tops[1] < tops[1] + 64 < tops[2]


def test_frames_are_evenly_spaced_in_time_and_ordered_from_left_to_right(tmp_path):
    sheet = draw(tmp_path, [plain(0, SHADES)], ["a"])
    found = {t: boxes(sheet, shade)[0][0] for t, shade in enumerate(SHADES) if boxes(sheet, shade)}
    assert list(found) == [0, 3, 6, 9]
    assert sorted(found.values()) == list(found.values())


def test_clips_are_evenly_spaced_over_their_class(tmp_path):
    sheet = draw(tmp_path, [plain(0, [shade]) for shade in SHADES], ["a"])
    found = {i: boxes(sheet, shade)[0][0] for i, shade in enumerate(SHADES) if boxes(sheet, shade)}
    assert list(found) == [0, 3, 6, 9]
    assert sorted(found.values()) == list(found.values())


def test_missing_clips_and_frames_are_left_blank(tmp_path):
    clips = [plain(0, [RED, GREEN]), plain(0, [BLUE]), plain(2, [RED])]
    sheet = draw(tmp_path, clips, ["two clips", "no clips", "one clip"])
    assert [len(boxes(sheet, colour)) for colour in (RED, GREEN, BLUE)] == [2, 1, 1]


@pytest.mark.parametrize(
    ("size", "drawn"),
    [
        pytest.param((2, 3), (84, 126), id="tiny: 42 times as large"),
        pytest.param((50, 60), (100, 120), id="small: twice as large"),
        pytest.param((70, 100), (70, 100), id="as it is"),
        pytest.param((256, 192), (128, 96), id="large: shrunk"),
        pytest.param((2000, 3), (128, 1), id="a line"),
    ],
)
def test_frames_are_enlarged_by_whole_factors_or_shrunk(tmp_path, size, drawn):
    sheet = draw(tmp_path, [plain(0, [RED], size)], ["a"])
    assert [box[2:] for box in boxes(sheet, RED)] == [drawn[::-1]]


def test_enlarging_adds_no_colours(tmp_path):
    board = np.where(np.indices((4, 8)).sum(axis=0)[..., None] % 2, RED, BLUE)
    sheet = draw(tmp_path, [clip(0, board[None])], ["a"])
    assert [np.all(sheet == colour, axis=2).sum() for colour in (RED, BLUE)] == [128 * 64 / 2] * 2


def test_grey_frames_are_grey(tmp_path):
    sheet = draw(tmp_path, [plain(0, [(77,)])], ["a"])
    assert (sheet == 77).all(axis=2).sum() >= 128 * 64
    assert np.all(sheet == sheet[..., :1]), "no colour anywhere"


def test_many_classes_are_in_two_columns_and_the_title_names_a_limit(tmp_path, monkeypatch, texts):
    monkeypatch.setattr(contact_sheet, "_MANY_CLASSES", 3)
    monkeypatch.setattr(contact_sheet, "MAX_CLASSES", 5)
    sheet = draw(tmp_path, [plain(i, [shade]) for i, shade in enumerate(SHADES[:6])], [f"c{i}" for i in range(6)])
    found = [boxes(sheet, shade) for shade in SHADES[:6]]
    assert [len(own) for own in found] == [1, 1, 1, 1, 1, 0]
    lefts, tops = zip(*(own[0][:2] for own in found[:5]), strict=True)
    assert lefts[0] == lefts[1] == lefts[2] < lefts[3] == lefts[4]
    assert (tops[0], tops[1]) == (tops[3], tops[4])
    assert found[0][0][2:] == (64, 32)
    assert "data, the first 5 of 6 classes" in texts()
    assert "c4" in texts()
    assert "c5" not in texts()


def test_a_clip_of_several_labels_is_shown_in_each_of_them(tmp_path):
    both = Clip("clip.avi", (0, 1), "", 0, np.full((1, 4, 8, 3), RED, np.uint8))
    assert len(boxes(draw(tmp_path, [both], ["a", "b"]), RED)) == 2


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        pytest.param("Прыжок", "Прыжок", id="Cyrillic"),
        pytest.param("رقص", "رقص", id="Arabic"),
        pytest.param("走る", r"\u8d70\u308b", id="no font has it"),
        pytest.param("ᶁ", "ᶁ", id="another font has it"),
        pytest.param("a\nb\t\x1b", r"a\nb\t\x1b", id="control characters"),
        pytest.param("$x^2$ \\frac", "$x^2$ \\frac", id="no mathematics"),
        pytest.param("", "", id="empty"),
    ],
)
def test_names_in_any_script_are_written_or_escaped(tmp_path, monkeypatch, texts, name, seen):
    # Only the fonts that come with matplotlib, so that the result does not depend on installed ones.
    fonts = [entry for entry in font_manager.fontManager.ttflist if "mpl-data" in entry.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts)
    draw(tmp_path, [clip(0, np.zeros((1, 4, 8, 1)), clip_id=name)], [name])
    assert texts().count(seen) == 2, "as class and as clip, without a warning that a letter is missing"


def test_long_names_are_wrapped_or_cut(tmp_path, texts):
    clips = [clip(0, np.zeros((1, 60, 30, 1)), clip_id="x" * 300 + "_c01.avi")]
    sheet = draw(tmp_path, clips, ["Putting something onto something else " * 20])
    name, shown = (
        next(text for text in texts() if "\n" in text),
        next(text for text in texts() if text.endswith(".avi")),
    )
    assert name.startswith("Putting something")
    assert name.endswith("…")
    assert shown.startswith("…x")
    assert shown.endswith("x_c01.avi")
    assert sheet[:, -12:].min() == 255, "nothing runs into the margin"


@pytest.mark.parametrize("place", ["nowhere/sheet.png", "."], ids=["no such directory", "a directory"])
def test_a_sheet_that_cannot_be_written_is_an_error_of_one_line(tmp_path, place):
    write_shard(tmp_path / "train-00000.arrow", [plain(0, [RED])])
    split = Split([tmp_path / "train-00000.arrow"], FrameSize(8, 4, 3))
    with pytest.raises(UserError, match=r"can't be written \(.* directory\); name another file") as error:
        write_contact_sheet(Location.of(tmp_path / place), "data", ["a"], split)
    assert "\n" not in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["train-00000.arrow"]
