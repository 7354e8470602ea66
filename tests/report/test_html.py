"""The page and the picture: what they show, and that nothing a user named can break them."""

import base64
import copy
import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from pipelines.core.text import percent
from pipelines.report.frontier_files import write_frontier
from pipelines.report.html import write_page
from pipelines.report.plot import write_picture
from pipelines.report.view import dimensions
from pipelines.tuning.formatting import texts
from tests.commands.test_pareto import TRIALS, Evaluate, config, make_sweep

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


def full(data: dict[str, Any]) -> dict[str, Any]:
    """The same after refining and confirming: 0002 refined from 0005, 0004 stopped, 0001 not_replicated, everything known."""
    data = copy.deepcopy(data)
    trials = {trial["trial"]: trial for trial in data["trials"]}
    for trial in trials.values():
        trial["curve"] = [[1, 0.2], [2, 0.4], [3, trial["val_metric"]]] if trial["val_metric"] else []
        trial["multiply_adds"] = trial["num_params"] and 10 * trial["num_params"]
        trial["val_interval"] = [trial["val_metric"] - 0.1, trial["val_metric"] + 0.1] if trial["val_metric"] else None
    # Replication for an earlier frontier; the picture shows no test of what is dominated.
    trials["0002"] |= {
        "test_metric": 0.7,
        "parent": "0005",
        "config": {**trials["0002"]["config"], "init": "trials/0005/model"},
    }
    trials["0004"] |= {"state": "stopped", "stopped_by": "0001 was better after 1 epoch", "curve": [[1, 0.99]]}
    for name, mean in (("0003", 0.29), ("0001", 0.28), ("0005", 0.82), ("0000", 0.6)):
        runs, bounds = [mean - 0.01, mean, mean + 0.01], [mean - 0.05, mean + 0.05]
        split = {"val": runs, "val_mean": mean, "val_interval": bounds}
        test = {"test": runs, "test_mean": mean + 0.02, "test_interval": bounds}
        trials[name] |= {"replication": {"seeds": [1, 2, 3], **split, **test}, "not_replicated": name == "0001"}
        rows = [
            {"class": label, "num_clips": 10, "precision": 1.0, "recall": 0.5, "f1": 0.7} for label in data["classes"]
        ]
        trials[name]["per_class"] = rows if name != "0000" else None
    return data | {
        "frontier": [trials["0003"], trials["0005"]],
        "not_replicated": [trials["0001"]],
        "knee": "0005",
        "replications": {"seeds": [1, 2, 3], "method": "By the method.", "failed": []},
        "published": [
            {"model": "tt-gru", "num_input_params": 3232, "accuracy": 0.813},
            {"model": "tt-lstm", "num_input_params": 3360, "accuracy": 0.796},
        ],
        "importances": {"val_metric": {"lr": 0.75, "cell": 0.25}, "num_params": {"cell": 1.0}},
        "edges": [{"param": "lr", "value": 0.02, "bound": "upper", "text": "lr is 0.02 at the best: widen it there"}],
        "hypervolume": 0.5,
        "hypervolume_reference": "of all there is",
        "epochs_trained": 31,
        "num_too_large": 4,
        "num_duplicates": 2,
    }


NEW_KEYS = ("published", "importances", "edges", "not_replicated", "replications", "hypervolume", "hypervolume_reference")
NEW_TRIAL_KEYS = ("parent", "stopped_by", "curve", "params", "multiply_adds", "per_class", "replication", "not_replicated")


def older(data: dict[str, Any]) -> dict[str, Any]:
    """The same as it was written before there were those."""
    kept = {name: value for name, value in data.items() if name not in NEW_KEYS}
    for name in ("trials", "frontier"):
        kept[name] = [{key: trial[key] for key in trial if key not in NEW_TRIAL_KEYS} for trial in data[name]]
    return kept


@pytest.fixture(scope="module")
def full_page(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = tmp_path_factory.mktemp("full") / "report.html"
    write_page(path, full(data))
    return Page(path)


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


def test_confirmed_points_stand_at_their_means_and_lucky_ones_off_the_line(full_page: Page) -> None:
    assert full_page.points() == {
        "stopped": [(500, 99.0)],
        "dominated": [(3000, 75.0)],
        "not_replicated": [(3000, 28.0)],
        "test": [(1000, 31.0), (3000, 30.0), (40_000, 84.0), (90_000, 62.0)],
        "frontier": [(1000, 29.0), (40_000, 82.0)],
        "dense": [(90_000, 60.0)],
    }
    best = next(point for point in full_page.view()["points"] if point["y"] == 82.0)
    assert best["interval"] == pytest.approx([77.0, 87.0])
    assert full_page.view()["trials"]["0001"]["mark"] == "not_replicated"
    about = full_page.view()["trials"]["0005"]["about"]
    assert about["validation"] == "85.0% (75.0 to 95.0%)"
    assert about["validation, confirmed"] == "82.0% (77.0 to 87.0%): 81.0%, 82.0%, 83.0%"


def test_page_tells_what_was_found_out_about_the_sweep(full_page: Page) -> None:
    for part in (
        "trial 0001 stood on the frontier with 80.0%.",
        "Trained again with 3 fresh seeds it came to 28.0% (23.0 to 33.0%)",
        "by the seeds 1, 2, 3, and the frontier redrawn from their means. By the method.",
        "31 epochs trained; 2 proposed twice and trained once; 4 proposed that are too large",
        "lr is 0.02 at the best: widen it there",
        "no other confirmed model has as few parameters",
        "lr75.0%",
        "claims of the paper",
        "1 of the trials: weights of a trained one, rounded",
        "50.0%: of all there is",
        "stopped: 0001 was better after 1 epoch",
    ):
        assert part in full_page.text
    assert full_page.view()["links"] == [["0005", "0002"]]
    assert "trials/0005/model" not in full_page.text
    assert full_page.view()["published"][0] == {"model": "tt-gru", "x": 3232, "y": pytest.approx(81.3)}


@pytest.mark.parametrize(("params", "answer"), [({"lr": 0.01}, "No: no number"), ({}, "Not to be told")])
def test_page_says_so_if_the_best_is_not_at_the_edge_or_was_not_sampled(
    data: dict[str, Any], tmp_path: Path, params: dict[str, float], answer: str
) -> None:
    inside = full(data) | {"edges": []}
    inside["frontier"][-1]["params"] = params
    write_page(tmp_path / "report.html", inside)
    assert answer in Page(tmp_path / "report.html").text


def test_what_an_older_pareto_json_lacks_is_left_out(data: dict[str, Any], page: Page, tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", older(data))
    write_picture(tmp_path / "pareto.png", older(data))
    without = Page(tmp_path / "report.html")
    assert without.points() == page.points()
    assert "edge of the space" not in without.text
    assert "What matters most" not in without.text


@pytest.mark.parametrize("name", ["trials.csv", "pareto.csv"])
def test_page_offers_the_tables_that_lie_beside_it(data: dict[str, Any], page: Page, name: str) -> None:
    assert page.view()["csv"][name] == Path(data["files"][name]).read_text(encoding="utf-8")


def test_axes_of_parallel_coordinates_are_what_differs_then_size_and_metric(data: dict[str, Any]) -> None:
    data = copy.deepcopy(data)
    point = data["frontier"][-1]
    point["config"]["ranks"] = "2x12x12"
    axes = {axis["title"]: axis for axis in dimensions(data)}
    assert list(axes)[-2:] == ["parameters", "validation accuracy, %"]
    assert axes["largest of ranks"]["names"] == ["3", "4", "12", "none"]
    values = {"0000": "none", "0001": "3", "0002": "4", "0003": "4", "0004": "4", "0005": "12"}
    assert axes["largest of ranks"]["values"] == values
    assert axes["cell"]["names"] == ["gru", "rnn"]
    assert "lr" not in axes
    assert axes["validation accuracy, %"]["values"]["0001"] == pytest.approx(80.0)


def test_numbers_that_are_too_many_to_name_have_a_scale(data: dict[str, Any]) -> None:
    one = data["trials"][1]
    trials = [{**one, "trial": str(n), "config": {"lr": 10 ** (-n / 8), "shift": n}} for n in range(20)]
    kinds = {axis["title"]: axis["kind"] for axis in dimensions({**data, "trials": trials, "frontier": trials[:1]})}
    assert (kinds["lr"], kinds["shift"]) == ("log", "linear")


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
