"""Functions: how functions of torch, operators and methods of tensors become operations of a genome."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor
from torchvision.ops import stochastic_depth

from genomes import operations as ops
from training.convert import layers
from training.convert.axes import Atom, arranged, sizes, viewed
from training.convert.layers import only, pointwise
from training.convert.walk import BATCH, Handler, Unknown, Value, Walk


def add(walk: Walk, x: Any, y: Any, *, alpha: float = 1) -> Value:
    """Puts a sum of two values, or of a value and a constant for each position."""
    only("alpha", alpha, 1)
    if not (isinstance(x, Value) and isinstance(y, Value)):
        return _shifted(walk, *((x, y) if isinstance(x, Value) else (y, x)))
    x, y = _alike(walk, x, y)
    if x.axes != y.axes or walk.shape_of(x) != walk.shape_of(y):
        raise Unknown(f"its terms must have one shape, got {walk.told(x)} and {walk.told(y)}")
    return walk.put(ops.Add(), x, y, axes=x.axes)


def _shifted(walk: Walk, x: Value, constant: Any) -> Value:
    if not isinstance(constant, Tensor):
        if constant == 0:
            return x
        raise Unknown(f"a genome adds no constant number, got {constant}")
    return walk.put(ops.Position(), x, axes=x.axes, tensors={"weight": walk.constant(constant, x)})


def mul(walk: Walk, x: Any, y: Any) -> Value:
    """Puts a product of two values, or of a value and a constant for each channel."""
    if not (isinstance(x, Value) and isinstance(y, Value)):
        return _scaled(walk, *((x, y) if isinstance(x, Value) else (y, x)))
    x, y = _alike(walk, x, y)
    large, small = (x, y) if walk.positions(x) >= walk.positions(y) else (y, x)
    rank = len(large.axes) - len(small.axes)
    axes = ((),) * rank + small.axes
    whole = walk.shape_of(large) == walk.shape_of(small)
    fits = rank >= 0 and all(
        one == other or (not one and not whole) for one, other in zip(axes, large.axes, strict=True)
    )
    if not fits or (not whole and walk.shape_of(small) != (walk.shape_of(large)[0], 1, 1)):
        raise Unknown(f"its factors must have one shape or be [N, C, 1, 1], got {walk.told(x)} and {walk.told(y)}")
    return walk.put(ops.Mul(), x, y, axes=large.axes)


def _scaled(walk: Walk, x: Value, constant: Any) -> Value:
    if not isinstance(constant, Tensor):
        if constant == 1:
            return x
        constant = torch.tensor(float(constant), dtype=torch.float64)
    factors = walk.constant(constant, x).reshape(walk.shape_of(x)[0], -1)
    if not bool((factors == factors[:, :1]).all()):
        raise Unknown("a constant factor must be one for each channel, it differs between positions")
    return walk.put(ops.Scale(), x, axes=x.axes, tensors={"weight": factors[:, 0].clone()})


def div(walk: Walk, x: Any, y: Any) -> Value:
    """Puts a product with the inverse of a number."""
    if not isinstance(x, Value) or not isinstance(y, int | float):
        raise Unknown("it must divide by a number")
    return _scaled(walk, x, 1 / y)


def _alike(walk: Walk, x: Value, y: Value) -> tuple[Value, Value]:
    """Returns two values with their channels in order, and a vector only if both are vectors."""
    x, y = walk.settled(x), walk.settled(y)
    ranks = [len(walk.shape_of(value)) for value in (x, y)]
    if ranks == [3, 3] or ranks == [1, 1]:
        return x, y
    image, vector = (x, y) if ranks[0] == 3 else (y, x)
    if len(image.axes) != 2:
        walk.again(vector)
    image = walk.vector(image)
    return (image, vector) if ranks[0] == 3 else (vector, image)


def cat(walk: Walk, tensors: Sequence[Any], dim: int = 0) -> Value:
    """Puts a concatenation of channels, or a class token before a row of positions."""
    if len(tensors) == 2 and isinstance(tensors[0], Tensor) and isinstance(tensors[1], Value):
        return _class_token(walk, tensors[0], tensors[1], dim)
    if not all(isinstance(value, Value) for value in tensors):
        raise Unknown("it must be of values that depend on the image")
    values = [walk.settled(value) for value in tensors]
    if any(
        len(walk.shape_of(value)) == 1 or (len(value.axes) == 2 and not walk.is_channels(value, 1)) for value in values
    ):
        values = [walk.vector(value) for value in values]
    dim %= len(values[0].axes)
    rest = {(*value.axes[:dim], *value.axes[dim + 1 :]) for value in values}
    if len(rest) != 1 or not all(walk.is_channels(value, dim) for value in values):
        raise Unknown(f"it must be along the channels, got {', '.join(map(walk.told, values))} along axis {dim}")
    return walk.stacked(values, dim)


def _class_token(walk: Walk, token: Tensor, x: Value, dim: int) -> Value:
    dim %= len(x.axes)
    channels, positions = walk.shape_of(x)[0], walk.positions(x)
    row, rest = (Atom("p", 1, positions),), (*x.axes[:dim], *x.axes[dim + 1 :])
    if x.axes[dim] != row or token.dim() != len(x.axes) or token.shape[dim] != 1:
        raise Unknown("a constant must come before a row of positions, as one more")
    weight = arranged(token.detach().select(dim, 0), rest, (channels,))
    if weight is None:
        raise Unknown("a class token must be the same for every image")
    axes = (*x.axes[:dim], (Atom("p", 1, positions + 1),), *x.axes[dim + 1 :])
    return walk.put(ops.ClassToken(), x, axes=axes, tensors={"weight": weight})


def getitem(walk: Walk, x: Any, index: Any) -> Any:
    """Puts a slice of the channels or the choice of a position."""
    if not isinstance(x, Value):
        return x[index]
    steps = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in steps:
        place = steps.index(Ellipsis)
        steps[place : place + 1] = [slice(None)] * (len(x.axes) - (len(steps) - 1 - steps.count(None)))
    axis = 0
    for step in steps:
        if step is None:
            x, axis = Value(x.node, (*x.axes[:axis], (), *x.axes[axis:])), axis + 1
        elif isinstance(step, int):
            x = _picked(walk, x, axis, step)
        elif isinstance(step, slice):
            extent = sizes(x.axes)[axis]
            x, axis = part(walk, x, axis, range(extent)[step]), axis + 1
        else:
            raise Unknown(f"an index must be of integers and slices, got {step}")
    return x


def _picked(walk: Walk, x: Value, axis: int, index: int) -> Value:
    """Takes one place of an axis, which goes away."""
    extent, rest = sizes(x.axes)[axis], (*x.axes[:axis], *x.axes[axis + 1 :])
    if extent == 1 and index in (0, -1):
        return Value(x.node, rest)
    if x.axes[axis] == (Atom("p", 1, walk.positions(x)),):
        return walk.put(ops.Select(index % extent), x, axes=rest)
    found = part(walk, x, axis, range(index % extent, index % extent + 1))
    return Value(found.node, (*found.axes[:axis], *found.axes[axis + 1 :]))


def part(walk: Walk, x: Value, axis: int, places: range) -> Value:
    """Puts a slice of an axis that runs over the channels, or over equal blocks of them."""
    extent, channels = sizes(x.axes)[axis], walk.shape_of(x)[0]
    if places == range(extent):
        return x
    x = walk.settled(x)
    block = channels // extent
    if x.axes[axis] != (Atom("c", block, extent),) or places.step != 1 or not places:
        raise Unknown(f"only channels can be sliced, with step 1, got {places} of axis {axis} of {walk.told(x)}")
    rest = (Atom("c", block, len(places)),) if len(places) > 1 else ()
    op = ops.Slice(block * places.start, block * places.stop)
    return walk.put(op, x, axes=(*x.axes[:axis], rest, *x.axes[axis + 1 :]))


def chunk(walk: Walk, x: Value, chunks: int, dim: int = 0) -> list[Value]:
    """Puts a slice for each of several equal parts."""
    extent = sizes(x.axes)[dim]
    return split(walk, x, -(-extent // chunks), dim)


def split(walk: Walk, x: Value, split_size_or_sections: Any, dim: int = 0) -> list[Value]:
    """Puts a slice for each part of some sizes."""
    dim, lengths = dim % len(x.axes), split_size_or_sections
    if isinstance(lengths, int):
        whole, rest = divmod(sizes(x.axes)[dim], lengths)
        lengths = [lengths] * whole + [rest] * (rest > 0)
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    return [part(walk, x, dim, range(start, start + n)) for start, n in zip(starts, lengths, strict=True)]


def unbind(walk: Walk, x: Value, dim: int = 0) -> list[Value]:
    """Puts a slice for each place of an axis, which goes away."""
    dim %= len(x.axes)
    return [_picked(walk, x, dim, place) for place in range(sizes(x.axes)[dim])]


def mean(walk: Walk, x: Value, dim: Any = None, keepdim: bool = False) -> Value:
    """Puts a mean over all positions."""
    dims = {d % len(x.axes) for d in ([dim] if isinstance(dim, int) else dim or range(len(x.axes)))}
    gone = sorted((atom for d in dims for atom in x.axes[d]), reverse=True)
    whole = all(atom.kind == "p" for atom in gone)
    count = 1
    for atom in gone:
        count *= atom.size
    if not whole or count != walk.positions(x):
        raise Unknown(f"a mean must be over all positions, got axes {sorted(dims)} of {walk.told(x)}")
    kept = tuple(() if place in dims else axis for place, axis in enumerate(x.axes) if keepdim or place not in dims)
    return Value(x.node, kept) if count == 1 else walk.put(ops.GlobalPool(), x, axes=kept)


def view(walk: Walk, x: Value, *shape: Any) -> Value:
    """Returns a value in another view."""
    wanted = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    axes = viewed(x.axes, wanted)
    if axes is None:
        raise Unknown(f"{walk.told(x)} cannot be seen as {list(wanted)}")
    return Value(x.node, axes)


def permute(_: Walk, x: Value, *dims: Any) -> Value:
    """Returns a value with its axes in another order."""
    order = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
    return Value(x.node, tuple(x.axes[dim] for dim in order))


def transpose(_: Walk, x: Value, dim0: int, dim1: int) -> Value:
    """Returns a value with two axes exchanged."""
    axes = list(x.axes)
    axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
    return Value(x.node, tuple(axes))


def squeeze(_: Walk, x: Value, dim: Any = None) -> Value:
    """Returns a value without axes of extent 1."""
    chosen = range(len(x.axes)) if dim is None else [dim] if isinstance(dim, int) else dim
    dims = {d % len(x.axes) for d in chosen}
    return Value(x.node, tuple(axis for place, axis in enumerate(x.axes) if axis or place not in dims))


def unsqueeze(_: Walk, x: Value, dim: int) -> Value:
    """Returns a value with one more axis of extent 1."""
    place = dim % (len(x.axes) + 1)
    return Value(x.node, (*x.axes[:place], (), *x.axes[place:]))


def expand(walk: Walk, x: Value, *shape: Any) -> Value:
    """Returns the value itself: what it is joined with spreads it again."""
    if shape and isinstance(shape[0], Value):
        shape = sizes(shape[0].axes)
    wanted = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    old = sizes(x.axes)
    if len(wanted) != len(old) or any(
        new not in (-1, extent) and extent != 1 for new, extent in zip(wanted, old, strict=True)
    ):
        raise Unknown(f"{walk.told(x)} cannot be spread to {list(wanted)}")
    return x


def attention(walk: Walk, query: Value, key: Value, value: Value, **settings: Any) -> Value:
    """Puts the attention of `[N, heads, L, d]`."""
    for name, wanted in {"attn_mask": None, "dropout_p": 0.0, "is_causal": False, "scale": None}.items():
        only(name, settings.get(name, wanted), wanted)
    heads = sizes(query.axes)[1]
    for x in (query, key, value):
        width = walk.shape_of(x)[0] // heads
        atoms = (Atom("n", 1, BATCH), Atom("c", width, heads), Atom("p", 1, walk.positions(x)), Atom("c", 1, width))
        if x.axes != tuple((atom,) if atom.size > 1 else () for atom in atoms):
            raise Unknown(
                f"its inputs must be [N, heads, L, d] with the channels of a head side by side, got {walk.told(x)}"
            )
    axes = (*query.axes[:3], value.axes[3])
    return walk.put(ops.Attention(heads), query, key, value, axes=axes)


def same(_: Walk, x: Value, *__: Any, **___: Any) -> Value:
    """Returns its input: what changes no number."""
    return x


def attribute(_: Walk, x: Value, name: str) -> Any:
    """Returns what is known of a tensor before it is computed."""
    known = {
        "shape": torch.Size(sizes(x.axes)),
        "ndim": len(x.axes),
        "dtype": torch.float64,
        "device": torch.device("cpu"),
    }
    if name not in known:
        raise Unknown(f"a trace knows {', '.join(known)} of a tensor, not {name}")
    return known[name]


def size(_: Walk, x: Value, dim: int | None = None) -> Any:
    """Returns the extents of a value, or one of them."""
    return torch.Size(sizes(x.axes)) if dim is None else sizes(x.axes)[dim]


def _pointwise(op: ops.Operation) -> Handler:
    return lambda walk, x, *_, **__: pointwise(walk, op, x)


def _pad(_: Walk, x: Value, pad: Sequence[int], *__: Any, **___: Any) -> Value:
    only("pad", any(pad), False)
    return x


def _conv(walk: Walk, x: Value, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
          dilation: Any = 1, groups: int = 1) -> Value:  # fmt: skip
    kernel = layers.square("kernel_size", tuple(weight.shape[2:]))
    stride, padding, dilation = map(layers.square, ("stride", "padding", "dilation"), (stride, padding, dilation))
    op = ops.Conv(weight.shape[0], kernel, stride, padding, dilation, groups, bias is not None)
    return walk.put(op, walk.image(x), tensors=layers.biased(weight, bias))


FUNCTIONS: Mapping[Callable[..., Any], Handler] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add), add),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul), mul),
    **dict.fromkeys((operator.truediv, torch.div), div),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), cat),
    **dict.fromkeys((torch.relu, functional.relu), _pointwise(ops.ReLU())),
    **dict.fromkeys((torch.sigmoid, functional.sigmoid), _pointwise(ops.Sigmoid())),
    functional.relu6: _pointwise(ops.ReLU6()),
    functional.silu: _pointwise(ops.SiLU()),
    functional.hardswish: _pointwise(ops.Hardswish()),
    functional.hardsigmoid: _pointwise(ops.Hardsigmoid()),
    functional.gelu: lambda walk, x, approximate="none": layers.gelu(walk, x, approximate),
    functional.leaky_relu: lambda walk, x, negative_slope=0.01, *_, **__: layers.leaky_relu(walk, x, negative_slope),
    functional.prelu: layers.prelu,
    functional.dropout: lambda walk, x, p=0.5, *_, **__: layers.dropout(walk, p, x),
    functional.linear: layers.linear,
    functional.conv2d: _conv,
    functional.layer_norm: layers.layer_norm,
    functional.max_pool2d: layers.max_pool,
    torch.max_pool2d: layers.max_pool,
    functional.avg_pool2d: layers.avg_pool,
    functional.adaptive_avg_pool2d: layers.adaptive_avg_pool,
    functional.scaled_dot_product_attention: attention,
    functional.pad: _pad,
    torch.flatten: layers.flattened,
    torch.reshape: view,
    torch.permute: permute,
    torch.transpose: transpose,
    torch.squeeze: squeeze,
    torch.unsqueeze: unsqueeze,
    torch.mean: mean,
    torch.chunk: chunk,
    torch.split: split,
    torch.unbind: unbind,
    torch.clone: same,
    stochastic_depth: same,
    operator.getitem: getitem,
    getattr: attribute,
}
METHODS: Mapping[str, Handler] = {
    **dict.fromkeys(("add", "add_"), add),
    **dict.fromkeys(("mul", "mul_"), mul),
    **dict.fromkeys(("div", "div_"), div),
    **dict.fromkeys(("view", "reshape"), view),
    **dict.fromkeys(("relu", "relu_"), _pointwise(ops.ReLU())),
    **dict.fromkeys(("sigmoid", "sigmoid_"), _pointwise(ops.Sigmoid())),
    **dict.fromkeys(("contiguous", "clone", "detach", "float", "double", "to", "type_as"), same),
    **dict.fromkeys(("expand", "expand_as"), expand),
    "flatten": layers.flattened,
    "permute": permute,
    "transpose": transpose,
    "squeeze": squeeze,
    "unsqueeze": unsqueeze,
    "mean": mean,
    "chunk": chunk,
    "split": split,
    "unbind": unbind,
    "size": size,
    "dim": lambda _, x: len(x.axes),
}
