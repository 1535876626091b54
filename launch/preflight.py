"""Is every node fit for the job? Each node looks at itself (`probe`), node 0 compares (`judge`)."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import xxhash

from launch.job import Job
from launch.spec import PreflightConfig

PACKAGES = ("torch", "deepspeed", "transformers", "numpy", "pyarrow")
MUST_AGREE = ("python", "torch", "deepspeed", "transformers", "nccl")
QUICK_WRITE_BYTES, FULL_WRITE_BYTES = 8 << 20, 64 << 20
LISTED_FILES = 10_000  # of a data folder
HEAD_BYTES = 1 << 16
SMALL_SHM_GB = 1.0
TOOL_TIMEOUT_S = 20.0
BUILD_TIMEOUT_S = 280.0
GPU_QUERY = "name,driver_version,memory.total,ecc.errors.uncorrected.volatile.total"
MANIFEST = "manifest.json"

Facts = dict[str, Any]
Verdict = Literal["ok", "warn", "FAIL"]
ORDER: tuple[Verdict, ...] = ("ok", "warn", "FAIL")


@dataclass(frozen=True)
class Row:
    """One check: verdict, what was found, and the hosts to blame."""

    check: str
    verdict: Verdict
    detail: str
    hosts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """The checks of all nodes."""

    rows: list[Row]

    @property
    def verdict(self) -> Verdict:
        return max((row.verdict for row in self.rows), key=ORDER.index, default="ok")

    @property
    def failed(self) -> bool:
        return self.verdict == "FAIL"

    @property
    def hosts(self) -> list[str]:
        """Hosts to blame for failures."""
        return sorted({host for row in self.rows if row.verdict == "FAIL" for host in row.hosts})

    def failures(self) -> str:
        """The failed checks in a phrase."""
        return "; ".join(f"{row.check}: {row.detail}" for row in self.rows if row.verdict == "FAIL")

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(row) for row in self.rows]

    @staticmethod
    def from_json(rows: Sequence[Mapping[str, Any]]) -> Report:
        return Report([Row(**row) for row in rows])

    def table(self) -> str:
        """The rows, aligned, for people."""
        width = max(len(row.check) for row in self.rows)
        lines = [f"  {'preflight':<{width}}  verdict  found"]
        for row in self.rows:
            blame = f"  [{_some(row.hosts)}]" if row.hosts else ""
            lines.append(f"  {row.check:<{width}}  {row.verdict:<7}  {row.detail}{blame}")
        return "\n".join(lines)


def probe(job: Job, *, scratch: Path) -> Facts:
    """What a node finds out about itself; problems are values, not exceptions.

    Args:
        scratch: folder on the disk of the results for the write test.
    """
    spec = job.spec
    facts: Facts = {"versions": _versions()}
    if spec.preflight.level == "off":
        return facts
    facts["gpus"] = _gpus() if spec.gpus_per_node else []
    facts["disk"] = _disk(scratch, FULL_WRITE_BYTES if spec.preflight.level == "full" else QUICK_WRITE_BYTES)
    facts["data"] = {path: fingerprint(Path(path)) for path in job.data}
    facts["shm_gb"] = shutil.disk_usage("/dev/shm").total / 1e9 if os.path.isdir("/dev/shm") else 0.0
    facts["ops"] = {name: _build(name) for name in spec.preflight.build_ops}
    return facts


def fingerprint(path: Path) -> str:
    """A hash that two nodes share if they see the same data, after reading some of it; or "error: …".

    A folder stands for its file names and sizes, its manifest's bytes and the first bytes of its first and last file; a file for its size and first bytes.
    """
    digest = xxhash.xxh3_128()
    try:
        if not path.is_dir():
            digest.update(f"{path.stat().st_size}".encode() + _head(path))
            return digest.hexdigest()
        entries = sorted((entry.name, entry.stat().st_size) for entry in os.scandir(path) if entry.is_file())
        digest.update(repr(entries[:LISTED_FILES]).encode())
        if (path / MANIFEST).is_file():
            digest.update((path / MANIFEST).read_bytes())
        for name, _ in entries[:1] + entries[-1:]:
            digest.update(_head(path / name))
    except OSError as error:
        return f"error: {error.strerror or error}"
    return digest.hexdigest()


def _head(path: Path) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(HEAD_BYTES)


def _versions() -> dict[str, str]:
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "missing"
    for name in ("nvidia-nccl-cu13", "nvidia-nccl-cu12"):
        try:
            versions["nccl"] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _gpus() -> list[dict[str, str]] | str:
    """One entry per GPU, or why they cannot be asked."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={GPU_QUERY}", "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=TOOL_TIMEOUT_S
        )
    except FileNotFoundError:
        return "nvidia-smi is not installed"
    except subprocess.TimeoutExpired:
        return f"nvidia-smi gave no answer in {TOOL_TIMEOUT_S:.0f} s"
    if done.returncode != 0:
        return f"nvidia-smi: {' '.join((done.stdout + done.stderr).split())[:200]}"
    return [dict(zip(GPU_QUERY.split(","), (cell.strip() for cell in line.split(",")), strict=False)) for line in done.stdout.splitlines() if line.strip()]


def _disk(folder: Path, size: int) -> dict[str, Any]:
    path = folder / f".write-test-{os.uname().nodename}-{os.getpid()}"
    block = os.urandom(1 << 20)
    try:
        began = time.perf_counter()
        with open(path, "wb", buffering=0) as stream:
            for _ in range(size >> 20):
                stream.write(block)
            os.fsync(stream.fileno())
        seconds = time.perf_counter() - began
        usage = shutil.disk_usage(folder)
    except OSError as error:
        return {"error": error.strerror or str(error)}
    finally:
        path.unlink(missing_ok=True)
    return {"free_gb": usage.free / 1e9, "write_mb_s": size / 1e6 / seconds}


def _build(name: str) -> str:
    """Build one DeepSpeed operator; "built" or the last words of its failure."""
    code = f"from deepspeed.ops.op_builder.all_ops import ALL_OPS\nALL_OPS[{name!r}].load()"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=BUILD_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"not built within {BUILD_TIMEOUT_S:.0f} s; a stale lock file in the folder of torch's extensions would explain it"
    return "built" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["failed"])[-1][:300]


def judge(job: Job, facts: Mapping[int, Facts], skew: Mapping[int, float]) -> Report:
    """Verdicts over all nodes.

    Args:
        facts: what each node found.
        skew: seconds by which each node's clock is ahead of node 0's.
    """
    limits, everyone = job.spec.preflight, [facts[node] for node in sorted(facts)]
    rows = [Row("nodes", "ok", f"{len(everyone)} of {job.spec.nodes} reached node 0; a port for the ranks is free")]
    if job.spec.gpus_per_node:
        rows.append(_judge_gpus(job.spec.gpus_per_node, everyone))
        rows.append(_judge_drivers(everyone))
    rows += [
        _judge_versions(everyone),
        _judge_clocks(limits, {facts[node]["host"]: value for node, value in skew.items()}),
        _judge_space(limits, everyone),
        _judge_speed(limits, everyone),
        *(_judge_data(path, everyone) for path in job.data),
    ]
    if job.spec.gpus_per_node and (small := [fact["host"] for fact in everyone if fact["shm_gb"] < SMALL_SHM_GB]):
        rows.append(Row("shared memory", "warn", f"/dev/shm is smaller than {SMALL_SHM_GB:.0f} GB: NCCL and loaders may fail", small))
    for name in limits.build_ops:
        bad = {fact["host"]: fact["ops"][name] for fact in everyone if fact["ops"][name] != "built"}
        rows.append(Row(f"DeepSpeed {name}", "FAIL" if bad else "ok", _first(bad) or "built", list(bad)))
    return Report(rows)


def _judge_gpus(wanted: int, everyone: Sequence[Facts]) -> Row:
    bad: dict[str, str] = {}
    for fact in everyone:
        gpus = fact["gpus"]
        if isinstance(gpus, str):
            bad[fact["host"]] = gpus
        elif len(gpus) < wanted:
            bad[fact["host"]] = f"{len(gpus)} of {wanted} GPUs"
        elif sick := [
            number for number, gpu in enumerate(gpus) if gpu["ecc.errors.uncorrected.volatile.total"] not in ("0", "[N/A]", "N/A", "[Not Supported]")
        ]:
            bad[fact["host"]] = f"GPU {sick[0]} has uncorrected memory errors"
        elif len({gpu["name"] for gpu in gpus}) > 1:
            bad[fact["host"]] = "GPUs of different kinds"
    if bad:
        return Row("GPUs", "FAIL", _first(bad), list(bad))
    return Row("GPUs", "ok", f"{wanted} × {everyone[0]['gpus'][0]['name']} on each node, no uncorrected memory errors")


def _judge_drivers(everyone: Sequence[Facts]) -> Row:
    found = {fact["host"]: fact["gpus"][0]["driver_version"] for fact in everyone if isinstance(fact["gpus"], list) and fact["gpus"]}
    odd, common = _odd(found)
    return Row("GPU driver", "warn" if odd else "ok", f"{common}; others: {_first(odd)}" if odd else common or "unknown", list(odd))


def _judge_versions(everyone: Sequence[Facts]) -> Row:
    odd_hosts: dict[str, str] = {}
    for name in MUST_AGREE:
        odd, common = _odd({fact["host"]: fact["versions"].get(name, "none") for fact in everyone})
        odd_hosts |= {host: f"{name} {value}, others {common}" for host, value in odd.items()}
    versions = everyone[0]["versions"]
    shown = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "deepspeed", "nccl") if name in versions)
    return Row("versions", "FAIL" if odd_hosts else "ok", _first(odd_hosts) or shown, list(odd_hosts))


def _judge_clocks(limits: PreflightConfig, skew: Mapping[str, float]) -> Row:
    middle = statistics.median(skew.values())
    far = {host: f"{value - middle:+.1f} s" for host, value in skew.items() if abs(value - middle) > limits.max_clock_skew_s}
    spread = max(skew.values()) - min(skew.values())
    if far or spread > limits.max_clock_skew_s:
        return Row("clocks", "warn", f"{spread:.1f} s apart, {limits.max_clock_skew_s:g} s allowed; times in logs do not compare", list(far))
    return Row("clocks", "ok", f"within {spread * 1000:.0f} ms")


def _judge_space(limits: PreflightConfig, everyone: Sequence[Facts]) -> Row:
    bad = {fact["host"]: f"not writable: {fact['disk']['error']}" for fact in everyone if "error" in fact["disk"]}
    small = {
        fact["host"]: f"{fact['disk']['free_gb']:.1f} GB free, {limits.min_free_gb:g} GB wanted"
        for fact in everyone
        if "error" not in fact["disk"] and fact["disk"]["free_gb"] < limits.min_free_gb
    }
    if bad | small:
        return Row("output folder", "FAIL", _first(bad | small), list(bad | small))
    return Row("output folder", "ok", f"{min(fact['disk']['free_gb'] for fact in everyone):,.0f} GB free")


def _judge_speed(limits: PreflightConfig, everyone: Sequence[Facts]) -> Row:
    speeds = {fact["host"]: fact["disk"]["write_mb_s"] for fact in everyone if "error" not in fact["disk"]}
    if not speeds:
        return Row("write speed", "FAIL", "nothing could be written", [])
    slow = {host: f"{speed:.1f} MB/s, {limits.min_write_mb_s:g} wanted" for host, speed in speeds.items() if speed < limits.min_write_mb_s}
    verdict: Verdict = "FAIL" if any(speed < limits.min_write_mb_s / 10 for speed in speeds.values()) else "warn" if slow else "ok"
    return Row("write speed", verdict, _first(slow) or f"{min(speeds.values()):,.0f} MB/s or more", list(slow))


def _judge_data(path: str, everyone: Sequence[Facts]) -> Row:
    hashes = {fact["host"]: fact["data"][path] for fact in everyone}
    bad = {host: value.removeprefix("error: ") for host, value in hashes.items() if value.startswith("error: ")}
    label = f"data {'…' + path[-40:] if len(path) > 41 else path}"
    if bad:
        return Row(label, "FAIL", _first(bad), list(bad))
    odd, common = _odd(hashes)
    return Row(label, "FAIL" if odd else "ok", "differs from what most nodes see" if odd else f"readable, hash {common[:8]}", list(odd))


def judge_bandwidth(limits: PreflightConfig, pairs: Sequence[Mapping[str, Any]], facts: Mapping[int, Facts]) -> Report:
    """Verdict over the bandwidth of all pairs.

    Args:
        pairs: {"a", "b": node numbers, "gb_s": measured}.
    """
    speeds = [pair["gb_s"] for pair in pairs]
    expected = limits.expected_gb_s or statistics.median(speeds)
    slow = [pair for pair in pairs if pair["gb_s"] < limits.slow_share * expected]
    counts = Counter(node for pair in slow for node in (pair["a"], pair["b"]))
    often = max(counts.values(), default=0)
    hosts = [facts[node]["host"] for node, count in sorted(counts.items()) if count == often]
    shown = f"{min(speeds):.2f} to {max(speeds):.2f} GB/s between {len(pairs)} pairs, {expected:.2f} expected"
    return Report([Row("bandwidth", "FAIL" if slow else "ok", f"{shown}; {len(slow)} pairs too slow" if slow else shown, hosts)])


def _odd(values: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """(those that differ from the most common value, that value)."""
    if not values:
        return {}, ""
    common = Counter(values.values()).most_common(1)[0][0]
    return {host: value for host, value in values.items() if value != common}, common


def _first(found: Mapping[str, str]) -> str:
    if not found:
        return ""
    value = next(iter(found.values()))
    return value + (f" (and {len(found) - 1} more nodes)" if len(found) > 1 else "")


def _some(hosts: Sequence[str], longest: int = 6) -> str:
    return ", ".join(hosts[:longest]) + (f", {len(hosts) - longest} more" if len(hosts) > longest else "")
