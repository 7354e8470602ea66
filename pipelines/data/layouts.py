"""Name the layouts of folders of videos, and recognise which one a folder has.

A layout is added here: what it reads, the function that lists its clips, and the one that recognises it. Both work on
names relative to a folder, so that a bucket is read like a local folder.
"""

import logging

from pipelines.data.csv_layout import CSV
from pipelines.data.folder_layout import read_class_folders, read_folders
from pipelines.data.id_lists import IDENTITY_LISTS, KINETICS_LISTS, PATH_LISTS, TEMPLATE_LISTS, ListFamily
from pipelines.data.listing import Layout
from pipelines.data.named_layouts import is_celebrities, is_ucf11, is_ucf101, read_celebrities, read_ucf11
from pipelines.data.split_lists import is_hmdb51, is_hollywood2, read_hmdb51, read_hollywood2, read_ucf101
from pipelines.data.tree import Tree

__all__ = ["LAYOUTS", "LIST_FAMILIES", "read_as", "recognise"]

log = logging.getLogger(__name__)


LIST_FAMILIES: dict[str, ListFamily] = {
    family.name: family for family in (KINETICS_LISTS, TEMPLATE_LISTS, IDENTITY_LISTS, PATH_LISTS)
}
"""Layouts whose lists may also be given one by one, instead of the folder."""


def _by_lists(family: ListFamily, reads: str) -> Layout:
    return Layout(reads, family.read, family.recognise)


def _is_not_recognised(_: Tree) -> str:
    return ""


def _is_folders(_: Tree) -> str:
    return "because neither names nor lists are those of a known data set"


LAYOUTS = {
    "hollywood2": Layout(
        "ClipSets/LABEL_train.txt, ClipSets/LABEL_test.txt and AVIClips/", read_hollywood2, is_hollywood2
    ),
    "hmdb51": Layout(
        "CLASS/SOURCE_CLASS_..._N.avi, and CLASS_test_split1.txt inside or in testTrainMulti_7030_splits/ beside it",
        read_hmdb51,
        is_hmdb51,
    ),
    "kinetics": _by_lists(
        KINETICS_LISTS, "ID_000010_000020.mp4 in any folder, and train.csv with label,youtube_id,time_start,time_end"
    ),
    "something-something": _by_lists(
        TEMPLATE_LISTS, "ID.webm, and ...train.json, ...validation.json with an id and a template for each"
    ),
    "jester": _by_lists(
        IDENTITY_LISTS, "ID.webm or folders ID/00001.jpg, and ...train.csv, ...validation.csv of lines ID;label"
    ),
    "mmaction2": _by_lists(PATH_LISTS, "...train...txt, ...val...txt of lines PATH [FRAMES] NUMBER, and label_map.txt"),
    "ucf101": Layout(
        "CLASS/v_CLASS_gNN_cNN.avi (Archery/v_Archery_g01_c02.avi), and ucfTrainTestlist/ inside or beside it; or "
        "train/CLASS/v_CLASS_gNN_cNN.avi",
        read_ucf101,
        is_ucf101,
    ),
    "ucf11": Layout("CLASS/GROUP/GROUP_NN.mpg (basketball/v_shooting_01/v_shooting_01_02.mpg)", read_ucf11, is_ucf11),
    "youtube-celebrities": Layout(
        "NUMBER_VIDEO_NUMBER_person.avi (0185_03_008_adam_sandler.avi)", read_celebrities, is_celebrities
    ),
    "class-folders": Layout(
        "CLASS/.../clip.avi, even if a CLASS is named train or test", read_class_folders, _is_not_recognised
    ),
    "folders": Layout(
        "CLASS/.../clip.avi, train/CLASS/.../clip.avi (val: also dev, eval, valid), or CLASS/train/clip.avi",
        read_folders,
        _is_folders,
    ),
}
"""The layouts of folders, by name, in the order in which they are tried."""


def recognise(tree: Tree) -> str:
    """The layout of a folder; logs the reason.

    Raises:
        UserError: names of files and class folders name different classes.
    """
    name, why = next((name, why) for name, layout in LAYOUTS.items() if (why := layout.recognise(tree)))
    log.info("%s: read as layout %s, %s", tree.root, name, why)
    return name


def read_as(name: str) -> str:
    """The paths that a layout reads, for messages."""
    return CSV if name == "csv" else LAYOUTS[name].reads
