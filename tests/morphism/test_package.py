from __future__ import annotations

import subprocess
import sys

PLAN = """
import random, sys
from genomes import Genome, Module
from genomes.operations import *
import morphism
chain = {"x": Input(0, (3, 8, 8)), "c": Conv.same(8, 3), "b": BatchNorm(), "r": ReLU(), "d": Conv.same(8, 3),
         "s": ReLU(), "p": GlobalPool(), "f": Flatten(), "h": Linear(4), "y": Output()}
genome = Genome.of({"net": Module.of(chain, list(zip(chain, list(chain)[1:])))})
edits = [m.plan(genome, site, random.Random(0)) for m in morphism.CATALOGUE for site in m.sites(genome)]
assert len({edit.rule for edit in edits}) >= len(morphism.CATALOGUE) - 7
morphism.compose(edits[0], morphism.Edit.from_json(edits[0].to_json()))
assert "torch" not in sys.modules, "planning must not import torch"
"""


def test_planning_imports_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", PLAN], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
