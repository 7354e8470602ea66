"""Find the nodes of a cluster that may do a task."""

import logging
import os
import time
from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["nodes_but", "nodes_that_see"]

log = logging.getLogger(__name__)


_ANSWER_WITHIN_S = 60.0


def nodes_but(avoided: Collection[str]) -> dict[str, str]:
    """Where to work, as a label selector of Ray: on no node of these ids; {}, anywhere, if there are no others."""
    import ray

    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")}
    return {"ray.io/node-id": f"!in({','.join(sorted(avoided))})"} if avoided and alive - set(avoided) else {}


def nodes_that_see(files: Mapping[str, int]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Which nodes find files of this machine, because they share a file system with it.

    Args:
        files: Paths of this machine and their sizes, bytes.

    Returns:
        The nodes that are alive, as `ray.nodes()` has them: this one and those that find every file with its size,
        and the others, among them who has not answered within a minute.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    own = ray.get_runtime_context().get_node_id()
    alive = [node for node in ray.nodes() if node["Alive"]]
    look = ray.remote(num_cpus=0, max_retries=0)(_sees)
    answers = {
        node["NodeID"]: look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(dict(files))
        for node in alive
        if node["NodeID"] != own
    }
    seeing = {own}
    deadline = time.monotonic() + _ANSWER_WITHIN_S
    for node, answer in answers.items():
        try:
            seeing |= {node} if ray.get(answer, timeout=max(deadline - time.monotonic(), 0)) else set()
        except ray.exceptions.RayError as error:
            log.warning("node %s does not say which files it sees (%s)", node[:8], type(error).__name__)
            ray.cancel(answer)
    return (
        [node for node in alive if node["NodeID"] in seeing],
        [node for node in alive if node["NodeID"] not in seeing],
    )


def _sees(files: Mapping[str, int]) -> bool:
    try:
        return all(os.path.getsize(path) == size for path, size in files.items())
    except OSError:
        return False
