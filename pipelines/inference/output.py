"""Scores as they come: bars on a terminal, a line whenever the label changes elsewhere, JSON lines if asked for.

Legend: C classes.
"""

import json
import logging
import sys
import time
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipelines.core.text import percent
from pipelines.evaluation.classifier import Classifier

__all__ = ["Teller", "write_line"]


log = logging.getLogger(__name__)
_MOST_BARS, _BAR = 8, 30
# An eye follows no more.
_EVERY_S = 0.1


def write_line(value: dict[str, Any]) -> None:
    """One JSON line on standard output, which a reader gets at once."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
    sys.stdout.flush()


class Teller:
    """Tells of one video after the other; a context manager, which gives the terminal back.

    Args:
        classifier: Whose scores they are.
        as_lines: JSON lines on standard output, and nothing else.
    """

    def __init__(self, classifier: Classifier, *, as_lines: bool) -> None:
        self._model, self._as_lines = classifier, as_lines
        self._said: tuple[str, str] = "", ""
        self._shown_s = 0.0
        self._live: Live | None = None
        self._is_terminal = sys.stderr.isatty() and not as_lines

    def __enter__(self) -> "Teller":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def frame(self, path: str, number: int, seconds: float | None, scores_C: np.ndarray) -> None:
        """The scores after one more frame, counted from 1."""
        label = self._model.label(scores_C)
        if self._as_lines:
            shares = dict(zip(self._model.classes, map(float, scores_C), strict=True))
            write_line({"path": path, "frame": number, "time_s": seconds, "label": label, "probabilities": shares})
        elif self._is_terminal:
            self._show(path, number, scores_C)
        elif self._said != (path, label):
            self._said = path, label
            log.info("frame %d: %s %s", number, label or "(none)", percent(float(scores_C.max())))

    def segment(self, path: str, segment: dict[str, Any]) -> None:
        """One more window, as `segments` of the JSON has it."""
        if self._as_lines:
            write_line({"path": path, **segment})
            return
        span = f"frames {segment['start_frame']:,} to {segment['end_frame']:,}"
        if segment["end_s"] is not None:
            span = f"{segment['start_s']:.1f} to {segment['end_s']:.1f} s"
        best = max(segment["probabilities"].values())
        log.info("%s: %s %s", span, segment["label"] or "(none)", percent(best))

    def _show(self, path: str, number: int, scores_C: np.ndarray) -> None:
        if self._live is not None and time.monotonic() - self._shown_s < _EVERY_S:
            return
        self._shown_s = time.monotonic()
        best = np.argsort(-scores_C, kind="stable")[:_MOST_BARS]
        width = max(len(self._model.classes[index]) for index in best)
        text = Text(f"{path}, frame {number:,}\n", no_wrap=True, overflow="ellipsis")
        for index in best:
            share = float(scores_C[index])
            bar = "━" * round(_BAR * share)
            text.append(f"{self._model.classes[index]:<{width}} {percent(share):>6} {bar}\n")
        if self._live is None:
            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(text, refresh=True)
