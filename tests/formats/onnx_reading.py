"""What reading an ONNX file gives, onnx.reference and ONNX Runtime being the judges.

    python -m tests.formats.onnx_reading 200 [FIRST]

reads files of so many drawn nets, half of them changed, and prints what was found, for
docs/results/files.md.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

import resnet_onnx
import resnet_torch
from resnet_onnx.runtimes import run_model
from resnet_parity.worker.judges import onnx_graph
from resnet_parity.worker.reference_libraries import timm_model, torchvision_models
from shared_spec import compile_plan, random_weights, resolve
from shared_spec.errors import ResNetError, SpecError
from shared_spec.formats.read import read_checkpoint
from shared_spec.spec.resnet_spec import ResNetSpec
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


def _another_number(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    """Change one of the numbers that say how a net computes; empty if there are none."""
    nodes = [
        n for n in model.graph.node if n.op_type == "Constant" and n.attribute[0].HasField("t")
    ]
    tensors = [*model.graph.initializer, *(node.attribute[0].t for node in nodes)]
    small = [t for t in tensors if np.prod(t.dims) <= 16 or list(t.dims[1:]) == [1, 3, 3]]
    if not small:
        return ""
    one = small[rng.integers(len(small))]
    array = numpy_helper.to_array(one).copy()
    flat, place = array.reshape(-1), rng.integers(array.size)
    flat[place] += rng.choice([-1, 1]) if array.dtype.kind == "i" else 0.125
    one.CopyFrom(numpy_helper.from_array(array, one.name))
    return f"another number in {one.name}"


UNARY = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "HardSwish", "Softplus", "Identity", "Neg")


def mutated(model: onnx.ModelProto, number: int) -> tuple[onnx.ModelProto, str]:
    """A model with one thing changed, drawn, and what that was."""
    rng = np.random.default_rng(number)
    found = copy.deepcopy(model)
    nodes = found.graph.node
    node = nodes[rng.integers(len(nodes))]
    attributes = [a for a in node.attribute if a.type in (1, 2, 7) and (a.type != 7 or a.ints)]
    kinds = ["attribute", "attribute", "operator", "bypass", "twice", "inputs", "number", "number"]
    how = str(rng.choice(kinds))
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
    if how == "number" and (what := _another_number(found, rng)):
        return found, what
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


_SIZES: dict[str, Any] = {"depths": [1, 2], "widths": [8, 16], "stem_width": 8, "num_classes": 5}
_NETS = ("resnet18", "resnet50", "resnet50d", "resnet20", "resnetv2_50")
_FIELDS: dict[str, list[Any]] = {
    "attention": ["none", "se", "eca"],
    "anti_alias": ["none", "none", "blur", "avg"],
    "norm": ["batch", "group", "evonorm_s0", "frn"],
    "norm_groups": [32, 4],
    "standardize": [None, None, 1e-8, 1e-5],
    "shortcut": ["projection", "projection", "zero_pad", "none"],
    "pre_activation": [False, True],
    "activation": ["relu", "relu", "silu", "gelu_tanh"],
    "features_only": [False, False, True],
    "head_pool": ["avg", "avg", "catavgmax"],
}
_TIMM = (
    *("ecaresnet26t", "resnetblur18", "resnetblur50d", "resnetaa50d", "resnet50_gn"),
    *("seresnet50", "resnetv2_50d_gn", "resnetv2_50d_frn", "resnetv2_50"),
)
SOURCES = ("resnet_onnx", "resnet_onnx, folded", "resnet_torch", "timm")


def _spec(rng: np.random.Generator) -> ResNetSpec:
    """A drawn one that there is."""
    while True:
        fields = {k: v[rng.integers(len(v))] for k, v in _FIELDS.items() if rng.integers(2)}
        fields |= _SIZES
        if fields.get("features_only"):
            del fields["num_classes"]
        try:
            spec = resolve(_NETS[rng.integers(len(_NETS))], fields)
            compile_plan(spec)
        except SpecError:
            continue
        return spec


def _timm(rng: np.random.Generator) -> torch.nn.Module:
    name = _TIMM[rng.integers(len(_TIMM))]
    torchvision_models()
    options: dict[str, Any] = {"channels": (32, 64), "layers": (1, 2)}
    if "v2" in name:
        options |= {"channels": (128, 128), "stem_chs": 64, "num_classes": 5}
    elif rng.integers(3):
        options |= {"channels": (32, 32, 64, 64), "layers": (1, 1, 1, 1), "num_classes": 5}
    else:
        options = {"channels": (32, 32, 64, 64), "layers": (1, 1, 1, 1), "features_only": True}
    return timm_model(name, **options)


def randomise(net: torch.nn.Module) -> torch.nn.Module:
    """Other statistics, scales and biases of norms than those that do nothing."""
    generator = torch.Generator().manual_seed(5)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.GroupNorm):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.running_mean.normal_(0, 0.1, generator=generator)
    return net.eval()


def exported(path: Path, net: torch.nn.Module, folded: bool) -> Path:
    """The file that torch.onnx writes of a net, in the way that it did before torch.export."""
    training = torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and files of it are there
        torch.onnx.export(
            randomise(net),
            (torch.zeros(1, 3, 64, 64),),
            path,
            dynamo=False,
            input_names=["x"],
            dynamic_axes={"x": {0: "batch", 2: "height", 3: "width"}},
            training=training,
            do_constant_folding=folded,
        )
    return path


def written(path: Path, spec: ResNetSpec, *, folded: bool = False, record: bool = False) -> Path:
    """Our own file of a net with drawn weights, with its record of the net or without."""
    weights = random_weights(compile_plan(spec))
    resnet_onnx.export(resnet_onnx.create_model(spec, weights=weights, inference=folded), path)
    if not record:
        model = onnx.load(path)
        del model.metadata_props[:]
        path.write_bytes(model.SerializeToString())
    return path


def drawn(path: Path, number: int) -> tuple[str, str]:
    """Write a drawn net, every other one changed: who wrote it, and what became of it."""
    rng = np.random.default_rng(number)
    source = SOURCES[rng.integers(len(SOURCES))]
    try:
        if source == "timm":
            exported(path, _timm(rng), bool(rng.integers(2)))
        elif source == "resnet_torch":
            spec = _spec(rng)
            net = resnet_torch.create_model(spec, weights=random_weights(compile_plan(spec)))
            exported(path, net, bool(rng.integers(2)))
        else:
            spec = _spec(rng)
            written(path, spec, folded="folded" in source, record=not rng.integers(4))
    except torch.onnx.errors.OnnxExporterError:
        return source, "not written"
    what = ""
    if number % 2:
        model, what = mutated(onnx.load(path), number)
        path.write_bytes(model.SerializeToString())
    try:
        return source, f"{verdict(path, (64, 96))}{what and f' ({what})'}"
    # As runtimes do for models that there cannot be.
    except Exception as error:
        return source, f"no model: {type(error).__name__}"


def main(count: int, first: int = 0) -> None:
    """Read files of drawn nets, and print what was found."""
    found = Counter[tuple[str, str]]()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + count):
            source, said = drawn(Path(folder) / "net.onnx", number)
            kind = said.partition(":")[0].partition(" (")[0]
            found[source, f"{kind}{', changed' if number % 2 else ''}"] += 1
            if not said.startswith("right"):
                print(number, source, said, flush=True)
    for (source, kind), times in sorted(found.items()):
        print(f"{source}: {kind}: {times}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
