"""Save, verify and load a model directory: model.safetensors, config.json and README.md (the model card).

Loading runs no code: weights are safetensors, everything else is JSON. config.json has the sha256 of both.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors_torch

from ttrnn.config_file import DTYPES, FORMAT, config_hash, read_config, shown
from ttrnn.events import EventRule
from ttrnn.files import atomic_directory
from ttrnn.model import ModelConfig, VideoClassifier
from ttrnn.quantise import difference, pack, unpack

__all__ = ["load", "read_config", "save", "write"]

_STEM_FIELDS, _FORMAT_FIELDS = ("stem", "stem_channels", "stem_strides"), ("format", "recurrent_format")


def save(
    model: VideoClassifier,
    path: str | Path,
    results: dict[str, Any] | None = None,
    dtype: str = "float32",
    events: EventRule | None = None,
) -> None:
    """Writes a model directory, whole or not at all.

    Args:
        model: The model.
        path: The directory; an older model directory there is replaced.
        results: JSON values about training and metrics, for config.json and the card.
        dtype: float32: weights keep their dtype. bfloat16 or int8: rounded, see quantise.py; `load` gives float32, and
            config.json and the card say how far that moves the logits.
        events: Window and thresholds for streams; None: the model only classifies clips.

    Raises:
        ValueError: the directory is no model directory, or layers of the model are no longer what its config says.
    """
    path = Path(path)
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not (path / "config.json").exists()):
        raise ValueError(f"{path} exists and is no model directory: it is not replaced; give another path")
    with atomic_directory(path) as directory:
        write(model, directory, results, dtype, events)


def write(
    model: VideoClassifier,
    directory: Path,
    results: dict[str, Any] | None = None,
    dtype: str = "float32",
    events: EventRule | None = None,
) -> None:
    """Like `save`, but into a directory that exists, file by file."""
    if model.num_params != model.config.num_params:
        raise ValueError(
            f"the model has {model.num_params:,} parameters, its config stands for {model.config.num_params:,}: load "
            "the weights into a VideoClassifier whose config has the new ranks, and save that"
        )
    weights = safetensors_torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in pack(model.state_dict(), dtype).items()}
    )
    (directory / "model.safetensors").write_bytes(weights)
    fields = model.config.to_dict()
    version = 4 if {fields[name] for name in _FORMAT_FIELDS} != {"tt"} else 3 if model.stem is not None else 2
    absent = (_FORMAT_FIELDS if version < 4 else ()) + (_STEM_FIELDS if version < 3 else ())
    config: dict[str, Any] = {
        "format": FORMAT,
        "version": version,
        "model": {name: value for name, value in fields.items() if name not in absent},
        "dtype": dtype,
        "results": results or {},
        "num_params": model.config.num_params,
        "input_params": model.config.input_params,
        "sha256": {"model.safetensors": hashlib.sha256(weights).hexdigest()},
    }
    if events is not None:
        config["events"] = events.to_dict()
    if dtype != "float32":
        config["logits_moved_by"] = difference(model, dtype)
    config["sha256"]["config.json"] = config_hash(config)
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    (directory / "README.md").write_text(_card(config), encoding="utf-8")


def load(path: str | Path) -> VideoClassifier:
    """The model of a model directory, in eval mode on the CPU; raises ValueError if its files do not fit each other."""
    path = Path(path)
    found = read_config(path)
    try:
        config = ModelConfig.from_dict(found["model"])
        with safe_open(path / "model.safetensors", framework="pt") as file:
            names = list(file.keys())
            # torch takes minutes for a hundred thousand axes; a block-term core has one more than the most modes.
            if any(len(file.get_slice(name).get_shape()) > 33 for name in names):
                raise ValueError("model.safetensors has tensors of more axes than cores have")
            packed = {name: file.get_tensor(name) for name in names}
        state = unpack(packed, found.get("dtype", DTYPES[0]))
        num_params = sum(tensor.numel() for tensor in state.values())
        # Before the model is built: a configuration must not ask for more memory than its weights have.
        if num_params != config.num_params:
            raise ValueError(
                f"config.json stands for {config.num_params:,} parameters, model.safetensors has {num_params:,}"
            )
        model = VideoClassifier(config)
        model.load_state_dict(state)
    except (ArithmeticError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path} does not hold a model that fits its config.json: {shown(error)}") from error
    return model.eval()


def _card(config: dict[str, Any]) -> str:
    model = ModelConfig.from_dict(config["model"])
    moved = f"{config.get('logits_moved_by', 0):.1e} (1 + |logit|) at most, for clips of noise"
    facts = {
        "classes": ", ".join(model.classes),
        "input": f"{model.width} x {model.height} pixels, {model.channels} channels, uint8",
        "sampling": model.sampling or "every frame",
        "cell": f"{model.cell}, {model.num_layers} layer(s), hidden size {model.hidden_size}, pooling {model.pooling}",
        **({"stem": f"{model.stem_shape}, strides {model.stem_strides}"} if model.stem_shape else {}),
        "input matrix": f"{'dense' if model.input == 'dense' else model.format}: {model.in_modes} -> "
        f"{model.hidden_modes}, ranks {model.ranks}",
        "recurrent matrix": "dense"
        if model.recurrent_ranks == "none"
        else f"{model.recurrent_format}: ranks {model.recurrent_ranks}",
        "weights": config["dtype"],
        **({"events": _events_line(config["events"])} if "events" in config else {}),
        "parameters": f"{config['num_params']:,} in all, {config['input_params']:,} input-to-hidden",
        **({"logits moved by rounding": moved} if "logits_moved_by" in config else {}),
        "MACs": f"{model.multiply_adds:,} for a frame, in the {'stem and the ' if model.stem_shape else ''}"
        "recurrent layers",
        **{
            name.replace("_", " "): _with_interval(name, value, config["results"])
            for name, value in config["results"].items()
            if not isinstance(value, dict | list)
        },
    }
    lines = "\n".join(f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in facts.items())
    return (
        f"# A ttrnn video classifier\n\n| | |\n|---|---|\n{lines}\n\n"
        "Load it with `ttrnn.load(directory)`; classify a video with `python -m pipelines.predict DIRECTORY VIDEO`.\n"
        "Limits: it gives one of its classes for any video, also for one that shows none of them. Its accuracy\n"
        "was measured on clips of the data set it was trained on; other cameras, light or people may lower it.\n"
    )


def _events_line(events: dict[str, Any]) -> str:
    thresholds = ", ".join(f"{name} {value:.6g}" for name, value in events["thresholds"].items())
    return f"window {events['window']} frames, hop {events['hop']}, thresholds: {thresholds or 'none'}"


def _with_interval(name: str, value: Any, results: dict[str, Any]) -> str:
    """A metric with its 95% interval and number of clips, where they are known; other values unchanged."""
    split = name.removesuffix("_metric")
    interval, num_clips = results.get(f"{split}_interval"), results.get(f"num_{split}_clips")
    if split == name or not isinstance(value, float):
        return str(value)
    is_known = isinstance(interval, list) and all(isinstance(bound, float) for bound in interval)
    known = [f"95%: {min(interval):.3f} to {max(interval):.3f}"] if interval and is_known else []
    known += [f"{num_clips:,} clips"] if isinstance(num_clips, int) else []
    return f"{value:.3f}" + (f" ({', '.join(known)})" if known else "")
