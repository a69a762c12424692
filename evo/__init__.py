"""Evolution with DEAP: variation by morphisms and disruptions, and the strategies that select."""

from evo.aging import AgingEvolution, AgingSettings
from evo.disruptions import DISRUPTIONS
from evo.judgement import Judging, judged
from evo.nsga2 import NSGA2, NSGA2Settings
from evo.variation import VariationSettings

__all__ = [
    "DISRUPTIONS",
    "NSGA2",
    "AgingEvolution",
    "AgingSettings",
    "Judging",
    "NSGA2Settings",
    "VariationSettings",
    "judged",
]
