"""pipelines/cluster/slots.py: as many trainings run at a time as fit on a cluster."""

from typing import Any

import pytest

from pipelines.cluster.slots import Slots, count_groups
from pipelines.core.errors import UserError


@pytest.mark.parametrize(
    ("resources", "num_workers", "gpus_per_worker", "expected"),
    [
        ({"CPU": 8.0}, 1, 1.0, ("CPU", 8)),
        ({"CPU": 8.0}, 3, 1.0, ("CPU", 2)),
        ({"CPU": 8.0}, 1, 0.25, ("CPU", 8)),
        ({"CPU": 64.0, "GPU": 4.0}, 1, 1.0, ("GPU", 4)),
        ({"CPU": 64.0, "GPU": 4.0}, 2, 1.0, ("GPU", 2)),
        # Two of 0.4 fit on each GPU.
        ({"CPU": 64.0, "GPU": 4.0}, 1, 0.4, ("GPU", 8)),
        ({"CPU": 2.0}, 3, 1.0, "num_workers 3 needs as many CPUs, the cluster has 2"),
        ({"CPU": 2.0, "GPU": 1.0}, 2, 1.0, "num_workers 2 needs as many GPUs, the cluster has 1"),
        ({"CPU": 2.0, "GPU": 1.0}, 2, 0.5, "need a whole GPU each; give --num-workers 1"),
    ],
    ids=str,
)
def test_groups_of_workers_are_counted_by_device(
    resources: dict[str, float], num_workers: int, gpus_per_worker: float, expected: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: resources)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            count_groups(num_workers, gpus_per_worker)
    else:
        assert count_groups(num_workers, gpus_per_worker) == expected


def test_slots_follow_the_cluster_but_not_below_what_was_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    resources = {"CPU": 8.0}
    monkeypatch.setattr("ray.cluster_resources", lambda: resources)
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"memory": 5e9}}])
    assert Slots.of_cluster(1, 1.0, cpus_per_worker=3) == (2, "CPU", 1.0, 5e9, 1, 3)
    slots = Slots.of_cluster(1, 1.0, 4)
    assert (slots.num_slots, slots.count(1), slots.count(3)) == (8, 8, 4)
    resources["CPU"] = 0.0
    assert slots.count(1) == 4
