"""Choose the frame size of a data set whose options leave it open: the own size of arrays, 160x120 for all else."""

import os
from collections import defaultdict
from dataclasses import replace
from typing import Any

from pipelines.core.errors import UserError
from pipelines.data.catalog import Catalog
from pipelines.data.copies import array_sizes
from pipelines.data.options import PreprocessOptions
from pipelines.storage.location import Location
from pipelines.video.suffixes import ARRAY_SUFFIXES, VIDEO_SUFFIXES

__all__ = ["settled"]


def settled(options: PreprocessOptions, catalog: Catalog) -> PreprocessOptions:
    """The options with a frame size, and with the rate of the pictures if the layout knows it.

    Sensors have few pixels: enlarging them would only cost time. So arrays keep their size, and must agree on it.

    Raises:
        UserError: the arrays differ in size, or lie beside videos.
    """
    options = replace(options, picture_fps=options.picture_fps or catalog.picture_fps)
    missing = [name for name in ("width", "height", "channels") if getattr(options, name) is None]
    arrays = [clip.path for clip in catalog.clips if _may_be_array(clip.path)] if missing else []
    examples: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for path, own in array_sizes(arrays).items():
        examples[tuple(getattr(own or options.frame, name) for name in missing)].append(path)
    others = sorted({clip.path for clip in catalog.clips} - set(arrays))
    if not examples or others:
        examples[tuple(getattr(options.frame, name) for name in missing)] += others
    if len(examples) > 1:
        found = "; ".join(
            f"{' x '.join(map(str, size))} ({len(paths):,} clips, such as {paths[0]})"
            for size, paths in sorted(examples.items())[:4]
        )
        raise UserError(
            f"{options.videos}: the clips differ in {' x '.join(missing)}: {found}; give "
            f"{' and '.join(f'--{name}' for name in missing)}"
        )
    (size,) = examples
    chosen: dict[str, Any] = dict(zip(missing, size, strict=True))
    return replace(options, **chosen)


def _may_be_array(path: str) -> bool:
    """Whether a clip may be an array: by its name; a local file without a known extension, by its content."""
    if path.lower().endswith(ARRAY_SUFFIXES):
        return True
    return not path.lower().endswith(VIDEO_SUFFIXES) and Location.of(path).is_local and os.path.isfile(path)
