"""A model of torch, traced by torch.fx, as a genome and its weights."""

from training.convert.conversion import convert

__all__ = ["convert"]
