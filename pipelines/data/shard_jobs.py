"""Write shards on a Ray cluster, or in this process if that takes less time than starting Ray."""

import contextlib
import functools
import json
import logging
import os
import tempfile
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from pipelines.cluster.nodes import nodes_with_files
from pipelines.cluster.session import is_ray_running, start_ray
from pipelines.core.errors import StepError, UserError
from pipelines.core.progress import progress
from pipelines.data.background import Cuts
from pipelines.data.options import PreprocessOptions
from pipelines.data.plan import Shard
from pipelines.data.shard_writer import make_shard
from pipelines.storage.location import Location
from pipelines.video.pool import on_all_cores

__all__ = ["write_shards"]

log = logging.getLogger(__name__)

# Ray takes some 8 s to start, in which a core decodes about this much: 40 to 80 clips of 5 s at 320x240.
SMALL_BYTES = 40e6
"""Videos of this size together are decoded without Ray, unless it is running already."""


def write_shards(
    shards: Sequence[Shard], out: Location, options: PreprocessOptions, cuts: Mapping[str, Cuts] | None = None
) -> dict[str, dict[str, Any]]:
    """Decodes the clips of shards and writes them; the bytes do not depend on where that is done.

    Args:
        shards: The shards.
        out: The directory.
        options: Frame size, sampling, codec and time limit.
        cuts: By split, how to cut clips from long videos, if there are any.

    Returns:
        The report on each shard, by file.

    Raises:
        UserError: no node sees the videos.
        StepError: remote storage does not answer.
        OSError: the disk is full.
    """
    task = functools.partial(
        make_shard,
        out=out,
        frame=options.frame,
        sampling=options.sampling,
        codec=options.codec,
        time_limit_s=options.time_limit_s,
        cuts=cuts or {},
    )
    rows = [{"shard": shard.to_json()} for shard in shards]
    if _is_small(shards) and not is_ray_running():
        workers = on_all_cores(rows, lambda row, decoder: task(row, decoder=decoder), time_limit_s=options.time_limit_s)
        return _reports((row for _, row in workers), len(rows))
    with start_ray():
        return _on_cluster(task, rows, _node_selector(shards, out, options.videos))


def _is_small(shards: Sequence[Shard]) -> bool:
    paths = [clip.path for shard in shards for clip in shard.clips]
    if not all(Location.of(path).is_local for path in paths):
        return False
    total = 0
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            total += sum(map(os.path.getsize, _files(path)))
        if total > SMALL_BYTES:
            return False
    return True


def _files(path: str) -> list[str]:
    """The file of a clip, or the files in its folder."""
    return [entry.path for entry in os.scandir(path)] if os.path.isdir(path) else [path]


def _on_cluster(task: Any, rows: Sequence[dict[str, Any]], nodes: dict[str, str] | None) -> dict[str, dict[str, Any]]:
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    for handler in logging.getLogger("ray.data").handlers:
        # Ray's plans and timings go to its log file only; handlers of other libraries are left alone.
        if isinstance(handler, logging.StreamHandler) and type(handler).__module__.startswith("ray."):
            handler.setLevel(logging.ERROR)
    mapped = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map(task, label_selector=nodes)
    return _reports(iter(mapped.iter_rows()), len(rows))  # type: ignore[arg-type]


def _reports(results: Generator[dict[str, Any], None, None], number: int) -> dict[str, dict[str, Any]]:
    """The reports of finished tasks, by the file of the shard; raises the first error."""
    reports = {}
    # Closed at once after an error, so that no task outlives this function.
    with contextlib.closing(results):
        for row in progress(results, number, "shards"):
            if row["errno"]:
                raise OSError(row["errno"], row["error"])
            if row["error"]:
                raise StepError(f"{row['error']}; run the same command with --resume")
            report = json.loads(row["report"])
            reports[report["shard"]["file"]] = report
    return reports


def _node_selector(shards: Sequence[Shard], out: Location, videos: str) -> dict[str, str] | None:
    """The nodes that see OUT and a sample of the videos, as a label selector of Ray; None: all nodes."""
    paths = [clip.path for shard in shards for clip in shard.clips if Location.of(clip.path).is_local]
    if not paths and not out.is_local:
        return None
    some = {*paths[:: -(-len(paths) // 64) or 1], *paths[-1:]}
    firsts = [file for path in some for file in _files(path)[:1]]
    files = {path: os.path.getsize(path) for path in firsts if os.path.isfile(path)}
    with contextlib.ExitStack() as stack:
        if out.is_local:
            token = stack.enter_context(tempfile.NamedTemporaryFile(dir=out.local, prefix=".", suffix=".tmp"))
            files[token.name] = 0
        seeing, others = nodes_with_files(files)
    advice = f"put {videos} and {out} on s3:// or a file system that all nodes share"
    if not any(node["Resources"].get("CPU") for node in seeing):
        raise UserError(f"no node with a CPU, of {len(seeing + others)} nodes, sees {videos} and {out}; {advice}")
    if others:
        log.warning(
            "%d of %d nodes do not see %s and %s: %s; %s to use all nodes",
            len(others),
            len(seeing + others),
            videos,
            out,
            "only this node decodes" if len(seeing) == 1 else f"the other {len(seeing)} decode",
            advice,
        )
    return {"ray.io/node-id": f"in({','.join(node['NodeID'] for node in seeing)})"}
