from __future__ import annotations

import torch
from torch import Tensor, nn

from search import Fidelity
from training.evaluate import BATCH, LEAST, error, judged


class Threshold(nn.Module):
    """Says class 1 where the first pixel is bright; counts in train mode that it was asked there."""

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        assert len(x) <= BATCH
        return torch.stack([torch.zeros(len(x)), x[:, 0, 0, 0]], 1)


def test_the_error_is_the_share_of_wrong_answers() -> None:
    count = 2 * BATCH + 3
    images = torch.zeros(count, 1, 2, 2, dtype=torch.uint8)
    images[::2] = 255
    labels = (images[:, 0, 0, 0] > 0).long()
    assert error(Threshold(), images, labels, (0.5, 1.0)) == 0
    labels[:5] = 1 - labels[:5]
    assert error(Threshold(), images, labels, (0.5, 1.0)) == 5 / count


def test_no_gradient_is_kept() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    error(network, torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), (0, 1))
    assert all(parameter.grad is None for parameter in network.parameters())


def test_more_training_is_judged_on_as_many_images_or_more_and_never_on_more_than_there_are() -> None:
    counts = [judged(Fidelity(examples), 6_000) for examples in (1, 7_999, 8_000, 12_000, 24_000, 10**6)]
    assert counts == [LEAST, LEAST, 2_000, 3_000, 6_000, 6_000]
    assert judged(Fidelity(10**6), 90) == 90
