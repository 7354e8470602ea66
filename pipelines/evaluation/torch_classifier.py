"""Load a model directory or a run with PyTorch, as a model or as a classifier."""

from pathlib import Path
from typing import Any

import ttrnn
from pipelines.baselines.files import is_baseline
from pipelines.baselines.network import load
from pipelines.cluster.slots import local_device
from pipelines.core.errors import UserError, user_errors
from pipelines.evaluation.classifier import Classifier, Classify, finite, why_spread
from pipelines.evaluation.model_files import model_directory
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from ttrnn.model import VideoClassifier

__all__ = ["load_model", "open_directory"]


def load_model(path: str | Path) -> VideoClassifier:
    """The model of a model directory or a run, on the GPU if there is one. Raises UserError if it is damaged."""
    directory = model_directory(path)
    if is_baseline(directory):
        raise UserError(
            f"{path} is a baseline, which a sweep trains for comparison only; give a model of tensor trains"
        )
    with user_errors():
        model = ttrnn.load(directory)
    return model.to(local_device())


def open_directory(path: str | Path, *, may_be_baseline: bool) -> Classifier:
    """See `classifier.open_classifier`."""
    directory = model_directory(path)
    if may_be_baseline and is_baseline(directory):
        return _baseline_classifier(directory)
    return _classifier(load_model(path))


def _classifier(model: VideoClassifier) -> Classifier:
    config, why = model.config, "it is bidirectional" if model.config.bidirectional else ""
    try:
        sampling = Sampling.from_dict(config.sampling)
    except (TypeError, ValueError) as error:
        raise UserError(f"the sampling of the model is not supported here ({error}); export it again") from error

    def stream() -> Classify:
        push = model.stream().push
        return lambda frame: finite(push(frame).float().numpy())

    return Classifier(
        task=config.task,
        classes=config.classes,
        frame=FrameSize(config.width, config.height, config.channels),
        sampling=sampling,
        num_params=config.num_params,
        input_params=config.input_params,
        predict=lambda clip: finite(model.predict(clip).float().numpy()),
        stream=stream,
        why_no_stream=why or why_spread(sampling),
        network=model,
    )


def _baseline_classifier(directory: Path) -> Classifier:
    with user_errors():
        model = load(directory).to(local_device())
    config = model.config

    def refuse(*args: Any) -> Any:
        raise UserError(f"{directory} is a baseline, which evaluates shards only")

    return Classifier(
        **{name: getattr(config, name) for name in ("task", "classes", "num_params", "input_params")},
        frame=FrameSize(config.width, config.height, config.channels),
        sampling=Sampling.from_dict(config.sampling),
        predict=refuse,
        stream=refuse,
        why_no_stream="it is a baseline",
        network=model,
    )
