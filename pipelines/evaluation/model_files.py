"""Find the directory of a model by the path or URI of a run, a sweep or an ONNX file, and read its results."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.baselines import files as baselines
from pipelines.core.errors import user_errors
from pipelines.storage.bucket import reading_copy
from pipelines.storage.location import Location
from ttrnn.config_file import read_config

__all__ = ["model_directory", "model_results", "reading_model"]


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
