"""Write report.html, a page that loads nothing from elsewhere."""

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any

from pipelines.report import insights, parts
from pipelines.report.facts import facts
from pipelines.report.pareto_data import refinements
from pipelines.report.view import view
from pipelines.tuning.questions import finding_text
from pipelines.tuning.sweep_directory import SweepDirectory
from ttrnn.files import atomic_write

__all__ = ["write_page"]


_ASSETS = Path(__file__).parent / "assets"


def write_page(path: str | Path, data: Mapping[str, Any]) -> None:
    """Writes the frontier as an HTML page that contains its styles, scripts and data.

    The content security policy allows only the page's own style and script, by their hashes. Without JavaScript the
    page has its tables but no figures.

    Args:
        path: The file, 0.1 to 1 MB.
        data: Contents of pareto.json.
    """
    script = "".join(_asset(name) for name in ("chart.js", "figures.js", "coordinates.js", "page.js"))
    style = _asset("page.css")
    table, common_options = parts.trials_table(data)
    page = Template(_asset("page.html")).substitute(
        script_hash=_hash(script),
        style_hash=_hash(style),
        style=style,
        script=script,
        # Inside a script element only "<" could end the data early.
        view=json.dumps(view(data), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        dataset=html.escape(data["dataset"]),
        heading=html.escape(data["dataset"]).replace("_", "_<wbr>"),
        metric=html.escape(data["metric"].replace("_", " ")),
        num_trials=len(data["trials"]),
        verdict=_headline(data) + _verdict(data),
        baseline_line=" The dashed line is that of the baselines." if data.get("baselines") else "",
        num_finished=sum(trial["state"] == "complete" for trial in data["trials"]),
        replication_hint=parts.replication_hint(data),
        cards=parts.cards(data),
        notes=parts.notes(data),
        frontier=parts.frontier_table(data),
        edges=insights.edges(data),
        mistakes=parts.mistakes(data),
        data_check=_data_check(data),
        importances=insights.importances(data),
        replicated=" replicated" if data.get("replications") else "",
        refined=" Refined trials start from the weights of their parents." if any(refinements(data)) else "",
        trials_csv=SweepDirectory.TRIALS_CSV,
        pareto_csv=SweepDirectory.PARETO_CSV,
        trials=table,
        common_options=common_options,
        facts=facts(data),
        next=parts.commands(data["next"]),
    )
    with atomic_write(path, "wb") as file:
        # A file name that is not UTF-8 is a str with lone surrogates, which cannot be encoded as UTF-8.
        file.write(page.encode("utf-8", errors="replace"))


def _data_check(data: Mapping[str, Any]) -> str:
    """Whether there are enough clips to choose between models, and what the sweep was expected to cost."""
    check = data.get("data_check")
    if not check:
        return ""
    folds = check.get("folds")
    # The command has a line and a button of its own.
    sentences = [text.removesuffix(f": {folds}") for text in check["text"]]
    if check.get("rejected") == {}:
        sentences.append("no clip was rejected")
    if check.get("cost"):
        sentences.append(f"expected: {check['cost']}")
    command = parts.commands([folds] if folds else [])
    heading = '<section id="data-check"><h2>Is there enough data?</h2>'
    return f"{heading}{_list(sentences)}{command}</section>{_findings(data)}"


def _findings(data: Mapping[str, Any]) -> str:
    """What the sweep found out about the data before it searched."""
    if not (found := data.get("findings")):
        return ""
    sentences = map(finding_text, found)
    return f'<section id="findings"><h2>What suits this data?</h2>{_list(sentences)}</section>'


def _list(sentences: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(text)}</li>' for text in sentences)}</ul>"


def _headline(data: Mapping[str, Any]) -> str:
    """The size of the best model and its metric, as a paragraph."""
    return f'<p class="headline">{html.escape(data["headline"])}</p>' if data.get("headline") else ""


def _verdict(data: Mapping[str, Any]) -> str:
    """The sentence that holds the frontier against the baselines, as a paragraph."""
    if not (found := data.get("verdict")):
        return ""
    head, colon, rest = html.escape(found["sentence"]).partition(":")
    return f'<p class="verdict {found["outcome"]}"><b>{head}{colon}</b>{rest}</p>'


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
