"""pipelines/plan.py: a plan is kept exactly, only grows, and believes no more than what lies there."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.errors import UserError
from pipelines.data.catalog import Catalog, Entry
from pipelines.data.plan import PREPROCESS_JSON, Plan, Shard, clips_per_shard, read_reports, report_location
from pipelines.storage.location import Location
from tests.s3 import s3_server

OPTIONS = {"videos": "videos", "width": 24, "fps": 12.5, "num_frames": None, "shard_mb": 64, "time_limit_s": 300}
NAMES = ["a b.avi", "a\nb.avi", "ü/日.avi", 'a"b\\c.avi', "100%?#.avi", "s3://lab/a%20b.avi?x=1", " "]


def entries(*clip_ids: str, split: str = "train", label: int = 0, group: str = "g") -> list[Entry]:
    return [Entry(f"/videos/{clip_id}", clip_id, (label,), group, split) for clip_id in clip_ids]


def layout(plan: Plan) -> dict[str, list[str]]:
    """Clips by shard, in order."""
    return {shard.file: [clip[0] for clip in shard.clips] for shard in plan.shards}


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
    plan = Plan(OPTIONS).grown([*entries(*"abcde"), *entries(*"xyz", split="test")], 2, ("one",))
    assert layout(plan) == {
        "train-00000.arrow": ["a", "b"],
        "train-00001.arrow": ["c", "d"],
        "train-00002.arrow": ["e"],
        "test-00000.arrow": ["x", "y"],
        "test-00001.arrow": ["z"],
    }
    assert plan.shards[3] == Shard("test-00000.arrow", "test", [("x", [0], "g"), ("y", [0], "g")])
    assert plan.splits() == dict.fromkeys("abcde", "train") | dict.fromkeys("xyz", "test")


def test_growth_keeps_old_shards_and_goes_on_counting() -> None:
    old = Plan(OPTIONS).grown([*entries(*"abc"), *entries("v", split="val")], 2, ("one",))
    new = old.grown([*entries("d", label=1), *entries(*"wxy", split="test")], 2, ("one", "two"))
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
    plan = Plan(OPTIONS).grown(entries(*NAMES), 3, ("a class", "ü"))
    for grown in (plan, plan.grown(entries("new"), 3, ("a class", "ü", "z"))):
        grown.write(out)
        assert Plan.read(out) == grown
    assert out.files() == [PREPROCESS_JSON]


def test_below_a_file_there_is_no_plan(tmp_path: Path) -> None:
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
    Plan(OPTIONS).grown(entries("a", "b"), 2, ("one",)).write(out)
    content = damage((out / PREPROCESS_JSON).read_text())
    (tmp_path / PREPROCESS_JSON).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(
        UserError, match=r"preprocess.json is of another version, or damaged \(.+\); start anew"
    ) as error:
        Plan.read(out)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"videos": "elsewhere", "shard_mb": 1, "time_limit_s": 5}, None),
        ({"width": 32}, "OUT was started with width=24, not 32; resume it with the same options, or start anew"),
        ({"num_frames": 5}, "started with num_frames=None, not 5"),
        ({"fps": None}, "started with fps=12.5, not None"),
        ({"of_a_newer_version": 1}, "started with of_a_newer_version=None, not 1"),
        ({"of_a_newer_version": None}, None),
    ],
    ids=str,
)
def test_only_what_has_no_say_in_the_bytes_may_change(changes: dict[str, Any], message: str | None) -> None:
    plan = Plan(OPTIONS)
    if message is None:
        plan.check_options(Location("OUT"), OPTIONS | changes)
        return
    with pytest.raises(UserError, match=message):
        plan.check_options(Location("OUT"), OPTIONS | changes)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        pytest.param(entries("a", "b"), None, id="the same"),
        pytest.param(entries("a", "b", "c"), None, id="more"),
        pytest.param(entries("b", "a", split="test"), None, id="another order and split"),
        pytest.param(
            entries("b"), "^a is gone, which is one of the clips that OUT was made of; .* put it back", id="gone"
        ),
        pytest.param(
            [*entries("a"), *entries("b", label=1)], "^b has another label or group than the clips", id="label"
        ),
        pytest.param([*entries("a"), *entries("b", group="h")], "^b has another label or group", id="group"),
        pytest.param(
            [*entries("a"), Entry("/videos/b", "b", (0, 1), "g", "train")], "^b has another label", id="more labels"
        ),
        pytest.param(
            [*entries("a", "b"), Entry("/videos/c", "c", (0, 1), "g", "train")],
            "^c has not one label, but all clips of OUT have: the task would become",
            id="new clip, other task",
        ),
    ],
)
def test_a_data_set_only_grows(tmp_path: Path, found: list[Entry], message: str | None) -> None:
    Plan(OPTIONS).grown(entries("a", "b"), 1, ("one",)).write(Location.of(tmp_path))
    plan, catalog = Plan.read(Location.of(tmp_path)), Catalog(tuple(found), ("one", "two"), "single_label")
    assert plan
    if message is None:
        plan.check_clips(Location("OUT"), catalog)
        return
    with pytest.raises(UserError, match=message):
        plan.check_clips(Location("OUT"), catalog)


def test_clips_are_rejected_as_of_the_last_time_that_they_were_tried() -> None:
    plan = Plan(OPTIONS).grown(entries(*"abc"), 3, ("one",))
    first = {"train-00000.arrow": {"rejected": [["a", "truncated"], ["b", "missing"]]}}
    assert plan.rejected(first) == {"a": "truncated", "b": "missing"}
    plan = plan.grown(entries("a", "b"), 3, ("one",))
    assert plan.rejected(first) == {}  # they are on their way
    second = first | {"train-00001.arrow": {"rejected": [["b", "crashed"]]}}
    assert plan.rejected(second) == {"b": "crashed"}
    plan = plan.grown(entries("b"), 3, ("one",))
    assert plan.rejected(second | {"train-00002.arrow": {"rejected": []}}) == {}
    assert Plan(OPTIONS).rejected({}) == {}


def test_a_clip_that_was_tried_again_is_left_to_the_later_shard() -> None:
    plan = Plan(OPTIONS).grown(entries(*"abc"), 3, ("one",)).grown(entries("a", "d"), 3, ("one",))
    assert {shard.file: [clip[0] for clip in shard.clips] for shard in plan.missing([])} == {
        "train-00000.arrow": ["b", "c"],
        "train-00001.arrow": ["a", "d"],
    }
    assert plan.missing(["train-00000.arrow"]) == [plan.shards[1]]
    assert plan.missing(layout(plan)) == []


@pytest.mark.parametrize(
    ("num_clips", "clip_bytes", "shard_bytes", "number"),
    [
        pytest.param(100_000, 1e6, 64e6, 64, id="by the target"),
        pytest.param(100_000, 1.01e6, 64e6, 63, id="about"),
        pytest.param(320, 1e6, 64e6, 10, id="32 shards for the workers"),
        pytest.param(321, 1e6, 64e6, 11, id="no more than 32 though"),
        pytest.param(5, 1e6, 64e6, 1, id="few clips"),
        pytest.param(100_000, 1e9, 64e6, 1, id="clips larger than the target"),
        pytest.param(100_000, 0, 64e6, 3125, id="nothing known"),
        pytest.param(0, 0, 64e6, 1, id="nothing at all"),
    ],
)
def test_shards_have_their_target_size_and_are_many(
    num_clips: int, clip_bytes: float, shard_bytes: float, number: int
) -> None:
    assert clips_per_shard(num_clips, clip_bytes, shard_bytes) == number


def report(out: Location, file: str, content: bytes = b"1234", **changes: Any) -> Shard:
    """Writes a shard and its report, and says what the plan says of it."""
    with (out / file).writing() as opened:
        opened.write(content)
    entry = {"file": file, "num_clips": 1, "num_bytes": 4} | changes
    report_location(out, file).write_text(json.dumps({"shard": entry, "rejected": []}))
    return Shard(file, "train", [])


def test_only_shards_that_lie_there_whole_are_done(out: Location) -> None:
    out.mkdir()
    done = report(out, "done.arrow")
    empty = Shard("empty.arrow", "train", [])
    report_location(out, empty.file).write_text('{"shard": {"num_clips": 0, "num_bytes": 0}, "rejected": []}')
    cut, longer = report(out, "cut.arrow", content=b"123"), report(out, "longer.arrow", content=b"12345")
    missing = Shard("missing.arrow", "train", [])
    report_location(out, missing.file).write_text(report_location(out, done.file).read_text())
    unreported = Shard("unreported.arrow", "train", [])
    (out / unreported.file).write_text("1234")
    never = Shard("never.arrow", "train", [])
    reports = read_reports(out, [done, empty, cut, longer, missing, unreported, never])
    assert list(reports) == ["done.arrow", "empty.arrow"]
    assert reports["done.arrow"]["shard"]["num_bytes"] == 4
    assert read_reports(out, []) == {}


@pytest.mark.parametrize("text", ["", '{"shard": {"num', "[]", "{}", '{"shard": {"num_clips": 1}}'], ids=repr)
def test_a_report_that_is_damaged_counts_for_nothing(tmp_path: Path, text: str) -> None:
    out = Location.of(tmp_path)
    good, bad = report(out, "good.arrow"), report(out, "bad.arrow")
    report_location(out, bad.file).write_text(text)
    assert list(read_reports(out, [bad, good])) == ["good.arrow"]


def test_reports_are_hidden_from_those_who_list_shards(tmp_path: Path) -> None:
    report(Location.of(tmp_path), "train-00000.arrow")
    assert Location.of(tmp_path).files() == ["train-00000.arrow"]
