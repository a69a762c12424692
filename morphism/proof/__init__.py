"""Static proof that an edit keeps the function: from genomes and tensor expressions alone, without a number.

Parent and child are executed on symbols: each channel of each value is a term, and terms are equal only if they are
equal functions of the input, in real arithmetic, whatever the parent's weights are. Nothing of the planning is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from genomes import Expansion, Genome, expand
from morphism.edit import Edit
from morphism.proof.execution import Execution, Values
from morphism.proof.labels import Reader
from morphism.proof.terms import Terms
from morphism.tensors import Source, TensorExpr


def proves(parent: Genome, edit: Edit, mode: str) -> bool:
    """Says whether it is proven that the child computes what the parent computes, in `eval` or `train` mode.

    What is not proven need not be false: an expression or operation may be beyond the rules.
    """
    return not doubt(parent, edit, mode)


def doubt(parent: Genome, edit: Edit, mode: str) -> str:
    """Returns why the child is not proven to compute what the parent computes; empty if it is."""
    before, reader, wanted = _executed(parent, mode == "train")
    run, child = before.copy(), expand(edit.genome)
    own = Reader(run.terms, reader.shapes, child, dict(reader.read), dict(reader.plain))
    got = _outputs(run, own, child, edit.tensors)
    shape, given = (expansion.shape(expansion.output) for expansion in (child, reader.child))
    if run.undefined:
        return f"the variance of {run.undefined[0]} may be negative"
    if got == wanted and shape == given:
        return ""
    places = "".join(f"; the columns of {path} do not add up to what they copy" for path in run.loose[:1])
    wrong = sum(one != other for one, other in zip(got, wanted, strict=False)) + abs(len(got) - len(wanted))
    return f"{wrong} of {len(wanted)} outputs differ{places}"


@lru_cache(maxsize=16)
def _executed(parent: Genome, train: bool) -> tuple[Execution, Reader, Values]:
    run, expansion = Execution(Terms(), train), expand(parent)
    reader = Reader(run.terms, expansion.tensor_shapes(), expansion)
    return run, reader, _outputs(run, reader, expansion, {})


def _outputs(run: Execution, reader: Reader, expansion: Expansion, tensors: Mapping[str, TensorExpr]) -> Values:
    found: dict[str, Values] = {}
    for path, primitive in expansion.primitives.items():
        labels = {
            name.rpartition(".")[2]: reader.tensor(tensors.get(name, Source(name)), shape)
            for name, shape in primitive.tensor_shapes().items()
        }
        found[path] = run.apply(primitive, [found[source] for source in primitive.inputs], labels)
    return found[expansion.output]
