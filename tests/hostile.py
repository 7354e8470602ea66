"""Model directories that are damaged, lie, or mean harm; many by somebody who knows the format and its hashes."""

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors import torch as safetensors_torch

from ttrnn import config_file

__all__ = ["Case", "corpus"]

HUGE = (2**31, 2**63, 10**30, 10**400)
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, *HUGE, 1e308, -0.0, float("nan"), float("inf"), "", "../../etc/passwd", "a\nb\x1b[31m\0",
    "__import__('os').system('x')", "x" * 100_000, "9" * 4000, "9" * 5000, "4x" * 5000 + "4", "\ud800", [], [[]], {},
    ["\n"], [10**400], [float("nan")], [1e-300], [1e300], {"__reduce__": "os.system"},
    {"num_frames": 10**30})  # fmt: skip


class Case(NamedTuple):
    """A directory, and what may become of it."""

    name: str
    """what is wrong with it"""
    path: Path
    """the model directory"""
    may_load: bool = False
    """it may be a model all the same; else it must be refused"""


def corpus(sound: Path, folder: Path) -> list[Case]:
    """Writes the directories, each a changed copy of a sound one in version 2; the same ones at every call."""
    cases = []
    changes = (*_cut(sound), *_flipped(sound), *_lying_config(sound), *_lying_weights(sound), *_odd_files())
    for number, (name, may_load, change) in enumerate(changes):
        path = folder / f"{number:04}"
        shutil.copytree(sound, path)
        change(path)
        cases.append(Case(name, path, may_load))
    return cases


Change = tuple[str, bool, Callable[[Path], object]]
"""what is wrong, whether it may load all the same, and what does it to a sound directory"""


def _write(file: str, content: bytes, seal: bool = False) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        (path / file).write_bytes(content)
        if seal:
            _reseal(path, json.loads((path / "config.json").read_text()))

    return change


def _reseal(path: Path, config: dict[str, Any]) -> None:
    """With hashes that fit."""
    hashes = config.get("sha256")
    if isinstance(hashes, dict):
        hashes["model.safetensors"] = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
        hashes["config.json"] = config_file.config_hash(config)
    (path / "config.json").write_text(json.dumps(config))


def _cut(sound: Path) -> Iterator[Change]:
    for file in ("config.json", "model.safetensors"):
        content = (sound / file).read_bytes().rstrip(b"\n")
        for place in np.linspace(0, len(content) - 1, 30).astype(int):
            yield f"{file} cut at {place}", False, _write(file, content[:place])
    weights = (sound / "model.safetensors").read_bytes()
    for place in np.linspace(0, len(weights) - 1, 30).astype(int):
        yield f"weights cut at {place}, hashes fit", False, _write("model.safetensors", weights[:place], seal=True)


def _flipped(sound: Path) -> Iterator[Change]:
    for file in ("config.json", "model.safetensors"):
        content = (sound / file).read_bytes()
        for seed in range(60):
            random = np.random.default_rng(seed)
            damaged = np.frombuffer(content, np.uint8).copy()
            # The first few are in the header of the weights.
            limit = 200 if seed % 2 else len(content) - 1
            damaged[random.integers(0, limit, size=2 ** (seed % 4))] ^= np.uint8(1 << seed % 8)
            if not (damaged == np.frombuffer(content, np.uint8)).all():
                yield f"{file} flipped, seed {seed}", False, _write(file, damaged.tobytes())
                if file == "model.safetensors":
                    yield f"{file} flipped, hashes fit, seed {seed}", True, _write(file, damaged.tobytes(), seal=True)


def _lying_config(sound: Path) -> Iterator[Change]:
    config = json.loads((sound / "config.json").read_text())

    def put(section: str | None, name: str, value: Any) -> Callable[[Path], object]:
        def change(path: Path) -> None:
            lying = json.loads(json.dumps(config))
            (lying if section is None else lying[section])[name] = value
            _reseal(path, lying)

        return change

    for name in config:
        # These two are for people; hashes are made to fit where there is a place for them.
        for number, value in enumerate(VALUES):
            fits = name in ("num_params", "input_params", "logits_moved_by")
            fits = fits or (name in ("results", "sha256") and isinstance(value, dict))
            yield f"{name} is value {number}", fits, put(None, name, value)
    for name in config["model"]:
        for number, value in enumerate(VALUES):
            yield f"model.{name} is value {number}", True, put("model", name, value)
    for number, value in enumerate(VALUES):
        yield f"hash is value {number}", True, put("sha256", "../../x", value)
        yield f"unknown field with value {number}", False, put("model", "code\nos", value)
    for text in (b"", b"[]", b"1", b"null", b"nan", b'"x"', b"{}", b"[" * 200_000, b"{" * 200_000, b"\xff\xfe",
                 b"\0" * 99, b'{"format": ' + b"9" * 10_000 + b"}", b"{" + b'"a":1,' * 1000 + b'"a":1}'):  # fmt: skip
        yield f"config.json is {text[:20]!r}", False, _write("config.json", text)


def _lying_weights(sound: Path) -> Iterator[Change]:
    with safe_open(sound / "model.safetensors", framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict

    def put(changed: dict[str, torch.Tensor]) -> Callable[[Path], object]:
        return _write("model.safetensors", safetensors_torch.save(changed), seal=True)

    for name, tensor in state.items():
        for kind in (torch.int64, torch.bool, torch.uint8, torch.int32, torch.complex64, torch.float8_e4m3fn):
            yield f"{name} is {kind}", False, put(state | {name: tensor.to(kind)})
        for value in (float("nan"), float("inf"), -float("inf")):
            yield f"{name} is {value}", False, put(state | {name: torch.full(tensor.shape, value)})
        yield f"{name} is flat", tensor.dim() == 1, put(state | {name: tensor.flatten()})
        yield f"{name} has one axis more", False, put(state | {name: tensor.unsqueeze(0)})
        yield f"{name} is missing", False, put({other: state[other] for other in state if other != name})
        yield f"{name} has another name", False, put({(f"../{o}" if o == name else o): t for o, t in state.items()})
        yield f"{name} is empty", False, put(state | {name: tensor.new_zeros(0)})
    names = '{"a":{"dtype":"F32","shape":[%s],"data_offsets":[%s]}}'
    for shape, offsets in (("1", "0,999999"), ("-1", "0,4"), ("4611686018427387904,4", "0,4"), ("1", "4,0"),
                           ("1e9", "0,4"), ("1", "0,4"), ("9" * 400, "0,4"), ("1," * 100_000 + "1", "0,4"),
                           ):  # fmt: skip
        header = (names % (shape, offsets)).encode()
        for length in (len(header), 2**62, 2**64 - 1, 0):
            content = struct.pack("<Q", length) + header + b"\0" * 4
            yield (
                f"header {shape[:9]} at {offsets}, length {length}",
                False,
                _write("model.safetensors", content, seal=True),
            )


def _odd_files() -> Iterator[Change]:
    def replaced(file: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
        def change(path: Path) -> None:
            (path / file).unlink()
            make(path / file)

        return change

    for file in ("config.json", "model.safetensors"):
        yield f"{file} is a folder", False, replaced(file, Path.mkdir)
        yield f"{file} is a pipe", False, replaced(file, os.mkfifo)
        yield f"{file} links to itself", False, replaced(file, lambda path: path.symlink_to(path))
        yield f"{file} links to nothing", False, replaced(file, lambda path: path.symlink_to("nothing"))
        for target in ("/dev/zero", "/dev/null", "/etc/passwd", "/proc/self/mem", ".."):
            yield (
                f"{file} links to {target}",
                False,
                replaced(file, lambda path, target=target: path.symlink_to(target)),
            )
        yield f"{file} is 100 GB of nothing", False, replaced(file, _sparse)
    yield "README.md is a folder", True, replaced("README.md", Path.mkdir)


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 100 << 30)
