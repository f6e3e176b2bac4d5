"""ONNX files that were written here, with their record of the net: read by the graph that is
written of it, or, once they were changed, as what they compute or not at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import resnet_onnx
from resnet_onnx import Form
from resnet_parity.convert.conversion import convert
from resnet_parity.convert.verify import Proof
from resnet_parity.engines.registry import ENGINES
from shared_spec import Preprocessing, compile_plan, random_weights, resolve
from shared_spec.errors import ResNetError
from shared_spec.formats.read import read_checkpoint
from shared_spec.plan.folding import inference_form
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.state import cast_weights
from tests.formats.onnx_reading import mutated, verdict, written
from tests.parity.test_more_families import SPECS as MORE
from tests.parity.test_options import DISTINCT, SINGLES
from tests.tiers import choice, selected

NETS: dict[ResNetSpec, str] = {
    **DISTINCT,
    **{spec: name for name, spec in MORE.items()},
    resolve("nf_resnet26", {"depths": [1], "widths": [16], "skip_gain": True}): "skip gain",
    resolve("legacy_seresnet18", {"depths": [1, 1], "widths": [16, 32], "padding": "same"}): "same",
    resolve("resnest14d", {"depths": [1, 1], "widths": [32, 64], "features_only": True}): "maps",
}
FEW = [spec for spec, name in NETS.items() if spec in SINGLES or spec not in DISTINCT]
WRITTEN = "onnx, the graph that is written here of its net"


def _size(spec: ResNetSpec) -> tuple[int, int]:
    even = spec.anti_alias == "avg" or spec.shortcut_pool == "avg"
    return (spec.image_size,) * 2 if spec.one_size else (64, 96) if even else (45, 33)


@pytest.mark.parametrize("folded", [False, True], ids=["norms", "folded"])
@pytest.mark.parametrize("spec", selected(FEW, NETS), ids=NETS.__getitem__)
def test_files_of_every_option_are_read(tmp_path: Path, spec: ResNetSpec, folded: bool) -> None:
    path = written(tmp_path / "net.onnx", spec, folded=folded, record=True)
    assert verdict(path, _size(spec)) == "right"
    found = read_checkpoint(path)
    assert found.origin == WRITTEN
    assert found.spec is not None
    assert found.spec.override(norm_eps=spec.norm_eps, standardize=spec.standardize) == spec
    assert folded or (found.spec, found.notes) == (spec, ())
    p = compile_plan(spec)
    less = [*inference_form(p, True).parameters()] != [*p.parameters()] or spec.standardize
    assert ("a form for inference" in " ".join(found.notes)) is bool(folded and less)


SMALL: dict[str, ResNetSpec] = {
    "selective": resolve("skresnet18", {"depths": [1], "widths": [16], "num_classes": 5}),
    "hierarchical": resolve(
        "res2net50_14w_8s", {"depths": [1], "widths": [8], "scale": 3, "num_classes": 5}
    ),
    "split": resolve("resnest14d", {"depths": [1], "widths": [16], "num_classes": 5}),
    "gains": resolve("nf_seresnet26", {"depths": [1], "widths": [16], "num_classes": 5}),
    "context": resolve(
        "gcresnext26ts", {"depths": [1], "widths": [64], "num_classes": 5, "stem_width": 16}
    ),
    "slopes": resolve(
        "iresnet18",
        {"depths": [1], "widths": [8], "strides": [2], "stem_width": 8, "num_classes": 5}
        | {"image_size": 16},
    ),
    "attended": resolve(
        "resnet50_clip",
        {"depths": [1], "widths": [64], "stem_width": 16, "num_classes": 5, "image_size": 32},
    ),
}


def _changed(path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("name", SMALL)
def test_drawn_changes_are_read_right_or_refused(tmp_path: Path, name: str) -> None:
    """In one attribute, number, operator or input, or by a node more or less."""
    spec, found = SMALL[name], Counter[str]()
    whole = onnx.load(written(tmp_path / "net.onnx", spec, record=True))
    path = tmp_path / "changed.onnx"
    for number in range(120 if choice.tier == "all" else 30):
        model, what = mutated(whole, number)
        path.write_bytes(model.SerializeToString())
        try:
            said = verdict(path, _size(spec))
        # As runtimes do for models that there cannot be.
        except Exception as error:
            said = f"no model: {type(error).__name__}"
        assert not said.startswith("wrong"), (number, what, said)
        found[said.partition(":")[0]] += 1
    assert found["refused"] > 12, found


def _renamed(model: onnx.ModelProto) -> None:
    """All tensors under numbers, and the nodes in another order as far as there is one."""
    ends = {x.name for x in (*model.graph.input, *model.graph.output)}
    names: dict[str, str] = {}
    for tensor in model.graph.initializer:
        tensor.name = names.setdefault(tensor.name, str(len(names)))
    for node in model.graph.node:
        node.name = ""
        for kept in (node.input, node.output):
            kept[:] = [x if x in ends else names.setdefault(x, str(len(names))) for x in kept]
    given = {*ends, *(tensor.name for tensor in model.graph.initializer)}
    waiting, order = [*model.graph.node][::-1], []
    while waiting:
        ready = next(n for n in waiting if given.issuperset(n.input) and waiting.remove(n) is None)
        order.append(ready)
        given.update(ready.output)
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(order)


def _copied_numbers(model: onnx.ModelProto) -> None:
    """A copy of each constant for each node that takes it."""
    constants = {t.name: t for t in model.graph.initializer if "/" in t.name}
    for i, node in enumerate(model.graph.node):
        for place, name in enumerate(node.input):
            if name in constants:
                copy = onnx.TensorProto()
                copy.CopyFrom(constants[name])
                node.input[place] = copy.name = f"{name}#{i}_{place}"
                model.graph.initializer.append(copy)


@pytest.mark.parametrize("change", [_renamed, _copied_numbers])
def test_names_do_not_count(tmp_path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    spec = SMALL["selective"]
    path = _changed(written(tmp_path / "net.onnx", spec, folded=True, record=True), change)
    found = read_checkpoint(path)
    assert (found.origin, _state(found.state)) == (
        WRITTEN,
        _state(read_checkpoint(written(tmp_path / "b.onnx", spec, folded=True, record=True)).state),
    )


def _state(state: Any) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in state.items()}


def test_weights_are_the_ones_that_were_written(tmp_path: Path) -> None:
    for dtype in ("float64", "float32", "float16"):
        for name, spec in SMALL.items():
            weights = cast_weights(random_weights(compile_plan(spec)), dtype)
            model = resnet_onnx.create_model(spec, weights=weights, dtype=dtype)
            resnet_onnx.export(model, tmp_path / "net.onnx", form=Form(opset=20))
            found = read_checkpoint(tmp_path / "net.onnx")
            assert found.spec == spec, name
            assert {k: v.dtype for k, v in found.state.items()} == {
                k: v.dtype for k, v in weights.items()
            }
            for key, array in found.state.items():
                # What rounding takes from a norm's eps was in the variances, and is not any more.
                rest = 1e-16 if dtype == "float64" and "running_var" in key else 0
                np.testing.assert_allclose(array, weights[key], rtol=0, atol=rest)


@pytest.mark.parametrize("folded", [False, True])
def test_preprocessing_and_softmax_are_read(tmp_path: Path, folded: bool) -> None:
    spec, path = SMALL["split"], tmp_path / "net.onnx"
    weights = random_weights(compile_plan(spec))
    model = resnet_onnx.create_model(spec, weights=weights, inference=folded)
    model.preprocessing = Preprocessing.default(spec)
    model.labels = tuple("abcde")
    resnet_onnx.export(model, path, form=Form(preprocessing=True, head="softmax", batch=2))
    found = read_checkpoint(path)
    assert found.preprocessing == model.preprocessing
    assert found.labels == model.labels
    assert found.own_graph is not None
    assert (found.own_graph.pixels, found.own_graph.probabilities) == (True, True)
    assert verdict(path) == "right"


def test_filters_that_none_was_standardised_to_are_refused(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        kernel = next(t for t in model.graph.initializer if t.name == "stem.conv.weight")
        array = numpy_helper.to_array(kernel).copy()
        array[0] += 0.01
        kernel.CopyFrom(numpy_helper.from_array(array, kernel.name))

    path = written(tmp_path / "net.onnx", SMALL["gains"], folded=True, record=True)
    with pytest.raises(
        ResNetError, match=r"the filters of stem\.conv do not have the mean 0"
    ) as error:
        read_checkpoint(_changed(path, change))
    assert str(error.value).startswith(str(path))


def test_a_record_of_another_net_is_refused(tmp_path: Path) -> None:
    """Whose arrays are of the same shapes."""
    spec = SMALL["selective"]
    path = written(tmp_path / "net.onnx", spec, record=True)
    other = written(tmp_path / "other.onnx", spec.override(activation="silu"), record=True)
    record = onnx.load(other).metadata_props
    for change, why in (
        (lambda m: m.metadata_props[0].CopyFrom(record[0]), r"'layer1.0.act' \(Relu\) is not what"),
        (lambda m: m.metadata_props.pop(), "leaves out other things than rows and columns"),
    ):
        with pytest.raises(ResNetError, match=why):
            read_checkpoint(_changed(path, change))
    assert read_checkpoint(path, spec.override(num_classes=9)).spec == spec
    with pytest.raises(ResNetError):
        read_checkpoint(path, spec.override(activation="silu"))


def _no_nodes(model: onnx.ModelProto) -> None:
    del model.graph.node[:]


def _an_array_as_output(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 3), np.float32), "loose"))
    model.graph.output[0].name = "loose"


@pytest.mark.parametrize("change", [_no_nodes, _an_array_as_output])
def test_an_output_that_no_node_gives_is_refused(tmp_path: Path, change: Any) -> None:
    path = written(tmp_path / "net.onnx", SMALL["selective"], record=True)
    with pytest.raises(ResNetError, match="its output is not what is written here"):
        read_checkpoint(_changed(path, change))


@pytest.mark.parametrize("name", ["gains", "slopes"])
def test_conversions_are_judged_by_the_files_own_graph(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "net.onnx", SMALL[name], folded=True, record=True)
    proof = Proof((ENGINES["torch"],), judge_required=True)
    done = convert(path, tmp_path / "net.safetensors", proof=proof)
    assert done.judged_by == f"onnx {onnx.__version__} (onnx.reference), the file's own graph"
    assert all(check.holds for check in done.checks)
