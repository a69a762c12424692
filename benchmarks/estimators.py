"""The estimators of fidelity.py: what a search could judge a child by, each a function of what the search knows.

An estimate is a number for each child, lower for one that is expected to be better. None sees the reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from family import Member, Record, Size
from numpy.typing import NDArray
from scipy.stats import rankdata  # type: ignore[import-untyped]
from sklearn.ensemble import RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from evo import judged
from genomes import cost, expand, features
from search import Evaluation

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Study:
    """All records of a family as columns over its children.

    Attributes:
        size: of the study.
        members: founders, children and controls.
        records: by member and key.
    """

    size: Size
    members: Sequence[Member]
    records: Mapping[tuple[int, str], Record]

    @cached_property
    def children(self) -> list[Member]:
        """The members that are judged: those with a parent whose reference was measured."""
        wanted = [self.key("scratch", 1, seed=seed) for seed in (10, 11)]
        known = {m.number for m in self.members if all((m.number, key) in self.records for key in wanted)}
        return [member for member in self.members if member.edits and member.number in known]

    @cached_property
    def controls(self) -> dict[int, int]:
        """The number of each parent's no-op control."""
        return {m.parent: m.number for m in self.members if m.control and m.parent is not None}

    def key(self, start: str, share: float, rate: float = 1.0, seed: int = 0) -> str:
        """Returns the key of a run that is shown a share of the reference's examples."""
        return f"{start} x{rate:g} {round(share * self.size.full)} s{seed}"

    def column(self, key: str, name: str = "error") -> Numbers:
        """Returns a number of each child's record."""
        return np.array([self.records[member.number, key][name] for member in self.children])

    def control(self, key: str, name: str = "error") -> Numbers:
        """Returns the same number of the no-op control of each child's parent."""
        return np.array([self.records[self.controls[m.parent or 0], key][name] for m in self.children])

    def curve(self, key: str) -> Numbers:
        """Returns the training losses `[children, points]`."""
        return np.array([self.records[member.number, key]["curve"] for member in self.children])

    @cached_property
    def reference(self) -> Numbers:
        """The mean error of two seeds from scratch, on images that no estimator sees."""
        return np.mean([self.column(self.key("scratch", 1, seed=seed), "reference_error") for seed in (10, 11)], axis=0)

    @cached_property
    def parameters(self) -> Numbers:
        """The logarithm of each child's number of parameters."""
        return np.log([cost(member.genome).parameters for member in self.children])

    @cached_property
    def macs(self) -> Numbers:
        """The logarithm of each child's multiply-accumulates."""
        return np.log([cost(member.genome).macs for member in self.children])

    def age(self, member: Member) -> int:
        """Returns how many budgets the lineage of a member was trained for, its own included."""
        return 1 if member.parent is None else 1 + self.age(self.members[member.parent])

    @cached_property
    def ages(self) -> Numbers:
        """The age of each child's lineage, in budgets."""
        return np.array([self.age(member) for member in self.children], dtype=float)

    @cached_property
    def features(self) -> Numbers:
        """What is known of each genome without training: `[children, features]`."""
        counted = [Counter(p.operation.kind for p in expand(m.genome).primitives.values()) for m in self.children]
        kinds = sorted({kind for counts in counted for kind in counts})
        rows = [[counts[kind] for kind in kinds] + [sum(counts.values())] for counts in counted]
        return np.column_stack([self.parameters, self.macs, np.array(rows, dtype=float)])


PRODUCT = "inherited, 1/3: judged error of `strategy.judgement: corrected`"


class Estimator(NamedTuple):
    """A way to judge children.

    Attributes:
        name: for the table.
        share: what it costs a child, as a share of the reference's examples; the control's are shared by siblings.
        estimate: of all children.
    """

    name: str
    share: float
    estimate: Callable[[Study], Numbers]


def estimators() -> Iterator[Estimator]:
    """Yields all that are tried."""
    yield Estimator("parameters (more is better)", 0, lambda s: -s.parameters)
    yield Estimator("MACs (more is better)", 0, lambda s: -s.macs)
    yield Estimator("lineage age (older is better)", 0, lambda s: -s.ages)
    for start, rate, share, seed in RUNS:
        yield from single(start, rate, share, seed)
    yield from relative()
    yield Estimator(PRODUCT, 1 / 3, by_the_product)
    yield from several()
    yield from surrogates()


RUNS: Sequence[tuple[str, float, float, int]] = (
    ("inherited", 1, 0, 0),
    ("inherited", 1, 1 / 12, 0),
    ("inherited", 1, 1 / 6, 0),
    ("inherited", 1, 1 / 3, 0),
    ("inherited", 0.3, 1 / 3, 0),
    ("inherited", 2, 1 / 3, 0),
    ("shrunk", 1, 1 / 12, 0),
    ("shrunk", 1, 1 / 3, 0),
    ("reset", 1, 1 / 3, 0),
    ("scratch", 1, 1 / 12, 0),
    ("scratch", 1, 1 / 6, 0),
    ("scratch", 1, 1 / 3, 0),
)


def single(start: str, rate: float, share: float, seed: int) -> Iterator[Estimator]:
    """Yields what one run of a child says, alone and averaged in rank with the size."""
    told = f"{start}, {_share(share)}" + (f", rate x{rate:g}" if rate != 1 else "")

    def value(name: str) -> Callable[[Study], Numbers]:
        return lambda s: s.column(s.key(start, share, rate, seed), name)

    yield Estimator(f"{told}: error", share, value("error"))
    yield Estimator(f"{told}: cross-entropy", share, value("loss"))
    yield Estimator(f"{told}: rank of error + rank of size", share, lambda s: ranks(value("error")(s), -s.parameters))
    yield Estimator(
        f"{told}: rank of cross-entropy + rank of size", share, lambda s: ranks(value("loss")(s), -s.parameters)
    )
    if share:
        yield Estimator(f"{told}: last training loss", share, lambda s: s.curve(s.key(start, share, rate, seed))[:, -1])
    if share == 1 / 3 and (start, rate) in (("inherited", 1), ("scratch", 1)):
        curve = lambda s: s.curve(s.key(start, share, rate, seed))  # noqa: E731
        yield Estimator(f"{told}: area under the training loss", share, lambda s: curve(s).mean(1))
        yield Estimator(f"{told}: slope of the training loss", share, lambda s: curve(s)[:, -1] - curve(s)[:, 1])
    if share == 1 / 3 and (start, rate) == ("inherited", 1):
        yield Estimator(f"{told}: error with norms re-estimated", share, value("reestimated_error"))


def relative() -> Iterator[Estimator]:
    """Yields comparisons with the parent's control, and with what is expected at an age."""
    for name, told in (("error", "error"), ("loss", "cross-entropy")):
        yield Estimator(
            f"inherited, 1/3: {told} minus the control's",
            1 / 3,
            lambda s, n=name: s.column(s.key("inherited", 1 / 3), n) - s.control(s.key("inherited", 1 / 3), n),
        )
    for share in (1 / 12, 1 / 6, 1 / 3):
        for name, told in (("error", "error"), ("loss", "cross-entropy")):
            value = lambda s, share=share, name=name: s.column(s.key("inherited", share), name)  # noqa: E731
            head = f"inherited, {_share(share)}"
            yield Estimator(
                f"{head}: {told} minus what is expected at its age", share, lambda s, v=value: residual(v(s), s.ages)
            )
            yield Estimator(
                f"{head}: {told} minus what is expected at its age, rank averaged with size",
                share,
                lambda s, v=value: ranks(residual(v(s), s.ages), -s.parameters),
            )
            for kept in (1.0, 0.5, 0.25):
                yield Estimator(
                    f"{head}: {told} at equal age, by age and size, {kept:g} of what they leave unexplained",
                    share,
                    lambda s, v=value, k=kept: evened(v(s), s.ages, s.parameters, k),
                )
    for name, told in (("error", "error"), ("loss", "cross-entropy")):
        yield Estimator(
            f"lineage, 1/3: founder's {told} plus all gains since", 1 / 3, lambda s, n=name: telescoped(s, n)
        )
        yield Estimator(
            f"lineage, 1/3: founder's {told} plus all gains since, rank averaged with size",
            1 / 3,
            lambda s, n=name: ranks(telescoped(s, n), -s.parameters),
        )


def several() -> Iterator[Estimator]:
    """Yields means of several runs."""
    means: Sequence[tuple[str, float, Sequence[tuple[str, float, float, int]]]] = (
        ("inherited, 1/3, two seeds", 2 / 3, (("inherited", 1 / 3, 1, 0), ("inherited", 1 / 3, 1, 1))),
        ("scratch, 1/6, two seeds", 1 / 3, (("scratch", 1 / 6, 1, 0), ("scratch", 1 / 6, 1, 1))),
        ("scratch, 1/12, two seeds", 1 / 6, (("scratch", 1 / 12, 1, 0), ("scratch", 1 / 12, 1, 1))),
        (
            "scratch, 1/6 + 1/12 + 1/12",
            1 / 3,
            (("scratch", 1 / 6, 1, 0), ("scratch", 1 / 12, 1, 0), ("scratch", 1 / 12, 1, 1)),
        ),
        ("inherited 1/6 + scratch 1/6", 1 / 3, (("inherited", 1 / 6, 1, 0), ("scratch", 1 / 6, 1, 0))),
        ("inherited 1/3 + scratch 1/12", 5 / 12, (("inherited", 1 / 3, 1, 0), ("scratch", 1 / 12, 1, 0))),
    )  # fmt: skip
    for told, share, parts in means:
        for name, word in (("error", "error"), ("loss", "cross-entropy")):
            rank = lambda s, p=parts, n=name: ranks(*(s.column(s.key(*part), n) for part in p))  # noqa: E731
            yield Estimator(f"{told}: mean rank of {word}", share, rank)
            yield Estimator(
                f"{told}: mean rank of {word}, averaged with that of size",
                share,
                lambda s, r=rank: ranks(r(s), -s.parameters),
            )


def surrogates() -> Iterator[Estimator]:
    """Yields regressions on genome features, fitted to the search's own short runs and read at equal age."""
    models: Mapping[str, Callable[[], Any]] = {
        "ridge": lambda: make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 3, 9))),
        "Gaussian process": lambda: make_pipeline(
            StandardScaler(),
            GaussianProcessRegressor(
                ConstantKernel(1, "fixed") * RBF(5.0, "fixed") + WhiteKernel(0.5, "fixed"), normalize_y=True
            ),
        ),
        "random forest": lambda: RandomForestRegressor(200, min_samples_leaf=2, random_state=0),
    }
    targets = (("inherited", 1 / 3), ("inherited", 1 / 12), ("scratch", 1 / 12), ("scratch", 1 / 3))
    for told, model in models.items():
        for start, share in targets:
            for name, word in (("error", "error"), ("loss", "cross-entropy")):
                yield Estimator(
                    f"surrogate, {told}, on {start} {_share(share)}: {word} (fitted to it too)",
                    share,
                    lambda s, m=model, k=(start, share), n=name: fitted(s, m(), s.column(s.key(*k), n)),
                )
            yield Estimator(
                f"surrogate, {told}, on {start} {_share(share)}: error (without its own run)",
                share,
                lambda s, m=model, k=(start, share): left_out(s, m(), s.column(s.key(*k))),
            )


def by_the_product(study: Study) -> Numbers:
    """Returns what a search that corrects would see, told of founders, children and controls."""
    told = []
    for member in study.members:
        start = "scratch" if member.parent is None else "inherited"
        counted, age = cost(member.genome).parameters, study.age(member) * study.size.full / 3
        error = study.records[member.number, study.key(start, 1 / 3)]["error"]
        objectives = {"error": error, "parameters": float(counted)}
        spent = {"examples": study.size.full / 3, "lineage_examples": age}
        told.append(Evaluation(member.number, "ok", objectives, spent, features=features(member.genome)))
    found = judged("corrected", told)
    return np.array([found[member.number] for member in study.children])


def fitted(study: Study, model: Any, values: Numbers) -> Numbers:
    """Returns the smoothed values, as they would be at the mean age."""
    model.fit(np.column_stack([study.features, study.ages]), values)
    found: Numbers = model.predict(np.column_stack([study.features, np.full_like(study.ages, study.ages.mean())]))
    return found


def left_out(study: Study, model: Any, values: Numbers) -> Numbers:
    """Returns for each child what the runs of all others make expect of its genome, ages evened out first."""
    found: Numbers = cross_val_predict(model, study.features, residual(values, study.ages), cv=LeaveOneOut())
    return found


def residual(values: Numbers, ages: Numbers) -> Numbers:
    """Returns values minus their regression on the logarithm of the age."""
    slope, offset = np.polyfit(np.log(ages), values, 1)
    left: Numbers = values - slope * np.log(ages) - offset
    return left


def evened(values: Numbers, ages: Numbers, sizes: Numbers, kept: float) -> Numbers:
    """Returns the values at the mean age: what size makes expect, and a share of what no regression explains."""
    age, size = np.log(ages) - np.log(ages).mean(), sizes - sizes.mean()
    design = np.column_stack([np.ones_like(age), age, size])
    weights = np.linalg.lstsq(design, values, rcond=None)[0]
    found: Numbers = weights[0] + weights[2] * size + kept * (values - design @ weights)
    return found


def telescoped(study: Study, name: str) -> Numbers:
    """Returns the founder's number, plus for each step down the lineage the child's minus that of the control."""

    def corrected(member: Member) -> float:
        start = "scratch" if member.parent is None else "inherited"
        own = float(study.records[member.number, study.key(start, 1 / 3)][name])
        if member.parent is None:
            return own
        control = study.records[study.controls[member.parent], study.key("inherited", 1 / 3)][name]
        return corrected(study.members[member.parent]) + own - float(control)

    return np.array([corrected(member) for member in study.children])


def ranks(*columns: Numbers) -> Numbers:
    """Returns the mean rank in several columns."""
    mean: Numbers = np.mean([rankdata(column) for column in columns], axis=0)
    return mean


def _share(share: float) -> str:
    return f"1/{round(1 / share)}" if share else "untrained"
