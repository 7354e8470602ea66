"""Classify one video: as a whole, frame by frame, or window by window.

Legend: T time, H W frame height and width in pixels, K channels, C classes.
"""

import contextlib
import dataclasses
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.evaluation.classifier import Classifier
from pipelines.evaluation.event_finder import TimedEvent, find_events, stream_scores
from pipelines.inference.output import LiveOutput
from pipelines.video import sources
from pipelines.video.decode import MAX_CLIP_BYTES, Decoded
from pipelines.video.errors import RejectedError, VideoError
from pipelines.video.sampling import Sampling
from pipelines.video.sources import FrameSource, known_times
from pipelines.video.windows import Length, sample_clip, windows
from pipelines.video.worker import IsolatedDecoder
from ttrnn.events import EventRule

__all__ = ["TIME_LIMIT_S", "Recognizer", "is_camera"]


TIME_LIMIT_S = 300.0
"""for decoding a video, or for each block of frames of a long one"""
# A video whose frames take more is read as a stream, if the model allows it.
_WHOLE_BYTES = 1 << 27
_STDIN = 0


def is_camera(path: str) -> bool:
    """Whether a path is the number of a camera: digits, and no file has this name."""
    return path.isascii() and path.isdigit() and len(path) < 4 and not Path(path).exists()


class Recognizer:
    """A model with the options of a prediction; several threads may call `predict` at a time.

    Args:
        classifier: The model.
        window: Length of the windows; None: the whole video is one clip.
        hop: From one window to the next.
        top_k: How many classes `top` lists; None: no `top`.
        live: Receives all scores as they come; None: only the final scores are computed.
        rule: Find events with this window and these thresholds; None: classify.
    """

    def __init__(
        self,
        classifier: Classifier,
        window: Length | None,
        hop: Length | None,
        top_k: int | None,
        live: LiveOutput | None,
        rule: EventRule | None = None,
    ) -> None:
        self._model, self._window, self._hop, self._top_k = classifier, window, hop, top_k
        self.live, self._rule = live, rule
        self._is_cancelled = False
        self.is_interrupted = False
        """the user ended a camera's stream with Ctrl-C"""

    def cancel(self) -> None:
        """Makes predictions of long videos in other threads stop with an InterruptedError."""
        self._is_cancelled = True

    def _until_cancelled(
        self, frames: Iterator[tuple[float | None, np.ndarray]]
    ) -> Iterator[tuple[float | None, np.ndarray]]:
        for frame in frames:
            if self._is_cancelled:
                raise InterruptedError
            yield frame

    def predict(self, path: str, decoder: IsolatedDecoder) -> dict[str, Any]:
        """The entry of a video in `predict --json`, and its `captions` for annotate: (seconds, text), in order."""
        try:
            with self._open(path, decoder) as opened:
                source = dataclasses.replace(opened, frames=self._until_cancelled(opened.frames))
                if self._rule is not None:
                    return self._by_events(path, source, self._rule)
                if self._window is not None:
                    return self._by_windows(path, source)
                if self.live is None and (source.clip is not None or self._model.why_no_stream):
                    return self._whole(path, source)
                return self._by_frames(path, source)
        except VideoError as error:
            # The message about a rejected file contains its name.
            return {"path": path, "error": str(error) if isinstance(error, RejectedError) else f"{path}: {error}"}

    @contextlib.contextmanager
    def _open(self, path: str, decoder: IsolatedDecoder) -> Iterator[FrameSource]:
        """Opens a source of sampled frames; for windows and events, sampling does not bound their number."""
        frame, sampling = self._model.frame, self._model.sampling
        if self._window is not None or self._rule is not None:
            sampling = dataclasses.replace(sampling, max_frames=None, num_frames=None)
        if path == "-":
            yield sources.open_raw(_STDIN, frame)
        elif is_camera(path):
            with sources.open_camera(int(path), frame, sampling) as source:
                yield source
        elif (decoded := self._decode_whole(path, sampling, decoder)) is not None:
            yield FrameSource(zip(known_times(decoded), decoded.frames, strict=True), decoded.frames)
        else:
            with sources.open_video(path, frame, sampling, decoder) as source:
                yield source

    def _decode_whole(self, path: str, sampling: Sampling, decoder: IsolatedDecoder) -> Decoded | None:
        """The whole clip; None if it takes much memory and the model can read it as a stream."""
        needs_whole = bool(self._model.why_no_stream) and self._window is None
        if not needs_whole:
            num_frames = min(decoder.count_frames(path), sampling.max_frames or sys.maxsize) / (sampling.every or 1)
            if num_frames * self._model.frame.size > _WHOLE_BYTES:
                return None
        try:
            return decoder.decode(path, self._model.frame, sampling)
        except RejectedError as error:
            # The header announced fewer frames than there are.
            if error.reason == "too_large" and not needs_whole:
                return None
            raise

    def _whole(self, path: str, source: FrameSource) -> dict[str, Any]:
        clip = source.clip
        if clip is None:
            max_frames = MAX_CLIP_BYTES // self._model.frame.size
            frames = [frame.copy() for _, frame in itertools.islice(source.frames, max_frames + 1)]
            if not frames:
                raise VideoError("there are no frames")
            if len(frames) > max_frames:
                raise VideoError("its frames take more than 2 GiB, and the model cannot stream; give --window")
            clip = sample_clip(np.stack(frames), self._model.sampling)
        scores_C = self._model.predict(clip)
        return self._entry(path, scores_C, len(clip)) | {"captions": [(0.0, self._caption(scores_C))]}

    def _by_frames(self, path: str, source: FrameSource) -> dict[str, Any]:
        push, number, scores_C = self._model.stream(), 0, None
        captions: list[tuple[float, str]] = []
        is_endless = is_camera(path) or (path == "-" and self.live is not None)
        frames = source.frames if is_endless else itertools.islice(source.frames, self._model.sampling.max_frames)
        try:
            for number, (seconds, frame) in enumerate(frames, start=1):
                scores_C = push(frame)
                caption = self._caption(scores_C)
                if caption != (captions[-1][1] if captions else "") and not is_endless and seconds is not None:
                    captions.append((seconds, caption))
                if self.live is not None:
                    self.live.write_frame(path, number, seconds, scores_C)
        except KeyboardInterrupt:
            self._end_camera(path)
        if scores_C is None:
            raise VideoError("there are no frames")
        return self._entry(path, scores_C, number) | {"captions": captions}

    def _by_windows(self, path: str, source: FrameSource) -> dict[str, Any]:
        assert self._window is not None
        assert self._hop is not None
        segments: list[dict[str, Any]] = []
        captions: list[tuple[float, str]] = []
        total_C, weight = np.zeros(len(self._model.classes)), 0
        try:
            for window in windows(source.frames, self._window, self._hop):
                scores_C = self._model.predict(sample_clip(window.clip, self._model.sampling))
                span = {"start_frame": window.start, "end_frame": window.end}
                times = {"start_s": window.start_s, "end_s": window.end_s}
                segments.append(span | times | self._prediction(scores_C))
                captions.append((window.start_s or 0.0, self._caption(scores_C)))
                total_C, weight = total_C + len(window.clip) * scores_C, weight + len(window.clip)
                if self.live is not None:
                    self.live.write_segment(path, segments[-1])
        except KeyboardInterrupt:
            self._end_camera(path)
        if not segments:
            raise VideoError("there are no frames")
        entry = self._entry(path, total_C / weight, segments[-1]["end_frame"])
        return entry | {"segments": segments, "captions": captions}

    def _by_events(self, path: str, source: FrameSource, rule: EventRule) -> dict[str, Any]:
        total_C, number = np.zeros(len(self._model.classes)), 0
        events: list[dict[str, Any]] = []

        def scored() -> Iterator[tuple[float | None, np.ndarray]]:
            nonlocal total_C, number
            for seconds, scores_C in stream_scores(self._model, rule, source.frames):
                total_C, number = total_C + scores_C, number + 1
                yield seconds, scores_C

        def write(event: TimedEvent, *, is_over: bool = False) -> None:
            if self.live is not None:
                self.live.write_event(path, event.to_dict(), is_over=is_over)

        try:
            for event in find_events(rule, self._model.classes, scored(), on_start=write):
                events.append(event.to_dict())
                write(event, is_over=True)
        except KeyboardInterrupt:
            self._end_camera(path)
        if not number:
            raise VideoError("there are no frames")
        return self._entry(path, total_C / number, number) | {"events": events}

    def _end_camera(self, path: str) -> None:
        """Ctrl-C ends the stream of a camera normally; it interrupts everything else."""
        if not is_camera(path):
            raise KeyboardInterrupt
        self.is_interrupted = True

    def _entry(self, path: str, scores_C: np.ndarray, num_frames: int) -> dict[str, Any]:
        return {"path": path, **self._prediction(scores_C), "num_frames": num_frames}

    def _prediction(self, scores_C: np.ndarray) -> dict[str, Any]:
        """label, probabilities and, if requested, top."""
        probabilities = dict(zip(self._model.classes, map(float, scores_C), strict=True))
        prediction = {"label": self._model.label(scores_C), "probabilities": probabilities}
        if self._top_k is None:
            return prediction
        best = sorted(probabilities.items(), key=lambda item: -item[1])[: self._top_k]
        return prediction | {"top": [{"label": label, "probability": value} for label, value in best]}

    def _caption(self, scores_C: np.ndarray) -> str:
        return f"{self._model.label(scores_C).replace('|', ', ') or '(none)'} {100 * scores_C.max():.0f}%"
