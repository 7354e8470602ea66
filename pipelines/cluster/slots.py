"""Count the trainings that a Ray cluster can run at a time."""

import math
from typing import NamedTuple

import torch

from pipelines.core.errors import UserError

__all__ = ["Slots", "count_groups", "local_device"]


def local_device() -> torch.device:
    """The device on which this process computes: its GPU if it has one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Slots(NamedTuple):
    """The trainings that a cluster can run at a time."""

    num_slots: int
    """how many"""
    device: str
    """GPU or CPU"""
    gpus_per_worker: float
    """share of a GPU for each process, where there are GPUs"""
    memory_bytes: float
    """memory of the largest node, or of a GPU where there are GPUs"""
    min_slots: int = 1
    """this many are requested, whether they fit or not: a cluster that can grow then grows"""
    cpus_per_worker: int = 1
    """CPUs for each process, where there are no GPUs"""

    @classmethod
    def of_cluster(
        cls, num_workers: int, gpus_per_worker: float, min_slots: int | None = None, *, cpus_per_worker: int = 1
    ) -> "Slots":
        """The slots of the running cluster. Raises UserError if not one group of workers fits."""
        device, num_slots = count_groups(num_workers, gpus_per_worker, cpus_per_worker)
        least = min_slots or 1
        memory_bytes = _largest_memory(device)
        return cls(max(num_slots, least), device, gpus_per_worker, memory_bytes, least, cpus_per_worker)

    @property
    def device_type(self) -> str:
        """The device as torch names it: cuda or cpu."""
        return "cuda" if self.device == "GPU" else "cpu"

    def count(self, num_workers: int) -> int:
        """The current number of slots, which changes when nodes join or leave."""
        try:
            return max(self.min_slots, count_groups(num_workers, self.gpus_per_worker, self.cpus_per_worker)[1])
        except UserError:
            return self.min_slots


def count_groups(num_workers: int, gpus_per_worker: float = 1.0, cpus_per_worker: int = 1) -> tuple[str, int]:
    """The device of trainings, "GPU" or "CPU" if there is no GPU, and how many groups of workers fit at a time.

    Args:
        num_workers: Processes of a group.
        gpus_per_worker: GPUs of each process, at most 1. Less than 1 only for groups of one, since NCCL, which sums the
            gradients of a group, needs a whole GPU for each process.
        cpus_per_worker: CPUs of each process, where there is no GPU.

    Raises:
        UserError: not one group fits, or workers of a group were to share a GPU.
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
    if device == "CPU":
        return device, int(cluster[device]) // num_workers // cpus_per_worker
    return device, int(cluster[device]) * int(1 / gpus_per_worker) // num_workers


def _largest_memory(device: str) -> float:
    """Bytes of the node, or of this machine's GPU, that has most; infinite if unknown."""
    import ray

    if device == "GPU":
        return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else math.inf
    nodes = [node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]]
    return max(nodes, default=0) or math.inf
