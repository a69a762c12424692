"""Average: the mean of a network's weights over the last steps of its training."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from training.norms import remeasure


class Average:
    """The exponential moving average of a network's parameters; nothing at all if the horizon is 0.

    After step t each mean moves towards its parameter by max(1 / t, 1 / horizon) of the distance: it is the plain mean
    of all steps until there are as many as the horizon, so that the first weights have no part in it, and forgets at a
    constant rate from then on.

    Source: Polyak & Juditsky 1992; Izmailov et al. 2018, Averaging Weights Leads to Wider Optima, section 3.2, for the
    statistics of batch norms; the start without bias: ours.
    """

    def __init__(self, network: nn.Module, horizon: float) -> None:
        """Begins with no step seen.

        Args:
            network: whose parameters are averaged.
            horizon: the time constant in steps; a mean over one step or less is the last step.
        """
        self.network, self.horizon, self.steps = network, horizon, 0
        self.parameters = list(network.parameters()) if horizon else []
        self.means = [parameter.detach().clone() for parameter in self.parameters]
        self.share = next(network.parameters()).new_zeros(())  # of the distance, that the next update goes

    def begin(self) -> None:
        """Counts one more step, before it is made: how far its update will go."""
        self.steps += 1
        if self.horizon:
            self.share.fill_(min(1.0, max(1 / self.steps, 1 / self.horizon)))

    @torch.no_grad()
    def update(self) -> None:
        """Takes note of the parameters after the step that was begun; the same work each time, for a CUDA graph."""
        for mean, parameter in zip(self.means, self.parameters, strict=True):
            mean.lerp_(parameter, self.share)

    @torch.no_grad()
    def install(self, batches: Iterable[Tensor]) -> None:
        """Gives the network the means, and its batch norms the statistics that belong to them.

        Running statistics are of the weights that made them; those of the means are measured on `batches`, which are
        not drawn if the horizon is 0.

        Args:
            batches: of training inputs `[N, C, H, W]`, normalised and without augmentation.
        """
        if not self.horizon:
            return
        for mean, parameter in zip(self.means, self.parameters, strict=True):
            parameter.copy_(mean)
        remeasure(self.network, batches)
