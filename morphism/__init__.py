"""How an architecture may grow without forgetting. Planning knows no torch; `realise` and `certify` import it."""

from morphism.catalogue import CATALOGUE, Morphism
from morphism.certificate import Certificate
from morphism.edit import EXACT, INEXACT, Edit, Modes, Site, compose
from morphism.errors import Inapplicable
from morphism.inline import inline

__all__ = [
    "CATALOGUE",
    "EXACT",
    "INEXACT",
    "Certificate",
    "Edit",
    "Inapplicable",
    "Modes",
    "Morphism",
    "Site",
    "compose",
    "inline",
]
