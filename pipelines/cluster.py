"""Starting Ray, or joining a cluster that runs: quietly, without usage statistics, with token authentication."""

import contextlib
import logging
import math
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.background import repeated
from pipelines.cli import UserError

__all__ = ["Slots", "devices", "ends_with_ray", "largest_memory", "nodes_but", "nodes_that_see", "start_ray"]

log = logging.getLogger(__name__)
_LOOK_EVERY_S = 2.0
_ANSWER_WITHIN_S = 60.0


class Slots(NamedTuple):
    """Where trainings run side by side."""

    num_slots: int
    """at a time"""
    device: str
    """GPU or CPU"""
    gpus_per_worker: float
    """of each process, where there are GPUs"""
    memory_bytes: float
    """of the largest node, or of a GPU where there are some"""
    least: int = 1
    """of them are asked for, whether they fit or not: a cluster that can grow does so"""

    @classmethod
    def of_cluster(cls, num_workers: int, gpus_per_worker: float, least: int | None) -> "Slots":
        """Those of the Ray that runs. Raises UserError where not one group of workers fits."""
        device, num_slots = devices(num_workers, gpus_per_worker)
        least = least or 1
        return cls(max(num_slots, least), device, gpus_per_worker, largest_memory(device), least)

    def count(self, num_workers: int) -> int:
        """How many there are by now: nodes come and go."""
        try:
            return max(self.least, devices(num_workers, self.gpus_per_worker)[1])
        except UserError:
            return self.least


@contextlib.contextmanager
def start_ray(**kwargs: Any) -> Iterator[None]:
    """Ray is up inside the block; afterwards, what was started or joined here is shut down or left.

    Joins the cluster named by RAY_ADDRESS, or the one that `ray start` (and so `ray up`, `ray submit`) left on this
    machine; otherwise starts a local one. Inside another `start_ray` it does nothing.

    Args:
        **kwargs: Passed to ray.init for a local cluster (num_cpus, say); a cluster that runs already keeps its own.

    Raises:
        UserError: the cluster to join does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's coming default; without it, Ray warns of the change.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # How long Tune waits for a trial that it has stopped before it uses the process for another: 2 s by default, after
    # which it waits for ever.
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
    # Imported here, so that Ray reads the lines above, and commands without Ray start fast.
    import ray

    if ray.is_initialized():
        yield
        return
    # Ray tells at level WARNING that its token authentication works.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    try:
        with _interrupts_later():
            _join_or_start(kwargs)
        yield
    finally:
        with _interrupts_later():
            ray.shutdown()


@contextlib.contextmanager
def ends_with_ray(clean_up: Callable[[], None]) -> Iterator[None]:
    """Ends this process, with exit code 1, when Ray's own process on this machine dies: Ray waits for it for ever.

    Args:
        clean_up: Called before.
    """
    import ray

    own = ray.get_runtime_context().get_node_id()

    def look() -> None:
        if not any(node["NodeID"] == own and node["Alive"] for node in ray.nodes()):
            clean_up()
            log.error("Ray's own process on this machine (raylet) has died; start the command again with --resume")
            os._exit(1)

    with repeated(look, _LOOK_EVERY_S):
        yield


def devices(num_workers: int, gpus_per_worker: float = 1.0) -> tuple[str, int]:
    """What training runs on, "GPU" or "CPU" where there is none, and how many groups of `num_workers` fit at a time.

    Args:
        num_workers: Processes of a group.
        gpus_per_worker: Of each process, at most 1; a part only where a process is alone, since NCCL, which sums their
            gradients, wants a GPU for each.

    Raises:
        UserError: not one fits, or workers of a group that share a GPU.
    """
    if num_workers > 1 and gpus_per_worker < 1:
        raise UserError(
            f"num_workers {num_workers} with gpus_per_worker {gpus_per_worker:g}: workers that sum their gradients by "
            "NCCL need a whole GPU each; give --num-workers 1 or --gpus-per-worker 1"
        )
    import ray

    cluster = ray.cluster_resources()
    device = "GPU" if cluster.get("GPU") else "CPU"
    if cluster[device] < num_workers:
        raise UserError(
            f"num_workers {num_workers} needs as many {device}s, the cluster has {cluster[device]:g}; "
            "give a smaller --num-workers, or start more nodes first"
        )
    share = 1 if device == "CPU" else int(1 / gpus_per_worker)
    return device, int(cluster[device]) * share // num_workers


def largest_memory(device: str) -> float:
    """Bytes of the node, or of this machine's GPU, that has most; infinite where that is not known."""
    import ray
    import torch

    if device == "GPU":
        return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else math.inf
    nodes = [node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]]
    return max(nodes, default=0) or math.inf


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


def _join_or_start(kwargs: dict[str, Any]) -> None:
    import ray
    from ray._private.services import canonicalize_bootstrap_address

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    try:
        address = canonicalize_bootstrap_address(None)  # type: ignore[arg-type]
    except (ValueError, ConnectionError) as error:
        raise UserError(
            f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS')} is no Ray cluster ({error}); set it to HOST:PORT or local"
        ) from error
    if address is None:
        _write_token_file()
        ray.init("local", include_dashboard=False, **quiet, **kwargs)
        return
    log.info("joining the Ray cluster at %s", address)
    try:
        # Ray itself would try for minutes.
        host, _, port = address.rpartition(":")
        if not port.isdigit():
            raise UserError(f"RAY_ADDRESS={address} is not HOST:PORT; set it to one, or to local")
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        # Without an address, unlike with one, Ray uses the token where there is one.
        ray.init(**quiet)
    except OSError as error:
        raise UserError(
            f"no Ray cluster answers at {address} ({error}); set RAY_ADDRESS to one that runs, or to local"
        ) from error


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Puts off Ctrl-C until the block is done: a Ray that is half up crashes when Python ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if caught and callable(handler):
        handler(signal.SIGINT, None)


def _write_token_file() -> None:
    """Makes sure that only its owner can read the token of local clusters, which Ray itself would write for all."""
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        path.chmod(0o600)
    else:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
