"""Collect what this project uses of Ray beside its public API; all was seen in Ray 2.60."""

import logging
from typing import Any

__all__ = ["aws_node_provider", "cluster_address", "has_started_ray", "hide_authentication_notice", "torch_trainer"]


def cluster_address() -> str | None:
    """HOST:PORT of the cluster that `ray.init()` would join; None if it would start one.

    Stands in for a public function that returns the address: Ray itself tries for minutes to connect to it. Seen in Ray
    2.60.

    Raises:
        ValueError, ConnectionError: RAY_ADDRESS is not the address of a cluster.
    """
    from ray._private.services import canonicalize_bootstrap_address

    address: str | None = canonicalize_bootstrap_address(None)  # type: ignore[arg-type]
    return address


def hide_authentication_notice() -> None:
    """Hides the message, of level WARNING, that token authentication works.

    Stands in for an option of `ray.init` that silences it. Seen in Ray 2.60.
    """
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)


def has_started_ray() -> bool:
    """Whether this process has started the Ray that it uses, so that there are no other nodes.

    Stands in for a public property of the runtime context. Seen in Ray 2.60.
    """
    from ray._private import worker

    node = worker._global_node
    return node is not None and node.is_head()


def torch_trainer() -> Any:
    """The class TorchTrainer without its PlacementGroupCleanerCallback.

    Stands in for an option that leaves the callback out. It starts a process that waits for Ray's dashboard, which is
    not installed, and that never ends after its driver was killed. Seen in Ray 2.60.
    """
    from ray.train.torch import TorchTrainer

    class Trainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()  # type: ignore[misc]
            return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]

    return Trainer


def aws_node_provider() -> Any:
    """The class by which Ray's autoscaler starts and ends nodes on AWS.

    Stands in for a public name of it, to derive from. Seen in Ray 2.60.
    """
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    return AWSNodeProvider
