"""Report the files of a folder that are no clips, and the class folders without a clip."""

import contextlib
import logging
import os
import posixpath
from collections import Counter, defaultdict

from pipelines.data.csv_layout import CSV
from pipelines.data.listing import Listing
from pipelines.data.tree import Tree
from pipelines.video.suffixes import ARRAY_SUFFIXES, PICTURE_SUFFIXES

__all__ = ["kinds_of", "log_passed_over"]

log = logging.getLogger(__name__)


def log_passed_over(tree: Tree, listing: Listing) -> list[str]:
    """Logs the kinds of files that are passed over, and the class folders that give no clip; returns the latter."""
    clips = {posixpath.join(listing.folder, clip.clip_id) for clip in listing.clips}
    videos = set(tree.videos)
    others = [file for file in tree.files if file not in videos and posixpath.dirname(file) not in clips]
    if others:
        what = "1 file is no video and is" if len(others) == 1 else f"{len(others):,} files are no videos and are"
        log.info("%s: %s passed over: %s", tree.root, what, kinds_of(others))
    _warn_of_other_clips(tree, others)
    empty = _folders_without_clip(tree, listing)
    if empty:
        log.warning("%s: folders beside the classes without a clip: %s", tree.root, "; ".join(empty))
    return empty


def _warn_of_other_clips(tree: Tree, others: list[str]) -> None:
    """Warns of arrays, and of folders of pictures, that might have been meant as clips."""
    arrays = [file for file in others if file.lower().endswith(ARRAY_SUFFIXES)]
    pictures = Counter(posixpath.dirname(file) for file in others if file.lower().endswith(PICTURE_SUFFIXES))
    num_folders = sum(number > 1 for number in pictures.values())
    if arrays or num_folders:
        log.warning(
            "%s: %s arrays and %s folders of pictures are beside other clips, and are passed over; name those that are "
            "clips in %s",
            tree.root,
            f"{len(arrays):,}",
            f"{num_folders:,}",
            CSV,
        )


def kinds_of(files: list[str]) -> str:
    """The number of files of each kind, most frequent first: 12 .mts, 3 .txt."""
    kinds = Counter(posixpath.splitext(file)[1].lower() or "without extension" for file in files)
    return ", ".join(f"{number:,} {kind}" for kind, number in sorted(kinds.items(), key=lambda pair: (-pair[1], pair)))


def _folders_without_clip(tree: Tree, listing: Listing) -> list[str]:
    """The folders beside class folders, or beside folders of splits, that give no clip, each with its files."""
    known, parents = set(listing.class_folders), set()
    for folder in listing.class_folders:
        while folder != listing.folder and folder:
            folder = posixpath.dirname(folder)
            parents.add(folder)
    found: dict[str, list[str]] = defaultdict(list)
    for file in tree.files:
        parts = file.split("/")
        folder = next((name for end in range(1, len(parts)) if (name := "/".join(parts[:end])) not in parents), file)
        if folder != file and folder not in known and posixpath.dirname(folder) in parents:
            found[folder].append(file)
    if tree.root.is_local:
        for parent in parents:
            with contextlib.suppress(OSError), os.scandir(os.path.join(tree.root.text, parent)) as entries:
                for entry in entries:
                    name = posixpath.join(parent, entry.name)
                    if entry.is_dir() and not entry.name.startswith(".") and name not in known | parents:
                        found.setdefault(name, [])
    return [f"{folder}/ ({kinds_of(files) or 'empty'})" for folder, files in sorted(found.items())]
