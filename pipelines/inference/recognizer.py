"""What a model says of one video: of the whole, frame by frame, or window by window.

Legend: T time, H W frame height and width in pixels, K channels, C classes.
"""

import contextlib
import dataclasses
import itertools
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.evaluation.classifier import Classifier
from pipelines.inference.output import Teller
from pipelines.video import sources
from pipelines.video.decode import MAX_CLIP_BYTES, Decoded, RejectedError, VideoError
from pipelines.video.sampling import Sampling
from pipelines.video.sources import Frames
from pipelines.video.windows import Length, sampled, windows
from pipelines.video.worker import IsolatedDecoder

__all__ = ["TIME_LIMIT_S", "Recogniser", "is_camera"]


log = logging.getLogger(__name__)
TIME_LIMIT_S = 300.0
"""for decoding a video, or for each frame of a long one"""
# A video whose frames take more is not held as a whole, where the model does not need it.
_WHOLE_BYTES = 1 << 27
# Where a file does not say.
_FPS = 25.0
_STDIN = 0


def is_camera(path: str) -> bool:
    """Whether it is a number, and no file of that name is there."""
    return path.isascii() and path.isdigit() and len(path) < 4 and not Path(path).exists()


class Recogniser:
    """A model and what is wanted of it; `entry` may be called by several threads at a time.

    Args:
        classifier: The model.
        window: Of which length windows are; None: the whole video is one clip.
        hop: From one window to the next.
        top_k: How many classes `top` lists; None: there is no `top`.
        teller: Told of all scores as they come; None: only the last matter.
    """

    def __init__(
        self,
        classifier: Classifier,
        window: Length | None,
        hop: Length | None,
        top_k: int | None,
        teller: Teller | None,
    ) -> None:
        self._model, self._window, self._hop, self._top_k = classifier, window, hop, top_k
        self.teller = teller
        self._is_let_go = False
        self.is_interrupted = False
        """somebody has ended a camera's stream by Ctrl-C"""

    def let_go(self) -> None:
        """Long videos that other threads are in the middle of end with an InterruptedError."""
        self._is_let_go = True

    def _wanted(self, each: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        for frame in each:
            if self._is_let_go:
                raise InterruptedError
            yield frame

    def entry(self, path: str, decoder: IsolatedDecoder) -> dict[str, Any]:
        """What `predict --json` has of a video; and its `words` for annotate: (seconds, text), in order."""
        try:
            with self._open(path, decoder) as opened:
                source = dataclasses.replace(opened, each=self._wanted(opened.each))
                if self._window is not None:
                    return self._by_windows(path, source)
                if self.teller is None and (source.whole is not None or self._model.why_no_stream):
                    return self._at_once(path, source)
                return self._by_frames(path, source)
        except VideoError as error:
            # Of a file, its name is in there.
            text = str(error) if isinstance(error, RejectedError) else f"{path}: {error}"
            log.error("error: %s", text)
            return {"path": path, "error": text}

    @contextlib.contextmanager
    def _open(self, path: str, decoder: IsolatedDecoder) -> Iterator[Frames]:
        """The frames of a source, sampled as those of a clip; for windows without what bounds their number."""
        frame, sampling = self._model.frame, self._model.sampling
        if self._window is not None:
            sampling = dataclasses.replace(sampling, max_frames=None, num_frames=None)
        if path == "-":
            yield sources.raw(_STDIN, frame)
        elif is_camera(path):
            with sources.camera(int(path), frame, sampling) as source:
                yield source
        elif (held := self._held(path, sampling, decoder)) is not None:
            yield Frames(held.fps, iter(held.frames), held.frames)
        else:
            with sources.video(path, frame, sampling, TIME_LIMIT_S) as source:
                yield source

    def _held(self, path: str, sampling: Sampling, decoder: IsolatedDecoder) -> Decoded | None:
        """The whole clip; None where it takes so much memory that it is better not held, and need not be."""
        must_hold = bool(self._model.why_no_stream) and self._window is None
        if not must_hold:
            num_frames = min(decoder.count_frames(path), sampling.max_frames or sys.maxsize) / (sampling.every or 1)
            if num_frames * self._model.frame.size > _WHOLE_BYTES:
                return None
        try:
            return decoder.decode(path, self._model.frame, sampling)
        except RejectedError as error:
            # Its header did not say so.
            if error.reason == "too_large" and not must_hold:
                return None
            raise

    def _at_once(self, path: str, source: Frames) -> dict[str, Any]:
        clip = source.whole
        if clip is None:
            most = MAX_CLIP_BYTES // self._model.frame.size
            held = [frame.copy() for frame in itertools.islice(source.each, most + 1)]
            if not held:
                raise VideoError("no frame came")
            if len(held) > most:
                raise VideoError("its frames take more than 2 GiB, and the model can't stream; give --window")
            clip = sampled(np.stack(held), self._model.sampling)
        scores_C = self._model.scores(clip)
        return self._entry(path, scores_C, len(clip)) | {"words": [(0.0, self._words(scores_C))]}

    def _by_frames(self, path: str, source: Frames) -> dict[str, Any]:
        push, number, scores_C = self._model.stream(), 0, None
        words: list[tuple[float, str]] = []
        is_endless = is_camera(path) or (path == "-" and self.teller is not None)
        each = source.each if is_endless else itertools.islice(source.each, self._model.sampling.max_frames)
        fps = source.fps or _FPS / (self._model.sampling.every or 1)
        try:
            for number, frame in enumerate(each, start=1):
                scores_C = push(frame)
                if (text := self._words(scores_C)) != (words[-1][1] if words else "") and not is_endless:
                    words.append(((number - 1) / fps, text))
                if self.teller is not None:
                    self.teller.frame(path, number, (number - 1) / source.fps if source.fps else None, scores_C)
        except KeyboardInterrupt:
            self._end_of(path)
        if scores_C is None:
            raise VideoError("no frame came")
        return self._entry(path, scores_C, number) | {"words": words}

    def _by_windows(self, path: str, source: Frames) -> dict[str, Any]:
        assert self._window is not None
        assert self._hop is not None
        segments: list[dict[str, Any]] = []
        words: list[tuple[float, str]] = []
        fps = source.fps or _FPS / (self._model.sampling.every or 1)
        total_C, weight = np.zeros(len(self._model.classes)), 0
        try:
            for start, clip in windows(source.each, self._window.frames(source.fps), self._hop.frames(source.fps)):
                scores_C = self._model.scores(sampled(clip, self._model.sampling))
                end = start + len(clip)
                times = [number / source.fps if source.fps else None for number in (start, end)]
                span = {"start_frame": start, "end_frame": end, "start_s": times[0], "end_s": times[1]}
                segments.append(span | self._said(scores_C))
                words.append((start / fps, self._words(scores_C)))
                total_C, weight = total_C + len(clip) * scores_C, weight + len(clip)
                if self.teller is not None:
                    self.teller.segment(path, segments[-1])
        except KeyboardInterrupt:
            self._end_of(path)
        if not segments:
            raise VideoError("no frame came")
        entry = self._entry(path, total_C / weight, segments[-1]["end_frame"])
        return entry | {"segments": segments, "words": words}

    def _end_of(self, path: str) -> None:
        """Ctrl-C is how a camera ends; everything else is interrupted by it."""
        if not is_camera(path):
            raise KeyboardInterrupt
        self.is_interrupted = True

    def _entry(self, path: str, scores_C: np.ndarray, num_frames: int) -> dict[str, Any]:
        return {"path": path, **self._said(scores_C), "num_frames": num_frames}

    def _said(self, scores_C: np.ndarray) -> dict[str, Any]:
        """label, probabilities and, if it is wanted, top."""
        shares = dict(zip(self._model.classes, map(float, scores_C), strict=True))
        said = {"label": self._model.label(scores_C), "probabilities": shares}
        if self._top_k is None:
            return said
        best = sorted(shares.items(), key=lambda item: -item[1])[: self._top_k]
        return said | {"top": [{"label": label, "probability": share} for label, share in best]}

    def _words(self, scores_C: np.ndarray) -> str:
        return f"{self._model.label(scores_C).replace('|', ', ') or '(none)'} {100 * scores_C.max():.0f}%"
