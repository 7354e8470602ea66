"""The tensor formats of trials in report.html and pareto.png, where they differ."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

import pipelines.report
from pipelines.report.frontier_files import write_frontier
from pipelines.report.pareto_data import FORMAT_COLOURS, formats
from pipelines.report.view import view
from tests.report.contents import OF_FORMATS
from tests.sweeps import Evaluate, add_baselines, make_sweep
from ttrnn.formats import FORMATS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The contents of pareto.json for trials of several formats, and a baseline."""
    sweep = make_sweep(tmp_path_factory.mktemp("formats") / "sweep", OF_FORMATS)
    return write_frontier(add_baselines(sweep, {"low-rank-1000": (900, 0.3)}), Evaluate())


@pytest.mark.parametrize(
    ("configs", "expected"),
    [
        pytest.param([{"ranks": "4"}, {"recurrent_ranks": "4"}], {}, id="one-format-and-dense-recurrence"),
        pytest.param([{"input": "dense"}, {"format": "tt"}], {}, id="one-format-and-a-dense-input"),
        pytest.param([{"format": "tt"}, {"format": "cp"}], {"input format": ["tt", "cp"]}, id="input"),
        pytest.param(
            [{"recurrent_format": "tt", "recurrent_ranks": ranks} for ranks in ("none", "4")]
            + [{"recurrent_format": "bt", "recurrent_ranks": "2x2"}],
            {"recurrent format": ["dense", "tt", "bt"]},
            id="recurrent",
        ),
        pytest.param([{"format": "ht", "recurrent_ranks": "4"}] * 2, {}, id="two-formats-that-all-trials-share"),
        pytest.param([{"format": "ht"}, {}, {"format": "tt"}], {"input format": ["ht", "tt"]}, id="unknown-options"),
    ],
)
def test_formats_are_those_of_matrices_in_which_trials_differ(
    configs: list[dict[str, str]], expected: dict[str, list[str]]
) -> None:
    found = formats({"trials": [{"trial": str(k), "config": config} for k, config in enumerate(configs)]})
    assert {title: list(of.values()) for title, of in found.items()} == expected


def test_each_format_has_a_colour_in_the_figure_and_the_same_in_the_page() -> None:
    style = Path(pipelines.report.__path__[0], "assets", "page.css").read_text(encoding="utf-8")
    assert dict(re.findall(r"\.format-([\w-]+) \{ --own: light-dark\((#\w+),", style)) == FORMAT_COLOURS
    assert set(FORMAT_COLOURS) == {*FORMATS, "dense"}
    assert len(set(FORMAT_COLOURS.values())) == len(FORMAT_COLOURS)


def test_the_page_names_the_formats_of_a_trial(data: dict[str, Any]) -> None:
    contents = view(data)
    of_input, of_recurrent = contents["formats"]
    assert of_input == {
        "title": "input format",
        "names": ["tt", "cp"],
        "of": {"0000": "tt", "0001": "cp", "0002": "cp"},
    }
    assert (of_recurrent["title"], of_recurrent["names"]) == ("recurrent format", ["tt", "low-rank", "dense"])
    assert contents["trials"]["0000"]["tooltip"][1] == "input format tt, recurrent format dense"
    assert contents["trials"]["0000"]["details"]["recurrent format"] == "dense"
    assert not [line for line in contents["trials"]["low-rank-1000"]["tooltip"] if "format" in line]
    axes = {axis["title"]: axis for axis in contents["dimensions"]}
    assert axes["format"]["names"] == ["cp", "tt"]
    assert axes["recurrent format"]["values"] == {"0000": "dense", "0001": "low-rank", "0002": "tt"}
    json.dumps(contents)
    # The row of 0000 in the table of all trials ends with its options.
    row = Path(data["files"]["report.html"]).read_text(encoding="utf-8").split('<table id="trials">')[1]
    row = row.split('<tr data-trial="0000">')[1].split("</tr>")[0]
    assert {"tt", "dense"} <= set(re.findall(r"<td>([^<]*)</td>", row))


def test_pareto_png_has_the_colours_of_the_formats(data: dict[str, Any]) -> None:
    pixels = imread(data["files"]["pareto.png"])[..., :3].reshape(-1, 3)
    shown = {
        name: bool((abs(pixels - to_rgb(colour)) < 0.002).all(axis=1).any()) for name, colour in FORMAT_COLOURS.items()
    }
    # The frontier and the names of roles have the colour of `dense`, which is that of text.
    assert {name for name, is_shown in shown.items() if is_shown} == {"tt", "cp", "dense"}
