"""Format durations, sizes, percentages and command lines for people."""

import os
import shlex
import shutil
import sys

__all__ = ["duration", "percent", "plural", "program", "python", "size"]


def python() -> str:
    """The shell command for this Python: `python`, or its path if `python` is another one."""
    if shutil.which("python") == sys.executable:
        return "python"
    return shlex.quote(min(os.path.relpath(sys.executable), sys.executable, key=len))


def program(name: str) -> str:
    """The shell command for a command of this project, as the person who started this one writes it.

    `ttrnn export` where that script is on the search path and was used, or else `python -m pipelines.export`.
    """
    started = shutil.which("ttrnn")
    if started is not None and os.path.basename(sys.argv[0]) == "ttrnn" and os.path.samefile(started, sys.argv[0]):
        return f"ttrnn {name}"
    return f"{python()} -m pipelines.{name}"


def duration(seconds: float) -> str:
    """A duration as text: `42 s`, `3 min 07 s`, `1 h 05 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def size(num_bytes: float) -> str:
    """A number of bytes as text, with three digits: `12 bytes`, `1.66 MB`, `140 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.3g} TB" if num_bytes < 999.5 else f"{num_bytes:,.0f} TB"


def percent(value: float | None) -> str:
    """0.9375 -> `93.8%`; `-` for None."""
    return "-" if value is None else f"{100 * value:.1f}%"


def plural(number: int, noun: str) -> str:
    """`1 clip`, `1,600 clips`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
