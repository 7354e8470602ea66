"""Count the trainings that fit on a Ray cluster side by side."""

import math
from typing import NamedTuple

import torch

from pipelines.core.errors import UserError

__all__ = ["Slots", "devices", "largest_memory", "local_device"]


def local_device() -> torch.device:
    """Where this process computes: its GPU if it has one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
    cpus_per_worker: int = 1
    """of each process"""

    @classmethod
    def of_cluster(
        cls, num_workers: int, gpus_per_worker: float, least: int | None = None, *, cpus_per_worker: int = 1
    ) -> "Slots":
        """Those of the Ray that runs. Raises UserError where not one group of workers fits."""
        device, num_slots = devices(num_workers, gpus_per_worker)
        least = least or 1
        if device == "CPU":
            num_slots //= cpus_per_worker
        memory_bytes = largest_memory(device)
        return cls(max(num_slots, least), device, gpus_per_worker, memory_bytes, least, cpus_per_worker)

    def count(self, num_workers: int) -> int:
        """How many there are by now: nodes come and go."""
        try:
            device, num_slots = devices(num_workers, self.gpus_per_worker)
            return max(self.least, num_slots // (self.cpus_per_worker if device == "CPU" else 1))
        except UserError:
            return self.least


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
