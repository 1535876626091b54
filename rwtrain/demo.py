"""`rwtrain demo`: the whole path on the sample data, each stage run through the same commands that a user would type."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

from rwtrain import __version__
from rwtrain.errors import RWTrainError
from rwtrain.files import atomic_path, write_json

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = Path("examples/demo")
CLEAN_ENVIRONMENT = Path(".venv-clean")
KILL_AFTER_CHECKPOINTS = 2
KILL_AFTER_STEPS = 8  # steps behind that checkpoint, lost by the kill and run again
EPILOG = """examples:
  rwtrain demo
  rwtrain demo --out runs/another --fresh

Finished stages are reused; an interrupted stage continues where it stopped. Run it in the root of the repository."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rwtrain demo`."""
    parser.epilog = EPILOG
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="folder of everything the demo writes (default: runs/demo)")
    parser.add_argument("--fresh", action="store_true", help="do every stage again")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run all stages, print the table of results and write DIR/results.json."""
    if not EXAMPLES.is_dir():
        raise RWTrainError(f"{EXAMPLES} is not here. Run `rwtrain demo` in the root of the repository ({ROOT}).")
    demo = Demo(options.out, fresh=options.fresh)
    demo.stage("environment", demo.environment)
    demo.stage("knowledge", demo.knowledge, EXAMPLES / "kg.yaml")
    demo.stage("prepare", demo.prepare, EXAMPLES / "prep.yaml")
    demo.stage("train", demo.train, EXAMPLES / "train.yaml")
    demo.stage("export", demo.export)
    demo.stage("use", demo.use, EXAMPLES / "use_export.py")
    demo.stage("evaluate", demo.evaluate)
    demo.finish()
    return 0


class Demo:
    """The stages; each returns figures, which are kept with its duration.

    Args:
        out: folder of everything that is written.
        fresh: ignore what earlier runs finished.
    """

    def __init__(self, out: Path, *, fresh: bool) -> None:
        self.out, self.record_file = out, out / "stages.json"
        self.records: dict[str, Any] = {}
        if self.record_file.is_file() and not fresh:
            self.records = json.loads(self.record_file.read_text(encoding="utf-8"))
        self.fresh = fresh
        self.fingerprint = xxhash.xxh3_64_hexdigest(f"{__version__} {out}".encode())
        self.linker, self.prepared, self.trained, self.exported = out / "linker", out / "prep", out / "train", out / "export"

    def stage(self, name: str, work: Callable[[], dict[str, Any]], *inputs: Path) -> None:
        """Do a stage, unless it was finished with the same inputs and the same stages before it."""
        content = b"".join(path.read_bytes() for path in inputs)
        self.fingerprint = xxhash.xxh3_64_hexdigest(self.fingerprint.encode() + name.encode() + content)
        known = self.records.get(name, {})
        if known.get("fingerprint") == self.fingerprint and "figures" in known:
            print(f"== {name}: finished earlier ({known['seconds']:.0f} s)", flush=True)
            return
        print(f"\n== {name}", flush=True)
        if known.get("fingerprint") != self.fingerprint:
            self._begin(name)
        began = time.monotonic()
        figures = work()
        spent = self.records[name]["seconds"] + time.monotonic() - began
        self._record(name, {"seconds": spent, "figures": figures})

    def _begin(self, name: str) -> None:
        """Start a stage from nothing: what an earlier run left of it was made from other inputs."""
        if name == "train":
            shutil.rmtree(self.trained, ignore_errors=True)
        self._record(name, {"seconds": 0.0})

    def _record(self, name: str, values: dict[str, Any]) -> None:
        self.records[name] = {"fingerprint": self.fingerprint, **values}
        write_json(self.record_file, self.records)

    def environment(self) -> dict[str, Any]:
        """A second virtual environment, which has torch and transformers only."""
        self._rwtrain_python("-m", "rwtrain.export.environment", str(CLEAN_ENVIRONMENT))
        return {}

    def knowledge(self) -> dict[str, Any]:
        """Triples → entity store → TransE vectors → linker."""
        store = self.out / "kg"
        self._rwtrain("kg", "import", "examples/data/fb15k237", "--out", str(store))
        self._rwtrain("kg", "train", str(store), "--config", str(EXAMPLES / "kg.yaml"))
        self._rwtrain("kg", "linker", str(store), "--out", str(self.linker))
        return {}

    def prepare(self) -> dict[str, Any]:
        """Web pages, the Wikipedia dump and the images → shards, with entity links."""
        self._rwtrain("prep", str(EXAMPLES / "prep.yaml"), "--out", str(self.prepared), "--set", f"link.store={self.linker}")
        return {}

    def train(self) -> dict[str, Any]:
        """Train on two processes; kill one on the way, start again, and compare the steps that were run twice."""
        from rwtrain.config.load import load_config
        from rwtrain.config.schema import TrainConfig
        from rwtrain.train.metrics import read_metrics
        from rwtrain.train.plot import plot_losses

        settings = self._train_settings()
        config = load_config(TrainConfig, EXAMPLES / "train.yaml", settings)
        command = ["train", str(EXAMPLES / "train.yaml"), "--processes", "2", *(f"--set={item}" for item in settings)]
        checkpoint = KILL_AFTER_CHECKPOINTS * config.checkpoint.every_steps
        if not any(line["step"] > checkpoint for line in read_metrics(self.trained)):
            self._train_and_kill(command, checkpoint + KILL_AFTER_STEPS)
        self._rwtrain(*command)
        twice = repeated_losses(read_metrics(self.trained))
        print(f"loss curves: {plot_losses(self.trained)}")
        return {"resumed_losses_equal": bool(twice) and all(first == second for first, second in twice.values()), "repeated_steps": sorted(twice)}

    def _train_settings(self) -> list[str]:
        places = {
            "run": self.trained,
            "data.text": self.prepared / "shards/text/train",
            "data.images": self.prepared / "shards/images/train",
            "data.tokenizer": self.prepared / "tokenizer/tokenizer.model",
            "data.entity_store": self.out / "kg",
        }
        return [f"{key}={path}" for key, path in places.items()]

    def _train_and_kill(self, command: list[str], step: int) -> None:
        from rwtrain.train.metrics import read_metrics

        self._show(command)
        launcher = subprocess.Popen([sys.executable, "-m", "rwtrain.cli", *command])
        try:
            while launcher.poll() is None and not any(line["step"] >= step for line in read_metrics(self.trained)):
                time.sleep(0.2)
            if launcher.poll() is None:
                victim = _rank_process(launcher.pid, rank=1)
                print(f"\n   kill -9 {victim} (rank 1, behind step {step}): the job must end, and continue from its last checkpoint", flush=True)
                os.kill(victim, signal.SIGKILL)
            if launcher.wait() != 128 + signal.SIGKILL:
                raise RWTrainError(f"The training that was to be killed ended with status {launcher.returncode} before. See its messages above.")
        finally:
            launcher.terminate()
            launcher.wait()

    def export(self) -> dict[str, Any]:
        """Checkpoint → Hugging Face folder, checked in the clean environment."""
        python = CLEAN_ENVIRONMENT / "bin" / "python"
        self._rwtrain("export", str(self.trained), "--out", str(self.exported), "--linker", str(self.linker), "--parity-python", str(python))
        report = json.loads((self.exported / "parity.json").read_text(encoding="utf-8"))
        return {"parity_max_abs_diff": report["max_abs_diff"]}

    def use(self) -> dict[str, Any]:
        """Generate, link, embed and classify with the exported folder, in the clean environment."""
        images, classes = self._images_for_strangers()
        python = (CLEAN_ENVIRONMENT / "bin" / "python").absolute()
        command = [str(python), str(EXAMPLES / "use_export.py"), str(self.exported), str(images), str(classes)]
        self._show(command)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        if done.returncode:
            raise RWTrainError(f"{EXAMPLES / 'use_export.py'} failed in {CLEAN_ENVIRONMENT} with status {done.returncode}. See its messages above.")
        figures = json.loads(done.stdout.splitlines()[-1])
        print(f"   generated: {figures['generated']!r}\n   links: {figures['links']}")
        return figures

    def _images_for_strangers(self) -> tuple[Path, Path]:
        """The held-out images as plain arrays, since the clean environment reads no Parquet."""
        import numpy as np
        import pyarrow.parquet as parquet
        import yaml
        from PIL import Image

        table = parquet.read_table(self.prepared / "eval/zeroshot.parquet")
        names = yaml.safe_load((self.prepared / "eval/zeroshot.yaml").read_text(encoding="utf-8"))
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(encoded.as_py())).convert("L")) for encoded in table["image"]])
        labels = np.array([names["classes"].index(label) for label in table["label"].to_pylist()])
        images, classes = self.out / "zeroshot.npz", self.out / "zeroshot.json"
        with atomic_path(images) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, images=pixels, labels=labels)
        write_json(classes, names)
        return images, classes

    def evaluate(self) -> dict[str, Any]:
        """Held-out figures, each beside chance or a model that learnt nothing."""
        shards = self.prepared / "shards"
        return {
            "lm": self._evaluate("lm", str(self.trained), "--data", str(shards / "text/valid"), "--entities", str(self.out / "kg")),
            "retrieval": self._evaluate("retrieval", str(self.trained), "--data", str(shards / "images/valid")),
            "kg": self._evaluate("kg", str(self.out / "kg")),
        }

    def _evaluate(self, *arguments: str) -> dict[str, Any]:
        from rwtrain import cli

        self._show(["eval", *arguments, "--json"])
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            status = cli.main(["eval", *arguments, "--json"])
        if status:
            raise RWTrainError(f"`rwtrain eval {' '.join(arguments)}` failed. See its message above.")
        return json.loads(printed.getvalue().splitlines()[-1])

    def finish(self) -> None:
        """Write results.json and print the table."""
        figures = {name: record["figures"] for name, record in self.records.items()}
        language, graph = figures["evaluate"]["lm"], figures["evaluate"]["kg"]
        results = {
            "zero_shot_accuracy": figures["use"]["zero_shot_accuracy"],
            "perplexity": language["perplexity"],
            "unigram_perplexity": language["unigram_perplexity"],
            "transe_mrr": graph["mrr"],
            "parity_max_abs_diff": figures["export"]["parity_max_abs_diff"],
            "resumed_losses_equal": figures["train"]["resumed_losses_equal"],
            "seconds": {name: round(record["seconds"], 1) for name, record in self.records.items()},
            "details": figures,
        }
        write_json(self.out / "results.json", results)
        print(results_table(results), flush=True)
        places = {
            "data report": self.prepared / "report.html",
            "loss curves": self.trained / "losses.png",
            "TensorBoard": f"tensorboard --logdir {self.trained / 'tensorboard'}",
            "exported model": self.exported,
            "all figures": self.out / "results.json",
        }
        print("\nWhere to look next:\n" + "\n".join(f"  {name:15} {place}" for name, place in places.items()))

    def _rwtrain(self, *arguments: str) -> None:
        self._show(arguments)
        self._rwtrain_python("-m", "rwtrain.cli", *arguments)

    def _rwtrain_python(self, *arguments: str) -> None:
        status = subprocess.run([sys.executable, *arguments], check=False).returncode
        if status:
            raise RWTrainError(f"A stage failed with status {status}; its message is above. Run `rwtrain demo` again to continue from there.")

    @staticmethod
    def _show(arguments: list[str] | tuple[str, ...]) -> None:
        program = "" if arguments[0].endswith("python") else "rwtrain "
        print(f"$ {program}{' '.join(arguments)}", flush=True)


def repeated_losses(lines: list[dict[str, Any]]) -> dict[int, tuple[dict[str, float], dict[str, float]]]:
    """Steps that two processes ran, with all losses of both: {step: (first, second)}."""
    runs: dict[int, dict[int, dict[str, float]]] = {}
    for line in lines:
        runs.setdefault(line["step"], {})[line["process"]] = {key: value for key, value in line.items() if key.startswith("loss/")}
    return {step: (by_process[min(by_process)], by_process[max(by_process)]) for step, by_process in runs.items() if len(by_process) > 1}


def results_table(results: dict[str, Any]) -> str:
    """The figures as a table of text, each beside chance or a baseline."""
    details = results["details"]
    language, retrieval, graph = (details["evaluate"][name] for name in ("lm", "retrieval", "kg"))
    rows = [
        ("figure", "result", "beside"),
        (
            "held-out perplexity",
            f"{results['perplexity']:.1f}",
            f"unigram {results['unigram_perplexity']:.1f}, untrained {language['untrained_perplexity']:.0f}",
        ),
        ("zero-shot accuracy, Fashion-MNIST", f"{results['zero_shot_accuracy']:.1%}", f"chance {details['use']['chance']:.1%}"),
    ]
    for direction in ("image_to_text", "text_to_image"):
        found = retrieval[direction]
        rows.append((f"{direction.replace('_', ' ')} recall@5", f"{found['recall@5']:.1%}", f"chance {found['chance@5']:.1%}"))
    rows += [
        ("TransE filtered MRR, FB15k-237", f"{graph['mrr']:.3f}", f"chance {graph['chance_mrr']:.4f}"),
        ("exported against trained, largest difference", f"{results['parity_max_abs_diff']:.1e}", "limit 1e-03"),
        ("losses after the kill equal those before", str(results["resumed_losses_equal"]), f"{len(details['train']['repeated_steps'])} steps run twice"),
        ("seconds", f"{sum(results['seconds'].values()):.0f}", ", ".join(f"{name} {seconds:.0f}" for name, seconds in results["seconds"].items())),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"  {name:{widths[0]}}  {value:>{widths[1]}}  {beside}" for name, value, beside in rows]
    return "\n" + "\n".join([lines[0], "  " + "-" * (len(lines[0]) + 10), *lines[1:]])


def _rank_process(launcher: int, *, rank: int) -> int:
    """Process id of one rank of a running launcher."""
    import psutil

    for child in psutil.Process(launcher).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.environ().get("RANK") == str(rank):
                return int(child.pid)
    raise RWTrainError(f"Rank {rank} is not running.")
