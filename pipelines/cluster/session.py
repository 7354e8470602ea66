"""Start Ray, or join a running cluster: quietly, without usage statistics, with token authentication."""

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipelines.cluster.interrupts import delayed_interrupts
from pipelines.cluster.ray_internals import cluster_address, hide_authentication_notice
from pipelines.core.errors import UserError
from pipelines.core.periodic import repeated

__all__ = ["exit_if_ray_dies", "is_ray_running", "start_ray"]

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 2.0
# Its logs and sockets; with less, Ray waits for half a minute and fails.
_LEAST_FREE_BYTES = 10_000_000


def is_ray_running() -> bool:
    """Whether `start_ray` would join a cluster, or does nothing because Ray has been started."""
    _set_environment()
    import ray

    if ray.is_initialized():
        return True
    try:
        return cluster_address() is not None
    except (ValueError, ConnectionError):
        # `start_ray` explains what is wrong.
        return True


@contextlib.contextmanager
def start_ray(**kwargs: Any) -> Iterator[None]:
    """Starts or joins Ray for the block; afterwards, the Ray that was started is shut down, and a joined one is left.

    Joins the cluster named by RAY_ADDRESS, or the one that `ray start` (and so `ray up`, `ray submit`) started on this
    machine; otherwise starts a local one. Inside another `start_ray` it does nothing.

    Args:
        **kwargs: Passed to ray.init for a local cluster (num_cpus, say); a running cluster keeps its own.

    Raises:
        UserError: the cluster to join does not answer.
    """
    _set_environment()
    # Imported here, so that Ray reads these variables, and commands without Ray start fast.
    import ray

    if ray.is_initialized():
        yield
        return
    hide_authentication_notice()
    try:
        with delayed_interrupts(), contextlib.chdir(_import_directory()):
            _join_or_start(kwargs)
        yield
    finally:
        with delayed_interrupts():
            ray.shutdown()


def _set_environment() -> None:
    """Sets the variables that Ray reads when it is imported: call it before."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The default of a later release; without it, Ray warns of the change.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # How long Tune waits for a stopped trial before it reuses the process; after its default, 2 s, it waits for ever.
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Tune would handle Ctrl-C although the shell asked this command to ignore it.
        os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    try:
        Path.home()
    except RuntimeError:
        # Ray asks for it on import. Debian's name for the home of users without one.
        os.environ["HOME"] = "/nonexistent"


def _import_directory() -> Path:
    """The directory to start Ray in: its workers look for modules in it before any other.

    In that of the user, a click.py or a directory pipelines/ would replace the modules of Ray and of this project.
    """
    root = Path(__file__).resolve().parents[2]
    is_installed = root in {Path(path).resolve() for path in sysconfig.get_paths().values()}
    # Workers find an installed package by themselves, and there are no modules in the environment's own directory.
    return Path(sys.prefix) if is_installed else root


@contextlib.contextmanager
def exit_if_ray_dies(clean_up: Callable[[], None]) -> Iterator[None]:
    """Ends this process, with exit code 1, if Ray's own process on this machine dies: Ray would wait for it for ever.

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

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    try:
        address = cluster_address()
    except (ValueError, ConnectionError) as error:
        raise UserError(
            f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS')} is no Ray cluster ({error}); set it to HOST:PORT or local"
        ) from error
    if address is None:
        _provide_token()
        directory = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
        advice = "free space there, or set RAY_TMPDIR to another with a short name"
        if os.path.isdir(directory) and shutil.disk_usage(directory).free < _LEAST_FREE_BYTES:
            raise UserError(f"there is no room for Ray in the temporary directory {directory}; {advice}")
        try:
            ray.init("local", include_dashboard=False, **quiet, **kwargs)
        except OSError as error:
            raise UserError(
                f"Ray can't start with the temporary directory {directory} ({error.strerror or error}); {advice}"
            ) from error
        return
    log.info("joining the Ray cluster at %s", address)
    try:
        # Ray itself would try to connect for minutes.
        host, _, port = address.rpartition(":")
        if not port.isdigit():
            raise UserError(f"RAY_ADDRESS={address} is not HOST:PORT; set it to one, or to local")
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        # Only without an address argument does Ray use a token that exists.
        ray.init(**quiet)
    except OSError as error:
        raise UserError(
            f"no Ray cluster answers at {address} ({error}); set RAY_ADDRESS to one that runs, or to local"
        ) from error


def _provide_token() -> None:
    """Makes the token of local clusters, which keeps other users out."""
    try:
        _write_token_file(Path.home() / ".ray" / "auth_token")
    except (OSError, RuntimeError):
        # There is no home directory, as in many containers: Ray's processes find the token in the environment.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _write_token_file(path: Path) -> None:
    """Makes it readable by its owner only; Ray itself would write it readable by all."""
    path.parent.mkdir(exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        path.chmod(0o600)
    else:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
