"""A real Slurm cluster on one machine: a controller, some nodes with fake GPUs; no systemd, no cgroups, no database.

Everything but three things lives in one temporary folder: the packages, and links to the configuration in /etc/slurm,
because an srun inside a Snakemake job looks nowhere else. It is stopped by the ids of the processes it started.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PACKAGES = ["slurm-wlm", "munge"]
SYSTEM_FOLDER = Path("/etc/slurm")
LINKED = ("slurm.conf", "gres.conf")
OWNER = "owner"  # a file in a cluster's folder, locked by the process that started it

# MinJobAge: finished jobs stay visible to squeue. KillWait: seconds from SIGTERM to SIGKILL.
CONFIGURATION = """\
ClusterName=omniad
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
MinJobAge=600
KillWait=5
SlurmctldTimeout=30
SlurmdTimeout=20
InactiveLimit=0
ReturnToService=2
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 State=UP PriorityTier=10
PartitionName=low Nodes=ALL MaxTime=INFINITE DefaultTime=60 State=UP PriorityTier=1 GraceTime=5
PartitionName=high Nodes=ALL MaxTime=INFINITE DefaultTime=60 State=UP PriorityTier=100 PreemptMode=OFF
"""


class Unavailable(Exception):
    """No cluster can be started here; the text says why."""


class Cluster:
    """`nodes` nodes n1, n2, ... of `gpus` GPUs each.

    Args:
        folder: of everything the daemons read and write; made anew.
    """

    def __init__(self, folder: Path, nodes: int = 2, gpus: int = 2) -> None:
        self.folder, self.gpus = folder, gpus
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]

    def start(self) -> None:
        """Install what is missing, start the daemons, wait until every node is idle.

        Raises:
            Unavailable: not root, no packages, or this machine has a Slurm of its own.
        """
        _install()
        for name in ("run", "log", "state", "dev", "munge", *(f"spool/{node}" for node in self.nodes)):
            (self.folder / name).mkdir(parents=True)
        self._owner = (self.folder / OWNER).open("w")
        fcntl.flock(self._owner, fcntl.LOCK_EX)  # until the cluster is stopped, or this process dies
        try:
            self._write_configuration()
            self._link_configuration()
        except Unavailable:
            self._owner.close()
            raise
        try:
            self._start_munge()
            _run("slurmctld")
            for node in self.nodes:
                self.start_node(node)
            self._wait_until_idle()
        except (subprocess.SubprocessError, TimeoutError):
            self.stop()
            raise

    def start_node(self, node: str) -> None:
        _run("slurmd", "-N", node)

    def kill_node(self, node: str) -> None:
        """As if the node lost power: its daemon and everything that ran there is gone at once."""
        daemon = _pid(self.folder / f"run/slurmd-{node}.pid")
        assert daemon
        for process in (daemon, *_node_processes(node)):
            with contextlib.suppress(ProcessLookupError):  # ended by itself meanwhile
                os.kill(process, signal.SIGKILL)

    def stop(self) -> None:
        _stop(self.folder)
        self._owner.close()

    def _write_configuration(self) -> None:
        text = CONFIGURATION.format(host=_host(), folder=self.folder, controller_port=_free_port())
        devices = ["AutoDetect=off"]
        for gpu in range(self.gpus):
            # Slurm insists on character devices; the number at the end is the index that a job sees.
            try:
                os.mknod(self.folder / f"dev/gpu{gpu}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            except PermissionError:
                raise Unavailable("no right to make device files here") from None
        for node in self.nodes:
            text += (
                f"NodeName={node} NodeHostname={_host()} NodeAddr=127.0.0.1 Port={_free_port()} CPUs=16 Boards=1"
                f" SocketsPerBoard=1 CoresPerSocket=16 ThreadsPerCore=1 RealMemory=200000 Gres=gpu:fake:{self.gpus}\n"
            )
            devices.append(f"NodeName={node} Name=gpu Type=fake File={self.folder}/dev/gpu[0-{self.gpus - 1}]")
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text("\n".join(devices) + "\n")

    def _link_configuration(self) -> None:
        SYSTEM_FOLDER.mkdir(exist_ok=True)
        for name in LINKED:
            link = SYSTEM_FOLDER / name
            if link.is_symlink() and (link.readlink().parent / OWNER).exists():
                if _locked(link.readlink().parent / OWNER):
                    raise Unavailable("another run of these tests has its cluster up")
                _stop(link.readlink().parent)  # a killed run of these tests left it behind
            if link.exists():
                raise Unavailable(f"this machine has a Slurm of its own: {link}")
            link.unlink(missing_ok=True)
            link.symlink_to(self.folder / name)

    def _start_munge(self) -> None:
        """A munge of our own, with its own socket and key, beside any that runs already."""
        folder = self.folder / "munge"
        folder.chmod(0o755)
        (folder / "key").write_bytes(os.urandom(1024))
        (folder / "key").chmod(0o400)
        files = {"socket": "socket", "key-file": "key", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}
        # --force: a folder below one that everybody may write to is refused otherwise.
        _run("munged", "--force", *(f"--{option}={folder / name}" for option, name in files.items()))

    def _wait_until_idle(self) -> None:
        def idle() -> bool:
            command = ["sinfo", "-h", "-N", "-p", "gpu", "-t", "idle", "-o", "%N"]
            answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
            return answer.stdout.split() == self.nodes

        wait_until(idle, 60)


def squeue(columns: str, *arguments: str) -> list[str]:
    """One line a job."""
    command = ["squeue", "-h", "-o", columns, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout.splitlines()


def _stop(folder: Path) -> None:
    """Cancel what still runs and end the daemons of a cluster, by the process ids that they wrote."""
    with contextlib.suppress(subprocess.SubprocessError):  # a killed run may have left a dead controller
        subprocess.run(["scancel", "--me"], check=False, timeout=30, capture_output=True)
        wait_until(lambda: not squeue("%i", "--states=RUNNING,COMPLETING"), 20, check=False)
    for file in (*folder.glob("run/slurmd-*.pid"), folder / "run/slurmctld.pid", folder / "munge/pid"):
        _end(_pid(file))
    for name in LINKED:
        if (SYSTEM_FOLDER / name).is_symlink() and (SYSTEM_FOLDER / name).readlink() == folder / name:
            (SYSTEM_FOLDER / name).unlink()


def _locked(file: Path) -> bool:
    with file.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _install() -> None:
    missing = [program for program in ("slurmctld", "slurmd", "srun", "munged") if shutil.which(program) is None]
    if os.geteuid() != 0:
        raise Unavailable("only root can start a Slurm cluster (device files, daemons)")
    if missing and shutil.which("apt-get") is None:
        raise Unavailable(f"{', '.join(missing)}: not installed, and there is no apt-get")
    if missing:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
            answer = subprocess.run(
                ["apt-get", "-qq", *command], env=environment, capture_output=True, text=True, check=False
            )
            if answer.returncode:
                raise Unavailable(f"apt-get {' '.join(command)}: {answer.stderr.strip()[-300:]}")


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run(*command: str) -> None:
    # A daemon keeps the pipes it is given open: it gets none.
    devnull = subprocess.DEVNULL
    subprocess.run(command, check=True, timeout=60, stdin=devnull, stdout=devnull, stderr=devnull)


def job_processes() -> dict[int, dict[str, str]]:
    """Process -> environment of everything that jobs have running: Slurm tells each its node, SLURMD_NODENAME."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            entries = (process / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has just ended
            continue
        environment = dict(entry.split("=", 1) for entry in entries if "=" in entry)
        if "SLURMD_NODENAME" in environment:
            found[int(process.name)] = environment
    return found


def _node_processes(node: str) -> list[int]:
    """A node's Slurm step managers and all that they started."""
    tasks = [process for process, environment in job_processes().items() if environment["SLURMD_NODENAME"] == node]
    parents = {_parent(process) for process in tasks}
    return [*(parent for parent in parents if _name(parent).startswith("slurmstepd")), *tasks]


def _parent(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _name(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text()
    except OSError:
        return ""


def _pid(file: Path) -> int | None:
    """The process that wrote this file, if it still runs."""
    try:
        process = int(file.read_text())
    except (OSError, ValueError):
        return None
    return process if _name(process).startswith(("slurm", "munge")) else None


def _end(process: int | None) -> None:
    if process is None:
        return
    os.kill(process, signal.SIGTERM)
    gone = wait_until(lambda: not Path(f"/proc/{process}").exists(), 10, check=False)
    if not gone:
        os.kill(process, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], seconds: float, check: bool = True) -> bool:
    """Until the condition holds; False, or a TimeoutError, when it takes too long."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            if check:
                raise TimeoutError(f"still not so after {seconds} s")
            return False
        time.sleep(0.2)
    return True
