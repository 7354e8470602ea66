"""Make trees of empty files, and describe catalogues."""

from pathlib import Path

from pipelines.data.catalog import Catalog


def touch(root: Path, *files: str) -> Path:
    """Makes empty files below a folder, and returns the folder."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def write(file: Path, *lines: str) -> Path:
    """Writes lines to a file, and returns it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def described(catalog: Catalog) -> dict[str, tuple[str, str]]:
    """Labels, joined by |, and split of every clip, by clip_id."""
    names = catalog.classes
    return {clip.clip_id: ("|".join(names[label] for label in clip.labels), clip.split) for clip in catalog.clips}
