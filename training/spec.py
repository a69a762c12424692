"""DataSpec: which data a search is about; a value without torch, so that configurations can hold it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class DataSpec:
    """A data set and how it is split.

    Attributes:
        name: `digits`, `fashion_mnist`, `mnist`, `cifar10`, `cifar100`, `image_folder`, or `package.module:function`, a
            function that returns images, uint8 `[N, C, H, W]`, and labels, int64 `[N]`.
        root: the folder of its files; None for where they usually are.
        size: height and width that an image folder's pictures are brought to, in pixels.
        validation: share of the training part that selection sees.
        second_validation: share of the training part that is kept for choosing among finalists.
        test: share that is kept for the final number, if the data set has no test part of its own.
        seed: of the split.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    name: str = "digits"
    root: str | None = None
    size: int = 32
    validation: float = 0.15
    second_validation: float = 0.1
    test: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses shares that are not shares."""
        for field in ("validation", "second_validation", "test"):
            if not 0 < getattr(self, field) < 1:
                raise ValueError(f"data.{field} must be a share between 0 and 1, got {getattr(self, field)}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"data.seed must be in [0, 2^63), got {self.seed}")
        if not 4 <= self.size <= 1024:
            raise ValueError(f"data.size must be in [4, 1024] pixels, got {self.size}")
