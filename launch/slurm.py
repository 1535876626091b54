"""The wall around Slurm: render and submit scripts, ask how jobs fare, requeue and cancel them. Nothing else here calls Slurm's commands."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from launch.job import CODE, Job, JobFolder, slug
from launch.start import mounts, node_command
from rwtrain.errors import RWTrainError

COMMANDS = ("sbatch", "squeue", "scancel")
# Variables that jobs get from the submitting shell, by name, besides the secrets that a job refers to; all others stay out, so that jobs repeat.
PASSED_ON = ("HOME", "USER", "LOGNAME", "LANG", "PATH", "SLURM_CONF")
ENDED_WELL, ENDED = {"COMPLETED"}, {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED"}
QUERY_TIMEOUT_S = 60.0


def require_slurm() -> None:
    """Raise a `RWTrainError` if this machine cannot submit jobs."""
    if missing := [name for name in COMMANDS if shutil.which(name) is None]:
        raise RWTrainError(f"Slurm's {', '.join(missing)} is not on this machine's PATH. Give the command on a login node of the cluster.")


def fill_template(template: str, *, options: Sequence[str] = (), **values: object) -> str:
    """A script from `launch/templates`; `options` are further arguments of sbatch such as `--partition=cpu`."""
    text = (resources.files("launch") / "templates" / template).read_text(encoding="utf-8")
    return text.format(options="\n".join(f"#SBATCH {option}" for option in options), **values)


def array_script(
    command: Sequence[str], *, name: str, tasks: int, folder: Path, logs: Path, environment: Mapping[str, str], options: Sequence[str] = (), cpus: int = 1
) -> str:
    """A script for an array job; each task runs `command` in `folder` with its number in SLURM_ARRAY_TASK_ID.

    Args:
        command: program and arguments.
        name: of the job.
        tasks: how many.
        folder: the same on all nodes.
        logs: folder for one log a task.
        environment: variables to set.
        options: further arguments of sbatch.
        cpus: processors of a task.
    """
    variables = [f"{key}={value}" for key, value in environment.items()]
    line = shlex.join(["env", *variables, *command])
    return fill_template("array.sbatch", options=options, name=name, last=tasks - 1, cpus=cpus, logs=logs, folder=shlex.quote(str(folder)), command=line)


def job_script(job: Job, folder: JobFolder) -> str:
    """The script of a job. Values with free text do not stand in it: it names the job's folder, quoted."""
    spec, site = job.spec, job.site.slurm
    passed = [*PASSED_ON, *(reference.partition(":")[2] for reference in spec.secrets.values() if reference.startswith("env:"))]
    options = [f"--export={','.join(dict.fromkeys(passed))}"]
    options += [f"--{name}={value}" for name in ("partition", "account", "qos", "reservation", "constraint") if (value := getattr(site, name))]
    options += [f"--exclude={','.join(site.exclude)}"] if site.exclude else []
    options += [f"--gres={site.gres}:{spec.gpus_per_node}"] if spec.gpus_per_node else []
    options += ["--exclusive"] if site.exclusive else []
    options += [f"--mem={int(spec.memory_gb * 1024)}M"] if spec.memory_gb and site.memory else []
    options += [f"--time={clock(spec.time_limit)}"] if spec.time_limit else []
    common: dict[str, Any] = {
        "options": [*options, *site.options],
        "name": slug(spec.name),
        "cpus": spec.cpus_per_process * spec.ranks_per_node,
        "modules": "\n".join([". /etc/profile", "module purge", *(f"module load {shlex.quote(name)} || exit 2" for name in job.site.modules)])
        if job.site.modules
        else "",
        "folder": shlex.quote(str(folder.path)),
        "code": shlex.quote(str(folder.path / CODE)) if spec.snapshot or spec.code else "",
        "python": shlex.quote(host_python(job)),
    }
    if spec.array:
        return fill_template("tasks.sbatch", **common, last=spec.array - 1, log="slurm-%a.log", module="launch.task")
    return fill_template("job.sbatch", **common, nodes=spec.nodes, log="slurm.log", signal_before_s=spec.requeue.signal_before_s, module="launch.slurm_job")


def host_python(job: Job) -> str:
    """Python outside containers, which runs the batch step."""
    return job.site.python or (sys.executable if job.spec.image else job.python)


def clock(seconds: int) -> str:
    """Slurm's notation of a duration."""
    days, rest = divmod(seconds, 86_400)
    return f"{days}-{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"


def srun_command(job: Job, folder: JobFolder) -> list[str]:
    """srun with one launcher per node. Their exit statuses are kept, and none is killed because another ends: they agree about that themselves."""
    spec, site = job.spec, job.site.slurm
    line = [
        "srun",
        f"--nodes={spec.nodes}",
        f"--ntasks={spec.nodes}",
        "--ntasks-per-node=1",
        "--kill-on-bad-exit=0",
        "--wait=0",
        "--export=ALL",
        "--input=none",
    ]
    line += [f"--cpus-per-task={spec.cpus_per_process * spec.ranks_per_node}"]
    if spec.image and site.container == "pyxis":
        line += [f"--container-image={spec.image}", f"--container-mounts={','.join(mounts(job, folder))}", f"--container-workdir={job.folder}"]
    return [*line, *site.srun_options, *node_command(job, folder, apptainer=site.container == "apptainer")]


def submit(script: Path, *, options: Sequence[str] = ()) -> str:
    """Submit a script from its own folder, to which its log's name is relative; return the job's number."""
    return _run(["sbatch", "--parsable", f"--chdir={script.parent}", *options, str(script)]).split(";")[0].strip()


def unfinished_tasks(job: str) -> list[str]:
    """States of a job's tasks that wait or run (`PENDING`, `RUNNING` …); empty once the job is over, however it ended."""
    done = subprocess.run(["squeue", "--noheader", "--array", "--format=%T", f"--jobs={job}"], capture_output=True, text=True)
    if done.returncode != 0 and "Invalid job id" not in done.stderr:
        raise RWTrainError(f"squeue failed: {' '.join(done.stderr.split())} Finished units are kept; run the same command again when Slurm answers.")
    return done.stdout.split()


def describe(job: str) -> dict[str, str]:
    """What `scontrol show job` says, key by key; empty once Slurm has forgotten the job."""
    done = subprocess.run(["scontrol", "--oneliner", "show", "job", job], capture_output=True, text=True, timeout=QUERY_TIMEOUT_S)
    words = done.stdout.splitlines()[0].split() if done.returncode == 0 and done.stdout.strip() else []
    return dict(word.split("=", 1) for word in words if "=" in word)


def host_names(expression: str) -> list[str]:
    """Slurm's names of the nodes of an expression such as n[1-4,7]."""
    return _run(["scontrol", "show", "hostnames", expression]).split()


def address_of(node: str) -> str:
    """The address under which Slurm reaches a node; its name need not resolve."""
    words = _run(["scontrol", "--oneliner", "show", "node", node]).split()
    return next((word.partition("=")[2] for word in words if word.startswith("NodeAddr=")), node)


def requeue(job: str, *, exclude: Sequence[str] = ()) -> None:
    """Put the job of the calling batch step back into the queue, away from some nodes."""
    if exclude:
        _run(["scontrol", "requeuehold", job])
        subprocess.run(["scontrol", "update", f"JobId={job}", f"ExcNodeList={','.join(exclude)}"], capture_output=True)
        _run(["scontrol", "release", job])
        return
    _run(["scontrol", "requeue", job])


def cancel(job: str, *, gently: bool = False) -> None:
    """End a job; one that is over already is left alone.

    Args:
        gently: ask a running job's processes to save and stop, and wait for none; Slurm would kill them after its KillWait.
    """
    running = gently and describe(job).get("JobState") == "RUNNING"
    subprocess.run(["scancel", "--quiet", *(["--signal=USR1"] if running else []), job], capture_output=True)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        remedy = "Correct the options given with --slurm or in the site profile." if command[0] == "sbatch" else "Try again when Slurm answers."
        raise RWTrainError(f"{command[0]} failed: {' '.join(done.stderr.split())} {remedy}")
    return done.stdout
