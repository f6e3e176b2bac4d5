"""ONNX files of exporters, and such that were changed: runtimes say what each computes."""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import resnet_onnx
import resnet_torch
from resnet_onnx import Form
from resnet_parity.convert.conversion import convert
from resnet_parity.convert.verify import Proof
from resnet_parity.engines.registry import ENGINES
from resnet_parity.worker.reference_libraries import timm_model, torchvision_models
from shared_spec import Preprocessing, compile_plan, random_weights, resolve
from shared_spec.errors import ResNetError
from shared_spec.formats.containers.onnx import open_onnx
from shared_spec.formats.read import read_checkpoint
from shared_spec.spec.resnet_spec import ResNetSpec
from tests.formats.onnx_reading import exported, mutated, verdict, written

KEPT = sorted((Path(__file__).parents[1] / "kept").glob("*.onnx"))
SMALL = resolve(
    "resnet50", {"depths": [1, 1], "widths": [8, 16], "num_classes": 5, "stem_width": 8}
)


def _torchvision(**options: Any) -> torch.nn.Module:
    torchvision_models()
    from torchvision.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5, **options)


def _timm(name: str, **options: Any) -> torch.nn.Module:
    torchvision_models()
    return timm_model(name, num_classes=5, **options)


_WIDTHS = {"channels": (8, 8, 16, 16), "layers": (1, 1, 1, 1)}
_BEFORE = {"channels": (32, 64), "layers": (1, 1), "stem_chs": 8}
NETS: dict[str, Callable[[], torch.nn.Module]] = {
    "torchvision": _torchvision,
    "wide": lambda: _torchvision(width_per_group=64),
    "timm d": lambda: _timm("resnet26d", **_WIDTHS),
    "timm v2": lambda: _timm("resnetv2_50", **_BEFORE),
    "both pools": lambda: _timm("resnet18", global_pool="catavgmax", **_WIDTHS),
    "mean of pools": lambda: _timm("resnet18", global_pool="avgmax", **_WIDTHS),
    "se": lambda: _timm("seresnet50", **_WIDTHS),
    "gelu": lambda: _timm("resnet18", act_layer="gelu", **_WIDTHS),
    "silu": lambda: _timm("resnet18", act_layer="silu", **_WIDTHS),
    "hardswish": lambda: _timm("resnet18", act_layer="hard_swish", **_WIDTHS),
    "relu6": lambda: _timm("resnet18", act_layer="relu6", **_WIDTHS),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """A net with its norms, small enough to be changed and run many times."""
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    net = _timm("resnet26d", channels=(4, 4, 8, 8), layers=(1, 1, 1, 1), stem_width=4)
    return onnx.load(exported(path, net, folded=False))


@pytest.mark.parametrize("folded", [False, True], ids=["norms", "folded"])
@pytest.mark.parametrize("name", NETS)
def test_what_torch_exports_is_read(tmp_path: Path, name: str, folded: bool) -> None:
    path = exported(tmp_path / "net.onnx", NETS[name](), folded)
    assert verdict(path) == "right"
    notes = " ".join(read_checkpoint(path).notes)
    assert ("a form for inference" in notes) is folded
    assert ("momentum" in notes) is not folded


_FOUR = {"channels": (32, 32, 64, 64), "layers": (1, 1, 1, 1), "num_classes": 5}
_TWO = {"channels": (128, 128), "layers": (1, 1), "stem_chs": 64, "num_classes": 5}


def _bit() -> torch.nn.Module:
    torchvision_models()
    from timm.layers import GroupNormAct, StdConv2d

    conv, norm = partial(StdConv2d, eps=1e-8), partial(GroupNormAct, num_groups=4)
    return timm_model("resnetv2_50", **_TWO, conv_layer=conv, norm_layer=norm, stem_type="fixed")


def _ours(name: str, **options: Any) -> torch.nn.Module:
    spec = resolve(name, {**_NARROW, **options})
    return resnet_torch.create_model(spec, weights=random_weights(compile_plan(spec)))


_NARROW = {"depths": [1, 1], "widths": [8, 16], "stem_width": 8, "num_classes": 5}
OTHERS: dict[str, tuple[Callable[[], torch.nn.Module], dict[str, Any]]] = {
    "eca": (lambda: _timm("ecaresnet26t", **_WIDTHS), {"attention": "eca"}),
    "blur": (lambda: _timm("resnetblur18", **_WIDTHS), {"anti_alias": "blur"}),
    "means": (lambda: _timm("resnetaa50d", **_WIDTHS), {"anti_alias": "avg"}),
    "groups": (lambda: timm_model("resnet50_gn", **_FOUR), {"norm": "group", "norm_groups": 32}),
    "bit": (_bit, {"standardize": 1e-8, "norm_groups": 4, "stem_pool": "max_zero"}),
    "frn": (lambda: timm_model("resnetv2_50d_frn", **_TWO), {"norm": "frn"}),
    "levels": (
        lambda: timm_model("resnet18", features_only=True, out_indices=(0, 2, 4), **_WIDTHS),
        {"out_indices": (0, 2, 4)},
    ),
    "our eca": (lambda: _ours("resnet50", attention="eca"), {"attention": "eca"}),
    "our zeros": (lambda: _ours("resnet20"), {"shortcut": "zero_pad"}),
    "our plain": (lambda: _ours("resnet18", shortcut="none"), {"shortcut": "none"}),
    "our evonorm": (
        lambda: _ours("resnet18", norm="evonorm_s0", pre_activation=True, norm_groups=4),
        {"norm": "evonorm_s0"},
    ),
    "our kernels": (lambda: _ours("resnet18", standardize=1e-6), {"standardize": 1e-6}),
}


@pytest.mark.parametrize(
    ("name", "folded"), [*((name, False) for name in OTHERS), ("eca", True), ("our zeros", True)]
)
def test_layers_of_several_nodes_are_read(tmp_path: Path, name: str, folded: bool) -> None:
    torchvision_models()
    make, fields = OTHERS[name]
    path = exported(tmp_path / "net.onnx", make(), folded)
    assert verdict(path, (64, 96)) == "right"
    spec = read_checkpoint(path).spec
    assert {key: getattr(spec, key) for key in fields} == fields


OWN: dict[str, dict[str, Any]] = {
    "eca": {"attention": "eca"},
    "blur": {"anti_alias": "blur"},
    "groups": {"norm": "group", "norm_groups": 4},
    "kernels": {"norm": "group", "norm_groups": 4, "standardize": 1e-8},
    "zeros": {"shortcut": "zero_pad"},
    "evonorm": {"norm": "evonorm_s0", "norm_groups": 4, "pre_activation": True},
    "frn": {"norm": "frn", "pre_activation": True},
    "levels": {"features_only": True, "out_indices": (0, 2)},
    "plain": {"shortcut": "none"},
    "plain levels": {"shortcut": "none", "features_only": True, "out_indices": (0, 1, 2)},
    "plain levels before": {
        "shortcut": "none",
        "features_only": True,
        "pre_activation": True,
        "depths": [1, 2],
    },
    "plain before": {"shortcut": "none", "pre_activation": True},
}


def _own_spec(name: str) -> ResNetSpec:
    """Not of names alone: a net of bottlenecks and one of basic blocks."""
    fields = {**_NARROW, **OWN[name]}
    if "features_only" in fields:
        del fields["num_classes"]
    return resolve("resnet50" if name in ("eca", "plain before") else "resnet18", fields)


@pytest.mark.parametrize(("folded", "record"), [(False, False), (True, True)])
@pytest.mark.parametrize("name", OWN)
def test_our_own_layers_are_read(tmp_path: Path, name: str, folded: bool, record: bool) -> None:
    spec = _own_spec(name)
    path = written(tmp_path / "net.onnx", spec, folded=folded, record=record)
    assert verdict(path) == "right"
    found = read_checkpoint(path).spec
    assert found is not None
    kernels = folded and spec.standardize is not None
    changed: dict[str, Any] = {"standardize": None} if kernels else {}
    if spec.norm == "batch":
        changed |= {"norm_eps": found.norm_eps}
    same = {"image_size": found.image_size, "num_classes": found.num_classes}
    same |= {} if spec.out_indices else {"out_indices": found.out_indices}
    assert found == spec.override(**changed, **same)


@pytest.mark.parametrize("path", KEPT, ids=[path.stem for path in KEPT])
def test_what_other_exporters_wrote_is_read(path: Path) -> None:
    assert verdict(path) == "right"


@pytest.mark.parametrize("head", ["logits", "softmax"])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_our_own_files_are_read_with_their_preprocessing(
    tmp_path: Path, order: Any, head: Any
) -> None:
    path = tmp_path / "net.onnx"
    model = resnet_onnx.create_model(SMALL, weights=random_weights(compile_plan(SMALL)))
    model.preprocessing = Preprocessing(
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), channel_order=order
    )
    model.labels = tuple("abcde")
    resnet_onnx.export(model, path, form=Form(preprocessing=True, head=head))
    found = read_checkpoint(path)
    assert (found.spec, found.preprocessing, found.labels) == (
        SMALL,
        model.preprocessing,
        model.labels,
    )
    assert verdict(path) == "right"


def _attribute(operator: str, **values: Any) -> Callable[[onnx.ModelProto], None]:
    """The first node of an operator with other attributes."""

    def change(model: onnx.ModelProto) -> None:
        node = next(n for n in model.graph.node if n.op_type == operator)
        kept = [a for a in node.attribute if a.name not in values]
        del node.attribute[:]
        node.attribute.extend([*kept, *(helper.make_attribute(k, v) for k, v in values.items())])

    return change


def _operator(old: str, new: str, every: bool = False, **values: Any) -> Any:
    def change(model: onnx.ModelProto) -> None:
        found = [n for n in model.graph.node if n.op_type == old]
        for node in found if every else found[:1]:
            node.op_type = new
            node.attribute.extend(helper.make_attribute(k, v) for k, v in values.items())

    return change


def _every_eps(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 1e-3


def _swapped_sums(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Add":
            node.input[:] = list(node.input)[::-1]


def _turned_kernel(model: onnx.ModelProto) -> None:
    """The first kernel, of which a node changes rows and columns."""
    node = next(n for n in model.graph.node if n.op_type == "Conv")
    turn = helper.make_node("Transpose", [node.input[1]], ["turned"], perm=[0, 1, 3, 2])
    node.input[1] = "turned"
    model.graph.node.insert(0, turn)


def _times(value: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        number = numpy_helper.from_array(np.array(value, np.float32), "number")
        model.graph.initializer.append(number)
        at = next(i for i, n in enumerate(model.graph.node) if n.op_type == "Relu")
        node = model.graph.node[at]
        model.graph.node.insert(at, helper.make_node("Mul", [node.input[0], "number"], ["scaled"]))
        model.graph.node[at + 1].input[0] = "scaled"

    return change


def _two_outputs(model: onnx.ModelProto) -> None:
    name = next(n for n in model.graph.node if n.op_type == "Relu").output[0]
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))


def _of_version_11(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 11
    for node in model.graph.node:
        kept = [a for a in node.attribute if a.name != "training_mode"]
        del node.attribute[:]
        node.attribute.extend(kept)


def _given_twice(model: onnx.ModelProto) -> None:
    relu = next(n for n in model.graph.node if n.op_type == "Relu")
    model.graph.node.append(helper.make_node("Sigmoid", list(relu.input), list(relu.output)))


def _norm_behind_relu(model: onnx.ModelProto) -> None:
    """The first norm and the activation behind it in the other order."""
    norm = next(n for n in model.graph.node if n.op_type == "BatchNormalization")
    relu = next(n for n in model.graph.node if norm.output[0] in n.input)
    inside, middle, end = norm.input[0], norm.output[0], relu.output[0]
    relu.input[0], relu.output[0] = inside, middle
    norm.input[0], norm.output[0] = middle, end
    nodes = list(model.graph.node)
    i, j = nodes.index(norm), nodes.index(relu)
    nodes[i], nodes[j] = nodes[j], nodes[i]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


CHANGES: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "another eps": (_every_eps, "right"),
    "sums the other way": (_swapped_sums, "right"),
    "a turned kernel": (_turned_kernel, "right"),
    "another activation": (_operator("Relu", "Elu", every=True), "right"),
    "one norm's eps": (_attribute("BatchNormalization", epsilon=1e-3), "refused: node '"),
    "one norm in training": (_attribute("BatchNormalization", training_mode=1), "in training"),
    "a wider pad": (_attribute("Conv", pads=[2, 2, 2, 2]), "padding=2"),
    "pads on two sides": (_attribute("Conv", pads=[0, 0, 1, 1]), "on all sides"),
    "the lower rule": (_attribute("Conv", auto_pad="SAME_LOWER", pads=[0] * 4), "SAME_LOWER"),
    "a dilation": (_attribute("Conv", dilations=[2, 2], pads=[2, 2, 2, 2]), "dilation=2"),
    "one activation": (_operator("Relu", "Elu"), "and the nearest ResNet has"),
    "another slope": (_operator("Relu", "LeakyRelu", every=True, alpha=0.2), "no activation"),
    "a limit far out": (_operator("Relu", "Clip", every=True), "no activation"),
    "ceil_mode": (_attribute("MaxPool", ceil_mode=1), "ceil_mode"),
    "no ceil_mode": (_attribute("AveragePool", ceil_mode=0), "padding=0"),
    "counted pads": (
        _attribute("AveragePool", ceil_mode=0, kernel_shape=[3, 3], pads=[1] * 4,
                   count_include_pad=1),
        "count_padding=True",
    ),
    "a number": (_times(2), "refused: node '"),
    "one": (_times(1), "right"),
    "two outputs": (_two_outputs, "later ones before earlier ones"),
    "norm behind activation": (_norm_behind_relu, "refused: node '"),
    # In which onnx.reference itself takes the batch into the statistics.
    "operators of version 11": (_of_version_11, "right"),
    "one tensor of two nodes": (_given_twice, "is given already"),
    "a setting of no operator": (_attribute("Conv", fancy=3), "does not have"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_change_makes_of_a_net_is_seen(
    plain: onnx.ModelProto, tmp_path: Path, what: str
) -> None:
    model, (change, expected) = onnx.ModelProto(), CHANGES[what]
    model.CopyFrom(plain)
    change(model)
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    said = verdict(path)
    assert expected in said, said
    assert said == "right" or said.startswith("refused"), said


def _constant(
    operator: str, place: int, change: Callable[[np.ndarray], np.ndarray]
) -> Callable[[onnx.ModelProto], None]:
    """Another array in the place of an input of the first node of an operator."""

    def made(model: onnx.ModelProto) -> None:
        node = next(n for n in model.graph.node if n.op_type == operator and len(n.input) > place)
        old = next(t for t in model.graph.initializer if t.name == node.input[place])
        array = change(numpy_helper.to_array(old).copy())
        model.graph.initializer.append(numpy_helper.from_array(array, "changed"))
        node.input[place] = "changed"

    return made


def _without(operator: str) -> Callable[[onnx.ModelProto], None]:
    """The first node of an operator left out."""

    def change(model: onnx.ModelProto) -> None:
        node = next(n for n in model.graph.node if n.op_type == operator)
        for other in model.graph.node:
            other.input[:] = [node.input[0] if x == node.output[0] else x for x in other.input]
        model.graph.node.remove(node)

    return change


def _blur_filter(model: onnx.ModelProto) -> None:
    """The first blur with a filter of sums other than 1."""
    filters = next(t for t in model.graph.initializer if t.name.endswith("filter"))
    array = numpy_helper.to_array(filters).copy()
    array[-1, 0, 1, 1] *= 2
    filters.CopyFrom(numpy_helper.from_array(array, filters.name))


def _swapped_outputs(model: onnx.ModelProto) -> None:
    first, last = (copy.deepcopy(value) for value in model.graph.output)
    model.graph.output[0].CopyFrom(last)
    model.graph.output[1].CopyFrom(first)


def _inner_output(model: onnx.ModelProto) -> None:
    """The first output from inside a block."""
    relu = [n for n in model.graph.node if n.op_type == "Relu"][1]
    model.graph.output[0].name = relu.output[0]


def _biased_output(model: onnx.ModelProto) -> None:
    """The first output before the norm of the stem."""
    norm = next(n for n in model.graph.node if n.op_type == "BatchNormalization")
    model.graph.output[0].name = norm.input[0]


def _spread_mean(model: onnx.ModelProto) -> None:
    """The gate over as many pixels as the image has, in place of those of the map."""
    nodes = list(model.graph.node)
    at = next(i for i, n in enumerate(nodes) if n.op_type == "Mul")
    spread = helper.make_node("Expand", [nodes[at].input[1], "sides"], ["spread"], "spread")
    _number(model, "sides", np.array([1, 1, 7, 7]))
    nodes[at].input[1] = "spread"
    model.graph.node.insert(at, spread)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 64
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 64


OTHER_CHANGES: dict[str, tuple[str, Callable[[onnx.ModelProto], None], str]] = {
    "a filter": ("blur", _blur_filter, "no blur of 1 2 1"),
    "a pad of edges": ("blur", _attribute("Pad", mode="edge"), "other things than zeros"),
    "a pad of zeros": ("blur", _attribute("Pad", mode="constant"), "its layers are no ResNet's"),
    "a wider reflection": (
        "blur", _constant("Pad", 1, lambda x: x * 2), "other things than zeros"
    ),
    "other groups": ("groups", _constant("Reshape", 1, lambda x: x + np.array([0, 4, 0])),
                     "GroupNorm (8, 8, 1e-05)"),
    "one eps": ("groups", _constant("Add", 1, lambda x: x * 100), "and the nearest ResNet has"),
    "no mean": ("groups", _without("Sub"), "refused: node '"),
    "no root": ("groups", _without("Sqrt"), "refused: node '"),
    "means of some axes": ("kernels", _attribute("ReduceMean", axes=[1, 2]), "refused: node '"),
    "one kernel's eps": ("kernels", _constant("Add", 1, lambda x: x * 1000), "standardize_eps"),
    "every third row": (
        "zeros", _constant("Slice", 4, lambda x: x + np.array([1, 0])), "refused: node '"
    ),
    "from the second row": ("zeros", _constant("Slice", 1, lambda x: x + 1), "leaves out other"),
    "not the last row": ("zeros", _constant("Slice", 2, lambda x: x * 0 + 9), "leaves out other"),
    "more zeros in front": (
        "zeros", _constant("Pad", 1, lambda x: x + np.array([0, 1, 0, 0, 0, -1, 0, 0])), "before=5"
    ),
    "no gate": ("evonorm", _without("Sigmoid"), "refused: node '"),
    "no threshold": ("frn", _without("Max"), "refused: node '"),
    "the smaller one": ("frn", _operator("Max", "Min"), "refused: node '"),
    "outputs the other way": ("levels", _swapped_outputs, "later ones before earlier ones"),
    "an output of a block": ("levels", _inner_output, "from inside a block"),
    "an output before the norm": ("levels", _biased_output, "and the nearest ResNet has"),
    "a short row": ("eca", _attribute("Conv", pads=[0, 0]), "refused: node '"),
    "a wide gate": ("eca", _spread_mean, "of another size"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHER_CHANGES)
def test_what_a_change_makes_of_a_layer_is_seen(tmp_path: Path, what: str) -> None:
    name, change, expected = OTHER_CHANGES[what]
    path = written(tmp_path / "net.onnx", _own_spec(name))
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    said = verdict(path, (64, 64))
    assert said.startswith("refused"), said
    assert expected in said, said


def _number(model: onnx.ModelProto, name: str, value: Any) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def _on_images(*nodes: onnx.NodeProto, dtype: int = TensorProto.FLOAT, **numbers: Any) -> Any:
    """Nodes of which the last one's output enters the net in place of `x`."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.elem_type = dtype
        for name, value in numbers.items():
            _number(model, name, value)
        for node in model.graph.node:
            node.input[:] = [nodes[-1].output[0] if name == "x" else name for name in node.input]
        rest = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*nodes, *rest])

    return change


def _both(*changes: Callable[[onnx.ModelProto], None]) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for one in changes:
            one(model)

    return change


def _same_everywhere(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type in ("Conv", "MaxPool"):
            kept = [a for a in node.attribute if a.name not in ("pads", "auto_pad")]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("auto_pad", "SAME_UPPER")])


def _three_of_max(model: onnx.ModelProto) -> None:
    _number(model, "zero", np.float32(0))
    _number(model, "half", np.float32(0.5))
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Max"
            node.input.extend(["zero", "half"])


def _padded_classifier(model: onnx.ModelProto) -> None:
    """A 1x1 convolution in place of the classifier, with zeros around its one pixel."""
    nodes = model.graph.node
    dense, flat = (next(n for n in nodes if n.op_type == k) for k in ("Gemm", "Flatten"))
    kernel = next(t for t in model.graph.initializer if t.name == dense.input[1])
    kernel.dims.extend([1, 1])
    nodes.remove(dense)
    nodes.remove(flat)
    inputs = [flat.input[0], *dense.input[1:]]
    nodes.append(helper.make_node("Conv", inputs, ["map"], "padded", pads=[1] * 4))
    nodes.append(helper.make_node("Flatten", ["map"], dense.output[:1]))


def _turned_often(model: onnx.ModelProto) -> None:
    conv = next(n for n in model.graph.node if n.op_type == "Conv")
    for i in range(3000):
        turn = helper.make_node("Transpose", [conv.input[1]], [f"turn{i}"], perm=[0, 1, 3, 2])
        model.graph.node.insert(i, turn)
        conv.input[1] = f"turn{i}"


def _fewer(operator: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        del next(n for n in model.graph.node if n.op_type == operator).input[1:]

    return change


def _many_channels(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2**60


_node = helper.make_node
_SIZES = (
    _node("Shape", ["x"], ["shape"]),
    _node("Gather", ["shape", "i"], ["height"]),
    _node("Gather", ["shape", "j"], ["width"]),
)
_TEXT = TensorProto(data_type=TensorProto.STRING, dims=[1], string_data=[b"a"])
HOSTILE: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "zeros before the rule": (
        _both(_same_everywhere, _on_images(_node("Pad", ["x", "p"], ["y"]),
                                           p=np.array([0, 0, 0, 0, 0, 0, 1, 1]))),
        "pads once more",
    ),
    "the largest of three": (_three_of_max, "takes 3 inputs, expected two"),
    "a whole quotient": (
        _on_images(_node("Div", ["x", "k"], ["y"]), _node("Cast", ["y"], ["z"], to=1),
                   dtype=TensorProto.UINT8, k=np.uint8(2)),
        "computes with whole numbers",
    ),
    "a whole sum": (
        _on_images(_node("Add", ["x", "k"], ["y"]), _node("Cast", ["y"], ["z"], to=1),
                   dtype=TensorProto.UINT8, k=np.uint8(200)),
        "computes with whole numbers",
    ),
    "columns as rows": (
        _on_images(_node("Transpose", ["x"], ["y"], perm=[0, 1, 3, 2])), "of the axes NCWH",
    ),
    "a padded classifier": (_padded_classifier, "padding=1"),
    "height less width": (
        _on_images(*_SIZES, _node("Sub", ["height", "width"], ["d"]),
                   _node("Cast", ["d"], ["f"], to=1), _node("Mul", ["x", "f"], ["y"]), i=2, j=3),
        "with the size of an image",
    ),
    "the height added": (
        _on_images(*_SIZES[:2], _node("Cast", ["height"], ["f"], to=1),
                   _node("Add", ["x", "f"], ["y"]), i=2),
        "with the size of an image",
    ),
    "the height added alike": (
        _on_images(*_SIZES[:2], _node("CastLike", ["height", "x"], ["f"]),
                   _node("Add", ["x", "f"], ["y"]), i=2),
        "of the size of an image",
    ),
    "text for a flag": (_attribute("BatchNormalization", training_mode=""), "'training_mode'"),
    "text for a number": (_attribute("BatchNormalization", epsilon="a"), "'epsilon'"),
    "a number for a list": (_attribute("Conv", pads=1), "'pads'"),
    "two pads": (_attribute("Conv", pads=[1, 1]), "other axes than rows and columns"),
    "a foreign attribute": (_attribute("BatchNormalization", spatial=0), "'spatial'"),
    "no kernel": (_fewer("Conv"), "has 1 inputs"),
    "no statistics": (_fewer("BatchNormalization"), "has 1 inputs"),
    "one summand": (_fewer("Add"), "has 1 inputs"),
    "an operator to come": (
        _both(_operator("Relu", "Gelu"), lambda m: setattr(m.opset_import[0], "version", 19)),
        "no operator that version 19 has",
    ),
    "the image as a rate": (
        _on_images(_node("Dropout", ["k", "x"], ["d"]), _node("Add", ["x", "d"], ["y"]),
                   k=np.float32([1])),
        "what no ResNet here does of its input",
    ),
    "text as a number": (
        _on_images(_node("Constant", [], ["t"], value=_TEXT), _node("Add", ["x", "t"], ["y"])),
        "data type 8",
    ),
    "turned 3,000 times": (_turned_often, "turn an array round"),
    "many channels": (_many_channels, "channels"),
    "a large row": (
        _on_images(_node("Concat", ["k"] * 20_000, ["c"], axis=0), _node("Add", ["x", "c"], ["y"]),
                   k=np.zeros(60_000, np.int64)),
        "where it takes numbers",
    ),
    "a large table": (
        _on_images(_node("Expand", ["k", "s"], ["c"]), _node("Add", ["x", "c"], ["y"]),
                   k=np.zeros((60_000, 1), np.int64), s=np.array([1, 60_000])),
        "not one that ONNX has",
    ),
    "a large choice": (
        _on_images(_node("Gather", ["k", "at"], ["c"]), _node("Add", ["x", "c"], ["y"]),
                   k=np.zeros((1, 30_000), np.int64), at=np.zeros(30_000, np.int64)),
        "not one that ONNX has",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_made_to_mislead_is_refused(
    plain: onnx.ModelProto, tmp_path: Path, what: str
) -> None:
    model, (change, why) = onnx.ModelProto(), HOSTILE[what]
    model.CopyFrom(plain)
    change(model)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ResNetError, match=why):
        read_checkpoint(path)


def test_a_file_of_nothing_but_fields_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"\x3a\x00" + b"\x08\x08" * 1_100_000)
    with pytest.raises(ResNetError, match="too many fields"):
        open_onnx(path)


def test_casts_that_round_are_told(plain: onnx.ModelProto, tmp_path: Path) -> None:
    model, path = onnx.ModelProto(), tmp_path / "net.onnx"
    model.CopyFrom(plain)
    _on_images(_node("Cast", ["x"], ["h"], to=10), _node("Cast", ["h"], ["y"], to=1))(model)
    path.write_bytes(model.SerializeToString())
    (note,) = (n for n in read_checkpoint(path).notes if "rounds" in n)
    assert "node 'h' (Cast)" in note
    assert "node 'y'" not in note


def test_a_gate_with_zeros_around_its_pixel_is_refused(tmp_path: Path) -> None:
    path = exported(tmp_path / "net.onnx", NETS["se"](), folded=False)
    model = onnx.load(path)
    means = {n.output[0] for n in model.graph.node if n.op_type == "ReduceMean"}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[0] in means:
            next(a for a in node.attribute if a.name == "pads").ints[:] = [1] * 4
    path.write_bytes(model.SerializeToString())
    assert verdict(path, (96, 96)).startswith("refused: ")


def test_drawn_changes_are_read_right_or_refused(plain: onnx.ModelProto, tmp_path: Path) -> None:
    path, found = tmp_path / "net.onnx", Counter[str]()
    for number in range(120):
        model, what = mutated(plain, number)
        path.write_bytes(model.SerializeToString())
        try:
            said = verdict(path)
        # As runtimes do for models that there cannot be.
        except Exception as error:
            said = f"no model: {type(error).__name__}"
        assert not said.startswith("wrong"), (number, what, said)
        found[said.partition(":")[0]] += 1
    assert found["refused"] > 40, found
    assert found["right"] > 5, found
    assert found["no model"] < 12, found


def test_a_conversion_is_judged_by_the_files_own_graph(tmp_path: Path) -> None:
    path, target = tmp_path / "net.onnx", tmp_path / "net.safetensors"
    exported(path, NETS["timm v2"](), folded=True)
    done = convert(path, target, proof=Proof((ENGINES["torch"],), judge_required=True))
    assert done.judged_by == f"onnx {onnx.__version__} (onnx.reference), the file's own graph"
    assert all(check.holds for check in done.checks)
    assert read_checkpoint(target).spec == read_checkpoint(path).spec


def _external(model: onnx.ModelProto, **told: str) -> bytes:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in told.items():
        tensor.external_data.add(key=key, value=value)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("../weights", "beside"),
        ("/etc/passwd", "beside"),
        ("inside/weights", "beside"),
        ("a\\b", "beside"),
        ("", "beside"),
        ("link", "no link"),
        ("nowhere", "no such file"),
    ],
)
def test_arrays_elsewhere_are_refused(
    plain: onnx.ModelProto, tmp_path: Path, location: str, why: str
) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(plain)
    path = tmp_path / "net.onnx"
    (tmp_path / "link").symlink_to("/etc/passwd")
    path.write_bytes(_external(model, location=location, offset="0"))
    with pytest.raises(ResNetError, match=why):
        read_checkpoint(path)


def test_arrays_beside_a_file_are_read(plain: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    model = onnx.ModelProto()
    model.CopyFrom(plain)
    onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
    assert verdict(path) == "right"
    os.truncate(tmp_path / "net.data", 100)
    with pytest.raises(ResNetError, match="ends before"):
        dict(read_checkpoint(path).state)


def _nested(model: onnx.ModelProto) -> None:
    graph = helper.make_graph([], "inner", [], [])
    model.graph.node[0].attribute.append(helper.make_attribute("body", graph))


def _foreign(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.elsewhere"


def _twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def _functions(model: onnx.ModelProto) -> None:
    model.functions.add(name="f", domain="com.elsewhere")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (_nested, "a graph or another thing"),
        (_foreign, "of the domain 'com.elsewhere'"),
        (_twice, "two arrays of the name"),
        (_functions, "functions of its own"),
        (lambda model: model.graph.input.append(model.graph.output[0]), "2 inputs"),
        (lambda model: model.graph.initializer[0].dims.append(3), "the length of its shape"),
        (lambda model: model.opset_import.add(domain="ai.onnx", version=3), "version"),
    ],
)
def test_what_no_exporter_of_a_net_writes_is_refused(
    plain: onnx.ModelProto, tmp_path: Path, damage: Callable[[onnx.ModelProto], None], why: str
) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(plain)
    damage(model)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ResNetError, match=why):
        read_checkpoint(path)


def test_arrays_are_not_read_before_they_are_asked_for(tmp_path: Path) -> None:
    """Their data may be larger than what a file may hold beside them."""
    path = tmp_path / "net.onnx"
    size = 20 * 2**20
    tensors = [
        TensorProto(
            name=str(i), data_type=TensorProto.FLOAT, dims=[size // 4], raw_data=bytes(size)
        )
        for i in range(2)
    ]
    node = helper.make_node("Relu", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 8, 8]) for n in "xy"]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], tensors))
    path.write_bytes(model.SerializeToString())
    assert open_onnx(path).tensors.entries["1"].shape == (size // 4,)
    os.truncate(path, 30 * 2**20)
    with pytest.raises(ResNetError, match="ends before its records do"):
        open_onnx(path)
