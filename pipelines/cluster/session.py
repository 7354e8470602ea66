"""Start Ray, or join a running cluster: quietly, without usage statistics, with token authentication."""

import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipelines.cluster.interrupts import delayed_interrupts
from pipelines.core.errors import UserError
from pipelines.core.periodic import repeated

__all__ = ["ends_with_ray", "start_ray"]

log = logging.getLogger(__name__)


_LOOK_EVERY_S = 2.0


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
        with delayed_interrupts():
            _join_or_start(kwargs)
        yield
    finally:
        with delayed_interrupts():
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
