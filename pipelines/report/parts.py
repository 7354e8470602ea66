"""Render the parts of report.html that work without scripts: cards, tables, lists. All text in them is escaped."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.core.text import percent
from pipelines.report.pareto_data import Mark, all_trials, kilobytes, labels, mark_on_test, marks, milliseconds
from pipelines.report.verdict import baseline_name
from pipelines.report.view import varying_options
from pipelines.tuning.formatting import count, interval_text, texts

__all__ = [
    "cards",
    "commands",
    "frontier_table",
    "metric_name",
    "notes",
    "replication_hint",
    "trials_table",
]


_NUMBERS = (
    "num_params", "input_params", "multiply_adds", "val_metric", "test_metric", "epochs", "train_s", "kilobytes", "ms"
)  # fmt: skip
# Columns of both tables; other options of a trial are named as in the configuration, without underscores.
_HEADERS = {
    "num_params": "parameters",
    "input_params": "input-to-hidden weights",
    "multiply_adds": "MACs per frame",
    "val_metric": "validation",
    "test_metric": "test",
    "train_s": "trained",
    "parent": "refined from",
    "lr": "learning rate",
}
# A narrow screen leaves these out of the table of the frontier.
_MINOR = ("cell", "modes", "ranks", "recurrent_ranks")
_FRONTIER_HEADERS = {
    "trial": "trial",
    "val": "validation",
    "test": "test",
    "num_params": "parameters",
    "kilobytes": "kB",
    "ms": "ms per frame",
    "cell": "cell",
    "modes": "modes",
    "ranks": "ranks",
    "recurrent_ranks": "recurrent ranks",
    "train_s": "trained",
}


def metric_name(data: Mapping[str, Any]) -> str:
    """The name of the metric, in words."""
    return str(data["metric"]).replace("_", " ")


def cards(data: Mapping[str, Any]) -> str:
    """The best point, the knee, the highest point and the best baseline, each with its metrics in large type."""
    trials, limit = all_trials(data), data["options"].get("max_params")
    best, small, baseline = trials[data["best"]], trials[data["knee"]], trials.get(data["baseline"])
    highest = trials[data.get("highest") or data["best"]]
    found = [("best", f"Best of at most {limit:,} parameters" if limit else "Best for its size (knee)", best)]
    if small is not best:
        found.append(("knee", f"Knee, {_ratio(best, small)} times smaller", small))
    if highest is not best:
        found.append(("highest", f"Highest on validation, {_ratio(highest, best)} times the size", highest))
    if baseline is not None and baseline is not best:
        role = "dense" if baseline["config"].get("input") == "dense" else "baseline"
        title = f"Baseline: {baseline_name(baseline)}"
        if role == "dense":
            title = f"Dense baseline, {_ratio(baseline, best)} times the size"
        found.append((role, title, baseline))
    by_trial = _marks_by_trial(data)
    return "".join(
        _card(role, title, trial, *by_trial[trial["trial"]], milliseconds(data, trial["trial"]))
        for role, title, trial in found
    )


def _card(role: str, title: str, trial: Mapping[str, Any], val: Mark, test: Mark | None, ms: str) -> str:
    speed = f", {ms} ms per frame" if ms != "-" else ""
    seeds = f", mean of {len(trial['replication']['seeds'])} seeds" if trial.get("replication") else ""
    return (
        f'<div class="card {role}" data-trial="{html.escape(trial["trial"])}">'
        f'<h2>{title}</h2><p class="value">{_value(val)}</p>'
        f"<p>{'not tested' if test is None else 'test ' + _value(test)}</p>"
        f"<p>{count(trial['num_params'])} parameters, {kilobytes(trial)} kB{speed}<br>"
        f"trial {html.escape(trial['trial'])}{seeds}</p></div>"
    )


def _ratio(large: Mapping[str, Any], small: Mapping[str, Any]) -> str:
    ratio = large["num_params"] / small["num_params"]
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"


def _marks_by_trial(data: Mapping[str, Any]) -> dict[str, tuple[Mark, Mark | None]]:
    """trial -> (its mark on validation, its mark on test or None)."""
    drawn = marks(data)
    tests = {mark.trial["trial"]: mark for mark in drawn if mark.role == "test"}
    return {m.trial["trial"]: (m, tests.get(m.trial["trial"])) for m in drawn if m.role != "test"}


def _value(mark: Mark | None) -> str:
    if mark is None:
        return "-"
    return percent(mark.value) + (f" <small>{interval_text(mark.interval)}</small>" if mark.interval else "")


def notes(data: Mapping[str, Any]) -> str:
    """A warning if the best point is hardly better than chance; a note for each point that was not replicated."""
    found = [f"<b>Warning:</b> {html.escape(data['warning'])}."] if data.get("warning") else []
    left_out = (data.get("replications") or {}).get("left_out", [])
    if left_out:
        found.append(
            f"<b>Not replicated</b> for lack of time, and left off the frontier: {html.escape(', '.join(left_out))}. "
            "Resume the sweep with --confirm, or with a --time-budget."
        )
    for point in data.get("not_replicated") or []:
        if point["trial"] in left_out:
            continue
        replication = point["replication"]
        outcome = "Training it again with new seeds failed for some of them."
        if replication:
            outcome = (
                f"Trained again with {len(replication['seeds'])} new seeds it reached "
                f"{percent(replication['val_mean'])} ({interval_text(replication.get('val_interval'))}) on average; a "
                "model with at most as many parameters reached at least as much."
            )
        found.append(
            f"<b>Not replicated:</b> trial {html.escape(point['trial'])} was on the frontier with "
            f"{percent(point['val_metric'])}. {outcome}"
        )
    return "".join(f'<p class="note">{text}</p>' for text in found)


def replication_hint(data: Mapping[str, Any]) -> str:
    """A sentence for the caption of the plot of a replicated frontier."""
    if not any(point.get("replication") for point in data["frontier"]):
        return ""
    return " Replicated trials are drawn at the mean of their new seeds, all others at the value of a single training."


def frontier_table(data: Mapping[str, Any]) -> str:
    """The points of the frontier; below them those that were not replicated, and the baselines."""
    trials, by_trial, label = all_trials(data), _marks_by_trial(data), labels(data)
    frontier = [point["trial"] for point in data["frontier"]]
    others = [point["trial"] for point in data.get("not_replicated") or []]
    others += [trial["trial"] for trial in data.get("baselines") or [] if trial["trial"] in by_trial]
    if data["baseline"] is not None and data["baseline"] not in (*frontier, *others):
        others.append(data["baseline"])

    def row(name: str) -> str:
        val, test = by_trial[name]
        test = test or mark_on_test(trials[name])
        cells = texts(trials[name]) | {"kilobytes": kilobytes(trials[name]), "ms": milliseconds(data, name)}
        escaped = {column: html.escape(cells.get(column, "")) for column in _FRONTIER_HEADERS}
        return _row(name, escaped | {"val": _value(val), "test": _value(test)}, label.get(name, ""))

    body = "".join(map(row, frontier)) + "".join(map(row, others)).replace("<tr ", '<tr class="aside" ')
    header = "".join(f"<th{_class(name)}>{title}</th>" for name, title in _FRONTIER_HEADERS.items())
    return (
        f'<div class="scroll"><table id="frontier"><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _title(column: str) -> str:
    return _HEADERS.get(column, column.replace("_", " "))


def _class(column: str) -> str:
    if column in (*_NUMBERS, "val", "test"):
        return ' class="number minor"' if column == "train_s" else ' class="number"'
    if column in _MINOR:
        return f' class="{column} minor"'
    return f' class="{column}"' if column in ("label", "state") else ""


def _row(trial: str, cells: Mapping[str, str], label: str = "") -> str:
    """A row of a table of trials; cells are HTML. The scripts turn the name in the first cell into a button."""
    body = "".join(f"<td{_class(name)}>{cell}</td>" for name, cell in cells.items() if name != "trial")
    name = html.escape(trial)
    below = f'<small class="label">{html.escape(label)}</small>' if label else ""
    return f'<tr data-trial="{name}"><th scope="row"><span>{name}</span>{below}</th>{body}</tr>'


def trials_table(data: Mapping[str, Any]) -> tuple[str, str]:
    """(table of all trials and baselines, with the options in which trials differ; list of those that all share)."""
    label, varying = labels(data), varying_options(data["trials"])
    listed = [*data["trials"], *(data.get("baselines") or [])]
    rows = [texts(trial) | {"label": label.get(trial["trial"], "")} for trial in listed]
    configured = {name for trial in listed for name in trial["config"]}
    columns = ["trial", "label", *(name for name in data["columns"] if name not in {"trial", *configured})]
    columns += [name for name in ("multiply_adds", "parent") if any(cells[name] != "-" for cells in rows)]
    columns += varying
    header = "".join(f"<th{_class(name)}>{html.escape(_title(name))}</th>" for name in columns)
    body = "".join(_row(cells["trial"], {name: html.escape(cells.get(name, "")) for name in columns}) for cells in rows)
    common = {
        name: str(value)
        for trial in data["trials"]
        for name, value in trial["config"].items()
        if name not in (*varying, "init", "teacher")
    }
    items = "".join(f"<li>{html.escape(name)} <b>{html.escape(value)}</b></li>" for name, value in common.items())
    table = (
        f'<div class="scroll"><table id="trials"><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div>'
    )
    return table, f'<p>All trials have in common:</p><ul class="common">{items}</ul>' if items else ""


def mistakes(data: Mapping[str, Any]) -> str:
    """The confusion matrix of the best model on the test split, and stills of clips that it classifies wrongly."""
    found = data.get("mistakes")
    if not found:
        return ""
    stills = "".join(
        f'<figure><img src="data:image/jpeg;base64,{html.escape(clip["image"])}" alt=""><figcaption><b>'
        f"{html.escape(clip['label'])}</b>, predicted as <b>{html.escape(clip['predicted'])}</b> "
        f"({percent(clip['score'])})<br><small>{html.escape(clip['clip_id'])}</small></figcaption></figure>"
        for clip in found["clips"]
    )
    return (
        f"<section id='mistakes'><h2>What does it get wrong?</h2><p>Trial {html.escape(found['trial'])}, as the sweep "
        f"trained it, gets {found['num_wrong']:,} of the {found['num_clips']:,} clips of the test split wrong"
        f"{'. The stills show those with the highest scores' if stills else ''}.</p><div class='stills'>{stills}</div>"
        f"{_confusion(found['confusion'], data['classes'])}</section>"
    )


def _confusion(counts: Sequence[Sequence[int]] | None, classes: Sequence[str]) -> str:
    """A matrix of clips by true and predicted class; the darker, the larger the share of the true class."""
    if counts is None:
        return ""

    def row(name: str, numbers: Sequence[int]) -> str:
        cells = "".join(
            f'<td class="share{round(9 * number / max(1, sum(numbers)))}">{number or ""}</td>' for number in numbers
        )
        return f'<tr><th scope="row">{html.escape(name)}</th>{cells}</tr>'

    header = "".join(f'<th scope="col"><span>{html.escape(name)}</span></th>' for name in classes)
    body = "".join(row(name, numbers) for name, numbers in zip(classes, counts, strict=True))
    return (
        '<div class="scroll plain"><table id="confusion"><caption>Clips by true class (rows) and predicted class '
        f"(columns)</caption><thead><tr><td></td>{header}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def commands(lines: Sequence[str]) -> str:
    """Commands, one below the other; the scripts add a button to each that copies it."""
    return "".join(f"<pre>{html.escape(line)}</pre>" for line in lines)
