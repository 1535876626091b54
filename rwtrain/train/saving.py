"""Saving checkpoints while training goes on, and loading them.

The states are copied to host memory by a thread of every rank, beside the next step's forward and backward pass: nothing changes them before
its update, which waits for the copy. Then the thread writes, flushes and hashes that rank's files, and rank 0 commits the checkpoint at the first
later step at which all ranks agree that theirs are done. One save is in flight at most.
"""

from __future__ import annotations

import contextlib
import copy
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from rwtrain.config.schema import CheckpointConfig
from rwtrain.errors import DataError, RWTrainError
from rwtrain.files import content_hash, fsync_path
from rwtrain.train import checkpoint
from rwtrain.train.checkpoint import TAG
from rwtrain.train.distributed import Ranks
from rwtrain.train.mirror import Mirror

Files = list[tuple[Path, Any]]  # path inside the checkpoint, what `torch.save` writes there
POLL_S = 0.1
LARGE_BYTES = 1 << 20  # smaller tensors are copied at once: buffers that a forward pass changes are among them
CHUNK_BYTES = 1 << 24


class HostCopies:
    """Copies of state dicts in host memory, in buffers that the next save uses again (new memory would cost most of the time).

    Large tensors of a CPU are copied by `fill`, in whatever thread; until then they must not change.
    """

    def __init__(self) -> None:
        self._buffers: list[torch.Tensor] = []
        self._waiting: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._used = 0
        self._copied: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def restart(self) -> None:
        """Give all buffers back: the copies made so far are no longer needed."""
        self._used = 0
        self._waiting.clear()

    def fill(self) -> None:
        """Make the copies that wait; Python's lock is released meanwhile."""
        while self._waiting:
            buffer, source = self._waiting.pop()
            for start in range(0, len(source), CHUNK_BYTES):
                buffer[start : start + CHUNK_BYTES].copy_(source[start : start + CHUNK_BYTES])

    def forget_sources(self) -> None:
        """Let go of what was copied; tensors copied later share no memory with those copied before."""
        self._copied.clear()

    def copy(self, tree: Any) -> Any:
        """A copy of nested dicts, lists and tuples; tensors that share memory do so in the copy, too, as in a file of `torch.save`."""
        if isinstance(tree, torch.Tensor):
            if tree.layout is not torch.strided:
                return tree.detach().cpu().clone()
            copied = torch.empty(0, dtype=tree.dtype).set_(self._storage(tree.untyped_storage()), tree.storage_offset(), tree.size(), tree.stride())
            return torch.nn.Parameter(copied, requires_grad=tree.requires_grad) if isinstance(tree, torch.nn.Parameter) else copied
        if isinstance(tree, dict):
            items = type(tree)((key, self.copy(value)) for key, value in tree.items())
            if hasattr(tree, "__dict__"):  # the _metadata of a module's state dict
                vars(items).update(copy.deepcopy(vars(tree)))
            return items
        if type(tree) in (list, tuple):
            return type(tree)(self.copy(value) for value in tree)
        return copy.deepcopy(tree)

    def _storage(self, storage: torch.UntypedStorage) -> torch.UntypedStorage:
        if storage._cdata not in self._copied:
            if self._used == len(self._buffers):
                self._buffers.append(torch.empty(0, dtype=torch.uint8))
            if len(self._buffers[self._used]) != storage.nbytes():
                self._buffers[self._used] = torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=storage.device.type == "cuda")
            buffer = self._buffers[self._used].untyped_storage()
            if storage.device.type == "cpu" and storage.nbytes() >= LARGE_BYTES:
                self._waiting.append((self._buffers[self._used], torch.empty(0, dtype=torch.uint8).set_(storage)))
            else:
                buffer.copy_(storage, non_blocking=True)
            self._used += 1
            self._copied[storage._cdata] = storage, buffer  # holding the source, so that its address names nothing else
        return self._copied[storage._cdata][1]


class Writer(threading.Thread):
    """Writes one rank's files of a checkpoint.

    Args:
        copies: whose `fill` comes first.

    Attributes:
        copied: set when nothing is read from the engine's states any more.
        written: path → bytes and hash of the finished files.
        error: why it failed, None if it did not.
    """

    def __init__(self, folder: Path, files: Files, copies: HostCopies) -> None:
        super().__init__(name=f"checkpoint writer {folder.name}")
        self.folder, self.files, self.copies = folder, files, copies
        self.copied = threading.Event()
        self.written: dict[str, dict[str, Any]] = {}
        self.error: str | None = None

    def run(self) -> None:
        try:
            self.copies.fill()
            self.copied.set()
            while self.files:
                name, content = self.files.pop(0)
                path = self.folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.save(content, path)
                del content
                fsync_path(path)
                self.written[str(name)] = {"bytes": path.stat().st_size, "hash": content_hash(path)}
        except Exception as error:  # whatever it is, it must not end the training
            self.error = f"{type(error).__name__}: {error}".splitlines()[0]
        finally:
            self.copied.set()


class Saver:
    """Saves checkpoints of one engine. Every method is collective: all ranks call it at the same point.

    Args:
        report: called on rank 0 with (event, step, message) when a checkpoint is whole or could not be written.

    Attributes:
        saved_step: step of the newest checkpoint that is whole.
    """

    def __init__(self, engine: Any, ranks: Ranks, run: Path, config: CheckpointConfig, report: Callable[[str, int, str], None], *, loaded_step: int) -> None:
        self.engine, self.ranks, self.run, self.config, self.report = engine, ranks, run, config, report
        self.folder = run / "checkpoints"
        self.saved_step = loaded_step
        self._writer: Writer | None = None
        self._copies = HostCopies()
        self._tidier = threading.Thread()
        self._mirror = Mirror(config.mirror) if config.mirror and ranks.is_main else None
        if ranks.is_main:
            checkpoint.remove_unfinished(self.folder)
        ranks.barrier()

    def begin(self, step: int, *, loss: float | None = None) -> None:
        """Save checkpoint `step`; an earlier save is finished first.

        Args:
            loss: mean training loss since the last checkpoint, for `keep_best`.
        """
        self.finish()
        files = self._collect(step)
        self._step, self._loss, self._began = step, loss, time.monotonic()
        self._writer = Writer(checkpoint.temporary_folder(self.folder, step), files, self._copies)
        if self.config.asynchronous:
            self._writer.start()
        else:
            self._writer.run()
            self._settle()

    def release(self) -> float:
        """To be called before anything changes the engine's states: wait until they are copied; returns the seconds it took. Not collective."""
        if self._writer is None or self._writer.copied.is_set():
            return 0.0
        began = time.perf_counter()
        self._writer.copied.wait()
        return time.perf_counter() - began

    def poll(self) -> None:
        """Finish the save in flight if all ranks' files are written; cheap, to be called at every step."""
        if self._writer is not None:
            (unfinished,) = self.ranks.agree(self._writer.is_alive())
            if not unfinished:
                self._settle()

    def finish(self) -> None:
        """Wait for the save in flight."""
        while self._writer is not None:
            self._writer.join(POLL_S)  # not longer: an agreement of all ranks in between keeps within the process group's time-out
            self.poll()

    def close(self) -> None:
        """Wait for everything that still goes on in the background, mirroring included."""
        self.finish()
        if self._tidier.ident is not None:
            self._tidier.join()

    def _collect(self, step: int) -> Files:
        """What DeepSpeed would write for this rank, as a list; copied to host memory if it is to be written later."""
        from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

        self._copies.restart()
        copies, asynchronous = self._copies, self.config.asynchronous
        root = checkpoint.temporary_folder(self.folder, step)
        files: Files = []

        class Collector(TorchCheckpointEngine):
            """Touches no disk: a full one must not raise in the middle of a collective operation."""

            def makedirs(self, path: str, exist_ok: bool = False) -> None:
                pass

            def save(self, state_dict: Any, path: str) -> None:
                files.append((Path(path).relative_to(root), copies.copy(state_dict) if asynchronous else state_dict))

        engine = self.engine
        before = engine.checkpoint_engine
        engine.checkpoint_engine = Collector()
        engine._copy_recovery_script = lambda path: None  # would write to the disk; `rwtrain export` takes its place
        try:
            engine.save_checkpoint(str(root), tag=TAG, client_state={"step": step}, save_latest=False)
        finally:
            engine.checkpoint_engine = before
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize()
        copies.forget_sources()
        return files

    def _settle(self) -> None:
        """All ranks' writers have ended: commit the checkpoint, or report why there is none."""
        writer, self._writer = self._writer, None
        assert writer is not None
        parts: list[Any] = self.ranks.gather((writer.written, writer.error))
        problem = next((f"rank {rank}: {error}" for rank, (_, error) in enumerate(parts) if error), None)
        if self.ranks.is_main:
            try:
                if problem is None:
                    description = layout(self.engine, self.ranks) | {
                        "loss": self._loss,
                        "files": {name: entry for part, _ in parts for name, entry in part.items()},
                    }
                    checkpoint.commit(self.folder, self._step, description)
            except OSError as error:
                problem = f"{type(error).__name__}: {error}"
            if problem is not None:
                self._give_up(problem)
            else:
                size = sum(entry["bytes"] for part, _ in parts for entry in part.values())
                self.report("checkpoint", self._step, f"{size / 1e9:.3g} GB, whole after {time.monotonic() - self._began:.3g} s")
        problem = self.ranks.broadcast(problem)  # type: ignore[assignment]
        if problem is None:
            self.saved_step = self._step
            if self.ranks.is_main:
                self._tidier = threading.Thread(target=self._tidy, args=(self.folder / checkpoint.checkpoint_name(self._step), self._tidier))
                self._tidier.start()

    def _give_up(self, problem: str) -> None:
        shutil.rmtree(checkpoint.temporary_folder(self.folder, self._step), ignore_errors=True)
        message = (
            f"checkpoint of step {self._step} could not be written ({problem}); training goes on, the last checkpoint is {checkpoint.read_latest(self.folder)}"
        )
        print(f"error: {message}", file=sys.stderr, flush=True)
        self.report("checkpoint_failed", self._step, message)

    def _tidy(self, saved: Path, before: threading.Thread) -> None:
        """Mirror the checkpoint just saved, then remove old ones, here and there; behind the training, one after the other."""
        if before.ident is not None:
            before.join()
        try:
            if self._mirror is not None:
                self._mirror.add(saved)
            for entry in checkpoint.prune(self.run, self.config):
                if self._mirror is not None:
                    self._mirror.remove(entry.path.name)
        except Exception as error:  # of whatever file system; it must not end the training
            print(f"warning: {saved.name} is saved, but not mirrored, or old ones not removed ({error!r})", file=sys.stderr, flush=True)


def layout(engine: Any, ranks: Ranks) -> dict[str, Any]:
    """What must be equal for DeepSpeed to load a checkpoint as it is."""
    precision = "bf16" if engine.bfloat16_enabled() else "fp16" if engine.fp16_enabled() else "fp32"
    groups = len(engine.basic_optimizer.param_groups)
    return {"world_size": ranks.world_size, "zero_stage": int(engine.zero_optimization_stage()), "precision": precision, "parameter_groups": groups}


def load(engine: Any, ranks: Ranks, run: Path, *, fallback: bool = False) -> int:
    """Restore the run's latest checkpoint and return its step, 0 without one. Collective; the ranks divide the verification.

    Args:
        fallback: where the latest is damaged, use the newest one before it that is whole.

    Raises:
        DataError: the checkpoint is damaged, with `fallback` all of them.
    """
    chosen = _choose(ranks, run, fallback=fallback)
    if chosen is None:
        return 0
    with _present_settings(engine):
        return _load(engine, ranks, chosen)


@contextlib.contextmanager
def _present_settings(engine: Any) -> Iterator[None]:
    """Have the optimiser keep its settings (learning rate, weight decay, betas) where loading would bring back those of the checkpoint."""
    optimizer, schedule = engine.basic_optimizer, engine.lr_scheduler
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    peaks = list(schedule.base_lrs)
    yield
    schedule.base_lrs = peaks
    schedule._last_lr = [peak * factor(schedule.last_epoch) for peak, factor in zip(peaks, schedule.lr_lambdas, strict=True)]
    for group, values, rate in zip(optimizer.param_groups, settings, schedule._last_lr, strict=True):
        group.update(values | {"lr": rate})


def _load(engine: Any, ranks: Ranks, chosen: Path) -> int:
    made, wanted = checkpoint.read_manifest(chosen), layout(engine, ranks)
    if all(made.get(key, value) == value for key, value in wanted.items()):
        loaded, client_state = engine.load_checkpoint(str(chosen), tag=TAG)
        if loaded is None:
            raise DataError(chosen, "DeepSpeed found no state in it", "Use another checkpoint")
        return int(client_state["step"])
    from rwtrain.train.reshard import load_resharded

    if ranks.is_main:
        print(f"{chosen}: redistributing from {_shown(made)} to {_shown(wanted)}", flush=True)
    step = load_resharded(engine, chosen / TAG)
    ranks.barrier()
    return step


def _shown(shape: dict[str, Any]) -> str:
    return f"{shape['world_size']} rank(s), ZeRO stage {shape['zero_stage']}, {shape.get('precision', 'the same precision')}"


def _choose(ranks: Ranks, run: Path, *, fallback: bool) -> Path | None:
    """The checkpoint to load, the same on every rank, verified."""
    found: Any = ranks.broadcast(_candidates(run, fallback=fallback) if ranks.is_main else None)
    candidates, problem = found
    for candidate in candidates:
        try:
            checkpoint.verify(candidate, share=(ranks.rank, ranks.world_size))
            mine = None
        except DataError as error:
            mine = str(error)
        damage = next((message for message in ranks.gather(mine) if message), None)
        if damage is None:
            if ranks.is_main and candidate.name != checkpoint.read_latest(candidate.parent):
                print(f"warning: continuing from {candidate.name}", file=sys.stderr, flush=True)
                checkpoint.set_latest(candidate.parent, candidate)
            ranks.barrier()
            return candidate
        if ranks.is_main and fallback:
            print(f"warning: {damage}", file=sys.stderr, flush=True)
        problem = problem or str(damage)
    if problem is not None:
        raise RWTrainError(problem)
    return None


def _candidates(run: Path, *, fallback: bool) -> tuple[list[Path], str | None]:
    """Checkpoints to try in turn, and what to say if none of them is whole."""
    folder = run / "checkpoints"
    try:
        latest = checkpoint.find_latest(run)
    except DataError as error:
        if not fallback:
            return [], str(error)
    name = checkpoint.read_latest(folder)
    if not fallback:
        return [latest] if latest else [], None
    found = [entry.path for entry in reversed(checkpoint.entries(run)) if name is None or entry.path.name <= name]
    return found, None if name is None or found else f"{folder}: no whole checkpoint is left. Delete {folder / checkpoint.LATEST} to start anew."
