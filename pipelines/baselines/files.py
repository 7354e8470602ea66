"""Recognise the directory of a baseline and read its config.json, without torch."""

import json
from pathlib import Path
from typing import Any

__all__ = ["FORMAT", "is_baseline", "read_config"]

FORMAT = {"format": "ttrnn-baseline", "version": 1}


def is_baseline(path: Path) -> bool:
    """Whether a directory holds a baseline; false if it cannot be read."""
    try:
        return read_config(path)["format"] == FORMAT["format"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_config(path: Path) -> dict[str, Any]:
    """The contents of a baseline's config.json. Raises OSError or ValueError if it cannot be read."""
    document: dict[str, Any] = json.loads((path / "config.json").read_text(encoding="utf-8"))
    return document
