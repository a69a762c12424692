"""The exceptions of this package, as a tree."""

from __future__ import annotations


def line(error: BaseException) -> str:
    """Returns what went wrong in one line of at most 300 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


class TrainingError(Exception):
    """A network cannot be built, fed or trained."""


class BuildError(TrainingError):
    """The weights do not fit the genome, or a morphism failed its certificate."""


class NonFinite(TrainingError):
    """The loss became NaN or infinite."""


class PoolClosed(TrainingError):
    """There are no slots any more, since the search has ended."""


class DataError(TrainingError):
    """A data set is unknown, missing or malformed; the message says how to get it."""


class ExportError(TrainingError):
    """A network cannot be written, or what was written does not compute the same; nothing is left of it."""


class ConversionError(TrainingError):
    """A model is no genome: an operation is unknown, or the genome does not compute what the model computes."""
