"""List the clips of data sets whose lists name every clip with its class: Kinetics, Jester, Something-Something, and
the lists of mmaction2."""

import logging
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.core.errors import UserError
from pipelines.data.clip import ListedClip
from pipelines.data.clip_index import ClipIndex
from pipelines.data.csv_layout import CSV
from pipelines.data.list_formats import (
    Entry,
    parse_class_names,
    parse_identities,
    parse_kinetics,
    parse_paths,
    parse_templates,
)
from pipelines.data.listing import Listing
from pipelines.data.named_layouts import ucf_group
from pipelines.data.problems import raise_problems, some
from pipelines.data.split_names import split_named
from pipelines.data.tables import TableError, decode, read_text
from pipelines.data.tree import Tree

__all__ = ["IDENTITY_LISTS", "KINETICS_LISTS", "PATH_LISTS", "TEMPLATE_LISTS", "ListFamily"]

log = logging.getLogger(__name__)

# Annotations of every single clip are no lists of a data set.
_MAX_LISTS = 64
_MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class ListFamily:
    """Data sets whose lists have the same form."""

    name: str
    """of the layout"""
    suffix: str
    """of the lists"""
    name_pattern: re.Pattern[str]
    """of the lists, in lower case"""
    parse: Callable[[str, str], list[Entry]]
    """(file name, text) -> the clips; empty if the list is of another form"""
    has_numbers: bool = False
    """whether labels are numbers, whose names another file gives"""
    picture_fps: float | None = None
    """rate of the data set's folders of pictures, frames/s; None if they may have any"""

    def recognise(self, tree: Tree) -> str:
        """The reason to read a tree by its lists; see `listing.Layout`. Raises UserError where class folders differ."""
        used, labels_of = "", defaultdict[str, set[str]](set)
        index = None
        for file in self._lists(tree):
            for entry in self._entries(tree, file):
                if not entry.labels:
                    continue
                index = index or ClipIndex(tree)
                clips = next((clips for key in entry.keys if (clips := index.find(key, entry.split))), [])
                used = used or (file if clips else "")
                if len(clips) == 1:
                    labels_of[_class_folder(clips[0])].add("|".join(entry.labels))
        if used:
            _refuse_other_classes(f"{tree.root}: {used}", self.name, labels_of)
        return used and f"because {used} lists clips with their classes"

    def read(self, tree: Tree, split_list: int) -> Listing:
        """Lists the clips that both exist and are in a list with a label."""
        return self.read_lists(tree, _numbered(self._lists(tree), split_list))

    def read_lists(self, tree: Tree, files: Sequence[str]) -> Listing:
        """As `read`, from some lists only.

        Raises:
            UserError: a clip is in two lists with other labels or splits, or its folder is of another class or split.
        """
        index, found, problems = ClipIndex(tree), dict[str, Entry](), list[str]()
        for file in files:
            missing, nameless = [], 0
            for entry in self._entries(tree, file, warn=True):
                clips = next((clips for key in entry.keys if (clips := index.find(key, entry.split))), [])
                if not entry.labels:
                    nameless += 1
                elif not clips:
                    missing.append(entry.keys[0])
                elif len(clips) > 1:
                    problems.append(f"{file}: {entry.keys[0]} may be {' or '.join(clips[:2])}; remove one of them")
                else:
                    entry = _settled(entry, is_folder=clips[0] in index.picture_folders)
                    known = found.setdefault(clips[0], entry)
                    if (known.labels, known.split) != (entry.labels, entry.split):
                        problems.append(f"{file}: {clips[0]} is {_text(entry)}, in another list {_text(known)}")
            if missing:
                log.warning("%s: %s clips do not exist: %s", file, f"{len(missing):,}", some(missing))
            if nameless:
                log.warning("%s: %s clips have no label and are left out", file, f"{nameless:,}")
        names = self._class_names(tree, found) if self.has_numbers else {}
        listed = [
            ListedClip(
                clip,
                frozenset(names.get(label, label) for label in entry.labels),
                entry.group or ucf_group(clip),
                entry.split,
            )
            for clip, entry in found.items()
        ]
        raise_problems(_first(problems + _disagreements(listed)))
        return Listing("", listed)

    def _lists(self, tree: Tree) -> list[str]:
        files = [name for name in tree.files if name.lower().endswith(self.suffix)]
        lists = [name for name in files if self.name_pattern.search(posixpath.basename(name).lower())]
        return lists if len(lists) <= _MAX_LISTS else []

    def _entries(self, tree: Tree, file: str, warn: bool = False) -> list[Entry]:
        """The clips of a list; none if it is of another form, or no text."""
        place = tree.root / file
        try:
            if place.size() > _MAX_BYTES:
                return []
            return self.parse(file, decode(place.read_bytes(), str(place) if warn else ""))
        except (FileNotFoundError, TableError):
            return []

    def _class_names(self, tree: Tree, found: Mapping[str, Entry]) -> dict[str, str]:
        """Names by number: from a file of classes, or else the names of the class folders, or else the numbers."""
        numbers = {label for entry in found.values() for label in entry.labels}
        last = max(map(int, numbers), default=-1)
        for file in tree.files:
            if re.fullmatch(r"class_?ind\w*\.txt|\w*(label_?map|class_?names|classes|labels)\w*\.txt",
                            posixpath.basename(file).lower()):  # fmt: skip
                names = parse_class_names(read_text(tree.root / file))
                if len(names) > last:
                    return {number: names[int(number)] for number in numbers}
        folders: dict[str, set[str]] = defaultdict(set)
        for clip, entry in found.items():
            for label in entry.labels:
                folders[label].add(_class_folder(clip))
        own = {number: next(iter(names)) for number, names in folders.items() if len(names) == 1 and names != {""}}
        if len(own) == len(numbers) == len(set(own.values())):
            return own
        log.warning("no file names the classes (label_map.txt, a name a line); they are named by their numbers")
        return {number: f"{int(number):0{len(str(last))}}" for number in numbers}


def _settled(entry: Entry, is_folder: bool) -> Entry:
    """The entry with the number in front of the labels as a label too, unless it is the number of pictures."""
    return entry if is_folder or not entry.num_frames else entry._replace(labels=(entry.num_frames, *entry.labels))


def _text(entry: Entry) -> str:
    return f"{' | '.join(entry.labels)} in {entry.split or 'no split'}"


def _first(problems: list[str]) -> list[str]:
    rest = len(problems) - 20
    return problems if rest <= 0 else [*problems[:20], f"and {rest:,} more"]


def _numbered(files: Sequence[str], split_list: int) -> list[str]:
    """The lists of the pair with this number, if lists are numbered: ucf101_train_split_1_videos.txt."""
    number_of = {
        file: int(match[1])
        for file in files
        if (match := re.search(r"(?:split|list)_?0?([1-3])(?!\d)", posixpath.basename(file).lower()))
    }
    if number_of and split_list not in number_of.values():
        raise UserError(f"there are lists like {next(iter(number_of))}, but none with number {split_list}")
    return [file for file in files if number_of.get(file, split_list) == split_list]


def _class_folder(clip: str) -> str:
    """The folder of a clip, unless it is named after a split."""
    return next((name for name in reversed(clip.split("/")[:-1]) if not split_named(name)), "")


def _refuse_other_classes(file: str, layout: str, labels_of: Mapping[str, set[str]]) -> None:
    """Refuses lists whose classes have nothing to do with the class folders."""
    folders_of: dict[str, set[str]] = defaultdict(set)
    for folder, labels in labels_of.items():
        for label in labels:
            folders_of[label].add(folder)
    # One clip in a wrong folder is a mistake, which `_disagreements` names.
    are_named_alike = 2 * len({_plain(name) for name in labels_of} & set(map(_plain, folders_of))) >= len(labels_of)
    is_one_to_one = all(len(own) == 1 for own in (*labels_of.values(), *folders_of.values()))
    if len(labels_of) > 1 and not are_named_alike and not is_one_to_one:
        raise UserError(
            f"{file} gives the classes {some(sorted(folders_of))}, but the clips lie in the folders "
            f"{some(sorted(folder or './' for folder in labels_of))}; give --layout folders to take the folders for "
            f"classes, --layout {layout} to take the lists, or {CSV}"
        )


def _disagreements(clips: Sequence[ListedClip]) -> list[str]:
    """A problem for each clip in a folder of another class or split than the lists give it."""
    classes = {_plain(label): label for clip in clips for label in clip.labels}
    problems = []
    for clip in clips:
        folder = _plain(_class_folder(clip.clip_id))
        split = next((split for name in clip.clip_id.split("/")[:-1] if (split := split_named(name))), "")
        if folder in classes and folder not in map(_plain, clip.labels):
            problems.append(
                f"{clip.clip_id} is {' | '.join(clip.labels)} in the lists; correct it, or remove the lists"
            )
        elif split and clip.split and split != clip.split:
            problems.append(f"{clip.clip_id} is in {clip.split} in the lists; correct it, or remove the lists")
    return problems


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())


_WITH_SPLIT = re.compile(r"train|val|dev|test|eval")
# Their videos were recorded at this rate, and so were the pictures taken from them.
_CROWD_FPS = 12.0
KINETICS_LISTS = ListFamily("kinetics", ".csv", re.compile(r"train|val|test|kinetics"), parse_kinetics)
"""label,youtube_id,time_start,time_end,split"""
IDENTITY_LISTS = ListFamily("jester", ".csv", _WITH_SPLIT, parse_identities, picture_fps=_CROWD_FPS)
"""ID;label"""
TEMPLATE_LISTS = ListFamily("something-something", ".json", _WITH_SPLIT, parse_templates, picture_fps=_CROWD_FPS)
"""[{"id": .., "template": ..}]"""
PATH_LISTS = ListFamily(
    "mmaction2", ".txt", re.compile(r"^(?!(train|test)list\d+).*(train|val|dev|test|eval)"), parse_paths, True
)
"""PATH [FRAMES] NUMBER ..."""
