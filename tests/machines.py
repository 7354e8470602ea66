"""Machines that are Linux namespaces of this one, for tests/two_nodes.py: run commands, and set up their files."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ADDRESSES = {"laptop": "10.213.7.1", "head": "10.213.7.2", "worker": "10.213.7.3", "stranger": "10.213.7.9"}
NODES = ("head", "worker")
HOME = "/run/home"
# The user of cluster.yaml; here another name of root.
USER = "ubuntu"

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


def furnish(machine: Machine, keys: Mapping[str, str]) -> None:
    """Sets up a new machine: user, hosts, SSH, Python.

    Args:
        machine: Has just started.
        keys: `key_pair()`, and the `token` of Ray.
    """
    passwd = Path("/etc/passwd").read_text(encoding="utf-8")
    machine.write("/run/passwd", f"{USER}:x:0:0::{HOME}:/bin/bash\n{passwd}")
    machine.write("/run/hosts", "127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for n, a in ADDRESSES.items()))
    machine.write("/run/sshd_config", _SSHD)
    machine.write("~/.bashrc", "")
    machine.write("/run/bin/apt-get", "#!/bin/sh\n")
    if shutil.which("sudo") is None:
        machine.write("/run/bin/sudo", '#!/bin/sh\nexec env "$@"\n')
    machine.write("~/.ssh/host_key", keys["private"])
    machine.write("~/.ssh/authorized_keys", keys["public"])
    if machine.name == "laptop":
        machine.write("~/.ssh/id_ed25519", keys["private"])
        machine.write("~/.ray/auth_token", keys["token"])
        machine.write("~/cluster.yaml", local_yaml((ROOT / "cluster.yaml").read_text(encoding="utf-8")))
    _virtual_environment(machine)
    kept = sorted({str(ROOT), sys.prefix, sys.base_prefix})
    machine.run("bash", "-c", _SET_UP, "set-up", machine.name, "256m", *kept)
    machine.write("/etc/profile.d/00-stand-ins.sh", "PATH=/run/bin:$PATH\n")


def key_pair() -> dict[str, str]:
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
