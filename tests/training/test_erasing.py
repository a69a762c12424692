"""Laws of random erasing: one rectangle an image, of the sizes that the paper draws, and nothing else touched."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training import Recipe
from training.erasing import AREA, erased
from training.loop import augmented


def changed(batch: Tensor, share: float, seed: int = 0) -> Tensor:
    """Returns where noise was drawn, bool `[N, H, W]`: black images show it but for one pixel in 256."""
    return (erased(batch, share, torch.Generator().manual_seed(seed)) > 0).any(1)


def black(count: int, height: int, width: int, channels: int = 3) -> Tensor:
    return torch.zeros(count, channels, height, width, dtype=torch.uint8)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_what_is_erased_is_one_rectangle_within_the_image(height: int, width: int, seed: int) -> None:
    for mask in changed(black(20, height, width, channels=8), 1.0, seed):  # 8 channels: all zero once in 10^19
        rows, columns = mask.any(1), mask.any(0)
        assert mask.any()
        assert torch.equal(mask, rows[:, None] & columns[None, :])
        for line in (rows, columns):
            places = line.nonzero().flatten()
            assert places[-1] - places[0] + 1 == len(places)


def test_the_area_is_spread_over_what_the_paper_draws() -> None:
    shares = changed(black(4000, 32, 32), 1.0).flatten(1).float().mean(1)
    assert shares.min() < AREA[0] + 0.01
    assert AREA[1] - 0.02 < shares.max() < AREA[1] + 0.02
    assert abs(float(shares.mean()) - sum(AREA) / 2) < 0.01


def test_every_place_is_erased_equally_often_but_for_the_border() -> None:
    often = changed(black(8000, 16, 16), 1.0).float().mean(0)
    torch.testing.assert_close(often, often.flip(0), atol=0.02, rtol=0)
    torch.testing.assert_close(often, often.flip(1), atol=0.02, rtol=0)
    assert often.min() > 0.005  # the corners too


def test_the_share_of_images_is_the_probability() -> None:
    batch = black(4000, 8, 8)
    for share in (0.0, 0.25, 1.0):
        hit = changed(batch, share).flatten(1).any(1).float().mean()
        assert abs(float(hit) - share) < 0.025


def test_the_rest_of_the_image_and_the_batch_itself_are_left_alone() -> None:
    batch = torch.randint(0, 256, (50, 1, 28, 28), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    before = batch.clone()
    got = erased(batch, 0.5, torch.Generator().manual_seed(2))
    assert torch.equal(batch, before)
    assert got.dtype == torch.uint8
    kept = (got == batch).flatten(1).float().mean(1)
    assert kept.min() > 1 - AREA[1] - 0.02
    assert (kept == 1).sum() > 10


def test_the_noise_is_uniform_and_differs_between_images() -> None:
    got = erased(black(600, 16, 16, channels=1), 1.0, torch.Generator().manual_seed(3))
    noise = got[got > 0].float()
    assert abs(float(noise.mean()) - 128) < 2
    assert len({tuple(image.flatten().tolist()) for image in got}) == 600


def test_augmentation_erases_only_when_the_recipe_says_so() -> None:
    batch = black(100, 12, 12)
    generator = torch.Generator().manual_seed(0)
    assert not augmented(batch, Recipe(crop=1, flip=True), generator).any()
    first, second = (augmented(batch, Recipe(erasing=0.5), torch.Generator().manual_seed(4)) for _ in range(2))
    assert first.any()
    assert torch.equal(first, second)
