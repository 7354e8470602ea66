"""Load a classifier from a model directory, a run or an ONNX file, behind one interface.

Legend: T time, H W frame height and width in pixels, K channels, C classes.
"""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ttrnn
from pipelines.baselines import network as baselines
from pipelines.cluster.slots import local_device
from pipelines.core.errors import UserError, user_errors
from pipelines.evaluation.metrics import METRICS
from pipelines.storage.bucket import reading_copy
from pipelines.storage.location import Location
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from ttrnn.checkpoint import read_config
from ttrnn.model import VideoClassifier

__all__ = ["Classifier", "load_model", "model_directory", "model_results", "open_classifier", "reading_model"]


_LARGEST_BYTES = 1 << 31
_LARGEST_SIDE = 1 << 16
Classify = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Classifier:
    """A model in any form; its functions may be called from any thread."""

    task: str
    """single_label or multi_label"""
    classes: tuple[str, ...]
    """names, in the order of the scores"""
    frame: FrameSize
    """size of the frames that it takes"""
    sampling: Sampling
    """which frames of a video it takes"""
    num_params: int | None
    """None if an ONNX file does not record it"""
    input_params: int | None
    """likewise"""
    predict: Classify
    """clip, uint8 [T, H, W, K] -> probabilities, float32 [C]"""
    stream: Callable[[], Classify]
    """starts a stream: a function from the next frame, uint8 [H, W, K], to the probabilities [C] so far"""
    why_no_stream: str = ""
    """why it cannot stream videos; "" if it can"""
    network: baselines.AnyClassifier | None = None
    """the PyTorch model, for batches of clips; None for an ONNX file"""

    def label(self, scores_C: np.ndarray) -> str:
        """The class with the highest score; or, if clips have several labels, all above one half, joined by |."""
        if self.task == "single_label":
            return self.classes[int(scores_C.argmax())]
        return "|".join(name for name, score in zip(self.classes, scores_C, strict=True) if score > 0.5)


def load_model(path: str | Path) -> VideoClassifier:
    """The model of a model directory or a run, on the GPU if there is one. Raises UserError if it is damaged."""
    directory = model_directory(path)
    if baselines.is_baseline(directory):
        raise UserError(
            f"{path} is a baseline, which a sweep trains for comparison only; give a model of tensor trains"
        )
    with user_errors():
        model = ttrnn.load(directory)
    return model.to(local_device())


def model_directory(path: str | Path) -> Path:
    """The model directory of a run or a sweep, or the one that contains an ONNX file."""
    path = Path(path)
    if path.suffix == ".onnx":
        return path.parent
    if not (path / "model.safetensors").exists():
        for folder in ("model", "best"):
            if (path / folder / "config.json").exists():
                return path / folder
    return path


def model_results(path: str | Path) -> dict[str, Any]:
    """The training results in a model directory's config.json; {} for an ONNX file in another directory.

    Raises:
        UserError: the model directory is damaged.
    """
    directory = model_directory(path)
    if Path(path).suffix == ".onnx" and not (directory / "config.json").exists():
        return {}
    with user_errors():
        read = baselines.read_config if baselines.is_baseline(directory) else read_config
        results: dict[str, Any] = read(directory)["results"]
    return results


@contextlib.contextmanager
def reading_model(path_or_uri: str) -> Iterator[Path]:
    """The path of a model directory, a run or an ONNX file; of a URI, that of a temporary copy. Raises UserError."""
    location = Location.of(path_or_uri)
    if location.is_local or not location.name.endswith(".onnx"):
        with reading_copy(location, markers=("config.json",), wanted=_is_of_model) as copy:
            yield copy.path
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, location.name)
        location.download(file)
        yield file


def _is_of_model(name: str) -> bool:
    """Whether a file of a model directory or of a run, by its relative name, may belong to the model."""
    return name.split("/")[0] == "model" or "/" not in name


def open_classifier(path: str | Path, *, may_be_baseline: bool = False) -> Classifier:
    """Loads a model directory, a run or an ONNX file that export wrote.

    Raises:
        UserError: it is damaged; or it is a baseline, unless it may be one: then only its `network` is of use.
    """
    if may_be_baseline and baselines.is_baseline(model_directory(path)):
        return _baseline_classifier(model_directory(path))
    return _open_onnx(Path(path)) if Path(path).suffix == ".onnx" else _torch_classifier(load_model(path))


def _torch_classifier(model: VideoClassifier) -> Classifier:
    config, why = model.config, "it is bidirectional" if model.config.bidirectional else ""
    try:
        sampling = Sampling.from_dict(config.sampling)
    except (TypeError, ValueError) as error:
        raise UserError(f"the sampling of the model is not supported here ({error}); export it again") from error

    def stream() -> Classify:
        push = model.stream().push
        return lambda frame: _finite(push(frame).float().numpy())

    return Classifier(
        task=config.task,
        classes=config.classes,
        frame=FrameSize(config.width, config.height, config.channels),
        sampling=sampling,
        num_params=config.num_params,
        input_params=config.input_params,
        predict=lambda clip: _finite(model.predict(clip).float().numpy()),
        stream=stream,
        why_no_stream=why or _why_spread(sampling),
        network=model,
    )


def _baseline_classifier(directory: Path) -> Classifier:
    with user_errors():
        model = baselines.load(directory).to(local_device())
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


def _why_spread(sampling: Sampling) -> str:
    return "its frames are spread evenly over the clip" if sampling.num_frames else ""


def _finite(scores_C: np.ndarray) -> np.ndarray:
    if not np.isfinite(scores_C).all():
        raise UserError("the model gives probabilities that are not finite: it is damaged; export it again")
    return scores_C


def _open_onnx(path: Path) -> Classifier:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{path} needs {error.name}; install it with: pip install 'ttrnn[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_BYTES:
            raise UserError(f"{path} is no file, or larger than {_LARGEST_BYTES >> 30} GiB; give a model")
        # Passed as bytes, so that the model cannot name other files. The fallback would print on standard output.
        session = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        metadata = session.get_modelmeta().custom_metadata_map
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    except UserError:
        raise
    # The exceptions of onnxruntime have no other common base class.
    except Exception as error:
        raise UserError(f"{path} is no ONNX file, or damaged ({_line(error)}); export the model again") from error
    try:
        return _onnx_classifier(path, session, metadata)
    except (ArithmeticError, KeyError, MemoryError, RecursionError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} lacks metadata that export writes, or they are invalid ({_line(error)}); export it again"
        ) from error


def _onnx_classifier(path: Path, session: Any, metadata: Mapping[str, str]) -> Classifier:
    """Raises KeyError, TypeError or ValueError if metadata are missing or do not fit the inputs."""
    form, task, classes = metadata["form"], metadata["task"], json.loads(metadata["classes"])
    width, height, channels = (int(metadata[name]) for name in ("width", "height", "channels"))
    if metadata["format"] != "ttrnn" or form not in ("clip", "step") or task not in METRICS:
        raise ValueError(f"format {metadata['format']!r}, form {form!r}, task {task!r}")
    if not classes or len(set(classes)) != len(classes) or not all(isinstance(name, str) for name in classes):
        raise ValueError("classes must be different names")
    inputs = {part.name: part for part in session.get_inputs()}
    images = inputs.pop("frames" if form == "clip" else "frame")
    if images.shape[-3:] != [height, width, channels] or not min(images.shape[-3:]) > 0:
        raise ValueError(f"frames of {width}x{height}x{channels}, but input of {images.shape}")
    if max(height, width) > _LARGEST_SIDE or channels not in (1, 3):
        raise ValueError(f"frames of {width}x{height}x{channels}")
    sampling = Sampling.from_dict(json.loads(metadata["sampling"]))
    # Behind a stem, the frame before is a part of the state.
    states = {name: np.zeros([1 if isinstance(n, str) else n for n in part.shape],
                             np.uint8 if part.type == "tensor(uint8)" else np.float32)
              for name, part in inputs.items() if name != "lengths"}  # fmt: skip
    model, sizes = _OnnxModel(path, session, states, len(classes)), {**_config_beside(path), **metadata}
    num_params, input_params = (
        None if sizes.get(name) is None else int(sizes[name]) for name in ("num_params", "input_params")
    )
    return Classifier(
        task=task,
        classes=tuple(classes),
        frame=FrameSize(width, height, channels),
        sampling=sampling,
        num_params=num_params,
        input_params=input_params,
        predict=model.predict if form == "clip" else model.predict_by_steps,
        stream=model.stream,
        why_no_stream="it is an ONNX file for clips" if form == "clip" else _why_spread(sampling),
    )


class _OnnxModel:
    """Runs an ONNX file that export wrote: clip.onnx on whole clips, step.onnx frame by frame."""

    def __init__(self, path: Path, session: Any, states: Mapping[str, np.ndarray], num_classes: int) -> None:
        self._path, self._session, self._states, self._num_classes = path, session, states, num_classes

    def _run(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Scores [1, C] and the new states."""
        names = ["scores", *(name.removesuffix("_0") + "_n" for name in self._states)]
        try:
            outputs: list[np.ndarray] = self._session.run(names, feeds)
        except Exception as error:
            raise UserError(f"{self._path} does not run ({_line(error)}); export the model again") from error
        if outputs[0].shape != (1, self._num_classes):
            raise UserError(
                f"{self._path} gives scores of shape {outputs[0].shape}, not (1, {self._num_classes}): it is damaged"
            )
        return outputs

    def predict(self, clip: np.ndarray) -> np.ndarray:
        return _finite(self._run({"frames": clip[None], "lengths": np.array([len(clip)], np.int32)})[0][0])

    def predict_by_steps(self, clip: np.ndarray) -> np.ndarray:
        push = self.stream()
        return [push(frame) for frame in clip][-1]

    def stream(self) -> Classify:
        states = dict(self._states)

        def push(frame: np.ndarray) -> np.ndarray:
            scores, *new_states = self._run({"frame": frame[None], **states})
            states.update(zip(states, new_states, strict=True))
            return _finite(scores[0])

        return push


def _config_beside(path: Path) -> dict[str, Any]:
    """The config.json of the model directory that contains an ONNX file; {} if it is in another directory."""
    try:
        return read_config(path.parent)
    except ValueError:
        return {}


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 300 else f"{text[:300]}..."
