"""The tiled contrast against the whole matrix, its gradients, its memory, and several ranks against one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.forked_ranks import Job
from rwtrain.objectives import contrastive
from rwtrain.objectives.contrastive import info_nce
from tests.rwtrain.objectives import contrastive_worker


def whole(
    queries: torch.Tensor,
    keys: torch.Tensor,
    *,
    positive: torch.Tensor,
    content: torch.Tensor,
    key_content: torch.Tensor,
    key_valid: torch.Tensor,
    scale: torch.Tensor,
) -> torch.Tensor:
    blocked = (content[:, None] == key_content) | ~key_valid
    blocked[torch.arange(len(queries)), positive] = False
    logits = (scale * queries @ keys.T).masked_fill(blocked, -torch.inf)
    return torch.nn.functional.cross_entropy(logits, positive, reduction="none")


@pytest.mark.parametrize("tile", [1, 3, 8, 100])
def test_tiles_give_the_loss_and_gradients_of_the_whole_matrix(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(contrastive.TILE, "cpu", tile)
    torch.manual_seed(0)
    inputs = [torch.nn.functional.normalize(torch.randn(rows, 5, dtype=torch.float64), dim=1) for rows in (6, 17)]
    inputs.append(torch.tensor([4.0], dtype=torch.float64))
    for tensor in inputs:
        tensor.requires_grad_()
    key_content = torch.randint(0, 6, (17,))
    positive = torch.tensor([3, 9, 0, 16, 9, 1])
    rest = {"positive": positive, "content": key_content[positive], "key_content": key_content, "key_valid": torch.rand(17) > 0.2}
    rest["key_valid"][positive[1:]] = True
    weights = torch.randn(6, dtype=torch.float64)
    found = info_nce(inputs[0], inputs[1], **rest, scale=inputs[2])
    expected = whole(inputs[0], inputs[1], **rest, scale=inputs[2])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad((losses * weights).sum(), inputs) for losses in (found, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("tile", [1, 4, 100])
def test_both_directions_in_one_pass_equal_two_whole_matrices(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(contrastive.TILE, "cpu", tile)
    torch.manual_seed(1)
    first, second = (torch.nn.functional.normalize(torch.randn(9, 5, dtype=torch.float64), dim=1).requires_grad_() for _ in range(2))
    scale = torch.tensor([6.0], dtype=torch.float64, requires_grad=True)
    content, valid = torch.tensor([0, 1, 2, 0, 3, 4, 4, 5, 0]), torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 0, 0], dtype=torch.float64)
    rest = {"positive": torch.arange(9), "content": content, "key_content": content, "key_valid": valid > 0, "scale": scale}
    expected = ((whole(first, second, **rest) + whole(second, first, **rest)) / 2 * valid).sum()
    found = contrastive.paired_info_nce(first, second, content, valid, scale)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(loss, (first, second, scale)) for loss in (found, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("tile", [1, 4, 100])
def test_sigmoid_contrast_equals_its_formula(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(contrastive.TILE, "cpu", tile)
    torch.manual_seed(2)
    first, second = (torch.nn.functional.normalize(torch.randn(7, 5, dtype=torch.float64), dim=1).requires_grad_() for _ in range(2))
    scale, bias = (torch.tensor([number], dtype=torch.float64, requires_grad=True) for number in (5.0, -3.0))
    content, valid = torch.tensor([0, 1, 2, 0, 3, 4, 5]), torch.tensor([1.0, 1, 1, 1, 1, 1, 0], dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(6):
        for j in range(6):
            if i == j or content[i] != content[j]:
                logit = scale * (first[i] * second[j]).sum() + bias
                expected = expected - torch.log(torch.sigmoid(logit if i == j else -logit)).sum()
    found = contrastive.sigmoid_contrast(first, second, content, valid, scale, bias)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(loss, (first, second, scale, bias)) for loss in (found, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-12)


def test_ranks_together_compute_the_loss_and_gradients_of_one(tmp_path: Path) -> None:
    for processes in (1, 2, 3):
        job = Job([str(tmp_path / f"{processes}.pt")], processes=processes, output=tmp_path / "output", main=contrastive_worker.main)
        assert job.wait() == [0] * processes, job.output.read_text()[-3000:]
    one, two, three = (torch.load(tmp_path / f"{processes}.pt", weights_only=True) for processes in (1, 2, 3))
    torch.testing.assert_close(two, one, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(three, one, rtol=1e-12, atol=1e-12)


def test_a_large_batch_never_holds_its_similarity_matrix() -> None:
    code = """
import resource, torch
from rwtrain.objectives.contrastive import paired_info_nce
torch.set_num_threads(1)
n = 16384
a, b = (torch.nn.functional.normalize(torch.randn(n, 16), dim=1).requires_grad_() for _ in range(2))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
paired_info_nce(a, b, torch.arange(n), torch.ones(n), torch.tensor([10.0])).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    peak_kib = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert peak_kib < 500_000, "one 16384 x 16384 matrix in float32 is 1,048,576 KiB"


@pytest.mark.parametrize("form", ["info_nce", "sigmoid"])
def test_autocast_changes_neither_loss_nor_gradients(form: str) -> None:
    """Forward and backward inside autocast, as gradient caching has them: bfloat16 similarities at a temperature of 0.02 would be off by 0.2."""
    torch.manual_seed(2)
    features = [torch.nn.functional.normalize(torch.randn(40, 16), dim=1).requires_grad_() for _ in range(2)]
    scale, bias = torch.tensor([50.0], requires_grad=True), torch.tensor([-2.0], requires_grad=True)
    content, valid = torch.arange(40), torch.ones(40)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            if form == "info_nce":
                loss = contrastive.paired_info_nce(*features, content, valid, scale)
            else:
                loss = contrastive.sigmoid_contrast(*features, content, valid, scale, bias)
            gradients = torch.autograd.grad(loss, [*features, scale])
        found.append((loss, *gradients))
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-6)
