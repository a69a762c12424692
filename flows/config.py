"""SearchConfig: a whole experiment as one validated value, read from YAML and shown as a form by Prefect."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from evo import AgingSettings, Judging, NSGA2Settings, VariationSettings
from flows.home import NAME, BadInput, redacted
from genomes.spaces.residual import ResidualLimits
from search import Budget, Fidelity
from strategies import RandomSettings
from training.recipe import Recipe
from training.spec import DataSpec

MAX_BYTES = 64 * 1024
PRESETS = Path(__file__).parent / "presets"
OBJECTIVES = ("error", "parameters", "macs", "activation_bytes")
STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Slots(BaseModel):
    """How many children are trained at a time; the number may differ when a search is resumed."""

    model_config = STRICT
    cpu: Annotated[int, Field(ge=1, le=256, description="processes of one thread each")] = 2


class Strategy(BaseModel):
    """How candidates are proposed; only the settings of the chosen kind count."""

    model_config = STRICT
    kind: Annotated[
        Literal["nsga2", "aging", "random"], Field(description="NSGA-II, regularised evolution, random")
    ] = "nsga2"
    nsga2: NSGA2Settings = NSGA2Settings()
    aging: AgingSettings = AgingSettings()
    random: RandomSettings = RandomSettings()
    variation: VariationSettings = VariationSettings()
    judgement: Annotated[
        Judging, Field(description="of an error: as measured, or corrected to equal lineage age; random takes no note")
    ] = "raw"

    @model_validator(mode="after")
    def _measured(self) -> Self:
        """Refuses objectives that no evaluation has."""
        for name in (*self.nsga2.objectives, self.aging.objective):
            if name not in OBJECTIVES:
                raise ValueError(f"objectives must be among {', '.join(OBJECTIVES)}, got {name!r}")
        return self


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
    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$", description="of its directory and MLflow experiment")]
    seed: Annotated[int, Field(ge=0, description="of every random choice")] = 0
    data: DataSpec = DataSpec()
    space: ResidualLimits = ResidualLimits()
    founders: Annotated[
        tuple[str, ...],
        Field(description="genome JSON files to begin with, such as exported ones; none: the space's own"),
    ] = ()
    origin: Annotated[
        OriginSpec | None, Field(description="your own network, of which all others are descendants; none: founders")
    ] = None
    strategy: Strategy = Strategy()
    recipe: Recipe = Recipe()
    fidelity: Fidelity = Fidelity()
    budget: Budget = Budget(seconds=150)
    slots: Slots = Slots()
    timeout: Annotated[float, Field(gt=0, description="seconds after which one child is killed")] = 600
    tracking: Annotated[str | None, Field(description="MLflow server, such as http://127.0.0.1:5000; none: a file")] = (
        None
    )

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
        if self.budget.seconds == math.inf:
            raise ValueError("budget.seconds must be finite, or left out for no bound")
        return self

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
