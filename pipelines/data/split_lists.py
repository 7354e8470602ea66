"""List the clips of data sets with lists of their splits: UCF101, HMDB51, Hollywood2."""

import logging
import posixpath
import re
from collections import defaultdict
from collections.abc import Sequence

from pipelines.core.errors import UserError
from pipelines.data.clip import ListedClip
from pipelines.data.listing import Listing, only_folder
from pipelines.data.named_layouts import read_ucf101_clips
from pipelines.data.problems import LineProblems, raise_problems, some
from pipelines.data.tree import Tree, parent_of
from pipelines.storage.location import Location

__all__ = ["is_hmdb51", "is_hollywood2", "read_hmdb51", "read_hollywood2", "read_ucf101"]

log = logging.getLogger(__name__)

_UCF101_FOLDERS = ("ucfTrainTestlist", "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist")
# actions_train.txt and actions_test.txt only list the clips; *_autotrain.txt have noisy labels.
_HOLLYWOOD2_LIST = re.compile(r"(?P<above>(?:[^/]+/)*)ClipSets/(?!actions_)(?P<label>[^/]+)_(?P<split>train|test)\.txt")
_HMDB51_LIST = re.compile(r"(?:.*/)?(?P<label>[^/]+)_test_split(?P<number>[123])\.txt")
_HMDB51_FOLDERS = ("testTrainMulti_7030_splits", "test_train_splits/testTrainMulti_7030_splits")


def read_ucf101(tree: Tree, split_list: int) -> Listing:
    """Reads CLASS/v_CLASS_gNN_cNN.avi with the splits of the lists, or of the folders."""
    listing, lists = read_ucf101_clips(tree), _read_ucf101_lists(tree, split_list)
    if not lists:
        return listing
    clips = [(clip, lists[stem]) for clip in listing.clips if (stem := _stem(clip.clip_id)) in lists]
    # A val split is cut from the list of train.
    differing = [
        f"{clip.clip_id} is in the list of {split}"
        for clip, split in clips
        if clip.split and clip.split != split and (clip.split, split) != ("val", "train")
    ]
    if differing:
        raise UserError(
            f"{tree.root}: {len(differing):,} clips lie in the folder of another split than list {split_list} gives "
            f"them ({some(differing)}); give the --split-list of the folders, or remove the lists or those folders"
        )
    return listing._replace(clips=[clip._replace(split=clip.split or split) for clip, split in clips])


def _stem(path: str) -> str:
    """The key of a clip in the lists: UCF101's HandstandPushups differ in case, and clips may be re-encoded."""
    return posixpath.splitext(posixpath.basename(path))[0].lower()


def _read_ucf101_lists(tree: Tree, split_list: int) -> dict[str, str]:
    """Splits by stem, from the lists inside VIDEOS or beside it; empty if there are no lists."""
    file = f"trainlist{split_list:02}.txt"
    parent = parent_of(tree.root)
    inside = [tree.root / posixpath.dirname(name) for name in tree.files if posixpath.basename(name) == file]
    beside = [parent, *(parent / folder for folder in _UCF101_FOLDERS)]
    folder = next(iter(inside), None) or next((folder for folder in beside if (folder / file).exists()), None)
    if folder is None:
        if split_list != 1:
            raise UserError(f"there is no {file} in {tree.root} or in ucfTrainTestlist/ beside it; put it there")
        return {}
    splits = {}
    for split in ("train", "test"):
        for _, line in _list_lines(folder / f"{split}list{split_list:02}.txt"):
            splits[_stem(line.split()[0])] = split
    return splits


def _list_lines(file: Location) -> list[tuple[int, str]]:
    """The lines of a list, numbered from 1, without empty ones."""
    try:
        text = file.read_text()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}); unpack the data set's lists again") from error
    return [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def is_hmdb51(tree: Tree) -> str:
    """The reason to read a tree as HMDB51; see `listing.Layout`."""
    lists = {match["label"] for file in _hmdb51_lists(tree) if (match := _HMDB51_LIST.fullmatch(file.text))}
    known = [video for video in tree.videos if posixpath.basename(posixpath.dirname(video)) in lists]
    return f"because there are lists like {min(lists)}_test_split1.txt of {len(lists)} classes" if known else ""


def _hmdb51_lists(tree: Tree) -> list[Location]:
    """The lists of all three splits, inside VIDEOS or beside it."""
    inside = [tree.root / name for name in tree.files if _HMDB51_LIST.fullmatch(name)]
    if inside:
        return inside
    folders = [parent_of(tree.root) / folder for folder in _HMDB51_FOLDERS]
    return [
        folder / name
        for folder in folders
        if folder.is_dir()
        for name in folder.files()
        if _HMDB51_LIST.fullmatch(name)
    ]


def read_hmdb51(tree: Tree, split_list: int) -> Listing:
    """Reads CLASS/SOURCE_CLASS_..._N.avi with the splits of the lists: 1 train, 2 test, 0 unused."""
    signs: dict[tuple[str, str], str] = {}
    problems: list[str] = []
    for file in _hmdb51_lists(tree):
        match = _HMDB51_LIST.fullmatch(file.text)
        if match is None or int(match["number"]) != split_list:
            continue
        found = LineProblems(str(file))
        for number, line in _list_lines(file):
            name, _, sign = line.strip().rpartition(" ")
            if sign not in ("0", "1", "2"):
                found.add(number, f"{line!r} is not CLIP 0, CLIP 1 or CLIP 2")
            signs[match["label"], _stem(name.strip())] = sign
        problems += found.texts()
    raise_problems(problems)
    if not signs:
        raise UserError(f"there is no CLASS_test_split{split_list}.txt in {tree.root} or beside it; put it there")
    paths = [video.split("/") for video in tree.videos if video.count("/")]
    listed = [(parts, signs[key]) for parts in paths if (key := (parts[-2], _stem(parts[-1]))) in signs]
    folder = only_folder(tree, ("/".join([*parts[:-2], ""]) for parts, _ in listed))
    clips = [
        ListedClip("/".join(parts[-2:]), frozenset([parts[-2]]), _hmdb51_source(*parts[-2:]), _HMDB51_SPLITS[sign])
        for parts, sign in listed
        if sign != "0"
    ]
    classes = frozenset("/".join(parts[:-1]) for parts, _ in listed)
    omitted = frozenset("/".join(parts) for parts, sign in listed if sign == "0")
    return Listing(folder, _without_shared_groups(clips), classes, omitted)


_HMDB51_SPLITS = {"1": "train", "2": "test"}


def _hmdb51_source(label: str, name: str) -> str:
    """The video that a clip is from: what precedes the class in its name; "" if the class is not in the name."""
    source, found, _ = name.partition(f"_{label}_")
    return f"{label}/{source}" if found else ""


def _without_shared_groups(clips: Sequence[ListedClip]) -> list[ListedClip]:
    """The clips without the groups that the lists have in both splits: names of films, not of scenes."""
    splits: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        splits[clip.group].add(clip.split)
    shared = {group for group, own in splits.items() if group and len(own) > 1}
    if shared:
        log.info("%d groups are in the lists of train and of test, and are not taken for groups", len(shared))
    return [clip._replace(group="") if clip.group in shared else clip for clip in clips]


def is_hollywood2(tree: Tree) -> str:
    """The reason to read a tree as Hollywood2; see `listing.Layout`."""
    lists = sum(_HOLLYWOOD2_LIST.fullmatch(file) is not None for file in tree.files)
    found = lists and any("AVIClips/" in video for video in tree.videos)
    return f"because there are {lists} lists in ClipSets, beside AVIClips" if found else ""


def read_hollywood2(tree: Tree, _: int) -> Listing:
    """Reads AVIClips/ with the labels of ClipSets/; a clip may show none of the actions."""
    lists = [match for file in tree.files if (match := _HOLLYWOOD2_LIST.fullmatch(file))]
    folder = only_folder(tree, (match["above"] for match in lists))
    labels: dict[str, set[str]] = defaultdict(set)
    splits: dict[str, str] = {}
    problems: list[str] = []
    for match in lists:
        file = tree.root / match.string
        found = LineProblems(str(file))
        for number, line in _list_lines(file):
            name, sign = line.split()[0], line.split()[-1]
            clip_id = f"AVIClips/{name}.avi"
            if sign not in ("1", "+1", "-1"):
                found.add(number, f"{line!r} is not CLIP 1 or CLIP -1")
            elif splits.setdefault(clip_id, match["split"]) != match["split"]:
                found.add(number, f"{name} is in the lists of train and of test; take it out of one")
            labels[clip_id] |= {match["label"]} if sign != "-1" else set()
        problems += found.texts()
    raise_problems(problems)
    clips = [ListedClip(clip_id, frozenset(names), "", splits[clip_id]) for clip_id, names in labels.items()]
    # The lists leave out scenes, and clips with noisy labels.
    return Listing(folder, clips, omitted=frozenset(tree.videos))
