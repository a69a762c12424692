"""How an architecture may grow without forgetting. Planning knows no torch; `realise` and `certify` import it."""

from morphism.algebra import compose
from morphism.catalogue import CATALOGUE, ZERO_INITIALISED, Morphism
from morphism.certificate import Certificate
from morphism.edit import EXACT, INEXACT, Edit, Modes, Site, place
from morphism.errors import Inapplicable
from morphism.inline import inline
from morphism.shrink import INVERSES
from morphism.undo import undo

__all__ = [
    "CATALOGUE",
    "EXACT",
    "INEXACT",
    "INVERSES",
    "ZERO_INITIALISED",
    "Certificate",
    "Edit",
    "Inapplicable",
    "Modes",
    "Morphism",
    "Site",
    "compose",
    "inline",
    "place",
    "undo",
]
