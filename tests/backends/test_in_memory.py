"""Weights given by hand: tensors, arrays and variables of every framework, and trees of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resnet_torch
from resnet_parity.engines.process import Worker
from shared_spec import (
    Checkpoint,
    WeightsError,
    cast_weights,
    compile_plan,
    digest,
    initial_weights,
    random_weights,
    resolve,
    write_safetensors,
)
from tests.probes.in_memory import refused

SPEC = resolve(
    "resnet50",
    {"depths": [1, 1], "widths": [4, 8], "stem_width": 4, "num_classes": 3, "drop_rate": 0.1},
)
PRE = resolve(
    "resnetv2_50", {"depths": [1, 1], "widths": [8, 8], "stem_width": 8, "num_classes": 3}
)


def written(folder: Path, spec: Any, dtype: str) -> str:
    path = folder / "a.safetensors"
    state = cast_weights(random_weights(compile_plan(spec), 3), dtype)
    write_safetensors(path, Checkpoint(state))
    return str(path)


@pytest.mark.parametrize(
    ("spec", "dtype"), [(SPEC, "float32"), (SPEC, "bfloat16"), (PRE, "float32")]
)
def test_a_models_own_variables_are_taken(
    worker: Worker, tmp_path: Path, spec: Any, dtype: str
) -> None:
    """By its own package, by PyTorch's, and by `create_model`."""
    weights = written(tmp_path, spec, dtype)
    expected, found = worker.call(
        "probe", function="in_memory:taken", spec=spec.to_dict(), dtype=dtype, weights=weights
    )
    assert len(found) >= 2
    assert found == {form: [expected] * 3 for form in found}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_classes_may_be_mixed(worker: Worker, tmp_path: Path, dtype: str) -> None:
    weights = written(tmp_path, SPEC, dtype)
    expected, found = worker.call(
        "probe", function="in_memory:mixed", spec=SPEC.to_dict(), dtype=dtype, weights=weights
    )
    assert found == expected


STATE = resnet_torch.create_model(SPEC, seed=1).state_dict()
NAMES = [name for name in STATE if not name.endswith("num_batches_tracked")]


MODULES = ("conv1", "bn1", "layer2", "fc")


def tree_of_two() -> dict[str, Any]:
    others = resnet_torch.create_model(SPEC, seed=2).state_dict()
    return {
        "student": {f"module.backbone.{name}": tensor for name, tensor in others.items()},
        "teacher": {f"backbone.{name}": tensor for name, tensor in STATE.items()},
        "criterion": {"center": torch.ones(3)},
    }


def renamed() -> dict[str, Any]:
    return {"net": {f"m.{name}".replace("layer1", "first"): a for name, a in STATE.items()}}


@pytest.mark.parametrize(
    ("tree", "part", "names"),
    [
        (tree_of_two, "teacher/", None),
        (renamed, None, {"m.first": "layer1"} | {f"m.{m}": m for m in MODULES}),
        (renamed, None, "map.yaml"),
    ],
    ids=["part", "names", "file of names"],
)
def test_part_and_names_of_a_file(
    worker: Worker, tmp_path: Path, tree: Any, part: str | None, names: Any
) -> None:
    torch.save(tree(), tmp_path / "a.pth")
    if names == "map.yaml":
        names = str(tmp_path / "map.yaml")
        lines = ["m.first.*: layer1.*", *(f"m.{m}: {m}" for m in MODULES)]
        Path(names).write_text("\n".join(lines))
    options = {"weights": str(tmp_path / "a.pth"), "part": part, "names": names}
    found = worker.call("probe", function="in_memory:placed", spec=SPEC.to_dict(), **options)
    assert found == digest({name: STATE[name].numpy() for name in NAMES})


def test_a_body_in_company_gets_a_drawn_classifier(worker: Worker, tmp_path: Path) -> None:
    body = {name: tensor for name, tensor in STATE.items() if not name.startswith("fc.")}
    named = {f"module.encoder_q.{name}": tensor for name, tensor in body.items()}
    head = {"module.encoder_q.fc.0.weight": torch.ones(32, 32), "module.queue": torch.ones(4, 9)}
    torch.save({"arch": "none", "state_dict": {**named, **head}}, tmp_path / "a.pth")
    spec = SPEC.override(num_classes=0)
    found = worker.call(
        "probe",
        function="in_memory:placed",
        spec=spec.to_dict(),
        weights=str(tmp_path / "a.pth"),
        part=None,
        names=None,
    )
    fresh = initial_weights(compile_plan(SPEC.override(num_classes=7)), 5)
    arrays = {name: STATE[name].numpy() for name in NAMES if not name.startswith("fc.")}
    assert found == digest(arrays | {name: fresh[name] for name in ("fc.weight", "fc.bias")})


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrapped_models_and_loaded_files(tmp_path: Path, prefix: str) -> None:
    torch.save({prefix + name: tensor for name, tensor in STATE.items()}, tmp_path / "a.pth")
    model = resnet_torch.create_model(SPEC)
    resnet_torch.load_weights(model, torch.load(tmp_path / "a.pth", weights_only=True))
    assert all(torch.equal(model.state_dict()[name], STATE[name]) for name in NAMES)


def test_other_libraries_names_are_those_of_their_files() -> None:
    """A CIFAR port's, which calls its shortcuts and its classifier in another way."""
    spec = resolve("resnet18", {"depths": [1, 1], "widths": [8, 16], "stem_width": 8})
    source = resnet_torch.create_model(spec.override(stem="conv3x3", stem_pool="none"), seed=1)
    theirs = {
        name.replace("downsample", "shortcut").replace("fc.", "linear."): tensor
        for name, tensor in source.state_dict().items()
    }
    model = resnet_torch.load_weights(resnet_torch.create_model(source.spec), theirs)
    assert digest(resnet_torch.export_weights(model)) == digest(resnet_torch.export_weights(source))


def change(**arrays: Any) -> dict[str, Any]:
    return dict(STATE) | {name.replace("_", ".", 1): value for name, value in arrays.items()}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (change(fc_weight=STATE["fc.weight"].to("meta")), "fc.weight is on PyTorch's meta device"),
        (change(fc_weight=STATE["fc.weight"].to_sparse()), "fc.weight has the layout torch.sparse"),
        (change(fc_bias=[1.0, 2.0, 3.0]), "fc.bias is a list, expected an array or a tensor"),
        (change(fc_bias=None), "fc.bias is a NoneType, expected an array or a tensor"),
        (change(fc_bias=STATE["fc.bias"].double()), "fc.bias: dtype float64, which float32 cannot"),
        (change(fc_bias=STATE["fc.bias"].int()), "fc.bias has dtype int32, expected one of"),
        (
            change(fc_bias=STATE["fc.bias"].to(torch.float8_e4m3fnuz)),
            "fc.bias has dtype float8_e4m3fnuz, expected one of",
        ),
        (change(fc_bias=STATE["fc.bias"][:2]), "fc.bias has shape (2,), expected (3,)"),
        (change(fc_scale=STATE["fc.bias"]), "fc.scale is not in the model"),
        (
            {"epoch": 3, "state_dict": STATE, "optimizer": {"state": {0: {"step": 1}}}},
            "weights: a training checkpoint, which holds weights inside; give "
            "weights['state_dict']",
        ),
        (
            {"model": {"net": STATE}, "ema": STATE},
            "give weights['model']['net'] or weights['ema']",
        ),
        (dict(STATE) | {"module.fc.bias": STATE["fc.bias"]}, "holds 'fc.bias' twice"),
        ([STATE], "expected a path, a mapping of names to arrays or a list of Keras variables"),
        (STATE["fc.bias"], "list of Keras variables, got Tensor"),
        ({}, "(47 mismatches): conv1.weight is missing; "),
    ],
    ids=str,
)
def test_what_is_refused(given: Any, message: str) -> None:
    found = refused(resnet_torch, given, resnet_torch.create_model(SPEC))
    assert message in found
    assert "\n" not in found


def test_a_message_names_ten_and_the_error_has_all() -> None:
    state = {f"{name}x": STATE[name] for name in NAMES}
    with pytest.raises(WeightsError) as caught:
        resnet_torch.create_model(SPEC, weights=state)
    everything = caught.value.mismatches
    assert len(everything) == 2 * len(NAMES)
    assert f"({2 * len(NAMES)} mismatches): {'; '.join(everything[:10])}; and " in str(caught.value)
    assert str(caught.value).endswith(f"; and {2 * len(NAMES) - 10} more")
    assert f"{NAMES[1]} is missing; {NAMES[1]}x is not in the model; " in str(caught.value)
    assert all(any(x.startswith(f"{name}x is not") for x in everything) for name in NAMES)


def test_a_tensor_that_cannot_be_read_changes_nothing() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        fake = mode.from_tensor(STATE["fc.bias"])
    found = refused(resnet_torch, change(fc_bias=fake), resnet_torch.create_model(SPEC))
    assert "fc.bias" in found


def test_arrays_are_not_copied_before_they_are_read() -> None:
    state = {name: np.zeros(1, np.float32) for name in NAMES}
    found = resnet_torch.read_checkpoint(state, SPEC).state
    assert all(found[name] is state[name] for name in NAMES)
