"""Checkpoints under faults, with real processes: stalls, full disks, signals, kills, damaged files."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from benchmarks.forked_ranks import Job
from rwtrain.errors import DataError
from rwtrain.train import checkpoint
from rwtrain.train.loop import EXIT_STOPPED
from rwtrain.train.metrics import read_events
from rwtrain.train.saving import HostCopies
from rwtrain.train.zero import read_states
from tests.rwtrain.train.runs import lines, losses, start, train, wait_for_step, write_settings

STEPS = 24


@pytest.fixture(scope="module")
def settings(train_settings: dict) -> dict:
    return {**train_settings, "steps": STEPS, "batch": {**train_settings["batch"], "accumulation": 2, "text_rows": 4, "masked_rows": 4, "pair_rows": 4}}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, settings: dict) -> Path:
    """24 uninterrupted steps of two micro-batches: 2 ranks, ZeRO-3, bf16."""
    run = tmp_path_factory.mktemp("runs") / "reference"
    train(run, settings)
    return run


def latest_step(run: Path) -> int:
    return checkpoint.read_manifest(checkpoint.resolve(run))["step"]


def test_host_copies_share_memory_like_the_originals_and_do_not_change_with_them() -> None:
    flat = torch.arange(6.0)
    state = OrderedDict(first=flat[:4], second=flat[2:], other=[torch.ones(2, dtype=torch.bfloat16)], number=(3, "text"))
    state._metadata = {"version": 1}  # type: ignore[attr-defined]
    copies = HostCopies()
    copied = copies.copy(state)
    flat += 100
    assert copied["first"].tolist() == [0, 1, 2, 3]
    assert copied["second"].tolist() == [2, 3, 4, 5]
    assert copied["first"].untyped_storage().data_ptr() == copied["second"].untyped_storage().data_ptr()
    assert (copied["other"][0].dtype, copied["number"], copied._metadata) == (torch.bfloat16, (3, "text"), {"version": 1})
    before = copied["first"].data_ptr()
    copies.forget_sources()
    copies.restart()
    again = copies.copy(state)
    assert again["first"].tolist() == [100, 101, 102, 103]
    assert again["first"].data_ptr() == before  # memory is used again


def test_large_tensors_are_copied_later_small_ones_at_once() -> None:
    large, small = torch.arange(1 << 20, dtype=torch.float32), torch.ones(5)
    copies = HostCopies()
    copied = copies.copy({"large": large, "part": large[7:], "small": small})
    small.zero_()
    copies.fill()
    large += 1
    assert copied["small"].tolist() == [1] * 5
    assert torch.equal(copied["large"], torch.arange(1 << 20, dtype=torch.float32))
    assert torch.equal(copied["part"], copied["large"][7:])


def same_kind(found: object, expected: object) -> bool:
    """The same objects; of tensors the same shapes, since DeepSpeed pads with memory that it never initialised."""
    if isinstance(expected, torch.Tensor):
        return isinstance(found, torch.Tensor) and (found.dtype, found.shape) == (expected.dtype, expected.shape)
    if isinstance(expected, dict):
        return type(found) is type(expected) and found.keys() == expected.keys() and all(same_kind(found[key], value) for key, value in expected.items())
    if isinstance(expected, list | tuple):
        return type(found) is type(expected) and len(found) == len(expected) and all(map(same_kind, found, expected))
    return type(found) is type(expected) and (vars(found) == vars(expected) if hasattr(expected, "__dict__") else found == expected)


def test_asynchronous_and_plain_saving_write_the_same(tmp_path: Path, settings: dict, reference: Path) -> None:
    run, name = tmp_path / "plain", checkpoint.checkpoint_name(STEPS)
    train(run, settings, checkpoint={"every_steps": 12, "asynchronous": False})
    mine, theirs = (folder / "checkpoints" / name / "state" for folder in (run, reference))
    files = sorted(path.name for path in theirs.iterdir())
    assert sorted(path.name for path in mine.iterdir()) == files
    assert len(files) == 4  # a model and an optimiser file per rank
    assert all(same_kind(torch.load(mine / file, weights_only=False), torch.load(theirs / file, weights_only=False)) for file in files)
    found, expected = read_states(mine, []), read_states(theirs, [])
    assert all(torch.equal(found[parameter][key].load(), stored.load()) for parameter, parts in expected.items() for key, stored in parts.items())
    assert "checkpoint_stall_s" in lines(run)[13]


def test_signals_at_any_time_stop_all_ranks_with_a_checkpoint(tmp_path: Path, settings: dict, reference: Path) -> None:
    """SIGTERM to one rank while a checkpoint is being written, and again to all; then SIGUSR1 to all at random instants, one during start-up."""
    run = tmp_path / "stopped"
    job = start(run, settings)
    wait_for_step(run, 2, job.ended)
    wait_for_save(run, job)
    job.send(signal.SIGTERM, ranks=[1])
    for _ in range(3):
        job.send(signal.SIGTERM)
        time.sleep(0.05)
    assert job.wait() == [EXIT_STOPPED] * 2
    stops = [latest_step(run)]
    assert stops[0] == max(losses(run)) < STEPS
    job = start(run, settings)
    wait_for_step(run, stops[0] + 1, job.ended, process=1)
    time.sleep(random.Random(0).uniform(0, 0.5))
    job.send(signal.SIGUSR1)
    assert job.wait() == [EXIT_STOPPED] * 2
    stops.append(latest_step(run))
    assert stops[1] == max(losses(run, process=1))
    train(run, settings)
    found = {step: values for process in range(3) for step, values in losses(run, process).items()}
    assert found == losses(reference)  # every step once, bit for bit
    assert sum(len(losses(run, process)) for process in range(3)) == STEPS


def wait_for_save(run: Path, job: Job) -> None:
    """Return while a checkpoint is being written."""
    while job.ended() is None:
        if any((run / "checkpoints").glob(".step-*.tmp/state/*")):
            return
        time.sleep(0.0005)
    raise AssertionError(job.output.read_text()[-3000:])


def test_kill_while_saving_then_damage_then_fallback(tmp_path: Path, settings: dict, reference: Path) -> None:
    run = tmp_path / "killed"
    job = start(run, settings)
    wait_for_step(run, 8, job.ended)
    wait_for_save(run, job)
    job.ranks[1].kill()
    codes = job.wait()
    assert codes[1] == -signal.SIGKILL
    assert codes[0] == 2
    reached, kept = max(losses(run)), latest_step(run)
    assert reached - 6 < kept <= reached
    damaged = next((run / "checkpoints" / checkpoint.checkpoint_name(kept) / "state").glob("*rank_1*optim_states.pt"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(DataError, match=damaged.name):
        checkpoint.resolve(run)
    job = start(run, settings)
    assert job.wait() == [2, 2]
    assert f"{damaged.name}: its checksum differs" in job.output.read_text()
    assert "--fallback" in job.output.read_text()
    printed = train(run, settings, "--fallback")
    assert f"warning: continuing from {checkpoint.checkpoint_name(kept - 3)}" in printed
    resumed = losses(run, process=1)
    assert resumed == {step: values for step, values in losses(reference).items() if step > kept - 3}
    assert not list((run / "checkpoints").glob(".*"))
    assert all(checkpoint.verify(entry.path) for entry in checkpoint.entries(run))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_training_goes_on_when_the_disk_is_full(tmp_path: Path, settings: dict, reference: Path) -> None:
    run = tmp_path / "full"
    (run / "checkpoints").mkdir(parents=True)
    one = sum(entry["bytes"] for entry in checkpoint.read_manifest(checkpoint.resolve(reference))["files"].values())
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={int(1.7 * one)}", "tmpfs", run / "checkpoints"], check=True)
    try:
        job = start(run, settings)
        wait_for_step(run, 10, job.ended)  # the checkpoint of step 3 fits, a second one does not
        assert latest_step(run) == 3
        events = [event for event in read_events(run) if event["event"] == "checkpoint_failed"]
        assert {(event["event"], event["step"]) for event in events} <= {("checkpoint_failed", 6), ("checkpoint_failed", 9)}
        assert "checkpoint of step 6 could not be written (rank" in events[0]["message"]
        assert f"error: {events[0]['message']}" in job.output.read_text()
        subprocess.run(["mount", "-o", f"remount,size={9 * one}", run / "checkpoints"], check=True)
        assert job.wait() == [0, 0]
        assert latest_step(run) == STEPS
        assert not list((run / "checkpoints").glob(".*"))
        assert losses(run) == losses(reference)
    finally:
        subprocess.run(["umount", run / "checkpoints"], check=True)


def test_torchrun_restarts_the_ranks_after_a_kill(tmp_path: Path, settings: dict, reference: Path) -> None:
    run = tmp_path / "restarted"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2", "--monitor-interval=0.1"]
    environment = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen([*launcher, "-m", "rwtrain.cli", "train", str(write_settings(run, settings))], env=environment, stdout=output, stderr=output)
        wait_for_step(run, 8, process.poll)
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        victim = next(pid for pid in workers if b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
        os.kill(int(victim), signal.SIGKILL)
        assert process.wait(timeout=200) == 0, (tmp_path / "output").read_text()[-3000:]
    expected = losses(reference)
    assert losses(run, process=1).keys() == set(range(min(losses(run, process=1)), STEPS + 1))
    for number in range(2):
        assert losses(run, number) == {step: expected[step] for step in losses(run, number)}
