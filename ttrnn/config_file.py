"""Read and check the config.json of a model directory, without torch: an ONNX file beside it must open fast."""

import hashlib
import json
import stat
import textwrap
from pathlib import Path
from typing import Any

from ttrnn.events import EventRule
from ttrnn.files import sha256

__all__ = ["DTYPES", "FORMAT", "LARGEST_BYTES", "VERSION", "config_hash", "read_config", "read_events", "shown"]

DTYPES = ("float32", "bfloat16", "int8")
"""of the weights on disk"""
FORMAT = "ttrnn-model"
# 1: weights as they are, no "dtype". 2: no stem; 3: no formats. Written: the oldest with the fields. Read: 1 to 4.
VERSION = 4
# Limit for config.json and for the header of the weights: a hundred thousand classes take 2 MB.
LARGEST_BYTES = 16 << 20


def read_config(path: str | Path) -> dict[str, Any]:
    """The contents of config.json; raises ValueError for another directory, a newer version or a changed byte."""
    path = Path(path)
    config, place = _read_json(path), path / "config.json"
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ValueError(f"{place} does not describe a ttrnn model")
    if type(config.get("version")) is not int or not 1 <= config["version"] <= VERSION:
        raise ValueError(
            f"{path} has model format version {shown(config.get('version'))}, this ttrnn reads 1 to {VERSION}; "
            "install a newer ttrnn, or export the model again with this one"
        )
    hashes = config.get("sha256")
    if not isinstance(hashes, dict) or hashes.get("config.json") != config_hash(config):
        raise ValueError(f"{place} does not match its sha256: it was changed or damaged; export the model again")
    if not isinstance(config.get("results"), dict) or config.get("dtype", DTYPES[0]) not in DTYPES:
        dtypes = ", ".join(DTYPES)
        raise ValueError(f"{place} does not hold results and a dtype, one of {dtypes}; export the model again")
    _check_weights(path / "model.safetensors", hashes.get("model.safetensors"), config.get("num_params"))
    return config


def read_events(path: str | Path) -> EventRule | None:
    """Window and thresholds of a model directory; None if it has none. Raises ValueError, also as `read_config`."""
    config = read_config(path)
    if "events" not in config:
        return None
    try:
        return EventRule.from_dict(config["events"], config["model"]["classes"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{Path(path) / 'config.json'}: {shown(error)}; export the model again") from error


def _check_weights(weights: Path, expected: Any, num_params: Any) -> None:
    """Raises ValueError unless the file has that hash; reads none that is too large for its model."""
    if not weights.is_file():
        raise ValueError(f"{weights} is missing; export the model again")
    try:
        if not isinstance(num_params, int) or weights.stat().st_size > 8 * num_params + LARGEST_BYTES:
            raise ValueError(f"{weights} does not fit the num_params of config.json; export the model again")
        digest = sha256(weights)
    except OSError as error:
        raise ValueError(f"{weights} can't be read: {shown(error)}") from error
    if digest != expected:
        raise ValueError(
            f"{weights} does not match its sha256 in config.json: it was changed or damaged; export the model again"
        )


def _read_json(path: Path) -> Any:
    """The contents of config.json; raises ValueError unless it is a regular file with JSON."""
    place = path / "config.json"
    try:
        # Reading a pipe or a device may never end.
        if stat.S_ISREG((found := place.stat()).st_mode) and found.st_size <= LARGEST_BYTES:
            return json.loads(place.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{path} is not a model directory: it has no config.json") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{place} is damaged ({shown(error)}); export the model again") from error
    raise ValueError(f"{place} is no file, or larger than {LARGEST_BYTES >> 20} MiB; export the model again")


def shown(value: Any) -> str:
    """A value or an error in one line."""
    return textwrap.shorten(str(value) if isinstance(value, Exception) else repr(value), 500)


def config_hash(config: dict[str, Any]) -> str:
    """sha256 of config.json without this hash, in one canonical spelling."""
    sha256 = {name: value for name, value in config["sha256"].items() if name != "config.json"}
    text = json.dumps({**config, "sha256": sha256}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
