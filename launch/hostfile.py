"""DeepSpeed's hostfile: HOST slots=GPUS, one a line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from rwtrain.errors import ConfigError, DataError

LINE = re.compile(r"(?P<host>\S+)(?:\s+slots\s*=\s*(?P<slots>\d+))?")
HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.:%-]*[A-Za-z0-9_])?")  # a name or an address; never begins with a hyphen, which ssh would read as an option


@dataclass(frozen=True)
class Host:
    """A machine and the number of its GPUs, None if the file does not say."""

    name: str
    slots: int | None


def read_hostfile(path: str | Path) -> list[Host]:
    """Hosts in the order of the file; empty lines and what follows # is ignored.

    Raises:
        ConfigError: the file cannot be read or names no host.
        DataError: a line is malformed, or a host stands there twice.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the hostfile cannot be read ({error}). Correct --hostfile or the site's ssh.hostfile.") from error
    hosts: list[Host] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        match = LINE.fullmatch(line)
        if match is None or not HOST.fullmatch(match["host"]):
            raise DataError(path, "is not of the form HOST slots=GPUS", "Correct the line", record=f"line {number}")
        if any(host.name == match["host"] for host in hosts):
            raise DataError(path, f"{match['host']} stands there twice", "Keep one line for each host", record=f"line {number}")
        hosts.append(Host(match["host"], int(match["slots"]) if match["slots"] else None))
    if not hosts:
        raise ConfigError(f"{path}: names no host. Write one `HOST slots=GPUS` a line.")
    return hosts


def choose_hosts(hosts: list[Host], *, nodes: int, gpus: int, excluded: list[str]) -> list[Host]:
    """The hosts of an attempt: those with enough GPUs, in the order of the file; excluded ones only if there are not enough others.

    Raises:
        ConfigError: there are too few.
    """
    fit = [host for host in hosts if host.slots is None or host.slots >= gpus]
    if len(fit) < nodes:
        raise ConfigError(
            f"The hostfile has {len(fit)} hosts with {gpus} slots or more, and the job needs {nodes}. Add hosts, or lower nodes or gpus_per_node."
        )
    ordered = [host for host in fit if host.name not in excluded] + [host for host in fit if host.name in excluded]
    chosen = ordered[:nodes]
    return [host for host in fit if host in chosen]
