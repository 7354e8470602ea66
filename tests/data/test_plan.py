"""The plan of the shards: it is stored exactly, only grows, and trusts only complete shards."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.errors import UserError
from pipelines.data.catalog import Catalog
from pipelines.data.clip import ClipRecord
from pipelines.data.plan import PREPROCESS_JSON, Plan, Shard, clips_per_shard, read_reports, report_location
from pipelines.storage.location import Location
from tests.s3 import s3_server

OPTIONS = {
    "codec": "raw",
    "videos": "videos",
    "width": 24,
    "fps": 12.5,
    "num_frames": None,
    "shard_mb": 64,
    "time_limit_s": 300,
}
NAMES = ["a b.avi", "a\nb.avi", "ü/日.avi", 'a"b\\c.avi', "100%?#.avi", "s3://lab/a%20b.avi?x=1", " "]


def records(*clip_ids: str, split: str = "train", label: int = 0, group: str = "g") -> list[ClipRecord]:
    return [record(clip_id, (label,), split, group) for clip_id in clip_ids]


def record(clip_id: str, labels: tuple[int, ...], split: str = "train", group: str = "g") -> ClipRecord:
    return ClipRecord(clip_id=clip_id, path=f"/videos/{clip_id}", labels=labels, group=group, split=split)


def catalog(clips: list[ClipRecord]) -> Catalog:
    return Catalog(tuple(clips), ("one", "two"), "single_label")


def layout(plan: Plan) -> dict[str, list[str]]:
    """Clips by shard, in order."""
    return {shard.file: [clip.clip_id for clip in shard.clips] for shard in plan.shards}


@pytest.fixture(scope="module")
def query() -> Iterator[str]:
    with s3_server() as query:
        yield query


@pytest.fixture(params=["local", "s3"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "local":
        return Location.of(tmp_path)
    return Location.of(f"s3://lab/{tmp_path.name}?{request.getfixturevalue('query')}")


def test_shards_are_numbered_by_split_and_full_in_order() -> None:
    plan = Plan(OPTIONS).grown([*records(*"abcde"), *records(*"xyz", split="test")], 2, ("one",))
    assert layout(plan) == {
        "train-00000.arrow": ["a", "b"],
        "train-00001.arrow": ["c", "d"],
        "train-00002.arrow": ["e"],
        "test-00000.arrow": ["x", "y"],
        "test-00001.arrow": ["z"],
    }
    assert plan.shards[3] == Shard("test-00000.arrow", "test", tuple(records("x", "y", split="test")))
    assert plan.splits() == dict.fromkeys("abcde", "train") | dict.fromkeys("xyz", "test")


def test_growth_keeps_old_shards_and_continues_their_numbers() -> None:
    old = Plan(OPTIONS).grown([*records(*"abc"), *records("v", split="val")], 2, ("one",))
    new = old.grown([*records("d", label=1), *records(*"wxy", split="test")], 2, ("one", "two"))
    assert new.shards[: len(old.shards)] == old.shards
    assert list(layout(new)) == [
        "train-00000.arrow",
        "train-00001.arrow",
        "val-00000.arrow",
        "train-00002.arrow",
        "test-00000.arrow",
        "test-00001.arrow",
    ]
    assert new.classes == ("one", "two")
    assert new.grown([], 2, new.classes) == new


def test_a_plan_is_read_as_it_was_written(out: Location) -> None:
    assert Plan.read(out) is None
    plan = Plan(OPTIONS).grown(records(*NAMES), 3, ("a class", "ü"))
    for grown in (plan, plan.grown(records("new"), 3, ("a class", "ü", "z"))):
        grown.write(out)
        found = Plan.read(out)
        assert found
        assert all(clip.path == "" for shard in found.shards for clip in shard.clips)
        assert found.with_paths(out, catalog(records(*NAMES, "new"))) == grown
    assert out.files() == [PREPROCESS_JSON]


def test_there_is_no_plan_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert Plan.read(Location.of(tmp_path / "file")) is None


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda text: text[: len(text) // 2], id="cut"),
        pytest.param(lambda text: "", id="empty"),
        pytest.param(lambda text: "[]", id="other JSON"),
        pytest.param(lambda text: text.replace('"version": 1', '"version": 2'), id="other version"),
        pytest.param(lambda text: text.replace("ttrnn-preprocess", "other"), id="other format"),
        pytest.param(lambda text: text.replace('"shards"', '"shard"'), id="no shards"),
        pytest.param(lambda text: text.replace('"clips"', '"clip"'), id="no clips"),
        pytest.param(lambda text: text.replace('"options"', '"option"'), id="no options"),
        pytest.param(lambda text: text.replace('["a", [0], "g"]', '["a", [0]]'), id="a clip without a group"),
        pytest.param(lambda text: b"\xff" + text.encode(), id="not UTF-8"),
    ],
)
def test_a_damaged_plan_is_refused_in_one_line(tmp_path: Path, damage: Any) -> None:
    out = Location.of(tmp_path)
    Plan(OPTIONS).grown(records("a", "b"), 2, ("one",)).write(out)
    content = damage((out / PREPROCESS_JSON).read_text())
    (tmp_path / PREPROCESS_JSON).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(
        UserError, match=r"preprocess.json is of another version, or damaged \(.+\); start again"
    ) as error:
        Plan.read(out)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"videos": "elsewhere", "shard_mb": 1, "time_limit_s": 5}, None),
        ({"width": 32}, "OUT was started with width=24, not 32; resume it with the same options, or start again"),
        ({"num_frames": 5}, "started with num_frames=None, not 5"),
        ({"num_frames": 5, "width": 32}, "started with width=24, not 32; num_frames=None, not 5; resume it with"),
        ({"allow_missing_classes": True}, None),
        ({"fps": None}, "started with fps=12.5, not None"),
        ({"of_a_newer_version": 1}, "started with of_a_newer_version=None, not 1"),
        ({"of_a_newer_version": None}, None),
    ],
    ids=str,
)
def test_only_options_without_effect_on_the_bytes_may_change(changes: dict[str, Any], message: str | None) -> None:
    plan = Plan(OPTIONS)
    if message is None:
        plan.check_options(Location("OUT"), OPTIONS | changes)
        return
    with pytest.raises(UserError, match=message):
        plan.check_options(Location("OUT"), OPTIONS | changes)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        pytest.param(records("a", "b"), None, id="the same"),
        pytest.param(records("a", "b", "c"), None, id="more"),
        pytest.param(records("b", "a", split="test"), None, id="another order and split"),
        pytest.param(
            records("b"), "^a is no longer among the clips from which OUT was made; .* restore the clip", id="gone"
        ),
        pytest.param(
            [*records("a"), *records("b", label=1)], "^b has another label or group than in the clips", id="label"
        ),
        pytest.param([*records("a"), *records("b", group="h")], "^b has another label or group", id="group"),
        pytest.param([*records("a"), record("b", (0, 1))], "^b has another label", id="more labels"),
        pytest.param([], "^2 clips, a, b, are no longer among the clips .* restore the clips", id="all gone"),
        pytest.param(records("b", label=1), r"^2 problems: \(1\) a is no .*; \(2\) b has another", id="gone and label"),
        pytest.param(
            [*records("a", "b"), record("c", (0, 1))],
            "^c does not have one label like all clips of OUT: the task would become",
            id="new clip, other task",
        ),
        pytest.param(
            [*records("a", "b"), record("c", (0, 1)), record("d", ())],
            "^2 clips, c, d, do not have one label like all clips of OUT: .*; correct their labels, or",
            id="new clips, other task",
        ),
    ],
)
def test_a_data_set_can_only_grow(tmp_path: Path, found: list[ClipRecord], message: str | None) -> None:
    Plan(OPTIONS).grown(records("a", "b"), 1, ("one",)).write(Location.of(tmp_path))
    plan = Plan.read(Location.of(tmp_path))
    assert plan
    if message is None:
        paths = [clip.path for shard in plan.with_paths(Location("OUT"), catalog(found)).shards for clip in shard.clips]
        assert paths == ["/videos/a", "/videos/b"]
        return
    with pytest.raises(UserError, match=message):
        plan.with_paths(Location("OUT"), catalog(found))


def test_a_shard_travels_to_a_worker_as_text_with_its_paths() -> None:
    shard = Shard("val-00000.arrow", "val", (*records(*NAMES, split="val"), record("two", (0, 1), "val", "")))
    assert Shard.from_json(shard.to_json()) == shard


def test_rejections_are_those_of_the_last_time_that_a_clip_was_decoded() -> None:
    plan = Plan(OPTIONS).grown(records(*"abc"), 3, ("one",))
    first = {"train-00000.arrow": {"rejected": [["a", "truncated"], ["b", "missing"]]}}
    assert plan.rejected(first) == {"a": ["truncated"], "b": ["missing"]}
    plan = plan.grown(records("a", "b"), 3, ("one",))
    assert plan.rejected(first) == {}  # they are being retried
    second = first | {"train-00001.arrow": {"rejected": [["b", "crashed"]]}}
    assert plan.rejected(second) == {"b": ["crashed"]}
    plan = plan.grown(records("b"), 3, ("one",))
    assert plan.rejected(second | {"train-00002.arrow": {"rejected": []}}) == {}
    assert Plan(OPTIONS).rejected({}) == {}


def test_a_retried_clip_belongs_to_the_later_shard_only() -> None:
    plan = Plan(OPTIONS).grown(records(*"abc"), 3, ("one",)).grown(records("a", "d"), 3, ("one",))
    assert {shard.file: [clip.clip_id for clip in shard.clips] for shard in plan.missing([])} == {
        "train-00000.arrow": ["b", "c"],
        "train-00001.arrow": ["a", "d"],
    }
    assert plan.missing(["train-00000.arrow"]) == [plan.shards[1]]
    assert plan.missing(layout(plan)) == []


@pytest.mark.parametrize(
    ("num_clips", "clip_bytes", "shard_bytes", "number"),
    [
        pytest.param(100_000, 1e6, 64e6, 64, id="by the target"),
        pytest.param(100_000, 1.01e6, 64e6, 63, id="rounded"),
        pytest.param(320, 1e6, 64e6, 10, id="32 shards for the workers"),
        pytest.param(321, 1e6, 64e6, 11, id="at most 32 in that case"),
        pytest.param(5, 1e6, 64e6, 1, id="few clips"),
        pytest.param(100_000, 1e9, 64e6, 1, id="clips larger than the target"),
        pytest.param(100_000, 0, 64e6, 3125, id="unknown size"),
        pytest.param(0, 0, 64e6, 1, id="no clips"),
    ],
)
def test_shards_have_about_the_target_size_and_are_enough_for_many_workers(
    num_clips: int, clip_bytes: float, shard_bytes: float, number: int
) -> None:
    assert clips_per_shard(num_clips, clip_bytes, shard_bytes) == number


def report(out: Location, file: str, content: bytes = b"1234", **changes: Any) -> Shard:
    """Writes a shard and its report; returns its place in the plan."""
    with (out / file).writing() as opened:
        opened.write(content)
    entry = {"file": file, "num_clips": 1, "num_bytes": 4} | changes
    report_location(out, file).write_text(json.dumps({"shard": entry, "rejected": []}))
    return Shard(file, "train", ())


def test_only_complete_shards_are_finished(out: Location) -> None:
    out.mkdir()
    done = report(out, "done.arrow")
    empty = Shard("empty.arrow", "train", ())
    report_location(out, empty.file).write_text('{"shard": {"num_clips": 0, "num_bytes": 0}, "rejected": []}')
    cut, longer = report(out, "cut.arrow", content=b"123"), report(out, "longer.arrow", content=b"12345")
    missing = Shard("missing.arrow", "train", ())
    report_location(out, missing.file).write_text(report_location(out, done.file).read_text())
    unreported = Shard("unreported.arrow", "train", ())
    (out / unreported.file).write_text("1234")
    never = Shard("never.arrow", "train", ())
    reports = read_reports(out, [done, empty, cut, longer, missing, unreported, never])
    assert list(reports) == ["done.arrow", "empty.arrow"]
    assert reports["done.arrow"]["shard"]["num_bytes"] == 4
    assert read_reports(out, []) == {}


@pytest.mark.parametrize("text", ["", '{"shard": {"num', "[]", "{}", '{"shard": {"num_clips": 1}}'], ids=repr)
def test_a_damaged_report_is_ignored(tmp_path: Path, text: str) -> None:
    out = Location.of(tmp_path)
    good, bad = report(out, "good.arrow"), report(out, "bad.arrow")
    report_location(out, bad.file).write_text(text)
    assert list(read_reports(out, [bad, good])) == ["good.arrow"]


def test_reports_are_hidden_in_a_list_of_files(tmp_path: Path) -> None:
    report(Location.of(tmp_path), "train-00000.arrow")
    assert Location.of(tmp_path).files() == ["train-00000.arrow"]
