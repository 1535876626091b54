"""Memory, time and disk of `rwtrain kg import` as a Wikidata dump grows.

Synthetic dumps (seeded; items with names in three languages, a description, an alias, five statements and a few sitelinks) are imported by the
command itself in a process of its own; every process's peak resident memory (VmHWM) and processor time are read from /proc while it runs.
With --data DIR (a folder with wikidata-json/) the parsing speed on real records is measured too.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SIZES, QUICK_SIZES = (250_000, 500_000, 1_000_000, 2_000_000), (12_500, 25_000, 50_000)
FULL_SIZE = 100_000_000
STATEMENTS = 5
TICKS = os.sysconf("SC_CLK_TCK")
STATEMENT = (
    '{"mainsnak":{"snaktype":"value","property":"P%d","datavalue":{"value":{"entity-type":"item","numeric-id":%d,"id":"Q%d"},"type":"wikibase-entityid"},'
    '"datatype":"wikibase-item"},"type":"statement","id":"Q%d$%d","rank":"normal"}'
)
ITEM = (
    '{"type":"item","id":"Q%d","labels":{"en":{"language":"en","value":"%s"},"de":{"language":"de","value":"%s (de)"},'
    '"zh":{"language":"zh","value":"条目%d"}},"descriptions":{"en":{"language":"en","value":"synthetic thing number %d of its kind"}},'
    '"aliases":{"en":[{"language":"en","value":"also %s"}]},"claims":{%s},"sitelinks":{"enwiki":{"site":"enwiki","title":"%s","badges":[]},'
    '"dewiki":{"site":"dewiki","title":"%s (de)","badges":[]}}}'
)
SYLLABLES = ("ba", "co", "du", "fe", "gi", "ha", "jo", "ku", "le", "mi", "na", "po", "qua", "ri", "so", "tu")


def write_dump(path: Path, entities: int) -> int:
    """A gzip dump of `entities` items whose statements lead to items drawn towards the popular ones; returns its size in text bytes."""
    draw = np.random.default_rng(0)
    size = 0
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(b"[\n")
        for start in range(0, entities, 10_000):
            targets = (entities * draw.random((10_000, STATEMENTS)) ** 2).astype(np.int64) + 1
            properties = draw.integers(1, 1_000, (10_000, STATEMENTS))
            lines = []
            for number in range(start + 1, min(entities, start + 10_000) + 1):
                name = "".join(SYLLABLES[number >> shift & 15] for shift in range(0, 24, 4)).capitalize() + f" {number % 97}"
                pairs = zip(properties[number - start - 1].tolist(), targets[number - start - 1].tolist(), strict=True)
                claims = ",".join(f'"P{relation}":[{STATEMENT % (relation, target, target, number, target)}]' for relation, target in dict(pairs).items())
                lines.append(ITEM % (number, name, name, number, number, name, claims, name, name))
            text = (",\n".join(lines) + ",\n").encode()
            size += len(text)
            stream.write(text)
        stream.write(b"]\n")
    return size


class Watch:
    """Peaks of a process and its descendants, read from /proc."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.peaks: dict[int, int] = {}
        self.seconds: dict[int, float] = {}

    def look(self) -> None:
        parents = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                    parents[int(name)] = int(fields[1]), (int(fields[11]) + int(fields[12])) / TICKS
                except OSError:
                    continue
        for pid in parents:
            line = [pid]
            while line[-1] in parents and line[-1] != self.pid:
                line.append(parents[line[-1]][0])
            if line[-1] != self.pid:
                continue
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            peak = next((int(row.split()[1]) * 1024 for row in status.splitlines() if row.startswith("VmHWM")), 0)
            self.peaks[pid] = max(peak, self.peaks.get(pid, 0))
            self.seconds[pid] = parents[pid][1]


def folder_bytes(folder: Path) -> int:
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder))
    except OSError:
        return 0


def measure(dump: Path, out: Path, workers: int) -> dict[str, Any]:
    """Import a dump and return its costs."""
    command = [sys.executable, "-m", "rwtrain.cli", "kg", "import", str(dump), "--out", str(out), "--languages", "en,de,zh", "--workers", str(workers)]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    watch, scratch, messages = Watch(process.pid), 0, b""
    while process.poll() is None:
        watch.look()
        scratch = max(scratch, folder_bytes(out.with_name(f".{out.name}.import")))
        messages = (messages + (process.stderr.read() or b""))[-2000:]
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"the import failed:\n{messages.decode()}")
    main = watch.peaks.pop(process.pid)
    return {
        "seconds": time.monotonic() - started,
        "cpu_seconds": sum(watch.seconds.values()),
        "main_peak_bytes": main,
        "worker_peak_bytes": max(watch.peaks.values(), default=0),
        "all_peaks_bytes": main + sum(watch.peaks.values()),
        "store_bytes": folder_bytes(out),
        "scratch_bytes": scratch,
    }


def real_parsing(data: Path) -> float:
    """Megabytes of text a CPU-second on real records."""
    import bz2

    from rwtrain.knowledge.import_wikidata import Choice, parse_dump
    from rwtrain.knowledge.parts import Part

    text = bz2.decompress(next((data / "wikidata-json").glob("*.bz2")).read_bytes())
    best = 0.0
    for _ in range(3):
        started = time.process_time()
        parse_dump(text, Part("sample"), Choice(("en", "de", "zh"), "named"))
        best = max(best, len(text) / 1e6 / (time.process_time() - started))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small dumps, under five minutes")
    parser.add_argument("--workers", type=int, default=2, help="processes that parse (default 2)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a folder with wikidata-json/*.bz2, to measure parsing on real records")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for entities in QUICK_SIZES if options.quick else SIZES:
            dump = Path(name) / "dump.json.gz"
            text_bytes = write_dump(dump, entities)
            rows.append({"entities": entities, "text_bytes": text_bytes, **measure(dump, Path(name) / "store", options.workers)})
            row = rows[-1]
            print(
                f"{entities:>10,} entities  {row['seconds']:7.1f} s ({row['cpu_seconds']:.1f} CPU-s)  peak: main {row['main_peak_bytes'] / 1e6:,.0f} MB, "
                f"worker {row['worker_peak_bytes'] / 1e6:,.0f} MB  store {row['store_bytes'] / 1e6:,.0f} MB  scratch {row['scratch_bytes'] / 1e6:,.0f} MB",
                flush=True,
            )
    first, last = rows[-2:]
    million = (last["entities"] - first["entities"]) / 1e6
    per_million = {key: (last[key] - first[key]) / million for key in rows[0] if key != "entities"}
    scale = (FULL_SIZE - last["entities"]) / 1e6
    estimate = {key: last[key] + per_million[key] * scale for key in ("seconds", "cpu_seconds", "main_peak_bytes", "store_bytes", "scratch_bytes")}
    print("a million entities more: " + ", ".join(f"{key} {value:,.4g}" for key, value in per_million.items()))
    print(f"estimate for {FULL_SIZE:,} (a straight line through the last two): " + ", ".join(f"{key} {value:,.4g}" for key, value in estimate.items()))
    result: dict[str, Any] = {"quick": options.quick, "rows": rows, "per_million": per_million, "estimate_100m": estimate}
    if options.data:
        result["real_parse_mb_s"] = real_parsing(options.data)
        print(f"parsing real records: {result['real_parse_mb_s']:.1f} MB of text a CPU-second")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
