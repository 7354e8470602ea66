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

The laptop has cluster.yaml in its HOME, with the provider section changed to `local` (`local_yaml`), and the only key.
The nodes use the packages of this Python's environment; the project itself is what `ray up` installs. They have no
Internet: `apt-get` does nothing.
"""

import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ADDRESSES = {"laptop": "10.213.7.1", "head": "10.213.7.2", "worker": "10.213.7.3", "stranger": "10.213.7.9"}
NODES = ("head", "worker")
HOME = "/run/home"
# The user of cluster.yaml; here another name of root.
USER = "ubuntu"
STATE = Path("/run/ttrnn-two-nodes.json")
NEEDED = ("unshare", "nsenter", "ip", "ssh", "ssh-keygen", "sshd", "rsync")

# Makes a machine of new namespaces. $1 is its name, $2 the size of /dev/shm; the other arguments are directories that
# must stay visible if they lie under /tmp.
_SET_UP = """
set -e
hostname "$1"
mkdir -p /run/shm /run/tmp /run/sshd /run/profile.d
chmod 1777 /run/tmp
for kept in "${@:3}"; do
    case $kept in /tmp/*) mkdir -p "/run$kept"; mount --bind "$kept" "/run$kept";; esac
done
mount --rbind /run/tmp /tmp
mount -t tmpfs -o size="$2" shm /dev/shm
cp -a /etc/profile.d/. /run/profile.d
mount --bind /run/profile.d /etc/profile.d
for file in hosts passwd; do mount --bind /run/$file /etc/$file; done
chmod 755 /run/bin/* /run/home/.venv/bin/*
chmod -R go= /run/home/.ssh
ip link set lo up
"""

_SSHD = f"""
HostKey {HOME}/.ssh/host_key
AuthorizedKeysFile {HOME}/.ssh/authorized_keys
PidFile /run/sshd.pid
PasswordAuthentication no
PermitRootLogin yes
StrictModes no
MaxStartups 100
Subsystem sftp internal-sftp
"""


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


_UNSHARE = ["unshare", "--kill-child", "--fork", "--pid", "--mount-proc", "--net", "--uts", "--ipc"]


def local_yaml(text: str, *, num_cpus: int = 1) -> str:
    """cluster.yaml for the two nodes: with the provider section that its comments give, and the size of these nodes.

    Args:
        text: The file of the repository.
        num_cpus: CPUs of each node, instead of all of this machine.
    """
    (lines,) = re.findall(r"^#     (provider: \{type: local.*)\n#     (auth: .*)$", text, re.MULTILINE)
    section = re.sub(r"head_ip: .*\]", f"head_ip: {ADDRESSES['head']}, worker_ips: [{ADDRESSES['worker']}]", lines[0])
    before, rest = text.split("# ==== AWS\n")
    after = rest.split("# ==== all providers\n")[1]
    size = f" --num-cpus={num_cpus} --memory={2 << 30} --object-store-memory={150 << 20}"
    return f"{before}{section}\n{lines[1]}\n{after}".replace("--disable-usage-stats", f"--disable-usage-stats{size}")


class Machine:
    """A simulated machine: a set of namespaces with an address."""

    def __init__(self, name: str, pid: int) -> None:
        self.name = name
        self.address = ADDRESSES[name]
        self.pid = pid
        """process id of its first process on this machine"""

    def path(self, path: str) -> Path:
        """The path by which this process reaches a file of the machine; ~ is its HOME."""
        return Path(f"/proc/{self.pid}/root{path.replace('~', HOME, 1)}")

    def write(self, path: str, text: str) -> None:
        """Writes a file of the machine."""
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def command(self, *command: str) -> list[str]:
        """The command line that runs a command on the machine, in a clean environment.

        Its directory is this checkout on the laptop, HOME on other machines.
        """
        python = f"{sys.prefix}/bin" if self.name == "laptop" else f"{HOME}/.venv/bin"
        directory = str(ROOT) if self.name == "laptop" else HOME
        return [
            *("nsenter", "--target", str(self.pid), "--mount", "--net", "--uts", "--ipc", "--pid"),
            *(
                "env",
                "-i",
                f"--chdir={directory}",
                f"HOME={HOME}",
                f"USER={USER}",
                "LANG=C.UTF-8",
                "OMP_NUM_THREADS=1",
                "PYTHONUNBUFFERED=1",
            ),
            # Autoscaler v2 starts no workers of provider local.
            "RAY_UP_enable_autoscaler_v2=0",
            "RAY_USAGE_STATS_ENABLED=0",
            f"PATH={python}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            *command,
        ]

    def run(self, *command: str, check: bool = True, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """Runs a command on the machine; returns its output. Raises RuntimeError, with the output, if it fails."""
        result = subprocess.run(
            self.command(*command), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **kwargs
        )
        if check and result.returncode:
            raise RuntimeError(f"{self.name}: {shlex.join(command)}: {result.stdout[-4000:]}\n{result.stderr[-4000:]}")
        return result

    def login(self, line: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """Runs a line in a login shell of the machine, as ssh does."""
        return self.run("bash", "--login", "-c", line, **kwargs)


class TwoNodes:
    """The machines by name: `nodes["head"].run(...)`."""

    def __init__(self) -> None:
        self.machines: dict[str, Machine] = {}
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._secrets = {"token": secrets.token_hex(32), **_key_pair()}

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
        self._furnish(machine)
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

    def _furnish(self, machine: Machine) -> None:
        passwd = Path("/etc/passwd").read_text(encoding="utf-8")
        machine.write("/run/passwd", f"{USER}:x:0:0::{HOME}:/bin/bash\n{passwd}")
        machine.write("/run/hosts", "127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for n, a in ADDRESSES.items()))
        machine.write("/run/sshd_config", _SSHD)
        machine.write("~/.bashrc", "")
        machine.write("/run/bin/apt-get", "#!/bin/sh\n")
        if shutil.which("sudo") is None:
            machine.write("/run/bin/sudo", '#!/bin/sh\nexec env "$@"\n')
        machine.write("~/.ssh/host_key", self._secrets["private"])
        machine.write("~/.ssh/authorized_keys", self._secrets["public"])
        if machine.name == "laptop":
            machine.write("~/.ssh/id_ed25519", self._secrets["private"])
            machine.write("~/.ray/auth_token", self._secrets["token"])
            machine.write("~/cluster.yaml", local_yaml((ROOT / "cluster.yaml").read_text(encoding="utf-8")))
        _virtual_environment(machine)
        kept = sorted({str(ROOT), sys.prefix, sys.base_prefix})
        machine.run("bash", "-c", _SET_UP, "set-up", machine.name, "256m", *kept)
        machine.write("/etc/profile.d/00-stand-ins.sh", "PATH=/run/bin:$PATH\n")

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


def _key_pair() -> dict[str, str]:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
        return {"private": file.read_text(), "public": file.with_suffix(".pub").read_text()}


def _virtual_environment(machine: Machine) -> None:
    """Makes ~/.venv of a machine, without the project: its packages are those of this Python."""
    packages = Path(sysconfig.get_path("purelib"))
    own = f"{HOME}/.venv/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    machine.write(f"{own}/shared.pth", f"{packages}\n")
    machine.write(f"{HOME}/.venv/pyvenv.cfg", f"home = {sys.base_prefix}/bin\ninclude-system-site-packages = false\n")
    for name in ("python", "python3"):
        machine.path(f"{HOME}/.venv/bin").mkdir(exist_ok=True, parents=True)
        machine.path(f"{HOME}/.venv/bin/{name}").symlink_to(os.path.realpath(sys.executable))
    for name, module in (("pip", "pip._internal.cli.main"), ("ray", "ray.scripts.scripts")):
        text = f"#!{HOME}/.venv/bin/python\nimport sys\nfrom {module} import main\nsys.exit(main())\n"
        machine.write(f"{HOME}/.venv/bin/{name}", text)
    # No Internet. pip reads no-build-isolation = false as: build isolation is off.
    machine.write("~/.config/pip/pip.conf", "[global]\nno-index = true\n[install]\nno-build-isolation = false\n")


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
