"""pipelines/evaluation/plots.py: figures show the right values, and their texts fit."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from pipelines.evaluation import plots
from pipelines.evaluation.plots import confusion_matrix, learning_curve

RECORDS = [
    {"epoch": epoch, "train_loss": 2 / epoch, "val_loss": loss, "val_metric": metric}
    for epoch, loss, metric in [(1, 2.0, 0.125), (2, 1.5, 0.75), (3, 1.25, 0.75), (4, 1.75, 0.5)]
]
NAMES = {
    "short": "{}",
    "long": "Putting something onto something else that cannot support it {}",
    "Cyrillic": "Прыжок {}",
    "mathematics": "$x^{}$ \\frac <b>",
    "a line break": "a\nb {}",
}


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved."""
    seen, save = [], plots.save
    monkeypatch.setattr(plots, "save", lambda figure, path: (seen.append(figure), save(figure, path)))
    return seen


def counts(num_classes, num_clips):
    """A confusion matrix: three of four clips are predicted correctly, the others as the next class."""
    eye = np.eye(num_classes, dtype=np.int64)
    return num_clips * 3 // 4 * eye + num_clips // 4 * np.roll(eye, 1, axis=1)


def test_a_learning_curve_has_both_losses_the_metric_and_its_best_epoch(tmp_path, figures):
    learning_curve(RECORDS, tmp_path / "curve.png", metric="mean_average_precision", chance=0.1)
    losses, metrics = figures[0].axes
    drawn = {line.get_label(): line.get_ydata() for line in losses.lines}
    assert [drawn["train"].tolist(), drawn["val"].tolist()] == [[2, 1, 2 / 3, 0.5], [2, 1.5, 1.25, 1.75]]
    assert metrics.lines[0].get_ydata().tolist() == [12.5, 75, 75, 50]
    assert metrics.get_title(loc="left") == "mean average precision on val, %"
    # Of two equal metrics the epoch with the lower loss is the best one, as in training.
    assert [text.get_text() for text in metrics.texts] == ["best 75.0\nin epoch 3", "chance 10.0"]
    assert imread(tmp_path / "curve.png").shape[:2] == (448, 1024)


def test_the_labels_of_a_learning_curve_are_beside_the_ends_of_the_curves(tmp_path, figures):
    learning_curve(RECORDS, tmp_path / "curve.png")
    losses = figures[0].axes[0]
    assert {text.get_text(): text.xy for text in losses.texts} == {"train": (4, 0.5), "val": (4, 1.75)}
    assert losses.get_legend() is None
    train, val = (text.get_window_extent() for text in losses.texts)
    assert not train.overlaps(val)


def test_a_learning_curve_names_the_split_of_its_validation_metrics(tmp_path, figures):
    learning_curve(RECORDS, tmp_path / "curve.png", metric="accuracy", val_split="test")
    losses, metrics = figures[0].axes
    assert [line.get_label() for line in losses.lines][:2] == ["train", "test"]
    assert metrics.get_title(loc="left") == "accuracy on test, %"


@pytest.mark.parametrize("num_epochs", [1, 2, 1001])
def test_a_learning_curve_of_any_length_has_whole_epochs_and_its_texts_inside(tmp_path, figures, num_epochs):
    records = [{**RECORDS[0], "epoch": epoch + 1, "val_metric": epoch / 2000} for epoch in range(num_epochs)]
    learning_curve(records, tmp_path / "curve.png", metric="accuracy")
    for axes in figures[0].axes:
        low, high = axes.get_xlim()
        shown = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert shown
        assert all(tick == int(tick) for tick in shown)
        box = axes.get_tightbbox()
        assert 0 <= box.x0 < box.x1 <= 1024
        assert 0 <= box.y0 < box.y1 <= 448


# Many names take a second to draw, so 47 and 101 classes are tested only with the names that are hardest to fit.
@pytest.mark.parametrize(
    ("name", "num_classes"),
    [
        pytest.param(NAMES[name], num_classes, id=f"{name}-{num_classes}")
        for num_classes, names in ((2, NAMES), (11, NAMES), (47, ["long"]), (101, ["long", "Cyrillic"]))
        for name in names
    ],
)
def test_the_names_of_a_confusion_matrix_fit_into_the_figure_without_overlap(tmp_path, figures, num_classes, name):
    classes = [name.format(number) for number in range(num_classes)]
    confusion_matrix(counts(num_classes, 8), classes, tmp_path / "confusion.png", title="accuracy 75.0% on 8 clips")
    (figure,) = figures
    height, width = imread(tmp_path / "confusion.png").shape[:2]
    assert max(height, width) < 2000
    boxes = [text.get_window_extent() for text in figure.texts]
    assert min(min(box.x0, box.y0) for box in boxes) >= 0
    assert max(box.x1 for box in boxes) <= width
    assert max(box.y1 for box in boxes) <= height
    own = [text.get_window_extent() for text in figure.texts if text.get_ha() == "right"]
    assert len(own) == num_classes
    assert all(above.y0 > below.y0 + 0.9 * below.height for above, below in itertools.pairwise(own))


@pytest.mark.parametrize(
    ("num_classes", "num_clips"),
    [(2, 4), (11, 4000), (101, 40_000)],
)
def test_a_confusion_matrix_shows_percents_of_the_true_class(tmp_path, figures, num_classes, num_clips):
    confusion_matrix(counts(num_classes, num_clips), ["x"] * num_classes, tmp_path / "confusion.png")
    found = [text for text in figures[0].texts if text.get_text().isdigit()]
    expected = [75, 25] * num_classes
    assert sorted(int(text.get_text()) for text in found) == sorted(expected)
    side = figures[0].axes[0].get_window_extent().width / num_classes
    assert all(text.get_window_extent().width < side for text in found)


def test_hits_are_blue_errors_orange_and_empty_cells_white(tmp_path, figures):
    confusion_matrix(np.array([[8, 0, 0], [0, 4, 4], [0, 0, 0]]), ["a", "b", "c"], tmp_path / "confusion.png")
    cells = np.asarray(figures[0].axes[0].images[0].get_array())
    assert cells[0, 0] == pytest.approx(np.array([0, 0x72, 0xB2]) / 255)
    red, _, blue = cells[1, 1]
    assert 0 < red < blue, "half of the blue"
    red, _, blue = cells[1, 2]
    assert red > blue
    assert np.all(cells[[0, 0, 1, 2, 2, 2], [1, 2, 0, 0, 1, 2]] == 1)


def test_a_figure_that_cannot_be_written_leaves_the_old_one_and_no_other_file(tmp_path, monkeypatch):
    path = tmp_path / "curve.png"
    learning_curve(RECORDS, path)
    before = path.read_bytes()

    def fails(figure, file, **kwargs):
        file.write(b"half")
        raise OSError("no room")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fails)
    with pytest.raises(OSError, match="no room"):
        learning_curve(RECORDS[:1], path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_matplotlib_is_loaded_by_the_first_figure_and_pyplot_never(tmp_path):
    code = f"""
import sys, pipelines.evaluation.plots as plots
before = "matplotlib" in sys.modules
plots.learning_curve({RECORDS}, {str(tmp_path / "curve.png")!r})
print(before, "matplotlib" in sys.modules, "matplotlib.pyplot" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True", "False"]
