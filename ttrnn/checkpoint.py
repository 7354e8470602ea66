"""A model directory: model.safetensors + config.json + README.md (the model card). Save, verify, load.

Nothing in it is code and loading runs none: weights are safetensors, everything else is JSON. Both files carry a sha256
in config.json, so that a changed byte is seen.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors_torch

from ttrnn.files import atomic_directory
from ttrnn.model import ModelConfig, VideoClassifier

__all__ = ["load", "read_config", "save", "write"]

_FORMAT, _VERSION = "ttrnn-model", 1


def save(model: VideoClassifier, path: str | Path, results: dict[str, Any] | None = None) -> None:
    """Writes a model directory, whole or not at all.

    Args:
        model: Its weights are written in the dtype they have.
        path: The directory; an older model directory there is replaced.
        results: JSON values about how the model was made and how well it does; kept in config.json and in the card.
    """
    path = Path(path)
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not (path / "config.json").exists()):
        raise ValueError(f"{path} exists and is no model directory: it is not replaced; give another path")
    with atomic_directory(path) as directory:
        write(model, directory, results)


def write(model: VideoClassifier, directory: Path, results: dict[str, Any] | None = None) -> None:
    """As `save`, straight into a directory that the caller takes care of.

    Raises:
        ValueError: layers of the model are no longer what its config says, after `round_`, say.
    """
    if model.num_params != model.config.num_params:
        raise ValueError(
            f"the model has {model.num_params:,} parameters, its config stands for {model.config.num_params:,}: load "
            "the weights into a VideoClassifier whose config has the new ranks, and save that"
        )
    weights = safetensors_torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    )
    (directory / "model.safetensors").write_bytes(weights)
    config: dict[str, Any] = {
        "format": _FORMAT,
        "version": _VERSION,
        "model": model.config.to_dict(),
        "results": results or {},
        "num_params": model.config.num_params,
        "input_params": model.config.input_params,
        "sha256": {"model.safetensors": hashlib.sha256(weights).hexdigest()},
    }
    config["sha256"]["config.json"] = _config_hash(config)
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    (directory / "README.md").write_text(_card(config), encoding="utf-8")


def read_config(path: str | Path) -> dict[str, Any]:
    """The verified contents of a model directory's config.json; its "model" makes a ModelConfig.

    Raises:
        ValueError: not a model directory, a newer version, or a byte has changed in a file.
    """
    path = Path(path)
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{path} is not a model directory: it has no config.json") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path / 'config.json'} is damaged ({error}); export the model again") from error
    if not isinstance(config, dict) or config.get("format") != _FORMAT:
        raise ValueError(f"{path / 'config.json'} does not describe a ttrnn model")
    if config.get("version") != _VERSION:
        raise ValueError(
            f"{path} has model format version {config.get('version')!r}, this ttrnn reads {_VERSION}; "
            "export the model again, or install the ttrnn that wrote it"
        )
    hashes = config.get("sha256")
    if not isinstance(hashes, dict) or hashes.get("config.json") != _config_hash(config):
        raise ValueError(
            f"{path / 'config.json'} does not match its sha256: it was changed or damaged; export the model again"
        )
    weights = path / "model.safetensors"
    if not weights.is_file():
        raise ValueError(f"{weights} is missing; export the model again")
    if hashlib.sha256(weights.read_bytes()).hexdigest() != hashes.get("model.safetensors"):
        raise ValueError(
            f"{weights} does not match its sha256 in config.json: it was changed or damaged; export the model again"
        )
    return config


def load(path: str | Path) -> VideoClassifier:
    """The model of a model directory, in eval mode on the CPU, in float32.

    Raises:
        ValueError: see read_config; or weights that do not fit the configuration.
    """
    path = Path(path)
    try:
        config = ModelConfig.from_dict(read_config(path)["model"])
        with safe_open(path / "model.safetensors", framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        num_params = sum(tensor.numel() for tensor in state.values())
        # Before the model is built: a configuration must not ask for more memory than its weights have.
        if num_params != config.num_params:
            raise ValueError(
                f"config.json stands for {config.num_params:,} parameters, model.safetensors has {num_params:,}"
            )
        model = VideoClassifier(config)
        model.load_state_dict(state)
    except (KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path} does not hold a model that fits its config.json: {error}") from error
    return model.eval()


def _config_hash(config: dict[str, Any]) -> str:
    """sha256 of config.json's contents without the hash itself, in one canonical spelling."""
    sha256 = {name: value for name, value in config["sha256"].items() if name != "config.json"}
    text = json.dumps({**config, "sha256": sha256}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _card(config: dict[str, Any]) -> str:
    model = ModelConfig.from_dict(config["model"])
    facts = {
        "classes": ", ".join(model.classes),
        "input": f"{model.width} x {model.height} pixels, {model.channels} channels, uint8",
        "sampling": model.sampling or "every frame",
        "cell": f"{model.cell}, {model.num_layers} layer(s), hidden size {model.hidden_size}, pooling {model.pooling}",
        "input matrix": f"{model.input}: {model.in_modes} -> {model.hidden_modes}, ranks {model.ranks}",
        "recurrent matrix": f"ranks {model.recurrent_ranks}" if model.recurrent_shape else "dense",
        "parameters": f"{config['num_params']:,} in all, {config['input_params']:,} input-to-hidden",
        **{
            name.replace("_", " "): value
            for name, value in config["results"].items()
            if not isinstance(value, dict | list)
        },
    }
    lines = "\n".join(f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in facts.items())
    return (
        f"# A ttrnn video classifier\n\n| | |\n|---|---|\n{lines}\n\n"
        "Load it with `ttrnn.load(directory)`; classify a video with `python -m pipelines.predict DIRECTORY VIDEO`.\n"
        "It gives one of its classes for any video, also for one that shows none of them.\n"
    )
