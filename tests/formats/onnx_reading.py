"""What reading an ONNX file gives, onnx.reference and ONNX Runtime being the judges."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

import resnet_torch
from resnet_onnx.runtimes import run_model
from resnet_parity.worker.judges import onnx_graph
from shared_spec.errors import ResNetError
from shared_spec.formats.read import read_checkpoint
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.initialize import random_images

EXACT, ROUNDED = 1e-11, 1e-6
"""In float64; where the file has rounded numbers that the reader knows."""
NARROW = 1e-4
"""What ONNX Runtime may be away in float32."""


def verdict(path: Path, size: tuple[int, int] = (45, 33)) -> str:
    """`right`, `refused: ...`, or `wrong: ...`."""
    try:
        found = read_checkpoint(path)
    except ResNetError as error:
        text = str(error)
        assert text.startswith(str(path)), text
        assert text.count(str(path)) == 1, text
        assert "\n" not in text
        return f"refused: {text.removeprefix(f'{path}: ')}"
    return held(path, found, size)


def held(path: Path, found: Checkpoint, size: tuple[int, int]) -> str:
    """What was read, against both judges."""
    own, spec = found.own_graph, found.spec
    assert own is not None
    assert spec is not None
    shape = (2, *(own.size or size), spec.in_channels)
    x = random_images(shape).astype(np.float64)
    fed = x
    if own.pixels:
        fed = np.round(random_images(shape, 1) * 40 + 128).clip(0, 255).astype(np.float64)
        p = found.preprocessing
        assert p is not None
        x = (fed[..., ::-1] if p.channel_order == "bgr" else fed) / 255
        x = (x - np.array(p.mean)) / np.array(p.std)
    model = resnet_torch.create_model(spec, weights=dict(found.state), dtype="float64")
    given = resnet_torch.predict(model, x)
    given = given if isinstance(given, list) else [given]
    _, exact = onnx_graph(path, fed, own.channels_first, own.probabilities)
    if (error := _apart(given, exact)) > (ROUNDED if own.rounded or own.pixels else EXACT):
        return f"wrong: {error:.1e} from onnx.reference in float64"
    if own.probabilities:
        given = [np.exp(y - y.max(-1, keepdims=True)) for y in given]
        given = [y / y.sum(-1, keepdims=True) for y in given]
    first = np.moveaxis(fed, -1, 1) if own.channels_first else fed
    narrow = run_model(onnx.load(path), "float32", first, "onnxruntime")
    if own.channels_first:
        narrow = [np.moveaxis(y, 1, -1) if y.ndim == 4 else y for y in narrow]
    error = _apart(given, narrow)
    return "right" if error <= NARROW else f"wrong: {error:.1e} from ONNX Runtime"


def _apart(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """How far outputs are apart, the farthest one."""
    pairs = zip(found, expected, strict=True)
    return max(float(np.abs(a.reshape(b.shape) - b).max() / np.abs(b).max()) for a, b in pairs)


UNARY = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "HardSwish", "Softplus", "Identity", "Neg")


def mutated(model: onnx.ModelProto, number: int) -> tuple[onnx.ModelProto, str]:
    """A model with one thing changed, drawn, and what that was."""
    rng = np.random.default_rng(number)
    found = copy.deepcopy(model)
    nodes = found.graph.node
    node = nodes[rng.integers(len(nodes))]
    attributes = [a for a in node.attribute if a.type in (1, 2, 7) and (a.type != 7 or a.ints)]
    how = str(rng.choice(["attribute", "attribute", "operator", "bypass", "twice", "inputs"]))
    if how == "attribute" and attributes:
        one = attributes[rng.integers(len(attributes))]
        if one.type == 1:
            one.f *= float(rng.choice([0.5, 1.5, 10.0]))
        elif one.type == 2:
            one.i += int(rng.choice([-1, 1]))
        else:
            places = rng.integers(2, size=len(one.ints)) if rng.integers(2) else [1] * len(one.ints)
            one.ints[:] = [n + int(p) for n, p in zip(one.ints, places, strict=True)]
        return found, f"{one.name} of {node.op_type}"
    if how == "operator" and node.op_type in UNARY:
        node.op_type = str(rng.choice(UNARY))
        del node.attribute[:]
        return found, f"{node.op_type} there"
    if how == "bypass" and node.input:
        for other in nodes:
            for i, name in enumerate(other.input):
                if name == node.output[0]:
                    other.input[i] = node.input[0]
        return found, f"without {node.op_type}"
    if how == "inputs" and len(node.input) > 1:
        other = nodes[rng.integers(len(nodes))]
        i = int(rng.integers(len(node.input)))
        node.input[i] = other.input[i] if len(other.input) > i else node.input[0]
        return found, f"another input {i} of {node.op_type}"
    before = str(node.output[0])
    node.output[0] = f"{before}/once"
    kind = str(rng.choice(UNARY))
    nodes.insert(
        list(nodes).index(node) + 1, helper.make_node(kind, [f"{before}/once"], [before], "new")
    )
    return found, f"{kind} behind {node.op_type}"
