"""report.html and pareto.png: their contents, and that names given by users cannot break them."""

import base64
import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from pipelines.report.frontier_files import write_frontier
from pipelines.report.html import write_page
from pipelines.report.plot import write_figure
from tests.report.contents import HOSTILE, full, older
from tests.sweeps import TRIALS, Evaluate, add_baselines, config, make_sweep


class Page(HTMLParser):
    """The page as a browser parses it: tags with attributes, text outside scripts, and the scripts."""

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
        """The data for the scripts."""
        return json.loads(self.scripts[0])

    def marks(self) -> dict[str, list[tuple[int, float]]]:
        """role -> (num_params, metric in %) of its marks."""
        found: dict[str, list[tuple[int, float]]] = {}
        view = self.view()
        for mark in view["marks"]:
            position = view["trials"][mark["trial"]]["x"][0], pytest.approx(mark["y"])
            found.setdefault(mark["role"], []).append(position)
        return found

    def policy(self) -> str:
        """The content security policy."""
        return next(str(attrs["content"]) for _, attrs in self.tags if "http-equiv" in attrs)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The contents of pareto.json for the sweep of tests/sweeps.py."""
    return write_frontier(make_sweep(tmp_path_factory.mktemp("report") / "sweep"), Evaluate())


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


def test_plot_of_the_page_shows_every_trial_with_a_metric_in_its_role(page: Page) -> None:
    assert page.marks() == {
        "stopped": [(500, 99.0)],
        "dominated": [(3000, 75.0)],
        "dense": [(90_000, 70.0)],
        "frontier": [(1000, 30.0), (3000, 80.0), (40_000, 85.0)],
        "test": [(1000, 51.0), (3000, 52.0), (40_000, 53.0)],
    }
    assert page.view()["frontier"] == ["0003", "0001", "0005"]
    assert page.view()["chance"] == pytest.approx(100 / 3)
    assert page.view()["selected"] == ["0001", "0005", "0000"]


def test_a_tooltip_has_shape_ranks_sizes_metrics_and_time(page: Page) -> None:
    assert page.view()["trials"]["0001"]["tooltip"] == [
        "trial 0001, gru, tt input",
        "modes 8x4x8x8 → 4x4x4x4",
        "ranks 3x3x3, recurrent ranks none",
        "3,000 parameters, 400 of them input-to-hidden",
        "validation 80.0%, test 52.0%",
        "trained 1 min 02 s, 5 epochs",
    ]
    assert [page.view()["trials"][name]["label"] for name in ("0003", "0001", "0005")] == ["", "best, knee", "highest"]


def test_page_says_how_its_numbers_were_obtained(page: Page) -> None:
    for part in (
        'words, 3 classes: left, <script>alert(1)</script>, "x",y',
        "60 validation, 30 test",
        "evaluated once",
        "chance is 33.3%; the standard error of the highest point is 4.7 points",
        "Validation accuracy is optimistic because it was selected on",
        "failed: diverged <b>",
        "5 complete, 1 pruned, 1 failed, 1 unfinished; at most 5 epochs, seed 0",
        "python -m pipelines.sweep --data clips",
        "--select knee",
    ):
        assert part in page.text
    assert [tag for tag, _ in page.tags].count("script") == 2


def test_page_says_if_there_is_enough_data_and_if_the_best_is_hardly_better_than_chance(tmp_path: Path) -> None:
    check = {"text": ["34 validation clips", f"rejected: 1 {HOSTILE}"], "cost": "3 min 20 s"}
    trials = {"0000": {"num_params": 10, "val_metric": 0.206, "val_interval": [0.088, 0.353]}}
    sweep = make_sweep(tmp_path / "sweep", trials, data_check=check, chance=1 / 11)
    page = Page(Path(write_frontier(sweep, Evaluate())["files"]["report.html"]))
    for part in (
        "Is there enough data?",
        "34 validation clips",
        f"rejected: 1 {HOSTILE}",
        "expected: 3 min 20 s",
        "Warning: 20.6% is hardly better than chance (9.1%): on validation, the 95% interval of trial 0000 is 8.8% to "
        "35.3%.",
    ):
        assert part in page.text
    assert [tag for tag, _ in page.tags].count("script") == 2


def test_page_says_what_was_found_about_the_data_and_who_was_taught(tmp_path: Path) -> None:
    findings = [
        {
            "question": f"does {HOSTILE} help?",
            "answer": "yes",
            "values": {"no": 0.5, "yes": 0.625},
            "teachers": ["0003"],
        },
        {"question": "is it so?", "answer": "no", "values": {}, "teachers": []},
    ]
    options = {"space": "small", "seed": 0, "epochs": 5, "max_params": 1_000, "streamable": True, "num_trials": 2}
    trials = {
        "0000": {"num_params": 900, "val_metric": 0.5, "config": config(teacher="/models/large")},
        "0001": {"num_params": 5_000, "val_metric": 0.9, "config": config()},
    }
    check = {"text": ["34 validation clips"]}
    sweep = make_sweep(tmp_path / "sweep", trials, data_check=check, findings=findings, options=options)
    result = write_frontier(sweep, Evaluate())
    page = Page(Path(result["files"]["report.html"]))
    for part in (
        "What suits this data?",
        f"does {HOSTILE} help? yes (on validation: no 50.0%, yes 62.5%); the later models learn from the scores of "
        "0003",
        "is it so? no (nothing trained)",
        "replicated with the same teacher",
        "every model runs in one direction",
        "1 complete, 1 teacher",
    ):
        assert part in page.text
    # The teacher is larger than allowed.
    assert [point["trial"] for point in result["frontier"]] == ["0000"]


def test_page_of_an_earlier_sweep_has_no_check_and_that_of_a_good_one_no_warning(page: Page) -> None:
    assert "Is there enough data?" not in page.text
    assert "hardly better" not in page.text


def test_names_given_by_users_stay_text(tmp_path: Path) -> None:
    trial = {"num_params": 10, "val_metric": 0.5, "config": config(cell=HOSTILE, **{HOSTILE: HOSTILE})}
    failed = {"state": "failed", "error": HOSTILE, "config": {}}
    sweep = make_sweep(tmp_path / "sweep", {"0000": trial, "0001": failed}, dataset=HOSTILE, classes=[HOSTILE])
    page = Page(Path(write_frontier(sweep, Evaluate())["files"]["report.html"]))
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert "img" not in {tag for tag, _ in page.tags}
    # Title, heading, data set, class, cell in two tables; the option that trials have in common, with its name; error.
    assert page.text.count(HOSTILE) == 9
    assert "<" not in page.scripts[0]
    assert HOSTILE in page.view()["trials"]["0000"]["tooltip"][0]


def test_replicated_points_are_drawn_at_their_means_and_not_replicated_ones_off_the_line(full_page: Page) -> None:
    assert full_page.marks() == {
        "stopped": [(500, 99.0)],
        "dominated": [(3000, 75.0)],
        "not_replicated": [(3000, 28.0)],
        "test": [(1000, 31.0), (3000, 30.0), (40_000, 84.0), (90_000, 62.0)],
        "frontier": [(1000, 29.0), (40_000, 82.0)],
        "dense": [(90_000, 60.0)],
    }
    best = next(point for point in full_page.view()["marks"] if point["y"] == 82.0)
    assert best["interval"] == pytest.approx([77.0, 87.0])
    assert full_page.view()["trials"]["0001"]["label"] == "not replicated"
    details = full_page.view()["trials"]["0005"]["details"]
    assert details["validation"] == "85.0% (75.0 to 95.0%)"
    assert details["validation, replicated"] == "82.0% (77.0 to 87.0%): 81.0%, 82.0%, 83.0%"


def test_page_shows_the_results_of_the_whole_sweep(full_page: Page) -> None:
    for part in (
        "Not replicated: trial 0001 was on the frontier with 80.0%.",
        "Trained again with 3 new seeds it reached 28.0% (23.0 to 33.0%) on average",
        "with the seeds 1, 2, 3; the frontier is drawn from their means. By the method.",
        "31 epochs trained in all; 2 proposed twice and trained once; 4 proposed that are too large",
        "lr is 0.02 at the best: widen it there",
        "no other replicated model has at most as many parameters",
        "lr75.0%",
        "results reported by the paper",
        "1 of the trials: the weights of a trained one are rounded",
        "50.0%: of all there is",
        "stopped: 0001 was better after 1 epoch",
    ):
        assert part in full_page.text
    assert full_page.view()["refinements"] == [["0005", "0002"]]
    assert "trials/0005/model" not in full_page.text
    assert full_page.view()["published"][0] == {"model": "tt-gru", "x": 3232, "y": pytest.approx(81.3)}


@pytest.mark.parametrize(("params", "answer"), [({"lr": 0.01}, "No: no number"), ({}, "Unknown: the best point")])
def test_page_says_if_the_best_is_not_at_the_edge_or_was_not_sampled(
    data: dict[str, Any], tmp_path: Path, params: dict[str, float], answer: str
) -> None:
    inside = full(data) | {"edges": []}
    inside["frontier"][-1]["params"] = params
    write_page(tmp_path / "report.html", inside)
    assert answer in Page(tmp_path / "report.html").text


def test_sections_without_data_in_an_older_pareto_json_are_left_out(
    data: dict[str, Any], page: Page, tmp_path: Path
) -> None:
    write_page(tmp_path / "report.html", older(data))
    write_figure(tmp_path / "pareto.png", older(data))
    without = Page(tmp_path / "report.html")
    assert without.marks() == page.marks()
    assert "edge of the space" not in without.text
    assert "Which options matter most" not in without.text


@pytest.mark.parametrize("name", ["trials.csv", "pareto.csv"])
def test_page_offers_the_csv_files_for_download(data: dict[str, Any], page: Page, name: str) -> None:
    assert page.view()["csv"][name] == Path(data["files"][name]).read_text(encoding="utf-8")


def test_file_name_that_is_not_utf8_does_not_stop_the_page(data: dict[str, Any], tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", {**data, "classes": ["caf\udce9"]})
    assert "caf?" in Page(tmp_path / "report.html").text


def test_figure_is_a_png_that_is_not_blank(data: dict[str, Any]) -> None:
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
    assert sorted(page.marks()) == roles
    assert result["dataset"] in page.text
    assert imread(result["files"]["pareto.png"]).shape == (960, 1600, 4)


def test_page_and_figure_need_pareto_json_only(data: dict[str, Any], tmp_path: Path) -> None:
    again = json.loads(Path(data["files"]["pareto.json"]).read_text())
    write_page(tmp_path / "report.html", again)
    write_figure(tmp_path / "pareto.png", again)
    for name in ("report.html", "pareto.png"):
        assert (tmp_path / name).read_bytes() == Path(data["files"][name]).read_bytes()


def test_the_page_holds_the_frontier_against_the_baselines(tmp_path: Path) -> None:
    sweep = add_baselines(make_sweep(tmp_path / "sweep"), {"thumbnail-3000": (2_900, 0.99), "cnn-1000": (900, 0.2)})
    data = write_frontier(sweep, Evaluate())
    page = Page(sweep / "report.html")
    assert data["verdict"]["sentence"] in page.text
    assert page.text.index("do not win here") < page.text.index("Each of the 8 trials")
    assert {name for tag, attrs in page.tags if tag == "tr" and (name := attrs.get("data-trial"))} >= {"cnn-1000"}
    assert "thumbnail 4x8 → 16" in page.text
    assert page.marks()["baseline"] == [(900, 20.0), (2_900, 99.0)]
    view = page.view()
    assert view["baselines"] == ["cnn-1000", "thumbnail-3000"]
    assert [name for name, trial in view["trials"].items() if trial["is_baseline"]] == ["cnn-1000", "thumbnail-3000"]
    # Parallel coordinates show what the sweep searched.
    assert all("cnn-1000" not in axis["values"] for axis in view["dimensions"])


def test_a_page_without_baselines_has_no_sentence(page: Page) -> None:
    assert not any("verdict" in (attrs.get("class") or "") for _, attrs in page.tags)
    assert "dashed line is that of the baselines" not in page.text
