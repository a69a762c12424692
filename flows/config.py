"""SearchConfig: a whole experiment as one validated value, read from YAML and shown as a form by Prefect."""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from evo import AgingSettings, Judging, NSGA2Settings, VariationSettings
from flows.home import NAME, BadInput, redacted
from flows.slots import STRICT, Slots
from genomes.spaces.residual import ResidualLimits
from search import Budget, Fidelity, Ledger
from strategies import LadderSettings, RandomSettings, ScreenSettings
from training.measurement import LATENCY, LatencySettings
from training.recipe import Recipe
from training.spec import DataSpec

MAX_BYTES = 64 * 1024
PRESETS = Path(__file__).parent / "presets"
OBJECTIVES = ("error", "parameters", "macs", "activation_bytes", *LATENCY)
LONGER = 8  # a finalist's training than a child's, in examples

# Parameters of flows, as the schema of a deployment has them: refused before a run is made.
SearchName = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
Seed = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Strategy(BaseModel):
    """How candidates are proposed and how far they are trained; only the settings of the chosen kind count."""

    model_config = STRICT
    kind: Annotated[
        Literal["nsga2", "aging", "random"], Field(description="NSGA-II, regularised evolution, random")
    ] = "nsga2"
    nsga2: NSGA2Settings = NSGA2Settings()
    aging: AgingSettings = AgingSettings()
    random: RandomSettings = RandomSettings()
    variation: VariationSettings = VariationSettings()
    screen: ScreenSettings = ScreenSettings()
    ladder: Annotated[
        LadderSettings | None,
        Field(description="shorter schedules that come before `fidelity`; none: every child is trained in full"),
    ] = None
    judgement: Annotated[
        Judging, Field(description="of an error: as measured, or corrected by what is usual for such a network")
    ] = "corrected"

    @model_validator(mode="after")
    def _measured(self) -> Self:
        """Refuses objectives that no evaluation has."""
        for name in (*self.nsga2.objectives, self.aging.objective):
            if name not in OBJECTIVES:
                raise ValueError(f"objectives must be among {', '.join(OBJECTIVES)}, got {name!r}")
        return self

    @property
    def objectives(self) -> tuple[str, ...]:
        """What the chosen kind minimises; random search is judged by those of NSGA-II, whose control arm it is."""
        return (self.aging.objective,) if self.kind == "aging" else self.nsga2.objectives


class Retrain(BaseModel):
    """How the best of a search are trained in full; may differ whenever it is done."""

    model_config = STRICT
    top: Annotated[int, Field(ge=1, le=100, description="how many finalists")] = 3
    seeds: Annotated[int, Field(ge=1, le=100, description="how often each is trained")] = 3
    fidelity: Annotated[
        Fidelity | None, Field(description="of each training; none: a child's with eight times its examples")
    ] = None
    recipe: Annotated[Recipe | None, Field(description="of each training; none: a child's")] = None
    warm_start: Annotated[
        bool, Field(description="begin with the weights that the search left in a finalist; no: with fresh ones")
    ] = False
    timeout: Annotated[float, Field(gt=0, description="seconds after which one training is killed")] = 7200


class OriginSpec(BaseModel):
    """A network of the user's own to begin with."""

    model_config = STRICT
    model: Annotated[
        str,
        Field(pattern=r"^.+:\w+$", description="file.py:function or package.module:function that builds it"),
    ]
    weights: Annotated[str | None, Field(description="its state_dict as safetensors; none: as it is built")] = None


class SearchConfig(BaseModel):
    """Everything that determines a search; the same configuration and seed propose the same candidates."""

    model_config = STRICT
    name: Annotated[SearchName, Field(description="of its directory and MLflow experiment")]
    seed: Annotated[Seed, Field(description="of every random choice")] = 0
    data: DataSpec = DataSpec()
    space: ResidualLimits = ResidualLimits()
    founders: Annotated[
        tuple[str, ...],
        Field(description="genome JSON files to begin with, such as exported ones; none: the space's own"),
    ] = ()
    origin: Annotated[
        OriginSpec | None, Field(description="your own network, of which all others are descendants; none: founders")
    ] = None
    predecessor: Annotated[
        str | None,
        Field(
            pattern=f"^{NAME.pattern}$",
            description="search in the same directory whose best networks are among the founders; none: founders",
        ),
    ] = None
    strategy: Strategy = Strategy()
    recipe: Recipe = Recipe()
    fidelity: Fidelity = Fidelity()
    retrain: Retrain = Retrain()
    latency: Annotated[
        LatencySettings, Field(description="how latency is measured, if it is an objective of the strategy")
    ] = LatencySettings()
    budget: Budget = Budget(seconds=150)
    slots: Slots = Field(default_factory=Slots)
    timeout: Annotated[float, Field(gt=0, description="seconds after which one child is killed")] = 600
    tracking: Annotated[
        str | None,
        Field(description="MLflow server, like http://127.0.0.1:5000; none: MLFLOW_TRACKING_URI's, or a file"),
    ] = None

    @model_validator(mode="after")
    def _meant(self) -> Self:
        """Refuses what would be stored in the clear, or not be heeded."""
        if self.tracking and redacted(self.tracking) != self.tracking:
            raise ValueError(
                "tracking must hold no user, password or token, since it is stored with the search: set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or what your database reads, such as PGPASSWORD"
            )
        if self.founders and self.strategy.kind == "random":
            raise ValueError("founders must be left out with the random strategy, which begins with none")
        if self.origin and (self.founders or self.strategy.kind == "random"):
            other = "founders" if self.founders else "the random strategy"
            raise ValueError(f"origin must be left out with {other}: all candidates of a search descend from it")
        self._heeds_predecessor()
        for name, bound in asdict(self.budget).items():
            if bound == math.inf:
                raise ValueError(f"budget.{name} must be finite, or left out for no bound")
        if self.slots.ray and (timed := set(LATENCY) & set(self.strategy.objectives)):
            raise ValueError(
                f"slots must be cpu or cuda if {timed.pop()} is an objective: measured on different machines of a Ray "
                "cluster, latencies could not be compared"
            )
        if self.strategy.ladder:
            self.strategy.ladder.fidelities(self.fidelity)  # refuses a rung that is not below the full schedule
        return self

    def changed(
        self,
        name: str | None = None,
        seed: int | None = None,
        seconds: float | None = None,
        slots: str | None = None,
    ) -> "SearchConfig":
        """Returns the same configuration but for what is given.

        Args:
            name: of the search.
            seed: of every random choice.
            seconds: bound of the whole search's wall clock.
            slots: in the words of the command line.

        Raises:
            BadInput: one of them is out of its range.
        """
        now = self.model_dump(mode="json")
        given = {"name": name, "seed": seed, "slots": slots and Slots.words(slots, now["slots"])}
        changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        if seconds is not None:
            changes["budget"] = {**asdict(self.budget), "seconds": seconds}
        return validated({**now, **changes}, "the parameters") if changes else self

    def _heeds_predecessor(self) -> None:
        """Refuses a predecessor beside what would take its founders' place."""
        taken = {
            "founders": self.founders,
            "origin": self.origin,
            "the random strategy": self.strategy.kind == "random",
        }
        if self.predecessor and (other := next((name for name, there in taken.items() if there), None)):
            raise ValueError(f"predecessor must be left out with {other}, which says what a search begins with")
        if self.predecessor == self.name:
            raise ValueError(f"predecessor must be another search, got {self.name!r} itself")

    def full(self) -> tuple[Recipe, Fidelity]:
        """Returns the recipe and the fidelity that finalists are trained with."""
        longer = replace(self.fidelity, examples=LONGER * self.fidelity.examples)
        return self.retrain.recipe or self.recipe, self.retrain.fidelity or longer

    def facts(self) -> dict[str, Any]:
        """Returns the settings as flat names and values, for tables."""
        return dict(_flat("", self.model_dump(mode="json", exclude={"tracking"})))


def read(file: Path, **changes: Any) -> SearchConfig:
    """Returns the configuration in a YAML file, with some of its top-level keys changed.

    Raises:
        BadInput: not a readable, small, plain YAML file, or not a valid configuration.
    """
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"the configuration {file} cannot be read: {getattr(error, 'strerror', error)}") from None
    if len(text) > MAX_BYTES:
        raise BadInput(f"a configuration must be at most {MAX_BYTES} bytes, {file} has {len(text)}")
    try:
        aliased = any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader))
        document = None if aliased else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a ValueError: a date or number that is none
        raise BadInput(f"the configuration {file} must be YAML: {' '.join(str(error).split())}") from None
    if aliased:
        raise BadInput(f"a configuration must have no YAML aliases, {file} has some")
    if not isinstance(document, dict):
        raise BadInput(f"the configuration {file} must be a mapping of keys to values")
    return validated({**document, **{key: value for key, value in changes.items() if value is not None}}, str(file))


def stored(ledger: Ledger) -> SearchConfig:
    """Returns the configuration of a search, under the name that its directory has by now.

    Raises:
        BadInput: what the ledger holds is no configuration of this version.
    """
    name = ledger.directory.name
    return validated({**ledger.config, "name": name}, name)


def validated(document: Any, place: str) -> SearchConfig:
    """Returns the configuration that a document describes.

    Raises:
        BadInput: with the first fault and its place.
    """
    try:
        return SearchConfig.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "configuration"
        known = ""
        if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            known = f"; the keys there are {', '.join(_keys(first['loc'][:-1]))}"
        got = "" if isinstance(first["input"], dict) else f", got {redacted(str(first['input']))[:80]!r}"
        raise BadInput(f"{place}: {where}: {first['msg']}{got}{known}") from None


def _keys(place: tuple[int | str, ...]) -> list[str]:
    """Returns the keys that a part of the configuration has."""
    schema = SearchConfig.model_json_schema()
    part = schema
    for key in place:
        part = part["properties"][str(key)]
        part = next((choice for choice in part.get("anyOf", ()) if "$ref" in choice), part)
        part = schema["$defs"][part["$ref"].rsplit("/", 1)[-1]] if "$ref" in part else part
    return list(part["properties"])


def _flat(prefix: str, values: dict[str, Any]) -> list[tuple[str, Any]]:
    pairs = []
    for key, value in values.items():
        pairs.extend(_flat(f"{prefix}{key}.", value) if isinstance(value, dict) else [(f"{prefix}{key}", value)])
    return pairs
