"""From the files that a user names to job descriptions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from launch.spec import JobSpec
from rwtrain.config.load import load_config, read_yaml
from rwtrain.errors import ConfigError


def load_spec(file: str, *, job_settings: Iterable[str] = (), train_settings: Iterable[str] = ()) -> JobSpec:
    """The description in `file`: a job file, or a training configuration, which becomes a job of its own.

    Args:
        job_settings: KEY=VALUE for the job.
        train_settings: KEY=VALUE for the training configuration.

    Raises:
        ConfigError: it is neither, or wrong.
    """
    values = read_yaml(Path(file))
    train_settings = list(train_settings)
    if "command" in values or "train" in values:
        spec = load_config(JobSpec, file, job_settings)
        if not train_settings:
            return spec
        return load_config(JobSpec, file, [*job_settings, _list_setting("overrides", [*spec.overrides, *train_settings])])
    if "run" in values and "data" in values:
        settings: dict[str, Any] = {"name": Path(file).stem, "train": str(Path(file).absolute()), "overrides": train_settings}
        return load_config(JobSpec, None, [*(_setting(key, value) for key, value in settings.items()), *job_settings])
    hint = " It looks like a preparation plan: write a job file with `command: [rwtrain, prep, PLAN, --out, FOLDER]`." if "sources" in values else ""
    raise ConfigError(f"{file}: neither a job file (with `command` or `train`) nor a training configuration (with `run` and `data`).{hint}")


def _setting(key: str, value: Any) -> str:
    return f"{key}={yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix('...' + chr(10)).strip()}"


def _list_setting(key: str, values: list[str]) -> str:
    return _setting(key, values)
