"""SearchConfig: a whole experiment as one validated value, read from YAML and shown as a form by Prefect."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evo import AgingSettings, NSGA2Settings, VariationSettings
from flows.home import NAME, BadInput
from genomes import Limits
from search import Budget, Fidelity
from training.data import DataSpec
from training.recipe import Recipe

MAX_BYTES = 64 * 1024
PRESETS = Path(__file__).parent / "presets"


class Aging(AgingSettings):
    """Regularised evolution, one objective."""

    kind: Literal["aging"] = "aging"


class SearchConfig(BaseModel):
    """Everything that determines a search; the same configuration and seed propose the same candidates."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$", description="Names the search's directory and experiment")]
