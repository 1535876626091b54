"""The site profile: what an administrator knows about a cluster, in one YAML file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from launch.spec import check_variables
from rwtrain.config.load import Node, load_config
from rwtrain.errors import ConfigError

WORD = re.compile(r"[A-Za-z0-9_.,:+=&|*\[\]()@/%-]+")
VARIABLE, DEFAULT = "RWTRAIN_SITE", "~/.config/rwtrain/site.yaml"


def _word(value: str) -> str:
    if not WORD.fullmatch(value):
        raise ValueError(f"{value!r} holds characters that Slurm's options cannot carry safely: use letters, digits and _.,:+=&|*[]()@/%-")
    return value


def _no_zero_byte(value: str) -> str:
    if "\0" in value:
        raise ValueError("holds a zero byte: remove it")
    return value


Word = Annotated[str, AfterValidator(_word)]
Text = Annotated[str, AfterValidator(_no_zero_byte)]


class Mount(Node):
    """A folder of the host (or a claim or bucket on Kubernetes) that containers see."""

    source: Text
    """Path on the host; on Kubernetes pvc:CLAIM, host:PATH, nfs:SERVER:/PATH, or csi:DRIVER:ATTRIBUTES as key=value,key=value for object stores."""
    target: Text
    """Path in the container."""
    read_only: bool = False
    """Whether the container may not write to it."""


class SlurmSite(Node):
    """Slurm."""

    partition: Word | None = None
    """Partition; None for the cluster's default."""
    account: Word | None = None
    """Account that pays."""
    qos: Word | None = None
    """Quality of service."""
    reservation: Word | None = None
    """Reservation."""
    constraint: Word | None = None
    """Features that nodes must have."""
    exclude: list[Word] = []
    """Nodes never to be used."""
    gres: Word = "gpu"
    """Generic resource of the GPUs, for example gpu or gpu:h100; the number is added."""
    exclusive: bool = False
    """Take whole nodes."""
    memory: bool = True
    """Pass a job's memory_gb on; False where the site does not schedule memory."""
    container: Literal["pyxis", "apptainer"] = "pyxis"
    """How images are run: srun's --container-image (pyxis and enroot), or apptainer exec."""
    options: list[Word] = []
    """Further arguments of sbatch, for example --comment=rwtrain."""
    srun_options: list[Word] = []
    """Further arguments of srun, for example --mpi=none."""


class SshSite(Node):
    """ssh hosts."""

    hostfile: Text | None = None
    """DeepSpeed's format: HOST slots=GPUS, one a line. Hosts beyond a job's nodes are spares."""
    user: Text | None = None
    """Login name; None for ssh's own."""
    config: Text | None = None
    """ssh_config file; None for ssh's own."""
    options: list[Text] = []
    """Further -o settings, for example Port=2222."""
    connect_timeout_s: PositiveInt = 15
    """Seconds to reach a host."""
    alive_interval_s: PositiveInt = 5
    """Seconds between two signs of life; three missing ones end the connection."""


class KubernetesSite(Node):
    """Kubernetes."""

    namespace: Text = "default"
    """Namespace."""
    format: Literal["jobset", "trainjob", "pytorchjob"] = "jobset"
    """JobSet (jobset.x-k8s.io/v1alpha2), Kubeflow Trainer's TrainJob (trainer.kubeflow.org/v1alpha1) or the older PyTorchJob (kubeflow.org/v1)."""
    context: Text | None = None
    """Context of the kubeconfig file; None for the current one."""
    queue: Text | None = None
    """Kueue's LocalQueue."""
    service_account: Text | None = None
    """Service account of the pods."""
    image_pull_secrets: list[Text] = []
    """Names of registry secrets."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When images are pulled."""
    priority_class: Text | None = None
    """PriorityClass."""
    node_selector: dict[str, str] = {}
    """Labels that nodes must have."""
    tolerations: list[dict[str, Any]] = []
    """Taints that are tolerated, as Kubernetes writes them."""
    gpu_resource: Text = "nvidia.com/gpu"
    """Name of the GPU resource."""
    resources: dict[str, str] = {}
    """Further requests and limits of a pod, for example rdma/ib: "1" or vpc.amazonaws.com/efa: "32"."""
    shared_memory_gb: PositiveFloat = 16.0
    """Size of /dev/shm, which NCCL and the loaders use."""
    capabilities: list[Text] = []
    """Linux capabilities, for example IPC_LOCK for RDMA."""
    annotations: dict[str, str] = {}
    """Annotations of the pods, for example networks."""
    ttl_s: NonNegativeInt = 604_800
    """Seconds after its end when the job's objects are removed."""
    port: PositiveInt = 29400
    """Port on which the nodes find each other."""


class Site(Node):
    """The profile."""

    python: Text | None = None
    """Python of the environment on the nodes; None for the one that submits."""
    modules: list[Word] = []
    """Environment modules to load, in this order (Slurm)."""
    environment: dict[str, Text] = {}
    """Variables of all jobs: NCCL_*, GLOO_SOCKET_IFNAME, proxies, caches. A job's own win."""
    mounts: list[Mount] = []
    """What containers see besides their image."""
    notify: list[Text] = []
    """Program called at the end of jobs that name none of their own."""
    slurm: SlurmSite = SlurmSite()
    """Slurm."""
    ssh: SshSite = SshSite()
    """ssh hosts."""
    kubernetes: KubernetesSite = KubernetesSite()
    """Kubernetes."""

    @field_validator("environment")
    @classmethod
    def _variables(cls, values: dict[str, str]) -> dict[str, str]:
        check_variables(values)
        return values


def load_site(file: str | None, overrides: list[str]) -> Site:
    """The profile of `file`, else of $RWTRAIN_SITE, else of ~/.config/rwtrain/site.yaml if there is one, else the defaults.

    Args:
        overrides: KEY=VALUE settings that win over the file.

    Raises:
        ConfigError: the file is missing or wrong.
    """
    chosen = file or os.environ.get(VARIABLE)
    if chosen is None:
        default = Path(DEFAULT).expanduser()
        chosen = str(default) if default.is_file() else None
    elif not Path(chosen).is_file():
        raise ConfigError(f"{chosen}: no such site profile. Correct --site or {VARIABLE}; docs/launch.md has one to begin with.")
    return load_config(Site, chosen, overrides)
