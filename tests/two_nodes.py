"""Simulate two nodes, a laptop and a stranger on this machine, for `ray up`: as Linux namespaces.

    python -m tests.two_nodes up                                     starts them in the background
    python -m tests.two_nodes run laptop ray up -y cluster.yaml      machines: laptop, head, worker, stranger
    python -m tests.two_nodes run worker ip link set eth0 down       cuts its network; `up` restores it
    python -m tests.two_nodes kill worker                            like a power failure
    python -m tests.two_nodes start worker                           starts a new one in its place
    python -m tests.two_nodes down

Needs root, and util-linux, iproute2, rsync and OpenSSH. Each machine has its own processes, network, host name, mounts,
/tmp, /dev/shm and HOME, on a tmpfs as its disk; all else is that of this machine and stays unchanged. Nothing is left
behind whichever process dies first: a machine ends with its first process, which ends with the one that started it.

The laptop has cluster.yaml in its HOME, with the provider section changed to `local`, and the only key. The nodes use
the packages of this Python's environment; the project itself is what `ray up` installs. They have no Internet:
`apt-get` does nothing.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.machines import ADDRESSES, NODES, ROOT, Machine, furnish, key_pair

STATE = Path("/run/ttrnn-two-nodes.json")
_UNSHARE = ["unshare", "--kill-child", "--fork", "--pid", "--mount-proc", "--net", "--uts", "--ipc"]
NEEDED = ("unshare", "nsenter", "ip", "ssh", "ssh-keygen", "sshd", "rsync")


def missing() -> str | None:
    """Why this machine cannot run the simulation; None if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root"
    for command in NEEDED:
        if shutil.which(command) is None:
            return f"needs {command}: apt-get install util-linux iproute2 rsync openssh-client openssh-server"
    # This needs, among other things, permissions and kernel support.
    probe = "mount -t tmpfs x /run && ip link add br0 type bridge && ip link add name v0 type veth peer name v1"
    result = subprocess.run([*_UNSHARE, "bash", "-c", probe], capture_output=True, text=True, check=False)
    return None if result.returncode == 0 else f"no namespaces here: {result.stderr.strip()}"


class TwoNodes:
    """The machines by name: `nodes["head"].run(...)`."""

    def __init__(self) -> None:
        self.machines: dict[str, Machine] = {}
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._secrets = {"token": secrets.token_hex(32), **key_pair()}

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def start(self, name: str) -> None:
        """Starts a machine with an empty disk, and ends one of the same name first."""
        self.kill(name)
        first = [
            "bash",
            "-c",
            "mount -t tmpfs -o size=4g,mode=755 disk /run && echo ready && while read -r; do :; done",
        ]
        process = subprocess.Popen(
            [*_UNSHARE, *first], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._processes[name] = process
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", f"{name} does not start"
        (pid,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        machine = self.machines[name] = Machine(name, int(pid))
        furnish(machine, self._secrets)
        self._connect(machine)
        if name in NODES:
            machine.run(str(shutil.which("sshd")), "-f", "/run/sshd_config")

    def kill(self, name: str) -> None:
        """Ends a machine and all its processes at once."""
        if process := self._processes.pop(name, None):
            process.kill()
            process.communicate()
            machine = self.machines.pop(name, None)
            # It has ended when its last process has.
            while machine is not None and Path(f"/proc/{machine.pid}").exists():
                time.sleep(0.01)

    def close(self) -> None:
        """Ends all machines."""
        for name in list(self._processes):
            self.kill(name)

    def _connect(self, machine: Machine) -> None:
        """Connects a machine to a bridge on the laptop."""
        laptop, address = self.machines["laptop"], f"{machine.address}/24"
        if machine is laptop:
            device = "br0"
            laptop.run("ip", "link", "add", device, "type", "bridge")
        else:
            device, port = "eth0", f"to-{machine.name}"
            peer = ("peer", "name", device, "netns", str(machine.pid))
            # Run on this machine, in the laptop's network only: process ids are those of this machine.
            enter = ("nsenter", "--target", str(laptop.pid), "--net")
            subprocess.run([*enter, "ip", "link", "add", "name", port, "type", "veth", *peer], check=True)
            laptop.run("ip", "link", "set", port, "master", "br0", "up")
        machine.run("ip", "address", "add", address, "dev", device)
        machine.run("ip", "link", "set", device, "up")


@contextlib.contextmanager
def two_nodes(names: Sequence[str] = tuple(ADDRESSES)) -> Iterator[TwoNodes]:
    """Runs the machines while the block runs."""
    nodes = TwoNodes()
    try:
        for name in names:
            nodes.start(name)
        yield nodes
    finally:
        nodes.close()


def _hold() -> None:
    """Runs the machines and executes the actions down, kill and start, which arrive as lines on a named pipe."""
    pipe = STATE.with_suffix(".pipe")
    with two_nodes() as nodes:
        os.mkfifo(pipe, 0o600)
        try:
            while True:
                STATE.write_text(json.dumps({"pid": os.getpid(), **{m.name: m.pid for m in nodes.machines.values()}}))
                action, _, name = pipe.read_text().strip().partition(" ")
                if action == "down":
                    return
                {"kill": nodes.kill, "start": nodes.start}[action](name)
        finally:
            STATE.unlink(missing_ok=True)
            pipe.unlink(missing_ok=True)


def _main(arguments: list[str]) -> int:
    action, *rest = arguments or ["help"]
    if action == "hold":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        _hold()
    elif action == "up" and not STATE.exists():
        if reason := missing():
            sys.exit(reason)
        holder = subprocess.Popen([sys.executable, "-m", "tests.two_nodes", "hold"], cwd=ROOT, start_new_session=True)
        while not STATE.exists() and holder.poll() is None:
            time.sleep(0.1)
    elif action in ("down", "kill", "start") and STATE.exists():
        before = STATE.read_text()
        STATE.with_suffix(".pipe").write_text(" ".join(arguments))
        while STATE.exists() and STATE.read_text() == before:
            time.sleep(0.05)
    elif action == "run" and len(rest) > 1 and STATE.exists():
        return subprocess.call(Machine(rest[0], json.loads(STATE.read_text())[rest[0]]).command(*rest[1:]))
    else:
        sys.exit(f"{__doc__}\nthe machines are {'up' if STATE.exists() else 'down'}")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
