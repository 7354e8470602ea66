"""Write report.html, a page that loads nothing from elsewhere."""

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from pipelines.report import parts
from pipelines.report.points import links
from pipelines.report.view import view
from ttrnn.files import atomic_write

__all__ = ["write_page"]


_PAGE = Path(__file__).parent / "assets"


def write_page(path: str | Path, data: Mapping[str, Any]) -> None:
    """Writes the frontier as a page of HTML that loads nothing: style, scripts and data are all in it.

    Its content security policy admits the page's own style and script by their hashes and nothing else. Without
    JavaScript the tables are there, and no pictures.

    Args:
        path: The file, 0.1 to 1 MB.
        data: What pareto.json holds.
    """
    script = "".join(_text(name) for name in ("chart.js", "drawings.js", "page.js"))
    style = _text("page.css")
    table, same = parts.all_trials(data)
    page = Template(_text("page.html")).substitute(
        script_hash=_hash(script),
        style_hash=_hash(style),
        style=style,
        script=script,
        # Inside a script element only "<" could end the data early.
        view=json.dumps(view(data), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        dataset=html.escape(data["dataset"]),
        metric=html.escape(data["metric"].replace("_", " ")),
        num_trials=len(data["trials"]),
        num_finished=sum(trial["state"] == "complete" for trial in data["trials"]),
        caution=parts.caution(data),
        cards=parts.cards(data),
        notes=parts.notes(data),
        frontier=parts.frontier_table(data),
        edges=parts.edges(data),
        importances=parts.importances(data),
        replication=" confirmed" if data.get("replications") else "",
        refined=" Refined trials begin with what their parents have learnt." if any(links(data)) else "",
        trials=table,
        same=same,
        facts=parts.facts(data),
        next="\n".join(html.escape(command) for command in data["next"]),
    )
    with atomic_write(path, "wb") as file:
        # A file name that is not UTF-8 travels in a str as lone surrogates, which have no UTF-8 form.
        file.write(page.encode("utf-8", errors="replace"))


def _text(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
