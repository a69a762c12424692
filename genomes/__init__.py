"""What an architecture is: genomes, their expansion, rules, identity and cost. Knows no weights and no torch."""

from genomes.bounded import Bounded
from genomes.cost import Cost, cost
from genomes.errors import InvalidGenome
from genomes.expansion import Expansion, Primitive, expand
from genomes.features import features
from genomes.genome import Edge, Genome, Module
from genomes.identity import canonical, equivalent, fingerprint
from genomes.rules import Limits, allowed, check, load_genome
from genomes.seen import Seen
from genomes.stored import Stored

__all__ = [
    "Bounded",
    "Cost",
    "Edge",
    "Expansion",
    "Genome",
    "InvalidGenome",
    "Limits",
    "Module",
    "Primitive",
    "Seen",
    "Stored",
    "allowed",
    "canonical",
    "check",
    "cost",
    "equivalent",
    "expand",
    "features",
    "fingerprint",
    "load_genome",
]
