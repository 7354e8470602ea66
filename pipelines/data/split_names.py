"""Recognise the names of splits: of folders, of lists, and in columns of tables."""

import posixpath
import re

__all__ = ["split_in_file_name", "split_named"]


_SPLIT_OF = {
    name: split
    for split, names in {
        "train": "train training",
        "val": "val valid validate validation dev devel development eval evaluation",
        "test": "test testing",
    }.items()
    for name in names.split()
}
# train_set, videos-val, TestData: words that say nothing about the content.
_NAME = re.compile(
    r"(?:(?:videos?|clips?|rawframes|frames|data)[ _.-]*)?(?P<split>[a-z]+?)"
    r"(?:[ _.-]*(?:set|split|data|videos?|clips?|rawframes|frames))*"
)


def split_named(name: str) -> str:
    """The split that a folder or a value names ("val" for Dev, eval or valid_set); "" if it names none."""
    match = _NAME.fullmatch(name.strip().lower())
    return _SPLIT_OF.get(match["split"], "") if match else ""


def split_in_file_name(name: str) -> str:
    """The split that a word in the name of a list names (jester-v1-validation.csv); "" if there is none, or several."""
    words = re.split(r"[^a-z]+", posixpath.splitext(posixpath.basename(name).lower())[0])
    found = {split for word in words if (split := re.sub("(list|set)$", "", word)) in _SPLIT_OF}
    splits = {_SPLIT_OF[word] for word in found}
    return splits.pop() if len(splits) == 1 else ""
