from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from genomes import Genome, Module
from genomes import operations as ops
from morphism.realise import initial
from search import Fidelity
from training import Recipe, build, state
from training.devices import fast_bfloat16
from training.errors import NonFinite
from training.evaluate import error
from training.loop import POINTS, augmented, normalised, settled, train

CPU, NORMAL = torch.device("cpu"), (0.3, 0.4)
PLAIN = Recipe(batch_size=32, precision="float32")


pytestmark = pytest.mark.usefixtures("one_thread")


def network_genome(dropout: float = 0.2) -> Genome:
    chain: dict[str, ops.Operation] = {
        "image": ops.Input(0, (1, 8, 8)),
        "conv": ops.Conv.same(8, 3),
        "norm": ops.BatchNorm(),
        "relu": ops.ReLU(),
        "pool": ops.MaxPool(),
        "flat": ops.Flatten(),
        "drop": ops.Dropout(dropout),
        "head": ops.Linear(4),
        "out": ops.Output(),
    }
    return Genome.of({"net": Module.of(chain, list(pairwise(chain)))})


GENOME = network_genome()


def stripes(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Returns noisy images of which one quarter is bright: four classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    images = torch.randint(0, 120, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    for number, label in enumerate(labels.tolist()):
        images[number, 0, 2 * label : 2 * label + 2] += 60
    return images, labels


def trained(recipe: Recipe, seed: int = 1, examples: int = 3200, data: int = 200) -> tuple[dict[str, Tensor], list]:  # type: ignore[type-arg]
    network = build(GENOME, initial(GENOME, 0))
    curve = train(network, *stripes(data), recipe, Fidelity(examples), torch.Generator().manual_seed(seed), NORMAL)
    return state(network), curve


@pytest.mark.parametrize("recipe", [PLAIN, Recipe(batch_size=32, flip=True, crop=2, precision="bfloat16")])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(recipe: Recipe) -> None:
    first, curve = trained(recipe)
    torch.rand(7)  # whatever others draw
    second, again = trained(recipe)
    assert curve == again
    assert all(torch.equal(first[name], second[name]) for name in first)
    other, _ = trained(recipe, seed=2)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_the_global_generator_is_left_as_it_was() -> None:
    before = torch.get_rng_state()
    trained(PLAIN)
    assert torch.equal(torch.get_rng_state(), before)


def test_it_learns() -> None:
    network = build(GENOME, initial(GENOME, 0))
    images, labels = stripes(200, seed=9)
    assert error(network, images, labels, NORMAL) > 0.4
    recipe, generator = Recipe(batch_size=32, crop=0, precision="float32"), torch.Generator().manual_seed(1)
    curve = train(network, *stripes(400), recipe, Fidelity(6400), generator, NORMAL)
    assert error(network, images, labels, NORMAL) < 0.1
    assert curve[-1]["loss"] < curve[0]["loss"]


def test_the_curve_has_a_point_for_each_eighth_and_ends_at_rate_zero() -> None:
    _, curve = trained(PLAIN)
    assert len(curve) == POINTS
    shown = [point["examples"] for point in curve]
    assert shown == sorted(set(shown))
    assert shown[-1] == 3200
    assert curve[-1]["learning_rate"] < 0.01 * PLAIN.learning_rate


def test_a_short_schedule_is_complete_too() -> None:
    _, curve = trained(PLAIN, examples=33)
    assert [point["examples"] for point in curve] == [32, 64]


def test_every_image_is_shown_once_before_any_is_shown_again() -> None:
    shown: list[Tensor] = []

    class Watched(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            shown.append(x[:, 0, 0, 0].clone())
            return self.weight.expand(len(x), 4)

    images = torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1).expand(100, 1, 2, 2).contiguous()
    recipe = Recipe(batch_size=30, crop=0, precision="float32")
    train(Watched(), images, torch.zeros(100).long(), recipe, Fidelity(300), torch.Generator().manual_seed(0), (0, 1))
    values = (torch.cat(shown) * 255).round().long()
    assert len(values) == 300
    for start in (0, 100, 200):
        assert sorted(values[start : start + 100].tolist()) == list(range(100))


def test_a_set_smaller_than_a_batch_is_trained_on_whole() -> None:
    _, curve = trained(Recipe(batch_size=128, precision="float32"), examples=100, data=20)
    assert curve[-1]["examples"] == 100


def test_a_loss_that_explodes_is_a_typed_failure() -> None:
    with pytest.raises(NonFinite, match="the loss must be finite, it is"):
        trained(Recipe(batch_size=32, learning_rate=100.0, weight_decay=1.0, precision="float32"), examples=32000)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_a_step_is_that_of_the_textbook(momentum: float) -> None:
    """Nesterov's momentum, decay of weights but not of norms and biases, the schedule's rate, smoothed targets."""
    decay, smoothing, steps = 0.1, 0.2, 5
    genome = network_genome(dropout=0.0)
    network, plain = (build(genome, initial(genome, 0)) for _ in range(2))
    images, labels = stripes(64)
    recipe = Recipe(64, 0.3, momentum, decay, smoothing, crop=0, precision="float32")
    train(network, images, labels, recipe, Fidelity(steps * 64), torch.Generator().manual_seed(0), NORMAL)
    parameters, inputs = list(plain.parameters()), normalised(images, NORMAL)
    targets = torch.full((64, 4), smoothing / 4).scatter_add(1, labels[:, None], torch.full((64, 1), 1 - smoothing))
    speeds = [torch.zeros_like(p) for p in parameters]
    for number in range(1, steps + 1):
        loss = -(targets * plain(inputs).log_softmax(1)).sum(1).mean()
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for p, gradient, speed in zip(parameters, gradients, speeds, strict=True):
                pull = gradient + (decay * p if p.dim() > 1 else 0)
                speed.mul_(momentum).add_(pull)
                p.sub_(recipe.rate(number / (steps + 1)) * (pull + momentum * speed if momentum else speed))
    for name, wanted in state(plain).items():
        torch.testing.assert_close(state(network)[name], wanted, rtol=1e-4, atol=1e-5)


def test_augmentation_is_a_function_of_the_generator() -> None:
    images, _ = stripes(50)
    recipe = Recipe(crop=2, flip=True)
    first, second, other = (augmented(images, recipe, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert first.dtype == torch.uint8
    assert first.shape == images.shape


def test_each_image_is_shifted_and_mirrored_on_its_own() -> None:
    image = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4)
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))[0]
    shifted = [padded[:, y : y + 4, x : x + 4] for y in range(3) for x in range(3)]
    allowed = {tuple(view.flatten().tolist()) for made in shifted for view in (made, made.flip(2))}
    batch = augmented(image.expand(500, 1, 4, 4), Recipe(crop=1, flip=True), torch.Generator().manual_seed(0))
    assert {tuple(one.flatten().tolist()) for one in batch} == allowed


def test_no_augmentation_leaves_images_alone() -> None:
    images, _ = stripes(50)
    assert torch.equal(augmented(images, Recipe(crop=0), torch.Generator()), images)


def test_images_are_normalised_and_left_untouched() -> None:
    images, _ = stripes(10)
    before = images.clone()
    got = normalised(images, NORMAL)
    torch.testing.assert_close(got, (images.float() / 255 - 0.3) / 0.4)
    assert torch.equal(images, before)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_auto_is_settled_once_and_what_the_user_says_stays() -> None:
    found = settled(Recipe(), CPU)
    assert found.precision == ("bfloat16" if fast_bfloat16(CPU) else "float32")
    assert settled(found, CPU) == found
    for precision in ("bfloat16", "float32"):
        assert settled(Recipe(precision=precision), CPU) == Recipe(precision=precision)


@pytest.mark.skipif(not torch.cpu.get_capabilities().get("avx512_bf16"), reason="needs a processor made for it")
def test_a_processor_that_is_made_for_bfloat16_is_found_to_be_fast_at_it() -> None:
    fast_bfloat16.cache_clear()
    assert fast_bfloat16(CPU)
