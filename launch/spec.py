"""JobSpec: what a job is, whatever starts it."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from rwtrain.config.load import Node

SECRET = re.compile(r"(env:[A-Za-z_][A-Za-z0-9_]*|file:[^\0]+|kubernetes:[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9._-]+)")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
DURATION = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d+):(?P<minutes>\d{2}):(?P<seconds>\d{2})")
RESERVED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def seconds_of(value: object) -> object:
    """Seconds of "HH:MM:SS" or "D-HH:MM:SS"; other values as they are. (YAML itself reads 24:00:00 without quotes as a number of seconds.)"""
    if not isinstance(value, str):
        return value
    match = DURATION.fullmatch(value.strip())
    if match is None:
        raise ValueError('write it as "HH:MM:SS", "D-HH:MM:SS" or a number of seconds')
    parts = {name: int(text or 0) for name, text in match.groupdict().items()}
    return ((parts["days"] * 24 + parts["hours"]) * 60 + parts["minutes"]) * 60 + parts["seconds"]


def check_variables(names: dict[str, str]) -> None:
    """Raise `ValueError` unless all names can be environment variables and are free to be set."""
    for name in names:
        if not VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of an environment variable: use letters, digits and _")
        if name in RESERVED:
            raise ValueError(f"{name} is set by the launcher for each process: remove it")


Duration = Annotated[PositiveInt, BeforeValidator(seconds_of)]
Level = Literal["off", "quick", "full"]


class PreflightConfig(Node):
    """What is checked before the first step, and what is good enough."""

    level: Level = "quick"
    """quick: each node alone, a second or two; full: also the bandwidth between every pair of nodes, and a longer write test; off: nothing."""
    min_free_gb: NonNegativeFloat = 10.0
    """Free space of the output folder's disk, in GB."""
    min_write_mb_s: NonNegativeFloat = 20.0
    """Write speed of the output folder in MB/s; less is a warning, less than a tenth a failure."""
    max_clock_skew_s: PositiveFloat = 2.0
    """Largest difference between the clocks of two nodes, in seconds; more is a warning, since only logs depend on clocks."""
    expected_gb_s: NonNegativeFloat = 0.0
    """All-reduce bandwidth that a pair of nodes should reach, in GB/s; 0 compares with the median of all pairs."""
    slow_share: float = Field(0.5, gt=0, le=1)
    """A pair below this share of what is expected is a failure."""
    bandwidth_mb: PositiveFloat = 16.0
    """Message of the bandwidth test, in MB."""
    build_ops: list[str] = []
    """DeepSpeed operators, such as cpu_adam, that one process a node builds before the ranks start, so that they do not race to build them."""


class SupervisionConfig(Node):
    """What happens when a job ends before its work is done."""

    max_restarts: NonNegativeInt = 10
    """Restarts after failures; an agreed stop that is continued does not count. Progress since the last restart gives the budget back."""
    backoff_s: NonNegativeFloat = 5.0
    """Seconds before the first restart; doubled each time without progress."""
    max_backoff_s: NonNegativeFloat = 300.0
    """Longest wait between restarts."""
    crash_loop: PositiveInt = 3
    """Failures in a row without progress (no newer checkpoint) that end the job."""
    lost_after_s: PositiveFloat = 10.0
    """Seconds of silence after which a node counts as lost."""
    kill_after_s: PositiveFloat = 10.0
    """Seconds between asking the processes of a failed job to end and killing them."""
    stop_s: PositiveFloat = 600.0
    """Longest time an agreed stop may take, a checkpoint included; then the processes are killed."""
    start_s: PositiveFloat = 180.0
    """Longest time until all nodes have reported."""
    notify: list[str] = []
    """Program and arguments called at the end, at restarts and at failures, with one JSON object on standard input."""


class RequeueConfig(Node):
    """Whether the job goes back into the queue (Slurm), or is started again (elsewhere)."""

    on_stop: bool = True
    """After a preemption, or when the time limit is near: save, requeue, continue."""
    on_failure: bool = True
    """After the loss of a node or a crash, within the restart budget."""
    signal_before_s: PositiveInt = 120
    """Seconds before the time limit at which all processes are asked to save and stop."""


class JobSpec(Node):
    """One job. Paths are those of a file system that all nodes share, relative to `folder`."""

    name: str = Field("rwtrain", min_length=1)
    """For people and queues."""
    train: str | None = None
    """Training configuration; the command is then `rwtrain train`."""
    overrides: list[str] = []
    """KEY=VALUE settings for the training configuration, as with `rwtrain train --set`."""
    command: list[str] = []
    """Program and arguments, started as they are, without a shell; `rwtrain` as program means the snapshot's."""
    nodes: PositiveInt = 1
    """Machines."""
    gpus_per_node: NonNegativeInt = 0
    """GPUs of each; 0 for a job without GPUs."""
    processes_per_node: PositiveInt | None = None
    """Ranks of each node; None for one per GPU, or 1 without GPUs."""
    cpus_per_process: PositiveInt = 1
    """Processor cores of a rank."""
    memory_gb: PositiveFloat | None = None
    """Memory of a node in GB; None leaves it to the site."""
    time_limit: Duration | None = None
    """Longest duration of an attempt on Slurm and Kubernetes, "HH:MM:SS", "D-HH:MM:SS" or seconds; None for the site's limit."""
    folder: str = "."
    """Working folder of all processes."""
    output: str | None = None
    """Folder of the results; the launcher keeps its own files in `launch/` in it. None for the training configuration's `run`, else runs/NAME."""
    data: list[str] = []
    """Files and folders that every node must be able to read; a training configuration adds its own."""
    python: str | None = None
    """Python of the environment on the nodes; None for the site's, else the one that submits."""
    image: str | None = None
    """Container image; needed on Kubernetes."""
    snapshot: bool = True
    """Run from a copy of the code made at submission; False for the code that the environment or image holds."""
    code: list[str] = []
    """Further folders to copy beside it, importable in the job."""
    environment: dict[str, str] = {}
    """Environment variables."""
    secrets: dict[str, str] = {}
    """Environment variables by reference: env:NAME of the submitting shell, file:PATH read on the nodes, kubernetes:SECRET/KEY. Values are not written down."""
    array: PositiveInt | None = None
    """Run the command so many times as independent tasks, numbered from 0 in RWTRAIN_TASK."""
    ray: bool = False
    """Start a Ray cluster over the nodes, and the command once, with RAY_ADDRESS set."""
    requeue: RequeueConfig = RequeueConfig()
    """Requeueing."""
    preflight: PreflightConfig = PreflightConfig()
    """Checks before the first step."""
    supervision: SupervisionConfig = SupervisionConfig()
    """Restarts and notification."""

    @field_validator("name", "train", "folder", "output", "python", "image")
    @classmethod
    def _no_zero_byte(cls, value: str | None) -> str | None:
        if value is not None and "\0" in value:
            raise ValueError("holds a zero byte: remove it")
        return value

    @field_validator("command", "data", "code", "overrides")
    @classmethod
    def _no_zero_bytes(cls, values: list[str]) -> list[str]:
        if any("\0" in value for value in values):
            raise ValueError("holds a zero byte: remove it")
        return values

    @field_validator("environment")
    @classmethod
    def _variables(cls, values: dict[str, str]) -> dict[str, str]:
        check_variables(values)
        if any("\0" in value for value in values.values()):
            raise ValueError("holds a zero byte: remove it")
        return values

    @field_validator("secrets")
    @classmethod
    def _references(cls, values: dict[str, str]) -> dict[str, str]:
        check_variables(values)
        for name, reference in values.items():
            if not SECRET.fullmatch(reference):  # the reference may be the secret itself by mistake: it is not repeated
                raise ValueError(f"{name}: write a reference, env:NAME, file:PATH or kubernetes:SECRET/KEY, not the secret itself")
        return values

    @model_validator(mode="after")
    def _check(self) -> JobSpec:
        if (self.train is None) == (not self.command):
            raise ValueError("give either `train`, a training configuration, or `command`, a program with its arguments")
        if self.overrides and self.train is None:
            raise ValueError("overrides need `train`: put settings of another program into its command")
        if twice := sorted(set(self.environment) & set(self.secrets)):
            raise ValueError(f"{', '.join(twice)} are both in environment and in secrets: keep one")
        if self.array and (self.nodes > 1 or self.ray or self.train):
            raise ValueError("tasks of an array are independent: they need `command`, nodes: 1 and ray: false")
        if self.ray and self.train:
            raise ValueError("ray is for data preparation: it needs `command`")
        return self

    @property
    def ranks_per_node(self) -> int:
        """Processes of one node."""
        return 1 if self.ray else self.processes_per_node or max(1, self.gpus_per_node)

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.nodes * self.ranks_per_node

    @property
    def distributed(self) -> bool:
        """Whether the processes form one group, with torchrun's variables."""
        return self.train is not None or (self.world_size > 1 and not self.ray)
