"""Find the nodes of a cluster that can run a task."""

import logging
import os
import time
from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["nodes_except", "nodes_with_files"]

log = logging.getLogger(__name__)

_ANSWER_WITHIN_S = 60.0


def nodes_except(avoided: Collection[str]) -> dict[str, str]:
    """A label selector of Ray for the nodes without these ids; {}, for any node, if there are no others."""
    import ray

    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")}
    return {"ray.io/node-id": f"!in({','.join(sorted(avoided))})"} if avoided and alive - set(avoided) else {}


def nodes_with_files(files: Mapping[str, int]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Finds the nodes that see files of this machine, because they share a file system with it.

    Args:
        files: Paths on this machine and their sizes, bytes.

    Returns:
        The nodes that are alive, as `ray.nodes()` has them: those that find every file with its size, this one among
        them; and the others, which include those that did not answer within a minute.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    own = ray.get_runtime_context().get_node_id()
    alive = [node for node in ray.nodes() if node["Alive"]]
    check = ray.remote(num_cpus=0, max_retries=0)(_has_files)
    answers = {
        node["NodeID"]: check.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(dict(files))
        for node in alive
        if node["NodeID"] != own
    }
    having = {own}
    deadline = time.monotonic() + _ANSWER_WITHIN_S
    for node, answer in answers.items():
        try:
            having |= {node} if ray.get(answer, timeout=max(deadline - time.monotonic(), 0)) else set()
        except ray.exceptions.RayError as error:
            log.warning("node %s does not answer whether it sees the files (%s)", node[:8], type(error).__name__)
            ray.cancel(answer)
    return (
        [node for node in alive if node["NodeID"] in having],
        [node for node in alive if node["NodeID"] not in having],
    )


def _has_files(files: Mapping[str, int]) -> bool:
    try:
        return all(os.path.getsize(path) == size for path, size in files.items())
    except OSError:
        return False
