"""Hosts for tests: network namespaces with addresses of their own, an sshd in each, and one more from which the launcher reaches them."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

NETWORK = "10.77.0"
SSHD = """Port 22
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PermitRootLogin yes
PidFile none
"""


@dataclass(frozen=True)
class Hosts:
    """The hosts while they are up.

    Attributes:
        names: of the hosts, which their sshd answers to.
        config: ssh_config that knows them.
        known: file of their host keys.
        prefix: command that runs another one where the hosts can be reached.
    """

    names: list[str]
    config: Path
    known: Path
    prefix: list[str]

    def link(self, host: str, state: str) -> None:
        """Pull a host's cable (`down`) or put it back (`up`)."""
        subprocess.run(["ip", "-n", host, "link", "set", "eth0", state], check=True)

    def commands(self, host: str) -> list[str]:
        """Command lines of what runs on a host, without its sshd."""
        pids = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=True).stdout.split()
        lines = []
        for pid in pids:
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if line and "sshd" not in line:
                lines.append(line)
        return lines


@contextmanager
def ssh_hosts(folder: Path, *, count: int) -> Iterator[Hosts]:
    """Bring up `count` hosts."""
    if os.getuid() != 0:
        pytest.skip("network namespaces need root")
    if missing := [name for name in ("ip", "ssh", "ssh-keygen") if shutil.which(name) is None] + ([] if Path("/usr/sbin/sshd").exists() else ["sshd"]):
        pytest.skip(f"not installed: {', '.join(missing)}")
    hub, names = f"rw{os.getpid()}hub", [f"rw{os.getpid()}n{number}" for number in range(count)]
    if subprocess.run(["ip", "netns", "add", hub], capture_output=True).returncode != 0:
        pytest.skip("network namespaces cannot be made here")
    folder.mkdir(parents=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    addresses = {name: f"{NETWORK}.{10 + number}" for number, name in enumerate(names)}
    with ExitStack() as stack:
        stack.callback(_remove, hub)
        for key in ("id", "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
        shutil.copy(folder / "id.pub", folder / "authorized_keys")
        _ip("-n", hub, "link", "add", "br0", "type", "bridge")
        _ip("-n", hub, "addr", "add", f"{NETWORK}.1/24", "dev", "br0")
        for device in ("br0", "lo"):
            _ip("-n", hub, "link", "set", device, "up")
        table = "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in addresses.items())
        for number, name in enumerate(names):
            _ip("netns", "add", name)
            stack.callback(_remove, name)
            _ip("-n", hub, "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", hub, "link", "set", f"v{number}", "master", "br0", "up")
            _ip("-n", name, "addr", "add", f"{addresses[name]}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", name, "link", "set", device, "up")
            Path("/etc/netns", name).mkdir(parents=True)
            Path("/etc/netns", name, "hosts").write_text(table)
            config = folder / f"sshd-{name}"
            config.write_text(SSHD.format(address=addresses[name], folder=folder))
            command = [
                "ip",
                "netns",
                "exec",
                name,
                "unshare",
                "--uts",
                "sh",
                "-c",
                'hostname "$1"; exec /usr/sbin/sshd -D -f "$2" -E "$2.log"',
                "sh",
                name,
                str(config),
            ]
            daemon = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(daemon.wait)
            stack.callback(daemon.kill)
        key = " ".join((folder / "host_key.pub").read_text().split()[:2])
        (folder / "known_hosts").write_text("".join(f"{address} {key}\n" for address in addresses.values()))
        lines = [f"Host {name}\n  HostName {address}\n" for name, address in addresses.items()]
        lines += [
            f"Host *\n  User root\n  IdentityFile {folder}/id\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known_hosts\n  StrictHostKeyChecking yes\n"
        ]
        (folder / "ssh_config").write_text("".join(lines))
        hosts = Hosts(names, folder / "ssh_config", folder / "known_hosts", ["ip", "netns", "exec", hub])
        for name in names:
            _wait_for_ssh(hosts, name)
        yield hosts


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _wait_for_ssh(hosts: Hosts, name: str) -> None:
    deadline = time.monotonic() + 20
    while subprocess.run([*hosts.prefix, "ssh", "-F", str(hosts.config), "-oBatchMode=yes", name, "true"], capture_output=True).returncode != 0:
        assert time.monotonic() < deadline, f"sshd of {name} does not answer"
        time.sleep(0.1)


def _remove(name: str) -> None:
    pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split()
    for pid in pids:
        try:
            os.kill(int(pid), 9)
        except ProcessLookupError:
            continue
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    shutil.rmtree(f"/etc/netns/{name}", ignore_errors=True)
