"""A model as predict and evaluate use it, whatever form it has: a model directory, a run, or an ONNX file.

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
from pipelines.cluster.slots import local_device
from pipelines.core.errors import UserError, user_errors
from pipelines.evaluation.metrics import METRICS
from pipelines.storage.bucket import reading_copy
from pipelines.storage.location import Location
from pipelines.video.decode import Sampling
from pipelines.video.frame import Frame
from ttrnn.checkpoint import read_config
from ttrnn.model import VideoClassifier

__all__ = ["Classifier", "load_model", "model_results", "open_classifier", "reading_model"]


_LARGEST_BYTES = 1 << 31
_LARGEST_SIDE = 1 << 16
Classify = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Classifier:
    """A model behind two functions, both for any thread."""

    task: str
    """single_label or multi_label"""
    classes: tuple[str, ...]
    """in the order of the scores"""
    frame: Frame
    """the size of the frames it takes"""
    sampling: Sampling
    """how its clips are taken from a video"""
    num_params: int | None
    """None where an ONNX file does not say"""
    input_params: int | None
    """likewise"""
    scores: Classify
    """from a clip, uint8 [T, H, W, K], to probabilities float32 [C]"""
    stream: Callable[[], Classify]
    """begins a stream; gives a function from its next frame, uint8 [H, W, K], to the probabilities [C] so far"""
    why_no_stream: str = ""
    """why it can't stream videos; "" where it can"""
    network: VideoClassifier | None = None
    """the model itself, for many clips at once; None of an ONNX file"""

    def label(self, scores_C: np.ndarray) -> str:
        """The class with the highest score; or all above one half, joined by |, where clips have several."""
        if self.task == "single_label":
            return self.classes[int(scores_C.argmax())]
        return "|".join(name for name, score in zip(self.classes, scores_C, strict=True) if score > 0.5)


def load_model(path: str | Path) -> VideoClassifier:
    """The model of a model directory or of a run, on the GPU where there is one. Raises UserError if it is damaged."""
    with user_errors():
        model = ttrnn.load(_directory(path))
    return model.to(local_device())


def _directory(path: str | Path) -> Path:
    """The model directory: of a run too, and of an ONNX file that lies in it."""
    path = Path(path)
    if path.suffix == ".onnx":
        return path.parent
    is_run = not (path / "model.safetensors").exists() and (path / "model" / "config.json").exists()
    return path / "model" if is_run else path


def model_results(path: str | Path) -> dict[str, Any]:
    """What a model directory knows of how it was trained; {} of an ONNX file that lies elsewhere. Raises UserError."""
    directory = _directory(path)
    if Path(path).suffix == ".onnx" and not (directory / "config.json").exists():
        return {}
    with user_errors():
        results: dict[str, Any] = read_config(directory)["results"]
    return results


@contextlib.contextmanager
def reading_model(place: str) -> Iterator[Path]:
    """A model directory, a run or an ONNX file: there if it is a path, else in a copy. Raises UserError."""
    location = Location.of(place)
    if location.is_local or not location.name.endswith(".onnx"):
        with reading_copy(location) as directory:
            yield directory
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, location.name)
        location.download(file)
        yield file


def open_classifier(path: str | Path) -> Classifier:
    """Loads a model directory, a run or an ONNX file that export wrote. Raises UserError, in a line."""
    return _open_onnx(Path(path)) if Path(path).suffix == ".onnx" else _of_model(load_model(path))


def _of_model(model: VideoClassifier) -> Classifier:
    config, why = model.config, "it is bidirectional" if model.config.bidirectional else ""
    try:
        sampling = Sampling.from_dict(config.sampling)
    except (TypeError, ValueError) as error:
        raise UserError(f"the model's sampling is not of this version ({error}); export it again") from error

    def stream() -> Classify:
        push = model.stream().push
        return lambda frame: _finite(push(frame).float().numpy())

    return Classifier(
        task=config.task,
        classes=config.classes,
        frame=Frame(config.width, config.height, config.channels),
        sampling=sampling,
        num_params=config.num_params,
        input_params=config.input_params,
        scores=lambda clip: _finite(model.predict(clip).float().numpy()),
        stream=stream,
        why_no_stream=why or _why_spread(sampling),
        network=model,
    )


def _why_spread(sampling: Sampling) -> str:
    return "its frames are spread evenly over the clip" if sampling.num_frames else ""


def _finite(scores_C: np.ndarray) -> np.ndarray:
    if not np.isfinite(scores_C).all():
        raise UserError("the model gives probabilities that are no numbers: it is damaged; export it again")
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
        # By its bytes, so that it can't name other files. The fallback would print on standard output.
        session = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        about = session.get_modelmeta().custom_metadata_map
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    except UserError:
        raise
    # onnxruntime's own errors have nothing else in common.
    except Exception as error:
        raise UserError(f"{path} is no ONNX file, or damaged ({_line(error)}); export the model again") from error
    try:
        return _of_session(path, session, about)
    except (ArithmeticError, KeyError, MemoryError, RecursionError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} does not say what it takes as export writes it ({_line(error)}); export the model again"
        ) from error


def _of_session(path: Path, session: Any, about: Mapping[str, str]) -> Classifier:
    form, task, classes = about["form"], about["task"], json.loads(about["classes"])
    width, height, channels = (int(about[name]) for name in ("width", "height", "channels"))
    if about["format"] != "ttrnn" or form not in ("clip", "step") or task not in METRICS:
        raise ValueError(f"format {about['format']!r}, form {form!r}, task {task!r}")
    if not classes or len(set(classes)) != len(classes) or not all(isinstance(name, str) for name in classes):
        raise ValueError("classes must be different names")
    inputs = {part.name: part for part in session.get_inputs()}
    images = inputs.pop("frames" if form == "clip" else "frame")
    if images.shape[-3:] != [height, width, channels] or not min(images.shape[-3:]) > 0:
        raise ValueError(f"frames of {width}x{height}x{channels}, but input of {images.shape}")
    if max(height, width) > _LARGEST_SIDE or channels not in (1, 3):
        raise ValueError(f"frames of {width}x{height}x{channels}")
    sampling = Sampling.from_dict(json.loads(about["sampling"]))
    states = {name: np.zeros([1 if isinstance(n, str) else n for n in part.shape], np.float32)
              for name, part in inputs.items() if name != "lengths"}  # fmt: skip

    def run(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        wanted = ["scores", *(name.removesuffix("_0") + "_n" for name in states)]
        try:
            found: list[np.ndarray] = session.run(wanted, feeds)
        except Exception as error:
            raise UserError(f"{path} does not run ({_line(error)}); export the model again") from error
        if found[0].shape != (1, len(classes)):
            raise UserError(f"{path} gives scores of shape {found[0].shape}, not (1, {len(classes)}): it is damaged")
        return found

    def stream() -> Classify:
        carried = dict(states)

        def push(frame: np.ndarray) -> np.ndarray:
            scores, *after = run({"frame": frame[None], **carried})
            carried.update(zip(states, after, strict=True))
            return _finite(scores[0])

        return push

    def clip_scores(clip: np.ndarray) -> np.ndarray:
        return _finite(run({"frames": clip[None], "lengths": np.array([len(clip)], np.int32)})[0][0])

    def stepped(clip: np.ndarray) -> np.ndarray:
        push = stream()
        return [push(frame) for frame in clip][-1]

    beside = _parameters(path)
    why = "it is an ONNX file for clips" if form == "clip" else ""
    return Classifier(
        task=task,
        classes=tuple(classes),
        frame=Frame(width, height, channels),
        sampling=sampling,
        num_params=int(about["num_params"]) if "num_params" in about else beside.get("num_params"),
        input_params=int(about["input_params"]) if "input_params" in about else beside.get("input_params"),
        scores=clip_scores if form == "clip" else stepped,
        stream=stream,
        why_no_stream=why or _why_spread(sampling),
    )


def _parameters(path: Path) -> dict[str, Any]:
    """num_params and input_params from the config.json of the model directory that an ONNX file lies in, if it does."""
    try:
        return read_config(path.parent)
    except ValueError:
        return {}


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 300 else f"{text[:300]}..."
