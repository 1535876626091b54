"""A picture of a run: every loss over the steps."""

from __future__ import annotations

import itertools
from pathlib import Path

from rwtrain.errors import DataError
from rwtrain.files import atomic_path
from rwtrain.train.metrics import read_metrics

SMOOTHING_STEPS = 10


def plot_losses(run: Path) -> Path:
    """Draw RUN/losses.png from RUN/metrics.jsonl: one panel per loss, and where the run was resumed; return its path.

    Raises:
        DataError: the run has no metrics yet.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = read_metrics(run)
    if not lines:
        raise DataError(run / "metrics.jsonl", "no metrics yet", "Train for a few steps first")
    latest = {line["step"]: line for line in lines}  # a step that was run twice: its last run
    steps = sorted(latest)
    names = [name for name in latest[steps[-1]] if name.startswith("loss/")]
    resumes = [line["step"] for before, line in itertools.pairwise(lines) if line["process"] != before["process"]]
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.6 * columns, 2.6 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for name, axis in zip(names, axes.flat, strict=False):
        known = [step for step in steps if name in latest[step]]
        values = [latest[step][name] for step in known]
        axis.plot(known, values, color="#9db8d6", linewidth=0.8)
        axis.plot(known, _smooth(values), color="#1f4e82", linewidth=1.6)
        for step in resumes:
            axis.axvline(step, color="#c0392b", linestyle="--", linewidth=1, label="resumed")
        axis.set_title(name.removeprefix("loss/").replace("_", " "), fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    if resumes:
        axes.flat[0].legend(fontsize=8)
    path = run / "losses.png"
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)
    return path


def _smooth(values: list[float]) -> list[float]:
    return [sum(values[max(0, index - SMOOTHING_STEPS + 1) : index + 1]) / min(index + 1, SMOOTHING_STEPS) for index in range(len(values))]
