"""`rwtrain launch`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

from launch.backends import Driven, backend_of
from launch.compose import load_spec
from launch.failure import LINES_SHOWN
from launch.job import CANCELLED, CONFIG, Job, JobFolder, read_json
from launch.preflight import Report
from launch.prepare import prepare
from launch.registry import find_job, number_of, record, submitted
from launch.report import describe_job, show_logs
from launch.site import load_site
from launch.snapshot import write_snapshot
from launch.spec import JobSpec
from launch.supervise import Ledger
from rwtrain.config.load import dump_yaml, read_yaml
from rwtrain.errors import ConfigError
from rwtrain.files import write_text

BACKENDS = {
    "slurm": "submit with sbatch",
    "ssh": "start over ssh on the hosts of a DeepSpeed hostfile, and stay with the job",
    "k8s": "submit to Kubernetes as a JobSet, TrainJob or PyTorchJob",
    "local": "start on this machine, and stay with the job",
}

EPILOG = """examples:
  rwtrain launch slurm examples/pretrain.yaml --nodes 8 --gpus 8 --time 1-00:00:00 --dry-run
  rwtrain launch slurm prep-job.yaml examples/pretrain.yaml export-job.yaml      # each after the one before has ended well
  rwtrain launch ssh examples/pretrain.yaml --hostfile hosts --nodes 2 --gpus 8
  rwtrain launch k8s job.yaml --dry-run > manifest.yaml
  rwtrain launch local examples/demo/train.yaml --job processes_per_node=2
  rwtrain launch preflight slurm examples/pretrain.yaml --nodes 8 --gpus 8
  rwtrain launch status                                                          # jobs submitted from here
  rwtrain launch status 4711
  rwtrain launch logs 4711 --follow
  rwtrain launch cancel 4711                                                     # saves a checkpoint first
  rwtrain launch resubmit 4711

A CONFIG is a training configuration or a job file (docs/launch.md). What a cluster needs stands in a site profile: --site FILE,
$RWTRAIN_SITE or ~/.config/rwtrain/site.yaml."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rwtrain launch`."""
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, words in BACKENDS.items():
        submitting = actions.add_parser(name, help=words, description=words[0].upper() + words[1:] + ".")
        _add_submission(submitting, name)
        submitting.set_defaults(run=submit, backend=name, preflight_only=False)
    preflight = actions.add_parser("preflight", help="run only the checks of a job, in full, and show the table", description="Run only the checks, in full.")
    kinds = preflight.add_subparsers(dest="backend", metavar="BACKEND", required=True)
    for name in BACKENDS:
        checking = kinds.add_parser(name, help=f"on the nodes that `launch {name}` would use")
        _add_submission(checking, name)
        checking.set_defaults(run=submit, preflight_only=True)
    status = actions.add_parser("status", help="how a job fares; without a job, what was submitted from here")
    status.add_argument("job", nargs="?", help="number, id or folder of a job, or the folder of a run")
    status.add_argument("--json", action="store_true", help="one JSON object for programs")
    status.set_defaults(run=show_status)
    logs = actions.add_parser("logs", help="what a job printed")
    logs.add_argument("job", help="number, id or folder")
    logs.add_argument("--node", type=int, default=0, help="number of the node (default: 0)")
    logs.add_argument("--attempt", type=int, help="number of the attempt (default: the last)")
    logs.add_argument("--lines", type=int, default=LINES_SHOWN, help=f"lines from the end (default: {LINES_SHOWN})")
    logs.add_argument("--follow", action="store_true", help="go on until the job has ended")
    logs.set_defaults(run=lambda arguments: show_logs(find_job(arguments.job), arguments))
    cancel = actions.add_parser("cancel", help="ask a job to save and end")
    cancel.add_argument("job", help="number, id or folder")
    cancel.set_defaults(run=cancel_job)
    again = actions.add_parser("resubmit", help="submit a job again, with the code and configuration of its first submission")
    again.add_argument("job", help="number, id or folder")
    _add_driving(again)
    again.set_defaults(run=resubmit)


def _add_submission(parser: argparse.ArgumentParser, backend: str) -> None:
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="training configuration or job file; several are run one after the other")
    parser.add_argument("--nodes", type=int, help="machines")
    parser.add_argument("--gpus", type=int, help="GPUs of each")
    parser.add_argument("--time", help="time limit, HH:MM:SS or D-HH:MM:SS")
    parser.add_argument("--name", help="name of the job")
    parser.add_argument("--set", dest="train_settings", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the training configuration")
    parser.add_argument("--job", dest="job_settings", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the job, for example nodes=8")
    parser.add_argument("--site", metavar="FILE", help="site profile")
    parser.add_argument("--site-set", dest="site_settings", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the site profile")
    parser.add_argument("--dry-run", action="store_true", help="print what would be submitted, and write nothing")
    parser.add_argument("--parsable", action="store_true", help="print nothing but the job's number")
    if backend == "slurm":
        parser.add_argument("--after", action="append", default=[], metavar="JOB", help="start after this job has ended well; may be repeated")
    _add_driving(parser, hosts=backend == "ssh", detach=backend in ("ssh", "local"))


def _add_driving(parser: argparse.ArgumentParser, *, hosts: bool = True, detach: bool = True) -> None:
    if hosts:
        parser.add_argument("--hostfile", help="DeepSpeed's hostfile (ssh; default: the site's)")
    if detach:
        parser.add_argument("--detach", action="store_true", help="return at once (ssh, local); see the job with `rwtrain launch logs`")


def submit(arguments: argparse.Namespace) -> int:
    """Submit the jobs of a chain, or show what would be submitted."""
    backend = backend_of(arguments.backend, hostfile=getattr(arguments, "hostfile", None), detach=getattr(arguments, "detach", False))
    if len(arguments.configs) > 1 and (arguments.backend == "k8s" or getattr(arguments, "detach", False)):
        raise ConfigError("A chain of jobs needs Slurm's dependencies, or a launcher that stays with it: give one CONFIG, or leave --detach out.")
    site = load_site(arguments.site, arguments.site_settings)
    specs = [_spec(config, arguments) for config in arguments.configs]
    after = [number_of(find_job(word)) or word for word in getattr(arguments, "after", [])]
    if arguments.backend in ("ssh", "local") and any(spec.array for spec in specs):
        raise ConfigError("array: tasks of an array need Slurm or Kubernetes. Use `rwtrain launch slurm`, or a command that does all the work.")
    prepared = [prepare(spec, site, backend=arguments.backend, preflight_only=arguments.preflight_only) for spec in specs]
    if arguments.dry_run:
        for job, folder, _ in prepared:
            print(f"# {describe(job)}\n# folder: {folder.path}\n# command of a rank: {json.dumps(job.argv, ensure_ascii=True)}")
            print(backend.render(job, folder), end="")
        return 0
    for job, folder, config in prepared:
        create(job, folder, None if config is None else dump_yaml(config))
        if not arguments.parsable:
            print(f"{describe(job)}\nfolder: {folder.path}", flush=True)
        status = start(folder, arguments, after)
        if status is None:
            after = [number_of(folder)]
        elif arguments.preflight_only and arguments.parsable:
            print(json.dumps(_checks(folder)))
        if status:
            return status
    return 0


def start(folder: JobFolder, arguments: argparse.Namespace, after: list[str]) -> int | None:
    """Submit a prepared folder; the exit status of a job that ran to its end here, else None."""
    job = folder.job
    backend = backend_of(job.backend, hostfile=getattr(arguments, "hostfile", None), detach=getattr(arguments, "detach", False))
    folder.event("submit")
    if isinstance(backend, Driven) and not backend.detach:
        record(folder, number=str(os.getpid()))
        return backend.stay(folder)
    number = backend.submit(folder, after=after)
    record(folder, number=number)
    if getattr(arguments, "parsable", False):
        print(number)
    else:
        print(f"{job.backend} job {number}; see it with: rwtrain launch status {number}", flush=True)
    return None


def create(job: Job, folder: JobFolder, config: str | None) -> None:
    """Write a job's folder: description, code, environment, configuration; nothing is left of it if that fails."""
    folder.create(job)
    try:
        root = Path(job.folder)
        write_snapshot(folder, python=job.python, further=[str(root / path) for path in job.spec.code], code=job.spec.snapshot)
        if config is not None:
            write_text(folder.path / CONFIG, config)
    except BaseException:
        shutil.rmtree(folder.path, ignore_errors=True)
        raise


def describe(job: Job) -> str:
    """A job in a line."""
    spec = job.spec
    size = f"{spec.array} tasks" if spec.array else f"{spec.nodes} nodes × {spec.ranks_per_node} processes"
    what = "preflight of " if job.preflight_only else ""
    return f"{what}{' '.join(spec.name.split())}: {size} on {job.backend}{', Ray' if spec.ray else ''}"


def _spec(config: str, arguments: argparse.Namespace) -> JobSpec:
    settings = list(arguments.job_settings)
    short = {"nodes": arguments.nodes, "gpus_per_node": arguments.gpus, "time_limit": arguments.time, "name": arguments.name}
    settings += [f"{key}={json.dumps(value)}" for key, value in short.items() if value is not None]
    if arguments.preflight_only:
        settings.append("preflight.level=full")
    train = arguments.train_settings if _is_training(config) else []
    return load_spec(config, job_settings=settings, train_settings=train)


def _is_training(config: str) -> bool:
    return "command" not in read_yaml(Path(config))


def _checks(folder: JobFolder) -> list[dict[str, object]]:
    attempts = folder.attempts()
    rows = read_json(attempts[-1] / "preflight.json") if attempts else None
    return Report.from_json(rows).to_json() if isinstance(rows, list) else []


def show_status(arguments: argparse.Namespace) -> int:
    """One job, or the list."""
    if arguments.job is not None:
        folder = find_job(arguments.job)
        print(describe_job(folder, backend_of(folder.job.backend).state(folder), as_json=arguments.json))
        return 0
    jobs = submitted(20)
    if arguments.json:
        print(json.dumps(jobs))
        return 0
    for line in jobs:
        folder = JobFolder(Path(line["folder"]))
        state = backend_of(line["backend"]).state(folder) if (folder.path / "job.json").is_file() else "REMOVED"
        print(f"{line['number']:>8}  {line['backend']:<6} {state:<10} {' '.join(line['name'].split()):<24} {line['folder']}")
    if not jobs:
        print("Nothing was submitted from here yet.")
    return 0


def cancel_job(arguments: argparse.Namespace) -> int:
    """Ask a job to end."""
    folder = find_job(arguments.job)
    backend_of(folder.job.backend).cancel(folder)
    folder.event("cancel")
    print(f"{folder.job.id}: asked to save and end")
    return 0


def resubmit(arguments: argparse.Namespace) -> int:
    """Submit a job's folder once more."""
    folder = find_job(arguments.job)
    state = backend_of(folder.job.backend).state(folder)
    if state in ("RUNNING", "PENDING", "COMPLETING", "SUSPENDED"):
        raise ConfigError(f"{folder.job.id} is {state.lower()}: cancel it first with `rwtrain launch cancel {number_of(folder)}`.")
    (folder.path / CANCELLED).unlink(missing_ok=True)
    ledger = Ledger.load(folder)
    ledger.restarts, ledger.stuck, ledger.excluded, ledger.final = 0, 0, [], ""
    ledger.save(folder)
    return start(folder, arguments, []) or 0
