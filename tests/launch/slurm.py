"""A real Slurm on this machine for tests: two or more nodes, no systemd, no cgroups; everything in one folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

NEEDED = ("slurmctld", "slurmd", "munged", "munge", "sbatch", "squeue", "scancel", "sinfo")
CPUS = 2
START_S = 60.0
CONF = """ClusterName=rwtest
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=3
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdSpoolDir={folder}/spool.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdParameters=config_overrides
MinJobAge=10
KillWait=5
MailProg=/bin/true
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=all Nodes=n[1-{count}] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=urgent Nodes=n[1-{count}] MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""  # cred_expire shortens the two minutes for which Slurm holds a requeued job back


@contextmanager
def slurm_cluster(folder: Path, *, count: int = 2) -> Iterator[dict[str, subprocess.Popen]]:
    """Run Slurm's daemons in the foreground as children of this process, and give them by name; SLURM_CONF names the cluster while it is up."""
    if missing := [name for name in NEEDED if shutil.which(name) is None and not Path("/usr/sbin", name).exists()]:
        pytest.skip(f"Slurm is not installed ({', '.join(missing)} missing)")
    if os.getuid() != 0:
        pytest.skip("Slurm's daemons of this test run as root")
    (folder / "state").mkdir(parents=True)
    folder.chmod(0o755)
    ports = _free_ports(1 + count)
    nodes = "\n".join(
        f"NodeName=n{number} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} RealMemory=1000 State=UNKNOWN"
        for number, port in enumerate(ports[1:], 1)
    )
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(folder=folder, controller=ports[0], nodes=nodes, count=count))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    names = {"munge": ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}", f"--log-file={folder}/munged.log"]}
    names["munge"] += [f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munged.seed"]
    names["controller"] = ["slurmctld", "-D", "-f", str(conf)]
    names |= {f"node{number}": ["slurmd", "-D", "-N", f"n{number}", "-f", str(conf)] for number in range(1, count + 1)}
    environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin", "SLURM_CONF": str(conf)}
    before = os.environ.get("SLURM_CONF")
    daemons: dict[str, subprocess.Popen] = {}
    with ExitStack() as stack:
        for name, command in names.items():
            output = stack.enter_context(open(folder / f"{name}.out", "wb"))
            daemon = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
            stack.callback(_end, daemon)
            daemons[name] = daemon
            if name == "munge":
                _wait(lambda: (folder / "munge.socket").exists(), folder)
        os.environ["SLURM_CONF"] = str(conf)
        try:
            _wait(lambda: subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout.split() == ["idle"], folder)
            yield daemons
        finally:
            os.environ.pop("SLURM_CONF")
            if before is not None:
                os.environ["SLURM_CONF"] = before


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _wait(condition, folder: Path) -> None:
    deadline = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > deadline:
            logs = {path.name: path.read_text(errors="replace")[-500:] for path in folder.glob("*.log")} | {
                path.name: path.read_text(errors="replace")[-500:] for path in folder.glob("*.out")
            }
            raise TimeoutError(f"Slurm did not start: {logs}")
        time.sleep(0.1)


def _end(daemon: subprocess.Popen) -> None:
    if daemon.poll() is None:
        os.killpg(daemon.pid, signal.SIGTERM)
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait()
