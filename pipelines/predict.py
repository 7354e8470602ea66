"""(7) Classify video files.

python -m pipelines.predict runs/sweep/best clip.avi other.mp4
python -m pipelines.predict runs/sweep/best clip.avi --json
python -m pipelines.predict runs/sweep/best clip.avi --stream
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import RenderableType
from rich.table import Table

from pipelines import cli
from pipelines.cli import UserError
from pipelines.decode import RejectedError, Sampling
from pipelines.evaluate import load_model
from pipelines.isolation import IsolatedDecoder
from pipelines.mirror import reading_copy
from pipelines.shards import Frame
from pipelines.storage import Location
from ttrnn.model import VideoClassifier

__all__ = ["PredictOptions", "predict", "predict_frames"]

log = logging.getLogger(__name__)
_TIME_LIMIT_S = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictOptions:
    """Classify video files with a model directory; it knows frame size, sampling and classes by itself."""

    model: str = cli.positional()
    """model directory or its URI, such as runs/sweep/best"""
    video: tuple[str, ...] = cli.positional()
    """one or more video files"""
    stream: bool = False
    """feed the frames one at a time, as a camera would, and tell each time the leading class changes"""


def predict_frames(model: VideoClassifier, frames_THWC: np.ndarray, stream: bool = False) -> np.ndarray:
    """Probabilities (C,) of one clip of uint8 frames."""
    frames = torch.from_numpy(frames_THWC).to(next(model.parameters()).device)
    with torch.inference_mode():
        if not stream:
            return model.probabilities(model(frames.unsqueeze(0)))[0].cpu().numpy()
        state, leader = None, -1
        for number, frame in enumerate(frames, start=1):
            logits, state = model.step(frame, state)
            scores = model.probabilities(logits).cpu().numpy()
            if scores.argmax() != leader:
                leader = int(scores.argmax())
                log.info("frame %d: %s %.1f%%", number, model.config.classes[leader], 100 * scores[leader])
    return scores


def predict(options: PredictOptions) -> dict[str, Any]:
    """Classifies each video; one that does not decode is an entry with an error, and the rest go on."""
    with reading_copy(Location.of(options.model)) as directory:
        model = load_model(directory)
    config = model.config
    if options.stream and (config.bidirectional or config.sampling.get("num_frames")):
        raise UserError(
            f"--stream reads frames as they come, but {options.model} needs the whole clip first "
            f"({'bidirectional' if config.bidirectional else 'frames spread evenly over it'}); leave --stream out"
        )
    frame, sampling = Frame(config.width, config.height, config.channels), Sampling.from_dict(config.sampling)
    videos: list[dict[str, Any]] = []
    with IsolatedDecoder(_TIME_LIMIT_S) as decoder:
        for path in options.video:
            try:
                frames = decoder.decode(path, frame, sampling).frames
            except RejectedError as error:
                log.error("error: %s", error)
                videos.append({"path": path, "error": str(error)})
                continue
            scores = predict_frames(model, frames, options.stream)
            videos.append(
                {
                    "path": path,
                    "label": _label(config.task, config.classes, scores),
                    "probabilities": dict(zip(config.classes, map(float, scores), strict=True)),
                    "num_frames": len(frames),
                }
            )
    return {"videos": videos, "exit_code": 2 if any("error" in video for video in videos) else 0}


def _label(task: str, classes: tuple[str, ...], scores: np.ndarray) -> str:
    """The class with the highest score; or all above one half, joined as in a catalogue, where clips have several."""
    if task == "single_label":
        return classes[int(scores.argmax())]
    return "|".join(name for name, score in zip(classes, scores, strict=True) if score > 0.5)


def summary(result: dict[str, Any]) -> RenderableType:
    """A table: video, label, probability, runner-up."""
    table = Table("video", "label", "probability", "next best", "frames")
    for video in result["videos"]:
        if "error" in video:
            table.add_row(video["path"], "-", "-", "not decoded", "-")
            continue
        ranked = sorted(video["probabilities"].items(), key=lambda item: -item[1])
        second = f"{ranked[1][0]} {100 * ranked[1][1]:.1f}%" if len(ranked) > 1 else "-"
        table.add_row(
            Path(video["path"]).name,
            video["label"] or "(none)",
            f"{100 * ranked[0][1]:.1f}%",
            second,
            str(video["num_frames"]),
        )
    return table


def main(argv: list[str] | None = None) -> int:
    """The command; see the head of this file."""
    return cli.run(PredictOptions, predict, summary, argv)


if __name__ == "__main__":
    # As `python pipelines/predict.py` too: the same importable module either way.
    from pipelines.predict import main as importable_main

    sys.exit(importable_main())
