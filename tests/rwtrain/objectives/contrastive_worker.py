"""One rank that computes every contrast of six items on its share of them."""

from __future__ import annotations

import torch

from rwtrain.objectives.contrastive import Negatives, entity_info_nce, paired_info_nce, sigmoid_contrast, two_view_info_nce
from rwtrain.train import distributed


def main(arguments: list[str]) -> int:
    """Argument: the file for the sums over ranks of losses and gradients, in float64."""
    ranks = distributed.start(60)
    torch.manual_seed(0)
    features = [torch.nn.functional.normalize(torch.randn(6, 4, dtype=torch.float64), dim=1).requires_grad_() for _ in range(2)]
    content, valid, scale = torch.tensor([1, 2, 3, 1, 4, 0]), torch.tensor([1.0, 1, 1, 1, 1, 0]), torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    share = 6 // ranks.world_size
    part = slice(ranks.rank * share, (ranks.rank + 1) * share)
    for loss in (paired_info_nce, two_view_info_nce, entity_info_nce):
        total = loss(features[0][part], features[1][part], content[part], valid[part], scale)
        total.backward()
    hard = torch.nn.functional.normalize(torch.randn(6, 4, dtype=torch.float64), dim=1).requires_grad_()
    negatives = Negatives(hard[part], torch.tensor([9, 9, 2, 8, 7, 7])[part], valid[part])
    two_view_info_nce(features[0][part], features[1][part], content[part], valid[part], scale, negatives).backward()
    bias = torch.tensor([-2.0], dtype=torch.float64, requires_grad=True)
    judged = sigmoid_contrast(features[0][part], features[1][part], content[part], valid[part], scale, bias)
    judged.backward()
    sums = ranks.total(torch.cat([total.detach()[None], judged.detach()[None], *(tensor.grad.flatten() for tensor in (*features, hard, scale, bias))]))
    if ranks.is_main:
        torch.save(sums, arguments[0])
    distributed.stop()
    return 0
