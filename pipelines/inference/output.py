"""Write scores while a video is read: bars on a terminal, a line per change of the label elsewhere, or JSON lines.

Legend: C classes.
"""

import json
import logging
import sys
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipelines.core.text import percent
from pipelines.evaluation.classifier import Classifier

__all__ = ["LiveOutput", "write_line"]


log = logging.getLogger(__name__)
_MAX_BARS, _BAR_WIDTH = 8, 30
# More updates per second would be too fast to read.
_UPDATE_S = 0.1


def write_line(value: dict[str, Any]) -> None:
    """Writes one JSON line to standard output and flushes it."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
    sys.stdout.flush()


class LiveOutput:
    """Writes the scores of one video after the other; a context manager, which restores the terminal.

    Args:
        classifier: The model that computes the scores.
        as_lines: Write JSON lines to standard output, and nothing else.
    """

    def __init__(self, classifier: Classifier, *, as_lines: bool) -> None:
        self._model, self._as_lines = classifier, as_lines
        self._last_logged: tuple[str, str] = "", ""
        self._drawn_s = 0.0
        self._bars: Live | None = None
        self._is_terminal = sys.stderr.isatty() and not as_lines

    def __enter__(self) -> "LiveOutput":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def write_frame(self, path: str, number: int, seconds: float | None, scores_C: np.ndarray) -> None:
        """Writes the scores after a frame, counted from 1."""
        label = self._model.label(scores_C)
        if self._as_lines:
            probabilities = dict(zip(self._model.classes, map(float, scores_C), strict=True))
            line = {"path": path, "frame": number, "time_s": seconds, "label": label, "probabilities": probabilities}
            write_line(line)
        elif self._is_terminal:
            self._draw_bars(path, number, scores_C)
        elif self._last_logged != (path, label):
            self._last_logged = path, label
            log.info("frame %d: %s %s", number, label or "(none)", percent(float(scores_C.max())))

    def write_segment(self, path: str, segment: dict[str, Any]) -> None:
        """Writes the prediction of a window, in the form that it has in `segments` of the JSON."""
        if self._as_lines:
            write_line({"path": path, **segment})
            return
        span = f"frames {segment['start_frame']:,} to {segment['end_frame']:,}"
        if segment["end_s"] is not None:
            span = f"{segment['start_s']:.1f} to {segment['end_s']:.1f} s"
        best = max(segment["probabilities"].values())
        log.info("%s: %s %s", span, segment["label"] or "(none)", percent(best))

    def write_event(self, path: str, event: dict[str, Any], *, is_over: bool) -> None:
        """Writes an event when its class is sure, and when it is over, in the form of `events` of the JSON."""
        if self._as_lines:
            write_line({"path": path, "is_over": is_over, **event})
        elif not is_over:
            seconds, frame = event["detected_s"], event["detected_frame"]
            place = f"frame {frame:,}" if seconds is None else f"{seconds:.1f} s"
            log.info("%s: %s %s", place, event["label"], percent(event["score"]))

    def _draw_bars(self, path: str, number: int, scores_C: np.ndarray) -> None:
        if self._bars is not None and time.monotonic() - self._drawn_s < _UPDATE_S:
            return
        self._drawn_s = time.monotonic()
        best = np.argsort(-scores_C, kind="stable")[:_MAX_BARS]
        width = max(len(self._model.classes[index]) for index in best)
        text = Text(f"{path}, frame {number:,}\n", no_wrap=True, overflow="ellipsis")
        for index in best:
            score = float(scores_C[index])
            bar = "━" * round(_BAR_WIDTH * score)
            text.append(f"{self._model.classes[index]:<{width}} {percent(score):>6} {bar}\n")
        if self._bars is None:
            self._bars = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._bars.start()
        self._bars.update(text, refresh=True)
