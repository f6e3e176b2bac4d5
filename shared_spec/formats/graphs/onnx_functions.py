"""What several of ONNX's operators compute together: functions of numbers, which are known by their
values, and norms, as terms that are put together node by node.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from shared_spec import plan
from shared_spec.formats.containers.onnx import OnnxNode
from shared_spec.formats.graphs.onnx_constants import Constant, integers

Function = Callable[..., np.ndarray]
Term = tuple[Any, ...]
"""What a tensor is of another one. `("of", u)` is the map that the unit u gives; `("groups", t, g,
rank)` is it with its channels in g groups, and `("kernel", array, axis)` an array whose filters are
along an axis. Of such a t are `("mean", t, kept)`, `("centred", t)`, `("variance", t, kept)` and
`("power", t, kept)`, the mean of squares, each over all but images and groups, or filters; of a
variance or power v are `("padded", v, eps)`, its root `("deviation", v, eps)` and the inverse of
that, `("inverse", v, eps)`; and `("ratio", t, v, eps)` is t divided by the root.
`("scaled", t, array)` is t times an array, `("gate", t, array)` the sigmoid of it, and
`("gated", t, array)` t times the gate.
"""


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = x * (1 + _erf(x / math.sqrt(2))) / 2
    return found


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    return found


def _sigmoid(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = 1 / (1 + np.exp(-x))
    return found


def _elu(x: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _leaky(x: np.ndarray, slope: float) -> np.ndarray:
    return np.where(x > 0, x, slope * x)


def _selu(x: np.ndarray, alpha: float, gamma: float) -> np.ndarray:
    found: np.ndarray = gamma * _elu(x, alpha)
    return found


def _mish(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = x * np.tanh(np.logaddexp(0, x))
    return found


FUNCTIONS: dict[str, Callable[[Mapping[str, Any]], Function]] = {
    "Add": lambda a: np.add,
    "Sub": lambda a: np.subtract,
    "Mul": lambda a: np.multiply,
    "Div": lambda a: np.divide,
    "Pow": lambda a: np.power,
    "Min": lambda a: np.minimum,
    "Max": lambda a: np.maximum,
    "Neg": lambda a: np.negative,
    "Relu": lambda a: lambda x: np.maximum(x, 0),
    "Clip": lambda a: lambda x: np.clip(x, a.get("min", -np.inf), a.get("max", np.inf)),
    "PRelu": lambda a: lambda x: _leaky(x, a["min"]),
    "LeakyRelu": lambda a: lambda x: _leaky(x, a.get("alpha", 0.01)),
    "Elu": lambda a: lambda x: _elu(x, a.get("alpha", 1.0)),
    "Selu": lambda a: lambda x: _selu(x, a.get("alpha", 1.67326319), a.get("gamma", 1.05070102)),
    "Sigmoid": lambda a: _sigmoid,
    "Tanh": lambda a: np.tanh,
    "Erf": lambda a: _erf,
    "Exp": lambda a: np.exp,
    "Softplus": lambda a: lambda x: np.logaddexp(0, x),
    "Mish": lambda a: _mish,
    "HardSigmoid": lambda a: lambda x: np.clip(a.get("alpha", 0.2) * x + a.get("beta", 0.5), 0, 1),
    "HardSwish": lambda a: lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "Gelu": lambda a: _gelu_tanh if a.get("approximate", "none") == "tanh" else _gelu,
}
"""Of one number, or of two, by operator; each is made for a node's attributes."""
KNOWN: dict[str, Function] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky_relu": lambda x: _leaky(x, plan.LEAKY_SLOPE),
    "elu": _elu,
    "selu": lambda x: _selu(x, 1.6732632423543772, 1.0507009873554805),
    "silu": lambda x: x * _sigmoid(x),
    "mish": _mish,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "sigmoid": _sigmoid,
    "half": lambda x: x / 2,
}
"""Of a plan; and what a mean of two is made with."""


_FAR = np.logspace(-6, 30, 1801)
SAMPLES = np.concatenate([-_FAR[::-1], np.linspace(-12, 12, 1201), _FAR])
"""Numbers on which functions are compared: dense where they bend, and far out, where they may."""


def combined(node: OnnxNode, terms: Sequence[Any], given: Sequence[Any]) -> Term | None:
    """What a node computes of terms; None if that is no part of anything that a net here has.

    Args:
        node: of any operator.
        terms: of its inputs; None for those that have none.
        given: the inputs themselves.
    """
    rule = _RULES.get(node.operator)
    if rule is None or not terms:
        return None
    return rule(node, terms, given)


def standardised(term: Term | None) -> tuple[Term, float] | None:
    """A tensor that enters as (x - mean) / sqrt(variance + eps), and that eps."""
    match term:
        case ("ratio", ("centred", t), ("variance", u, True), eps) if t == u:
            return t, eps
    return None


def leaf(item: Any) -> Term | None:
    """An array of the file as a term, if it may be a kernel."""
    if not isinstance(item, Constant) or item.entry.problem or item.entry.dtype.kind != "f":
        return None
    rank = len(item.entry.shape)
    return ("kernel", item.entry, 4 - rank) if rank in (3, 4) else None


def _mean(node: OnnxNode, terms: Sequence[Any], given: Sequence[Any]) -> Term | None:
    term = terms[0]
    match term:
        case ("square", ("centred", t)):
            kind = "variance"
        case ("square", ("of", _) as t):
            kind = "power"
        case ("groups", ("of", _), _, _) | ("kernel", _, _):
            kind, t = "mean", term
        case _:
            return None
    rank, places = _places(t)
    axes = integers(node, "axes", given, 1) or ()
    if {a % rank for a in axes if -rank <= a < rank} != set(range(rank)) - places:
        return None
    return kind, t, bool(node.attributes.get("keepdims", 1))


def _places(t: Term) -> tuple[int, set[int]]:
    """How many axes it has, and those along which it has several means."""
    match t:
        case ("kernel", array, axis):
            return len(array.shape), {axis}
        case ("groups", _, _, rank):
            return rank, {0, 1}
    return 4, {0, 1}


def _sub(node: OnnxNode, terms: Sequence[Any], given: Sequence[Any]) -> Term | None:
    match terms[1]:
        case ("mean", t, True) if t == terms[0]:
            return "centred", t
    return None


def _mul(node: OnnxNode, terms: Sequence[Any], given: Sequence[Any]) -> Term | None:
    a, b = terms
    if a is not None and a == b and a[0] in ("of", "centred"):
        return "square", a
    for x, y in ((a, b), (b, a)):
        match y:
            case ("inverse", v, eps) if x is not None:
                return "ratio", x, v, eps
            case ("gate", t, array) if t == x:
                return "gated", t, array
    return None


def _pow(node: OnnxNode, terms: Sequence[Any], given: Sequence[Any]) -> Term | None:
    exponent = number(node, given[1])
    match terms[0]:
        case ("of", _) | ("centred", _) if exponent == 2:
            return "square", terms[0]
        case ("padded", v, eps) if exponent in (0.5, -0.5):
            return "deviation" if exponent > 0 else "inverse", v, eps
    return None


def _add(node: OnnxNode, terms: Sequence[Any], given: Sequence[Any]) -> Term | None:
    for term, other in zip(terms, given[::-1], strict=True):
        match term:
            case ("variance" | "power", _, True) if (eps := number(node, other)) is not None:
                return "padded", term, eps
    return None


def _sqrt(node: OnnxNode, terms: Sequence[Any], given: Sequence[Any]) -> Term | None:
    return ("deviation", *terms[0][1:]) if terms[0] and terms[0][0] == "padded" else None


def _div(node: OnnxNode, terms: Sequence[Any], given: Sequence[Any]) -> Term | None:
    match terms[-1]:
        case ("deviation", v, eps):
            if node.operator == "Reciprocal" or number(node, given[0]) == 1:
                return "inverse", v, eps
            return None if terms[0] is None else ("ratio", terms[0], v, eps)
    return None


def _sigmoid_of(node: OnnxNode, terms: Sequence[Any], given: Sequence[Any]) -> Term | None:
    return ("gate", *terms[0][1:]) if terms[0] and terms[0][0] == "scaled" else None


def _batch_norm(node: OnnxNode, terms: Sequence[Any], given: Sequence[Any]) -> Term | None:
    """Of filters as channels, by their own statistics."""
    t = terms[0]
    if t is None or t[0] != "kernel" or t[2] != 1 or t[1].shape[0] != 1:
        return None
    own = (("mean", t, False), ("variance", t, False))
    if not node.attributes.get("training_mode", 0) and tuple(terms[3:]) != own:
        return None
    return _without_scale(node, t, given)


def _instance_norm(node: OnnxNode, terms: Sequence[Any], given: Sequence[Any]) -> Term | None:
    t = terms[0]
    return _without_scale(node, t, given) if t is not None and t[0] == "groups" else None


def _without_scale(node: OnnxNode, t: Term, given: Sequence[Any]) -> Term | None:
    for item, value in zip(given[1:3], (1, 0), strict=True):
        if not isinstance(item, Constant) or (item.numbers(node) != value).any():
            return None
    return "ratio", ("centred", t), ("variance", t, True), epsilon(node)


def epsilon(node: OnnxNode) -> float:
    """Of a norm. An attribute is of float32 whatever the model is: the decimal that was rounded."""
    return float(str(np.float32(node.attributes.get("epsilon", 1e-5))))


def number(node: OnnxNode, item: Any) -> float | None:
    """A constant that is one number: the decimal that was rounded to its type."""
    if not isinstance(item, Constant) or math.prod(item.entry.shape) != 1:
        return None
    return float(str(item.numbers(node).ravel()[0]))


_RULES: dict[str, Callable[[OnnxNode, Sequence[Any], Sequence[Any]], Term | None]] = {
    "ReduceMean": _mean,
    "Sub": _sub,
    "Mul": _mul,
    "Pow": _pow,
    "Add": _add,
    "Sqrt": _sqrt,
    "Div": _div,
    "Reciprocal": _div,
    "Sigmoid": _sigmoid_of,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    **dict.fromkeys(("Identity", "Cast"), lambda node, terms, given: terms[0]),
}
