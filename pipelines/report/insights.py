"""Render the results of the sweep as a whole for report.html: importances of options, edges of the search space."""

import html
from collections.abc import Mapping
from typing import Any

from pipelines.core.text import percent
from pipelines.report.pareto_data import all_trials
from pipelines.report.parts import metric_name

__all__ = ["edges", "importances"]


def edges(data: Mapping[str, Any]) -> str:
    """Whether the best point and the knee are at the edge of the search space."""
    if "edges" not in data:
        return ""
    items = "".join(f"<li>{html.escape(edge['text'])}</li>" for edge in data["edges"] or [])
    if items:
        answer = f"<p>Yes, so there may be better models outside:</p><ul>{items}</ul>"
    elif any(_is_sampled(name, all_trials(data)) for name in (data["best"], data["knee"])):
        answer = "<p>No: no number that was sampled for the best point or the knee is at an end of its range.</p>"
    else:
        answer = "<p>Unknown: the best point and the knee are baselines, not sampled from the search space.</p>"
    return f"<section><h2>Is the best model at the edge of the search space?</h2>{answer}</section>"


def _is_sampled(name: str, trials: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the sampler chose any option of a trial, or of the first ancestor of a refined one."""
    while trials[name].get("parent") in trials:
        name = trials[name]["parent"]
    return bool(trials[name].get("params"))


def importances(data: Mapping[str, Any]) -> str:
    """The importance of each sampled option, as a bar chart for each objective."""
    if "importances" not in data:
        return ""
    found = {name: shares for name, shares in (data["importances"] or {}).items() if shares}
    if not found:
        return (
            "<section><h2>Which options matter most?</h2><p>Not enough data: too few sampled trials have finished, or "
            "the best are no better than the others.</p></section>"
        )

    def bars(objective: str, shares: Mapping[str, float]) -> str:
        rows = "".join(
            f'<tr><th scope="row">{html.escape(name)}</th><td class="number">{percent(share)}</td><td class="bar">'
            f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"><rect width="{100 * share:.1f}" '
            'height="10"/></svg></td></tr>'
            for name, share in sorted(shares.items(), key=lambda item: -item[1])
        )
        title = f"high {metric_name(data)}" if objective == "val_metric" else "few parameters"
        return f"<table><caption>for {html.escape(title)}</caption><tbody>{rows}</tbody></table>"

    return (
        "<section><h2>Which options matter most?</h2><p>How much each sampled option decides whether a trial is among "
        "the best quarter, as shares of 100% (PED-ANOVA). With few trials these are rough estimates.</p>"
        f'<div class="bars">{"".join(bars(*each) for each in found.items())}</div></section>'
    )
