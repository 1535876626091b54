"""Several variants of a training over several seeds: run, keep what is finished, tabulate, plot.

An experiment is a module with a `main` that calls `run_experiment`. Each finished (variant, seed) is a JSON file under OUT/NAME, so that an
interrupted experiment continues where it stopped; changed settings run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from rwtrain.files import atomic_path, write_json

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
COLOURS = ("#1f4e82", "#c0392b", "#2e8b57", "#e08e0b", "#7d3c98", "#555555", "#16a0b0", "#b5651d")


@dataclasses.dataclass(frozen=True)
class Options:
    """How an experiment is run.

    Attributes:
        quick: small enough to end within five minutes on two cores: shows that it runs, not what it finds.
        large: models and budgets for a GPU.
        seeds: number of seeds, 0 … seeds − 1.
        steps_scale: every number of steps is multiplied by it.
        data: folder of the data sets.
        out: folder of results and prepared data.
    """

    quick: bool = False
    large: bool = False
    seeds: int = 3
    steps_scale: float = 1.0
    data: Path = Path("../shared/data")
    out: Path = Path("runs/evidence")

    def choose(self, normal: Any, *, quick: Any, large: Any) -> Any:
        """The value that belongs to the size of this run."""
        return large if self.large else quick if self.quick else normal

    def steps(self, normal: int, *, quick: int, large: int) -> int:
        """A number of steps, scaled, at least 1."""
        return max(1, round(self.choose(normal, quick=quick, large=large) * self.steps_scale))

    @property
    def size(self) -> str:
        return self.choose("normal", quick="quick", large="large")


Record = dict[str, Any]
"""Of one training: {"figures": {name: number}, "curve": [{"step": …, …}], …}."""

Results = dict[str, list[Record]]
"""Variant → records, one per seed."""


def parse_options(description: str, arguments: Sequence[str] | None = None) -> Options:
    """The options that every experiment has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps, one seed unless --seeds says otherwise: shows that it runs")
    parser.add_argument("--large", action="store_true", help="models and budgets for a GPU")
    parser.add_argument("--seeds", type=int, metavar="N", help=f"number of seeds (default {Options.seeds}, quick 1)")
    parser.add_argument("--steps-scale", type=float, default=Options.steps_scale, metavar="X", help="multiply every number of steps (default 1)")
    parser.add_argument("--data", type=Path, default=Options.data, metavar="DIR", help=f"folder of the data sets (default {Options.data})")
    parser.add_argument("--out", type=Path, default=Options.out, metavar="DIR", help=f"results and prepared data (default {Options.out})")
    given = parser.parse_args(arguments)
    if not given.data.is_dir():
        parser.error(f"{given.data} is no folder: name the folder of the data sets with --data")
    seeds = given.seeds if given.seeds is not None else (1 if given.quick else Options.seeds)
    return Options(quick=given.quick, large=given.large, seeds=seeds, steps_scale=given.steps_scale, data=given.data, out=given.out)


def run_experiment(name: str, options: Options, variants: Mapping[str, Mapping[str, Any]], train: Callable[[Mapping[str, Any], int], Record]) -> Results:
    """Train every variant with every seed, seed by seed, so that an unfinished experiment still compares like with like.

    Args:
        variants: the settings of each variant, serialisable as JSON; a finished training is reused only with equal settings.
        train: (settings, seed) → record; called on one thread.
    """
    torch.set_num_threads(1 if not torch.cuda.is_available() else torch.get_num_threads())
    folder = options.out / f"{name}-{options.size}"
    wanted = [(variant, seed) for seed in range(options.seeds) for variant in variants]
    results: Results = {variant: [] for variant in variants}
    for number, (variant, seed) in enumerate(wanted, 1):
        path = folder / f"{variant}-seed{seed}.json"
        fingerprint = _fingerprint(variants[variant], seed, options)
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if known.get("fingerprint") != fingerprint:
            began, cpu = time.monotonic(), time.process_time()
            known = {"fingerprint": fingerprint, "variant": variant, "seed": seed, **train(variants[variant], seed)}
            known |= {"seconds": time.monotonic() - began, "cpu_s": time.process_time() - cpu}
            write_json(path, known)
        shown = "  ".join(f"{key} {value:.4g}" for key, value in known["figures"].items())
        print(f"[{number}/{len(wanted)}] {variant}, seed {seed}: {shown}  ({known['cpu_s']:.0f} CPU-s)", flush=True)
        results[variant].append(known)
    return results


def _fingerprint(settings: Mapping[str, Any], seed: int, options: Options) -> str:
    content = json.dumps([settings, seed, options.size, options.steps_scale], sort_keys=True)
    return xxhash.xxh3_64_hexdigest(content.encode())


def summarise(results: Results) -> dict[str, dict[str, dict[str, Any]]]:
    """{variant: {figure: {"mean", "std" (n − 1; 0 for one seed), "values"}}}."""
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for variant, records in results.items():
        names = dict.fromkeys(name for record in records for name in record["figures"])
        summary[variant] = {}
        for name in names:
            values = [float(record["figures"][name]) for record in records if name in record["figures"]]
            summary[variant][name] = {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0, "values": values}
    return summary


def paired_difference(results: Results, first: str, second: str, figure: str) -> dict[str, Any]:
    """Mean and spread over the seeds of (first − second), which share seed by seed their initial weights and data order."""
    pairs = zip(results[first], results[second], strict=True)
    values = [float(one["figures"][figure]) - float(other["figures"][figure]) for one, other in pairs]
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0, "values": values}


def print_table(results: Results, figures: Mapping[str, str]) -> None:
    """One line a variant; `figures` maps the names of figures to the column titles."""
    summary = summarise(results)
    width = max(map(len, results)) + 2
    print(f"\n{'':{width}}" + "".join(f"{title:>22}" for title in figures.values()))
    for variant, found in summary.items():
        cells = (f"{found[name]['mean']:.4g} ± {found[name]['std']:.2g}" if name in found else "-" for name in figures)
        print(f"{variant:{width}}" + "".join(f"{cell:>22}" for cell in cells))


def print_json(name: str, options: Options, results: Results, **more: Any) -> None:
    """The last line of a benchmark."""
    cpu_s = sum(record["cpu_s"] for records in results.values() for record in records)
    head = {"benchmark": f"evidence.{name}", "quick": options.quick, "large": options.large, "seeds": options.seeds, "steps_scale": options.steps_scale}
    print(json.dumps(head | {"cpu_s": cpu_s, "variants": summarise(results)} | more))


Points = list[tuple[float, float]]


@dataclasses.dataclass
class Panel:
    """One diagram: lines by label, each a list of (x, y) points per seed; the mean is drawn over the band of all seeds."""

    title: str
    x: str
    y: str
    lines: dict[str, list[Points]]
    log_x: bool = False
    log_y: bool = False


def curve_panel(results: Results, figure: str, *, title: str, y: str, x: str = "step", **settings: Any) -> Panel:
    """The learning curves of one figure, of the variants that have it."""
    lines = {
        variant: [[(point[x], point[figure]) for point in record["curve"] if figure in point] for record in records] for variant, records in results.items()
    }
    return Panel(title, x, y, {label: seeds for label, seeds in lines.items() if any(seeds)}, **settings)


def plot(name: str, options: Options, panels: Sequence[Panel], *, columns: int = 3) -> Path:
    """Draw the panels into docs/images/evidence-NAME.png, or of a quick run into its results folder; return the path."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.1 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for panel, axis in zip(panels, axes.flat, strict=False):
        for colour, (label, seeds) in zip(COLOURS, panel.lines.items(), strict=False):
            _draw(axis, seeds, label, colour)
        axis.set_title(panel.title, fontsize=10)
        axis.set_xlabel(panel.x, fontsize=8)
        axis.set_ylabel(panel.y, fontsize=8)
        axis.set_xscale("log" if panel.log_x else "linear")
        axis.set_yscale("log" if panel.log_y else "linear")
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    path = options.out / f"{name}-quick" / "plot.png" if options.quick else IMAGES / f"evidence-{name}{'-large' if options.large else ''}.png"
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=80)
    plt.close(figure)
    return path


def _draw(axis: Any, seeds: list[Points], label: str, colour: str) -> None:
    values: dict[float, list[float]] = {}
    for points in seeds:
        for x, y in points:
            values.setdefault(x, []).append(y)
    places = sorted(values)
    axis.plot(places, [float(np.mean(values[x])) for x in places], color=colour, linewidth=1.5, marker="o", markersize=2.5, label=label)
    axis.fill_between(places, [min(values[x]) for x in places], [max(values[x]) for x in places], color=colour, alpha=0.18, linewidth=0)
