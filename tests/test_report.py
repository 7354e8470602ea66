"""The page and the picture: what they show, and that nothing a user named can break them."""

import base64
import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from pipelines.cli import percent
from pipelines.pareto import write_frontier
from pipelines.report import texts, write_page, write_picture
from tests.test_pareto import TRIALS, Evaluate, config, make_sweep

HOSTILE = '</script><script>alert(1)</script><img src="https://x.invalid/y">'


class Page(HTMLParser):
    """What a browser sees: tags with attributes, text outside scripts, and the scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            (self.scripts if tag == "script" else self.styles).append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem in ("script", "style"):
            (self.scripts if self.cdata_elem == "script" else self.styles)[-1] += data
        else:
            self.text += data

    def view(self) -> dict[str, Any]:
        """What the scripts draw."""
        return json.loads(self.scripts[0])

    def points(self) -> dict[str, list[tuple[int, float]]]:
        """Of each role the (num_params, height in %) of its points."""
        found: dict[str, list[tuple[int, float]]] = {}
        view = self.view()
        for point in view["points"]:
            place = view["trials"][point["trial"]]["x"][0], pytest.approx(point["y"])
            found.setdefault(point["role"], []).append(place)
        return found

    def policy(self) -> str:
        """The content security policy."""
        return next(str(attrs["content"]) for _, attrs in self.tags if "http-equiv" in attrs)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What pareto.json holds for the sweep of test_pareto."""
    return write_frontier(make_sweep(tmp_path_factory.mktemp("report") / "sweep"), Evaluate())


@pytest.fixture(scope="module")
def page(data: dict[str, Any]) -> Page:
    return Page(Path(data["files"]["report.html"]))


def test_page_loads_nothing(page: Page) -> None:
    loading = {"src", "href", "srcset", "action", "data", "poster"}
    assert not [(tag, attrs) for tag, attrs in page.tags if loading & set(attrs)]
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    assert "default-src 'none'" in page.policy()


def test_page_admits_its_own_script_and_style_only(page: Page) -> None:
    data_script, script = page.scripts
    assert json.loads(data_script)
    for kind, text in (("script", script), ("style", page.styles[0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in page.policy()
    assert not [(tag, attrs) for tag, attrs in page.tags if "style" in attrs or any(name[:2] == "on" for name in attrs)]


def test_page_is_small(data: dict[str, Any]) -> None:
    assert Path(data["files"]["report.html"]).stat().st_size < 100_000


def test_picture_of_the_page_shows_every_trial_with_a_metric_in_its_role(page: Page) -> None:
    assert page.points() == {
        "stopped": [(500, 99.0)],
        "dominated": [(3000, 75.0)],
        "dense": [(90_000, 70.0)],
        "frontier": [(1000, 30.0), (3000, 80.0), (40_000, 85.0)],
        "test": [(1000, 51.0), (3000, 52.0), (40_000, 53.0)],
    }
    assert page.view()["frontier"] == ["0003", "0001", "0005"]
    assert page.view()["chance"] == pytest.approx(100 / 3)
    assert page.view()["chosen"] == ["0005", "0001", "0000"]


def test_pointing_at_a_trial_tells_shape_ranks_sizes_metrics_and_time(page: Page) -> None:
    assert page.view()["trials"]["0001"]["tip"] == [
        "trial 0001, gru, tt input",
        "modes 8x4x8x8 → 4x4x4x4",
        "ranks 3x3x3, recurrent ranks none",
        "3,000 parameters, 400 of them input-to-hidden",
        "validation 80.0%, test 52.0%",
        "trained 1 min 02 s, 5 epochs",
    ]
    assert [page.view()["trials"][name]["mark"] for name in ("0003", "0001", "0005")] == ["", "knee", "best"]


def test_page_says_how_its_numbers_were_made(page: Page) -> None:
    for part in (
        'words, 3 classes: left, <script>alert(1)</script>, "x",y',
        "60 validation, 30 test",
        "looked at once",
        "chance is 33.3%; the best point's standard error is 4.7 points",
        "failed: diverged <b>",
        "5 complete, 1 pruned, 1 failed, 1 unfinished; 5 epochs at most, seed 0",
        "python -m pipelines.sweep --data clips",
        "--select knee",
    ):
        assert part in page.text
    assert [tag for tag, _ in page.tags].count("script") == 2


def test_names_from_elsewhere_stay_text(tmp_path: Path) -> None:
    trial = {"num_params": 10, "val_metric": 0.5, "config": config(cell=HOSTILE, **{HOSTILE: HOSTILE})}
    failed = {"state": "failed", "error": HOSTILE, "config": {}}
    sweep = make_sweep(tmp_path / "sweep", {"0000": trial, "0001": failed}, dataset=HOSTILE, classes=[HOSTILE])
    page = Page(Path(write_frontier(sweep, Evaluate())["files"]["report.html"]))
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert "img" not in {tag for tag, _ in page.tags}
    # Title, heading, data set, class, cell in two tables; what is configured alike, with its name; error.
    assert page.text.count(HOSTILE) == 9
    assert "<" not in page.scripts[0]
    assert HOSTILE in page.view()["trials"]["0000"]["tip"][0]


def test_file_name_that_is_not_utf8_does_not_stop_the_page(data: dict[str, Any], tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", {**data, "classes": ["caf\udce9"]})
    assert "caf?" in Page(tmp_path / "report.html").text


def test_picture_is_a_png_with_something_on_it(data: dict[str, Any]) -> None:
    pixels = imread(data["files"]["pareto.png"])
    assert pixels.shape == (960, 1600, 4)
    assert 0.01 < (pixels[:, :, :3] < 0.9).any(axis=2).mean() < 0.2


ONE = {"0000": {"num_params": 5000, "val_metric": 0.2, "config": {}}}
DENSE = {"0000": {"num_params": 5000, "val_metric": 1.0, "config": config(input="dense")}}
WIDE = {**TRIALS, "0008": {"num_params": 44_236_800, "val_metric": 0.9, "config": config()}}


@pytest.mark.parametrize(
    ("trials", "changes", "roles"),
    [
        (ONE, {}, ["frontier", "test"]),
        (DENSE, {}, ["dense", "frontier", "test"]),
        (ONE, {"num_test_clips": 0, "dataset": r"$\foo$ 5$", "metric": "mean_average_precision"}, ["frontier"]),
        (WIDE, {}, ["dense", "dominated", "frontier", "stopped", "test"]),
    ],
    ids=["one trial, nothing configured", "dense only", "no test clips, dollars in the name", "five decades"],
)
def test_any_sweep_can_be_drawn(
    tmp_path: Path, trials: dict[str, Any], changes: dict[str, Any], roles: list[str]
) -> None:
    result = write_frontier(make_sweep(tmp_path / "sweep", trials, **changes), Evaluate())
    page = Page(Path(result["files"]["report.html"]))
    assert sorted(page.points()) == roles
    assert result["dataset"] in page.text
    assert imread(result["files"]["pareto.png"]).shape == (960, 1600, 4)


def test_both_are_drawn_from_pareto_json_alone(data: dict[str, Any], tmp_path: Path) -> None:
    again = json.loads(Path(data["files"]["pareto.json"]).read_text())
    write_page(tmp_path / "report.html", again)
    write_picture(tmp_path / "pareto.png", again)
    for name in ("report.html", "pareto.png"):
        assert (tmp_path / name).read_bytes() == Path(data["files"][name]).read_bytes()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.4, "0 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3900, "1 h 05 min"),
        (90_000, "25 h 00 min"),
    ],
)
def test_training_time_is_told_in_its_own_unit(data: dict[str, Any], seconds: float | None, text: str) -> None:
    assert texts({**data["trials"][0], "train_s": seconds})["train_s"] == text


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.0, "0.0%"), (0.9375, "93.8%"), (1.0, "100.0%")])
def test_metrics_are_told_in_percent(value: float | None, text: str) -> None:
    assert percent(value) == text


def test_what_is_not_known_is_a_dash(data: dict[str, Any]) -> None:
    shown = texts(data["trials"][7])
    assert {shown[name] for name in ("cell", "ranks", "num_params", "val_metric", "epochs", "train_s")} == {"-"}
    assert (shown["modes"], shown["state"]) == ("- → -", "unfinished")
