"""The wall around ssh: the command that starts something on a host. Nothing else here knows ssh's options."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence

from launch.site import SshSite
from rwtrain.errors import RWTrainError

MISSED_SIGNS = 3
UNREACHABLE = 255  # ssh's own exit status when the connection failed


def ssh_command(site: SshSite, host: str, command: Sequence[str]) -> list[str]:
    """ssh that runs `command` on `host`: no password prompts, host keys as the user's configuration wants them, lost connections noticed.

    The remote shell sees one quoted line. Nothing secret may be in `command`: it shows in both machines' process lists.
    """
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": str(site.connect_timeout_s),
        "ServerAliveInterval": str(site.alive_interval_s),
        "ServerAliveCountMax": str(MISSED_SIGNS),
        "EscapeChar": "none",
        "RequestTTY": "no",
        "ClearAllForwardings": "yes",
    }
    line = ["ssh", *(["-F", site.config] if site.config else []), *(["-l", site.user] if site.user else [])]
    line += [f"-o{name}={value}" for name, value in options.items()] + [f"-o{option}" for option in site.options]
    return [*line, "--", host, f"exec {shlex.join(command)}"]


def address_of(site: SshSite, host: str) -> str:
    """The name or address under which ssh reaches a host, which the other hosts use, too (`ssh -G` resolves aliases).

    Raises:
        RWTrainError: ssh is not installed or refuses its configuration.
    """
    line = ["ssh", *(["-F", site.config] if site.config else []), "-G", "--", host]
    try:
        done = subprocess.run(line, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise RWTrainError("ssh is not installed on this machine. Install OpenSSH's client.") from error
    if done.returncode != 0:
        raise RWTrainError(f"ssh refuses its configuration: {' '.join(done.stderr.split())} Correct it or the site's ssh settings.")
    settings = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    return settings.get("hostname", host)
