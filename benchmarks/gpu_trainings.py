"""The trainings that gpu.py compares: the project's with and without a graph, a conventional one, and a fast one.

Work for its processes. All of it runs on a CPU too, where nothing is captured, so that it can be rehearsed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from trainings import Pictures, by_the_book, plain

import training.trainer
from genomes import Genome
from genomes.spaces.residual import ResidualSpace
from morphism.realise import initial
from search import Candidate, Fidelity, WeightStore
from training import Prepared, Recipe, Trainer, build, captured, load
from training.child import evaluate
from training.devices import claim
from training.evaluate import error
from training.loop import train
from training.pool import Pool
from training.slots import Slot, cuda_slots

SHAPE, CLASSES, TRAIN, JUDGED = (1, 28, 28), 10, 50_000, 10_000
SPACE = ResidualSpace(SHAPE, CLASSES)
GENOMES = tuple(
    SPACE.member(width, blocks) for width in (8, 13, 20, 32) for blocks in ([1, 0], [0, 1], [1, 0, 0], [0, 1, 0])
)
CHILD = SPACE.member(13, [1, 0, 0])  # 18,600 parameters: the medium one of training_speed.py
READERS = 3  # processes of a DataLoader
FAST = Recipe(
    batch_size=1024, learning_rate=0.2, momentum=0.85, label_smoothing=0.2, flip=True, crop=2, precision="bfloat16"
)
FAST_EPOCHS = 9.9
Normal = tuple[float, float]


def recipe(batch: int) -> Recipe:
    """Returns how children are trained in batches of a size; the learning rate rises with its square root."""
    return Recipe(batch_size=batch, learning_rate=0.1 * (batch / 128) ** 0.5, crop=2, flip=True)


def pictures(count: int = TRAIN + JUDGED + 2, shape: tuple[int, int, int] = SHAPE) -> tuple[Tensor, Tensor]:
    """Returns made-up images: one of four smooth shapes of its class, shifted, paler or stronger, with noise."""
    generator = torch.Generator().manual_seed(0)
    channels, height, width = shape
    coarse = torch.randn(CLASSES, 4, channels, 5, 5, generator=generator)
    shapes = functional.interpolate(coarse.flatten(0, 1), (height + 6, width + 6), mode="bicubic", align_corners=True)
    labels, kinds = (torch.randint(0, most, (count,), generator=generator) for most in (CLASSES, 4))
    down, right = torch.randint(0, 7, (2, count), generator=generator)
    views = shapes.unfold(2, height, 1).unfold(3, width, 1)
    chosen = views[4 * labels + kinds, :, down, right] * (0.5 + torch.rand(count, 1, 1, 1, generator=generator))
    noisy = chosen + torch.randn(chosen.shape, generator=generator)
    return (128 + 32 * noisy).clamp(0, 255).to(torch.uint8), labels


@dataclass(frozen=True)
class Timed:
    """Children that were trained one after another or side by side.

    Attributes:
        seconds: of wall clock in all, from the start of the first process on.
        startup: of these, until each slot could begin with a child; 0 if each child starts on its own.
        errors: of the children, on the same validation images.
    """

    seconds: float
    startup: float
    errors: tuple[float, ...]


def children(
    file: str, place: str, count: int, batch: int, examples: int, slots: int, graph: bool, begun: float
) -> dict[str, Any]:
    """Trains and judges children as a search does, in warm slots that share the first device.

    Args:
        file: of the prepared data.
        place: a directory of its own.
        count: of children.
        batch: size.
        examples: that each is shown.
        slots: how many are trained at once.
        graph: whether steps are captured.
        begun: when this process was asked for, by the wall clock.

    Returns:
        the fields of a `Timed`.
    """
    training.trainer.evaluate = replayed if graph else launched
    rehearsed = [Slot(f"cpu:{number}", warm=True) for number in range(slots)]
    pool = Pool(cuda_slots([0], slots) if torch.cuda.is_available() else rehearsed)
    store, scratch = WeightStore(Path(place) / "weights"), Path(place) / "results"
    trainer = Trainer(store, Prepared.at(Path(file)), recipe(batch), 0, 900.0, scratch, pool=pool)
    everybody = Barrier(slots)

    def wake(number: int) -> None:
        with pool.one(number) as slot:
            everybody.wait(300)
            outcome = pool.run(slot, awake, slot.device, slot.share, result=scratch / f"awake{number}", timeout=300)
            assert outcome.status == "ok", outcome

    def judged(number: int) -> float:
        candidate = Candidate(number, GENOMES[number % len(GENOMES)], fidelity=Fidelity(examples))
        evaluation = trainer(candidate, {})
        assert evaluation.ok, evaluation.reason
        return evaluation.objectives["error"]

    try:
        with ThreadPoolExecutor(slots) as threads:
            list(threads.map(wake, range(slots)))
            startup = time.time() - begun
            errors = list(threads.map(judged, range(count)))
        return {"seconds": time.time() - begun, "startup": startup, "errors": errors}
    finally:
        pool.close()


def awake(device: str, share: float) -> dict[str, Any]:
    """Makes a process ready for its first child."""
    torch.zeros(1, device=claim(device, share))
    return {}


@contextmanager
def without_graphs() -> Iterator[None]:
    """Lets no schedule be long enough to be captured."""
    before, captured.LEAST = captured.LEAST, sys.maxsize
    try:
        yield
    finally:
        captured.LEAST = before


def replayed(*given: Any) -> dict[str, Any]:
    """Evaluates as `training.child.evaluate`, and fails if a step could not be captured."""
    value = evaluate(*given)
    assert not captured.BROKEN, "no graph was measured"
    return value


def launched(*given: Any) -> dict[str, Any]:
    """Evaluates as `training.child.evaluate`, kernel by kernel."""
    with without_graphs():
        return evaluate(*given)


def conventional(genome: bytes, file: str, examples: int, seed: int, readers: int = READERS) -> float:
    """Trains and judges one child as tutorials do, in float32, and returns its error; for a process of its own.

    A DataLoader with transforms for each sample, batches of 128, the loss read at each step.
    """
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    prepared, made = Prepared.at(Path(file)), Genome.from_json(genome)
    split = load(prepared)
    network = plain(made, initial(made, seed), prepared.normal).to(device)
    torch.default_generator.manual_seed(seed)
    loader = DataLoader(
        Pictures(split, prepared.normal),
        128,
        shuffle=True,
        drop_last=True,
        num_workers=readers,
        pin_memory=device.type == "cuda",
        persistent_workers=readers > 0,
        multiprocessing_context="fork" if readers else None,  # a spawned process would spawn them, which takes seconds
    )
    by_the_book(network, loader, -(-examples // 128), device)
    return error(network, split.validation.images.to(device), split.validation.labels.to(device), prepared.normal)


class Bench:
    """Data on a device, on which single networks are trained."""

    def __init__(self, device: str, images: Tensor, labels: Tensor, judged: int = 0) -> None:
        """Takes the last `judged` images to judge by."""
        self.device = claim(device, 1.0)
        images, labels = images.to(self.device), labels.to(self.device)
        cut = len(images) - judged
        self.images, self.labels, self.judge = images[:cut], labels[:cut], (images[cut:], labels[cut:])
        self.normal: Normal = (0.5, 0.25)

    def timed(self, work: Callable[[], object]) -> float:
        """Returns the seconds of wall clock that work takes, to the end of all that it launched."""
        self._settle()
        begun = time.perf_counter()
        work()
        self._settle()
        return time.perf_counter() - begun

    def child(self, batch: int, examples: int, seed: int, graph: bool) -> tuple[float, float]:
        """Returns the seconds of a child's training, its capture included, and its error."""
        network = build(CHILD, initial(CHILD, seed)).to(self.device)

        def work() -> None:
            self.train(network, recipe(batch), examples, seed)

        with nullcontext() if graph else without_graphs():
            found = self.timed(work), error(network, *self.judge, self.normal)
        assert not captured.BROKEN, "no graph was measured"
        return found

    def train(self, network: nn.Module, how: Recipe, examples: int, seed: int) -> None:
        """Trains as the project does."""
        generator = torch.Generator(self.device).manual_seed(seed)
        train(network, self.images, self.labels, how, Fidelity(examples), generator, self.normal)

    def fast(self, epochs: float, by_hand: bool) -> float:
        """Returns the images a second at which the fast network is trained."""
        network, examples = fast_network(self.images).to(self.device), round(epochs * len(self.images))
        if by_hand:
            with unrestrained():
                seconds = self.timed(lambda: fast_by_hand(network, self.images, self.labels, epochs))
        else:
            seconds = self.timed(lambda: self.train(network, FAST, examples, 0))
        return -(-examples // FAST.batch_size) * FAST.batch_size / seconds

    def _settle(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@contextmanager
def unrestrained() -> Iterator[None]:
    """Lets cuDNN try all that it has, as the paper's program does, and not only what is repeatable."""
    before = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.benchmark = True
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before[0]
        torch.use_deterministic_algorithms(before[1], warn_only=True)


class Scaled(nn.Module):
    """Divides by a constant."""

    def forward(self, x: Tensor) -> Tensor:
        """Takes and returns `[N, K]`."""
        return x / 9


def fast_network(images: Tensor) -> nn.Sequential:
    """Returns the network of Jordan 2024 (arXiv 2404.00498, section 3): 2 million parameters for images of 32 x 32 x 3.

    A frozen convolution that whitens patches of 2 x 2, three groups of two convolutions of 3 x 3, and a linear layer.
    """
    whitening = nn.Conv2d(3, 24, 2)
    sample = images[:5_000].float() / 255
    patches = sample.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    filters = (vectors / (values + 5e-4).sqrt()).T.view(12, 3, 2, 2)
    whitening.weight = nn.Parameter(torch.cat([filters, -filters]), requires_grad=False)
    groups = [_group(*channels) for channels in ((24, 64), (64, 256), (256, 256))]
    head = nn.MaxPool2d(3), nn.Flatten(), nn.Linear(256, CLASSES, bias=False), Scaled()
    return nn.Sequential(whitening, nn.GELU(), *groups, *head)


def _group(before: int, after: int) -> nn.Sequential:
    norms = [nn.BatchNorm2d(after, eps=1e-12, momentum=0.4) for _ in range(2)]
    for norm in norms:
        norm.weight.requires_grad_(False)
    convolutions = [nn.Conv2d(channels, after, 3, padding="same", bias=False) for channels in (before, after)]
    return nn.Sequential(convolutions[0], nn.MaxPool2d(2), norms[0], nn.GELU(), convolutions[1], norms[1], nn.GELU())


def fast_by_hand(network: nn.Module, images: Tensor, labels: Tensor, epochs: float) -> None:
    """Trains in the way of the same paper, launched kernel by kernel: half precision, whole epochs augmented at once.

    Images are shifted by 2 pixels and mirrored in every other epoch; the weights are drawn to their mean each 5 steps.
    """
    device, size, count = images.device, FAST.batch_size, len(images)
    network.to(torch.float16 if device.type == "cuda" else torch.bfloat16).to(memory_format=torch.channels_last).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    kind = next(network.parameters()).dtype
    ready = ((images.float() / 255 - 0.5) / 0.25).to(kind).contiguous(memory_format=torch.channels_last)
    padded = functional.pad(ready, (2,) * 4, "reflect")
    views = padded.unfold(2, images.shape[2], 1).unfold(3, images.shape[3], 1)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    means = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.85, nesterov=True, weight_decay=1e-2)
    steps, step = -(-round(epochs * count) // size), 0
    generator = torch.Generator(device).manual_seed(0)
    while step < steps:
        down, right = torch.randint(0, 5, (2, count), generator=generator, device=device)
        shifted = views[torch.arange(count, device=device), :, down, right]
        turned = shifted.flip(3) if step // (count // size) % 2 else shifted
        ready = turned.contiguous(memory_format=torch.channels_last)
        order = torch.randperm(count, generator=generator, device=device)
        for chosen in torch.split(order, size)[: min(count // size, steps - step)]:
            loss = functional.cross_entropy(network(ready[chosen]), labels[chosen], label_smoothing=0.2)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            for group in optimizer.param_groups:
                group["lr"] = 1e-4 * (1 - step / steps)
            step += 1
            if step % 5 == 0:
                with torch.no_grad():
                    torch._foreach_lerp_(means, parameters, 0.1)
                    torch._foreach_copy_(parameters, means)


def facts(device: str) -> dict[str, Any]:
    """Returns what all this is measured on."""
    cuda = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "none",
        "capability": list(torch.cuda.get_device_capability(device)) if cuda else [],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
    }
