"""From a description to a job that is ready to be submitted: everything is checked, nothing is written."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from launch.job import CONFIG, Job, JobFolder, new_id, slug
from launch.site import Site
from launch.spec import JobSpec
from rwtrain.config.deepspeed import resolve
from rwtrain.config.load import load_config
from rwtrain.config.schema import TrainConfig
from rwtrain.errors import ConfigError


def prepare(spec: JobSpec, site: Site, *, backend: str, preflight_only: bool = False) -> tuple[Job, JobFolder, TrainConfig | None]:
    """Resolve a description; nothing is written.

    Raises:
        ConfigError: the training configuration is wrong, its batch does not divide over the ranks, or a reference to a secret does not work there.
    """
    check_secrets(spec, backend=backend)
    root = Path(spec.folder).expanduser().absolute()
    python = spec.python or site.python or ("python3" if spec.image else sys.executable)
    config = None
    data, output = list(spec.data), spec.output
    identifier = new_id(spec.name)
    if spec.train is not None:
        config = load_config(TrainConfig, root / spec.train, spec.overrides)
        resolve(config, world_size=spec.world_size)
        data += [path for path in (config.data.tokenizer, config.data.entity_store) if path is not None]
        data += [source.path for source in (*config.data.text, *(config.data.images or ()))]
        output = output or config.run
    folder = JobFolder(root / (output or f"runs/{slug(spec.name)}") / "launch" / identifier)
    if spec.train is not None:
        argv = [python, "-m", "rwtrain.cli", "train", str(folder.path / CONFIG)]
    else:
        argv = [python, "-m", "rwtrain.cli", *spec.command[1:]] if spec.command[0] == "rwtrain" else list(spec.command)
    job = Job(
        id=identifier,
        backend=backend,
        spec=spec,
        site=site,
        argv=argv,
        folder=str(root),
        output=str(folder.path.parent.parent),
        data=[str(root / path) for path in data],
        python=python,
        preflight_only=preflight_only,
    )
    return job, folder, config


def check_secrets(spec: JobSpec, *, backend: str) -> None:
    """Refuse references that the backend cannot follow, or whose variable is not set here.

    Raises:
        ConfigError: names the secret, never its value.
    """
    for name, reference in spec.secrets.items():
        kind, _, place = reference.partition(":")
        if backend == "k8s" and kind != "kubernetes":
            raise ConfigError(
                f"secrets.{name}: pods take secrets from the cluster. Make one with `kubectl create secret generic` and write kubernetes:SECRET/KEY."
            )
        if backend != "k8s" and kind == "kubernetes":
            raise ConfigError(f"secrets.{name}: kubernetes: works on Kubernetes only. Write env:NAME or file:PATH.")
        if kind == "env" and place not in os.environ:
            raise ConfigError(f"secrets.{name}: the variable {place} is not set in this shell. Set it, or refer to a file with file:PATH.")
