"""CSV catalogues: labels, groups, splits and paths are those that are written."""

import os
from pathlib import Path

import pytest

from pipelines.core.errors import UserError
from pipelines.data.catalog import read_catalog
from pipelines.data.splits import SPLITS
from tests.data.test_catalog import splits_of, touch, write_csv


def test_a_csv_is_read_with_its_labels_groups_and_splits(tmp_path: Path) -> None:
    lines = [
        f"sub/{split}{i}.avi,{label},g{split}{i},{split}"
        for split in SPLITS
        for i, label in enumerate(["run", "eat | run", "eat"])
    ]
    others = [f"{tmp_path}/./x.avi,eat,,train", "../y.avi,eat,,train", "s3://lab/a%20b//z.avi,eat,,train", ""]
    catalog = read_catalog(write_csv(tmp_path, *lines, *others, header="\ufeffpath,label,group,split"))
    assert (catalog.classes, catalog.task) == (("eat", "run"), "multi_label")
    found = {clip.clip_id: clip for clip in catalog.clips}
    assert len(found) == 12
    clip = found["sub/val1.avi"]
    assert (clip.labels, clip.group, clip.split) == ((0, 1), "gval1", "val")
    assert clip.path == f"{tmp_path}/sub/val1.avi"
    assert found["x.avi"].path == f"{tmp_path}/x.avi"
    assert os.path.normpath(found["../y.avi"].path) == f"{tmp_path.parent}/y.avi"
    assert found["s3://lab/a%20b//z.avi"].path == "s3://lab/a%20b//z.avi"


def test_paths_in_a_csv_behind_a_symbolic_link_are_found(tmp_path: Path) -> None:
    """`..` of a link is the parent of its target."""
    videos = touch(tmp_path / "far/videos", *(f"{label}/{i}.avi" for label in "ab" for i in range(4)))
    (tmp_path / "far/lists").mkdir()
    (tmp_path / "lists").symlink_to("far/lists")
    files = sorted(videos.glob("*/*"))
    relative = [f"../videos/{file.relative_to(videos)},{file.parent.name},," for file in files[::2]]
    absolute = [f"{file},{file.parent.name},," for file in files[1::2]]
    catalog = read_catalog(write_csv(tmp_path / "lists", *relative, *absolute))
    assert [Path(clip.path).resolve() for clip in catalog.clips] == files
    assert {clip.clip_id for clip in catalog.clips} == {f"../videos/{file.relative_to(videos)}" for file in files}


def test_a_file_uri_is_the_path_that_it_names(tmp_path: Path) -> None:
    lines = [f"{name}.avi,{name[0]},," for name in ("a1", "a2", "a3", "b1", "b2", "b3")]
    uris = [f"file://{tmp_path}/{line}" for line in lines]
    assert read_catalog(write_csv(tmp_path, *uris)) == read_catalog(write_csv(tmp_path, *lines))
    with pytest.raises(UserError, match=r"a1.avi is listed twice"):
        read_catalog(write_csv(tmp_path, *lines, uris[0]))


NAMES = [" b c .avi", "l1\nl2.avi", 'comma, "quote".avi', "кот-猫.avi", "semi;colon|bar.avi", "100%.avi", "#?&=.avi"]


def test_names_are_kept_verbatim(tmp_path: Path) -> None:
    files = {f"{label}/{name}" for label in "ab" for name in NAMES}
    catalog = read_catalog(touch(tmp_path, *files))
    assert splits_of(catalog).keys() == files
    assert all(Path(clip.path).exists() for clip in catalog.clips)
    quoted = ['"{}",{},,'.format(file.replace('"', '""'), file[0]) for file in files]
    assert splits_of(read_catalog(write_csv(tmp_path, *quoted))) == splits_of(catalog)
