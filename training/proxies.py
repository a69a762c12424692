"""Proxies: what a network before its training may say of it afterwards, for the price of one batch.

Each is a function of a network, images `[N, C, H, W]` as it takes them, and labels `[N]`; more is better. The network
is left as it is. Most grow with size: `benchmarks/proxies.py` asks which of them says more than the parameter count.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional

from genomes import Genome, cost
from morphism.realise import initial
from training import data
from training.loop import normalised
from training.modules import Blend
from training.network import build

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.PReLU, nn.GELU, nn.SiLU, nn.Hardswish, Blend)  # those that bend at zero
IMAGES = 32  # of the batch that screens use: a few tens of milliseconds for a network of 100,000 parameters
DIGITS = 6  # that count, so that a replay on another processor ranks alike

Proxy = Callable[[nn.Module, Tensor, Tensor], float]


def naswot(network: nn.Module, images: Tensor, labels: Tensor) -> float:  # noqa: ARG001  one signature for all
    """Returns how differently a network treats different images: log |det K|, where more is more expressive.

    `K[i, j] = A - d(c_i, c_j)`: of A activations, how many are on or off for both images alike. Minus infinity if two
    images cannot be told apart.
    Source: Mellor et al. 2021, Neural architecture search without training, equations 1 and 2.
    """
    same = torch.zeros(len(images), len(images), dtype=torch.float64)

    def note(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        on = (given[0].flatten(1) > 0).to(torch.float64)
        same.add_(on @ on.T + (1 - on) @ (1 - on).T)

    twin = _twin(network)
    for module in twin.modules():
        if isinstance(module, ACTIVATIONS):
            module.register_forward_pre_hook(note)
    with torch.no_grad():
        twin(images)
    return float(torch.linalg.slogdet(same).logabsdet)


def synflow(network: nn.Module, images: Tensor, labels: Tensor) -> float:  # noqa: ARG001
    """Returns the sum of `|θ · ∂R/∂θ|` over the weights, where R is what flows through the network of all `|θ|`.

    R is the sum of the logits for one image of ones. Batch norms forget their statistics and only scale. In float64,
    since the product over many layers leaves the range of float32.
    Source: Tanaka et al. 2020, Pruning neural networks without any data by iteratively conserving synaptic flow,
    equation 3; as a proxy: Abdelfattah et al. 2021, Zero-cost proxies for lightweight NAS, section 3.
    """
    twin = _twin(network).eval().to(torch.float64)
    magnitudes = {name: parameter.detach().abs() for name, parameter in twin.named_parameters()}
    cleared = {name: _unmeasured(name, buffer) for name, buffer in twin.named_buffers()}
    ones = torch.ones_like(images[:1], dtype=torch.float64)

    def flow(parameters: Mapping[str, Tensor]) -> Tensor:
        total: Tensor = functional_call(twin, (dict(parameters), cleared), (ones,)).sum()
        return total

    return _saliency(magnitudes, grad(flow)(magnitudes))


def snip(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Returns the sum of `|θ · ∂L/∂θ|` over the weights: how much the loss of a batch depends on each of them.

    Source: Lee et al. 2019, SNIP, equation 6, without its normalisation, which would make every sum 1; as a proxy:
    Abdelfattah et al. 2021, section 3.
    """
    return _saliency(dict(network.named_parameters()), _gradients(network, images, labels))


def grad_norm(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Returns the sum of the Euclidean norms of the gradients of all weight tensors, after one batch.

    Source: Abdelfattah et al. 2021, section 3.
    """
    gradients = _gradients(network, images, labels).values()
    return float(sum(gradient.norm() for gradient in gradients if gradient.dim() > 1))


PROXIES: Mapping[str, Proxy] = {"naswot": naswot, "synflow": synflow, "snip": snip, "grad_norm": grad_norm}


def scorer(name: str, prepared: data.Prepared, seed: int) -> Callable[[Genome], float]:
    """Returns a function of genomes: the proxy's score of each with fresh weights on the first training images.

    Args:
        name: of `PROXIES`, or `parameters`, which is the count.
        prepared: the data set.
        seed: of the weights; the same for all, so that equal genomes score alike.
    """
    if name == "parameters":
        return lambda genome: float(cost(genome).parameters)
    train = data.load(prepared).train
    images, labels = normalised(train.images[:IMAGES], prepared.normal), train.labels[:IMAGES]

    def score(genome: Genome) -> float:
        found = PROXIES[name](build(genome, initial(genome, seed)), images, labels)
        return -math.inf if math.isnan(found) else float(f"{found:.{DIGITS}g}")

    return score


def _twin(network: nn.Module) -> nn.Module:
    """Returns a copy that normalises by the batch, as in training, and drops nothing, which would be chance."""
    twin = copy.deepcopy(network).train()
    for module in twin.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    return twin


def _gradients(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    twin = _twin(network)
    parameters = {name: parameter.detach() for name, parameter in twin.named_parameters()}

    def loss(parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> Tensor:
        logits = functional_call(twin, (dict(parameters), dict(buffers)), (images,))
        return functional.cross_entropy(logits, labels)

    found: dict[str, Tensor] = grad(loss)(parameters, dict(twin.named_buffers()))
    return found


def _unmeasured(name: str, buffer: Tensor) -> Tensor:
    return torch.ones_like(buffer) if name.endswith("running_var") else torch.zeros_like(buffer)


def _saliency(parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> float:
    """Returns the sum of `|θ · g|` over the weights of convolutions and linear layers, which both sources prune."""
    with torch.no_grad():
        return float(sum((parameters[name] * g).abs().sum() for name, g in gradients.items() if g.dim() > 1))
