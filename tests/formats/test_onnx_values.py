"""ONNX files of exporters whose blocks no reader knows by their nodes: held by values against the
net that is named, or one of the catalogue. Runtimes say what each computes.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import resnet_torch
from resnet_parity.convert.conversion import convert
from resnet_parity.convert.verify import Proof
from resnet_parity.engines.registry import ENGINES
from resnet_parity.worker.reference_libraries import timm_model, torchvision_models
from shared_spec import compile_plan, random_weights, resolve
from shared_spec.errors import ResNetError
from shared_spec.formats.read import read_checkpoint
from shared_spec.spec.resnet_spec import ResNetSpec
from tests.formats.onnx_reading import exported, held, mutated, verdict
from tests.tiers import choice

Change = Callable[[onnx.ModelProto], None]
WRITTEN = "onnx, what its graph computes of drawn numbers"
TIMM = {"channels": (16, 16, 32, 32), "layers": (1, 1, 1, 1), "num_classes": 5}
WIDTHS: dict[str, Any] = {"depths": [1] * 4, "widths": [16, 16, 32, 32], "num_classes": 5}
ONE: dict[str, Any] = {"depths": [1], "widths": [16], "num_classes": 5}


def _timm(name: str) -> tuple[torch.nn.Module, ResNetSpec]:
    torchvision_models()
    return timm_model(name, **TIMM), resolve(name, WIDTHS)


def _ours(name: str) -> tuple[torch.nn.Module, ResNetSpec]:
    spec = resolve(name, ONE)
    return resnet_torch.create_model(spec, weights=random_weights(compile_plan(spec))), spec


def _face(name: str) -> tuple[torch.nn.Module, ResNetSpec]:
    spec = resolve(name, ONE | {"strides": [2], "stem_width": 16, "image_size": 64})
    return resnet_torch.create_model(spec, weights=random_weights(compile_plan(spec))), spec


NETS: dict[str, tuple[Callable[[str], tuple[torch.nn.Module, ResNetSpec]], str, bool]] = {
    "selective": (_timm, "skresnet18", True),
    "selective whole": (_timm, "skresnext50_32x4d", False),
    "hierarchical": (_timm, "res2net50_26w_4s", False),
    "split": (_timm, "resnest14d", True),
    "split once": (_timm, "resnest50d_1s4x24d", False),
    "our split": (_ours, "resnest14d", False),
    "gains": (_ours, "nf_seresnet26", False),
    "no gains": (_ours, "nf_ecaresnet26", True),
    "slopes": (_face, "iresnet18", False),
    "slopes folded": (_face, "iresnet18", True),
}
FEW = ("selective", "hierarchical", "split", "gains", "no gains", "slopes", "slopes folded")


@pytest.mark.parametrize("name", NETS if choice.tier == "all" else FEW)
def test_what_torch_exports_is_read(tmp_path: Path, name: str) -> None:
    make, net, folded = NETS[name]
    model, spec = make(net)
    path = exported(tmp_path / "net.onnx", model, folded)
    found = read_checkpoint(path, spec)
    assert found.origin == WRITTEN
    assert held(path, found, (64, 64) if spec.one_size else (64, 96)) == "right"
    assert ("a form for inference" in " ".join(found.notes)) is folded
    if not folded:
        assert found.spec == spec
    # Whose layers are as many, and have arrays of the same shapes.
    with pytest.raises(ResNetError, match="of the net"):
        read_checkpoint(path, spec.override(activation="silu"))


CATALOGUED = ("regnetx_002", "regnety_002", "seresnext26ts", "regnetz_b16", "legacy_seresnet18")


@pytest.mark.parametrize("folded", [False, True], ids=["norms", "folded"])
@pytest.mark.parametrize("name", CATALOGUED if choice.tier == "all" else CATALOGUED[::3])
def test_nets_of_the_catalogue_are_found(tmp_path: Path, name: str, folded: bool) -> None:
    """Of which no spec is inferred."""
    torchvision_models()
    path = exported(tmp_path / "net.onnx", timm_model(name, num_classes=5), folded)
    assert verdict(path, (64, 96)) == "right"
    notes = read_checkpoint(path).notes
    assert any(f"those of {name} in the catalogue" in note for note in notes)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[onnx.ModelProto, ResNetSpec]:
    """A file with selective kernels, small enough to be changed and run many times."""
    net, spec = _ours("skresnet18")
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    return onnx.load(exported(path, net, folded=False)), spec


def _read(path: Path, small: tuple[onnx.ModelProto, ResNetSpec], change: Change) -> str:
    model, spec = copy.deepcopy(small[0]), small[1]
    change(model)
    path.write_bytes(model.SerializeToString())
    return held(path, read_checkpoint(path, spec), (45, 33))


def _constant(model: onnx.ModelProto, name: str, *values: Any, dtype: Any = np.float32) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.array(values, dtype), name))
    return name


def _before(operator: str, *nodes: Callable[[onnx.ModelProto, str], onnx.NodeProto]) -> Any:
    """What enters the first node of an operator, changed by others."""

    def change(model: onnx.ModelProto) -> None:
        at = next(i for i, n in enumerate(model.graph.node) if n.op_type == operator)
        target, name = model.graph.node[at], model.graph.node[at].input[0]
        for number, make in enumerate(nodes):
            node = make(model, name)
            node.output[:] = [f"changed{number}"]
            model.graph.node.insert(at + number, node)
            name = node.output[0]
        target.input[0] = name

    return change


def _hidden(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    """A limit that no number here reaches."""
    return helper.make_node("Min", [name, _constant(model, "far", 1000.0)], [""])


def _sliced(axis: int) -> Callable[[onnx.ModelProto, str], onnx.NodeProto]:
    """The first hundred rows, or channels."""

    def make(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
        whole = [
            _constant(model, f"slice{i}", n, dtype=np.int64) for i, n in enumerate((0, 100, axis))
        ]
        return helper.make_node("Slice", [name, *whole], [""])

    return make


def _eps(model: onnx.ModelProto) -> None:
    norm = [n for n in model.graph.node if n.op_type == "BatchNormalization"][-1]
    next(a for a in norm.attribute if a.name == "epsilon").f *= 1.01


def _attribute(operator: str, name: str, value: Any) -> Change:
    def change(model: onnx.ModelProto) -> None:
        node = next(n for n in model.graph.node if n.op_type == operator)
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def _swapped_gate(model: onnx.ModelProto) -> None:
    """What each path is weighed by is the other's."""
    maps = {n.output[0] for n in model.graph.node if n.op_type == "Unsqueeze"}
    node = next(n for n in model.graph.node if n.op_type == "Concat" and maps.issuperset(n.input))
    node.input[:] = list(node.input)[::-1]


def _one(operator: str, **attributes: Any) -> Callable[[onnx.ModelProto, str], onnx.NodeProto]:
    return lambda model, name: helper.make_node(operator, [name], [""], **attributes)


def _times(value: float) -> Callable[[onnx.ModelProto, str], onnx.NodeProto]:
    return lambda model, name: helper.make_node("Mul", [name, _constant(model, "by", value)], [""])


def _height(model: onnx.ModelProto) -> None:
    """Images of another size would be multiplied by something else."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", _constant(model, "two", 2, dtype=np.int64)], ["h"]),
        helper.make_node("Div", ["h", _constant(model, "many", 1000, dtype=np.int64)], ["none"]),
        helper.make_node("Cast", ["none"], ["zero"], to=1),
    ]
    at = next(i for i, n in enumerate(model.graph.node) if n.op_type == "Softmax")
    soft = model.graph.node[at]
    nodes.append(helper.make_node("Add", [soft.input[0], "zero"], ["moved"]))
    soft.input[0] = "moved"
    for number, node in enumerate(nodes):
        model.graph.node.insert(at + number, node)


def _twice(model: onnx.ModelProto) -> None:
    """The logits."""
    last = model.graph.node[-1]
    name = last.output[0]
    last.output[0] = "once"
    model.graph.node.append(helper.make_node("Add", ["once", "once"], [name]))


CHANGES: dict[str, tuple[Change, str]] = {
    "a limit far out": (_before("Softmax", _hidden), "is of an operator"),
    "a hundred rows": (_before("MaxPool", _sliced(2)), "along another axis"),
    "a hundred channels": (_before("MaxPool", _sliced(1)), "right"),
    "an eps": (_eps, "of the net"),
    "a stride": (_attribute("MaxPool", "strides", [1, 1]), "of the net"),
    "a pool to the end": (_attribute("MaxPool", "ceil_mode", 1), "of the net"),
    "training": (_attribute("BatchNormalization", "training_mode", 1), "of the net"),
    "paths the other way": (_swapped_gate, "of the net"),
    "one more relu": (_before("MaxPool", _one("Relu")), "none of the net's"),
    "one more sigmoid": (_before("Softmax", _one("Sigmoid")), "of the net"),
    "a number": (_before("Softmax", _times(1.0001)), "numbers that no layer"),
    "nothing": (_before("Softmax", _times(1.0)), "right"),
    "twice the logits": (_twice, "is another one"),
    "the height": (_height, "with the size of the image"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_change_makes_of_a_net_is_seen(
    small: tuple[onnx.ModelProto, ResNetSpec], tmp_path: Path, what: str
) -> None:
    change, expected = CHANGES[what]
    if expected == "right":
        assert _read(tmp_path / "net.onnx", small, change) == "right"
        return
    with pytest.raises(ResNetError, match=expected):
        _read(tmp_path / "net.onnx", small, change)


def test_drawn_changes_are_read_right_or_refused(
    small: tuple[onnx.ModelProto, ResNetSpec], tmp_path: Path
) -> None:
    (whole, spec), path, found = small, tmp_path / "net.onnx", Counter[str]()
    for number in range(150 if choice.tier == "all" else 40):
        model, what = mutated(whole, number)
        path.write_bytes(model.SerializeToString())
        try:
            said = held(path, read_checkpoint(path, spec), (45, 33))
        except ResNetError:
            said = "refused"
        # As runtimes do for models that there cannot be.
        except Exception as error:
            said = f"no model: {type(error).__name__}"
        assert not said.startswith("wrong"), (number, what, said)
        found[said.partition(":")[0]] += 1
    assert found["refused"] > 15, found
    assert found["right"] > 2, found


def test_pools_that_are_the_same_at_one_size_are_not_taken_for_one(tmp_path: Path) -> None:
    net, spec = _timm("res2net50d")
    path = exported(tmp_path / "net.onnx", net, folded=False)
    model = onnx.load(path)
    for place, side in ((2, 64), (3, 64)):
        model.graph.input[0].type.tensor_type.shape.dim[place].dim_value = side
    path.write_bytes(model.SerializeToString())
    assert held(path, read_checkpoint(path, spec), (64, 64)) == "right"
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "AveragePool" and attribute.name == "ceil_mode":
                attribute.i = 0
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ResNetError, match="no node gives what"):
        read_checkpoint(path, spec)


def test_a_form_for_inference_of_a_named_net_is_converted(tmp_path: Path) -> None:
    path, (net, spec) = tmp_path / "net.onnx", _ours("skresnet18")
    exported(path, net, folded=True)
    proof = Proof((ENGINES["torch"],), judge_required=True)
    done = convert(path, tmp_path / "net.safetensors", spec, proof=proof)
    assert done.judged_by == f"onnx {onnx.__version__} (onnx.reference), the file's own graph"
    assert all(check.holds for check in done.checks)
