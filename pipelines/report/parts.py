"""The parts of report.html that are there without scripts: cards, tables, lists. All text in them is escaped."""

import html
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipelines.core.text import percent
from pipelines.evaluation.metrics import standard_error
from pipelines.report.points import Point, every_trial, marks, points
from pipelines.report.view import varying
from pipelines.tuning.formatting import count, span, texts

__all__ = ["all_trials", "cards", "caution", "edges", "facts", "frontier_table", "importances", "notes"]


_NUMBERS = ("num_params", "input_params", "multiply_adds", "val_metric", "test_metric", "epochs", "train_s")
_FRONTIER_HEADS = {
    "trial": "trial",
    "mark": "",
    "val": "validation",
    "test": "test",
    "num_params": "parameters",
    "input_params": "input-to-hidden",
    "cell": "cell",
    "modes": "modes",
    "ranks": "ranks",
    "recurrent_ranks": "recurrent ranks",
    "train_s": "trained",
}


def _metric_name(data: Mapping[str, Any]) -> str:
    return str(data["metric"]).replace("_", " ")


def cards(data: Mapping[str, Any]) -> str:
    """The best point, the knee and the dense baseline, large."""
    trials = every_trial(data)
    best, small, dense = trials[data["best"]], trials[data["knee"]], trials.get(data["baseline"])
    shown = [("best", "Best on validation", best)]
    if small is not best:
        shown.append(("knee", f"Knee, {_ratio(best, small)} times smaller", small))
    if dense is not None and dense is not best:
        shown.append(("dense", f"Dense baseline, {_ratio(dense, best)} times the size", dense))
    values = _values(data)
    return "".join(_card(role, title, trial, *values[trial["trial"]]) for role, title, trial in shown)


def _card(role: str, title: str, trial: Mapping[str, Any], val: Point, test: Point | None) -> str:
    seeds = f", mean of {len(trial['replication']['seeds'])} seeds" if trial.get("replication") else ""
    return (
        f'<div class="card {role}"><h2>{title}</h2><p class="figure">{_measured(val)}</p>'
        f"<p>{'not tested' if test is None else 'test ' + _measured(test)}</p>"
        f"<p>{count(trial['num_params'])} parameters<br>trial {html.escape(trial['trial'])}{seeds}</p></div>"
    )


def _ratio(large: Mapping[str, Any], small: Mapping[str, Any]) -> str:
    ratio = large["num_params"] / small["num_params"]
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"


def _values(data: Mapping[str, Any]) -> dict[str, tuple[Point, Point | None]]:
    """trial -> its point on validation and, where it was tested, the one on test."""
    shown = points(data)
    tests = {point.trial["trial"]: point for point in shown if point.role == "test"}
    return {p.trial["trial"]: (p, tests.get(p.trial["trial"])) for p in shown if p.role != "test"}


def _measured(point: Point | None) -> str:
    if point is None:
        return "-"
    return percent(point.value) + (f" <small>{span(point.interval)}</small>" if point.interval else "")


def notes(data: Mapping[str, Any]) -> str:
    """What must not be overlooked: points that were not_replicated, and what they came to."""
    found = []
    for point in data.get("not_replicated") or []:
        confirmed = point["replication"]
        came_to = "Trained again with fresh seeds it did not come to its end with all of them."
        if confirmed:
            came_to = (
                f"Trained again with {len(confirmed['seeds'])} fresh seeds it came to "
                f"{percent(confirmed['val_mean'])} ({span(confirmed.get('val_interval'))}), and a model with no more "
                "parameters reached as much on average."
            )
        found.append(
            f"<b>Lucky:</b> trial {html.escape(point['trial'])} stood on the frontier with "
            f"{percent(point['val_metric'])}. {came_to}"
        )
    return "".join(f'<p class="note">{text}</p>' for text in found)


def caution(data: Mapping[str, Any]) -> str:
    """What the picture can't show of a confirmed frontier."""
    if not any(point.get("replication") for point in data["frontier"]):
        return ""
    return " What was trained again with fresh seeds stands at their mean; all else at a single run, not_replicated or not."


def frontier_table(data: Mapping[str, Any]) -> str:
    """The points of the frontier; below them what stands beside it: the dense baseline and the not_replicated ones."""
    trials, values, mark = every_trial(data), _values(data), marks(data)
    names = [point["trial"] for point in data["frontier"]]
    beside = [point["trial"] for point in data.get("not_replicated") or []]
    if data["baseline"] is not None and data["baseline"] not in names:
        beside.append(data["baseline"])

    def row(name: str) -> str:
        val, test = values[name]
        cells = texts(trials[name]) | {"mark": mark.get(name, "")}
        shown = {column: html.escape(cells.get(column, "")) for column in _FRONTIER_HEADS}
        return _row(name, shown | {"val": _measured(val), "test": _measured(test)})

    body = "".join(map(row, names)) + "".join(map(row, beside)).replace("<tr ", '<tr class="aside" ')
    head = "".join(f"<th{_kind(name)}>{title}</th>" for name, title in _FRONTIER_HEADS.items())
    return f'<div class="scroll"><table id="frontier"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _kind(column: str) -> str:
    if column in (*_NUMBERS, "val", "test"):
        return ' class="number"'
    return f' class="{column}"' if column in ("mark", "state") else ""


def _row(trial: str, cells: Mapping[str, str]) -> str:
    """A row of a table of trials; what is in the cells is HTML. Scripts make a button of the first cell."""
    body = "".join(f"<td{_kind(name)}>{cell}</td>" for name, cell in cells.items() if name != "trial")
    name = html.escape(trial)
    return f'<tr data-trial="{name}"><th scope="row">{name}</th>{body}</tr>'


def all_trials(data: Mapping[str, Any]) -> tuple[str, str]:
    """(The table of all trials, with the columns in which they differ; what is configured alike in all of them.)"""
    mark, differing = marks(data), varying(data["trials"])
    shown = [texts(trial) | {"mark": mark.get(trial["trial"], "")} for trial in data["trials"]]
    configured = {name for trial in data["trials"] for name in trial["config"]}
    own = [name for name in data["columns"] if name not in configured]
    columns = ["trial", "mark", *(name for name in own if name != "trial")]
    columns += [name for name in ("multiply_adds", "parent") if any(cells[name] != "-" for cells in shown)]
    columns += differing
    head = "".join(f"<th{_kind(name)}>{html.escape(name)}</th>" for name in columns)
    body = "".join(
        _row(cells["trial"], {name: html.escape(cells.get(name, "")) for name in columns}) for cells in shown
    )
    alike = {
        name: str(v)
        for trial in data["trials"]
        for name, v in trial["config"].items()
        if name not in (*differing, "init")
    }
    same = "".join(f"<li>{html.escape(name)} <b>{html.escape(value)}</b></li>" for name, value in alike.items())
    table = f'<div class="scroll"><table id="trials"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    return table, f'<p>The same in all trials:</p><ul class="same">{same}</ul>' if same else ""


def edges(data: Mapping[str, Any]) -> str:
    """Whether the best point and the knee lie at the edge of the space that was searched."""
    if "edges" not in data:
        return ""
    found = "".join(f"<li>{html.escape(edge['text'])}</li>" for edge in data["edges"] or [])
    if found:
        answer = f"<p>Yes. What is better may lie outside:</p><ul>{found}</ul>"
    elif any(_sampled(name, every_trial(data)) for name in (data["best"], data["knee"])):
        answer = "<p>No: no number that was sampled for the best point or the knee lies at an end of its range.</p>"
    else:
        answer = "<p>Not to be told: the best point and the knee were tried as given, not sampled from the space.</p>"
    return f"<section><h2>Is the best at the edge of the space?</h2>{answer}</section>"


def _sampled(name: str, trials: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the sampler chose anything of a trial; of a refined one, of its first ancestor."""
    while trials[name].get("parent") in trials:
        name = trials[name]["parent"]
    return bool(trials[name].get("params"))


def importances(data: Mapping[str, Any]) -> str:
    """What mattered most, a table of bars for each objective."""
    if "importances" not in data:
        return ""
    found = {name: shares for name, shares in (data["importances"] or {}).items() if shares}
    if not found:
        return (
            "<section><h2>What matters most?</h2><p>Not to be told: too few of the sampled trials have finished, or "
            "the best are no better than the others.</p></section>"
        )

    def bars(objective: str, shares: Mapping[str, float]) -> str:
        rows = "".join(
            f'<tr><th scope="row">{html.escape(name)}</th><td class="number">{percent(share)}</td><td class="bar">'
            f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"><rect width="{100 * share:.1f}" '
            'height="10"/></svg></td></tr>'
            for name, share in sorted(shares.items(), key=lambda item: -item[1])
        )
        title = f"high {_metric_name(data)}" if objective == "val_metric" else "few parameters"
        return f"<table><caption>for {html.escape(title)}</caption><tbody>{rows}</tbody></table>"

    return (
        "<section><h2>What matters most?</h2><p>How much each sampled choice decides whether a trial is among the best "
        "quarter, as shares of 100% (PED-ANOVA): a hint, the rougher the fewer the trials.</p>"
        f'<div class="bars">{"".join(bars(*each) for each in found.items())}</div></section>'
    )


def facts(data: Mapping[str, Any]) -> str:
    """How the numbers were made, as the entries of a description list."""
    options, num_val, states = data["options"], data["num_val_clips"], Counter(t["state"] for t in data["trials"])
    error = f"{100 * standard_error(data['frontier'][-1]['val_metric'], num_val):.1f} points"
    noise = f"; the best point's standard error is {error} on so few clips: what lies closer may stand in any order"
    confirmation = data.get("replications") or {}
    failed = [f"trial {run['trial']} with seed {run['seed']}: {run['error']}" for run in confirmation.get("failed", [])]
    trials = ", ".join(f"{number} {state}" for state, number in states.items())
    trials += f"; {options['epochs']} epochs at most, seed {options['seed']}"
    for name, what in (("epochs_trained", "epochs trained"), ("num_duplicates", "proposed twice and trained once")):
        trials += f"; {count(data[name])} {what}" if data.get(name) else ""
    if data.get("num_too_large"):
        trials += f"; {count(data['num_too_large'])} proposed that are too large, which were never trained"
    refined = sum(trial.get("parent") is not None for trial in data["trials"])
    found = {
        "Data set": f"{data['dataset']}, {data['num_classes']} classes: {', '.join(data['classes'])}",
        "Clips": f"{count(num_val)} validation, {count(data['num_test_clips'])} test",
        "Metric": f"{_metric_name(data)}; chance is {percent(data['chance'])}"
        + (noise if data["metric"] == "accuracy" else ""),
        "Intervals": "95%, by a bootstrap of the clips, of whole groups (speakers, source videos) where there are "
        "enough: how sure the metric of these weights is, not how another seed would do",
        "Trials": trials,
        "Selection": "on validation: the best epoch of a trial, the frontier, and so the best point and the knee; a "
        "figure that was selected on flatters",
        "Replication": f"by the seeds {', '.join(map(str, confirmation['seeds']))}, and the frontier redrawn from their "
        f"means. {confirmation['method']}"
        if confirmation
        else "no: each point is one training with one seed, and some are not_replicated; sweep --resume --confirm 3 tells which",
        "Not confirmed": "; ".join(failed),
        "Test": "looked at once, after the frontier stood, and for its points only"
        + (", and once by each run that confirms them" if confirmation else ""),
        "Refined": f"{refined} of the trials: weights of a trained one, rounded to smaller ranks and tuned for a few "
        "epochs; a dashed line leads to each from its parent"
        if refined
        else "",
        "Parameters": "of the whole model, recurrent matrix and classifier included; input-to-hidden weights stand "
        "beside them, since papers count only those",
        "Published": "claims of the paper, on its own splits and clips; not measured here"
        if data.get("published")
        else "",
        "Knee": "the point highest above the chord from the smallest to the best, over the logarithm of the parameters",
        "Hypervolume": f"{percent(data['hypervolume'])}: {data.get('hypervolume_reference', '')}"
        if data.get("hypervolume") is not None
        else "",
        "Made": data["created"],
        "Command": data["command"],
    }
    return "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in found.items() if text)
