"""Files of PyTorch as people have them: trees with objects beside the weights, whole models and
TorchScript, read without unpickling and held against what `torch.load` gives.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import io
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

import resnet_torch
from shared_spec import WeightsError, read_checkpoint, resolve
from shared_spec.formats.containers.pytorch import open_pytorch
from shared_spec.formats.containers.source import Source
from tests.hardening.attack.cases import state_dict, storage, tensor, torch_zip, unicode
from tests.hardening.attack.mutate import members_of, zip_of
from tests.peers import torchvision_models

FORMS = {
    "zip": {},
    "protocol 1": {"pickle_protocol": 1},
    "protocol 4": {"pickle_protocol": 4},
    "protocol 5": {"pickle_protocol": 5},
    "before 1.6": {"_use_new_zipfile_serialization": False},
}


def drawn(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(sum(shape)).normal(size=shape)).float()


class Mode(enum.Enum):
    FAST = 1


class Canary:
    """What would write a file if it were unpickled."""

    def __init__(self, folder: Path, how: str) -> None:
        self.folder, self.how = folder, how

    def __reduce__(self) -> Any:
        target = str(self.folder / "owned")
        if self.how == "reduce":
            return (os.mkdir, (target,))
        return (Canary, (self.folder, "x"), {"target": target})

    def __setstate__(self, state: dict[str, str]) -> None:
        os.mkdir(state["target"])


class Marked(torch.Tensor):
    """May compute anything."""


class Holder:
    """Of a class that nobody knows, with tensors in it."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class Net(nn.Module):
    """A bit of everything that a module can have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=(1, 0), bias=False))
        self.stem.append(nn.BatchNorm2d(4, eps=0.01, momentum=0.3)).append(nn.ReLU(inplace=True))
        self.heads = nn.ModuleDict({"a": nn.Linear(4, 2), "b": nn.ModuleList([nn.Linear(4, 3)])})
        self.scales = nn.ParameterList([nn.Parameter(drawn(2)), nn.Parameter(drawn(3))])
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.register_buffer("kept", drawn(4))
        self.register_buffer("passing", drawn(5), persistent=False)
        self.register_buffer("nothing", None)
        self.aside = drawn(6)
        self.mode = Mode.FAST
        self.again = self.stem
        self.shape = torch.Size([3, 4])


def walked(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """What Python finds in a tree that torch has loaded."""
    if isinstance(value, argparse.Namespace | types.SimpleNamespace):
        value = vars(value)
    prefix = f"{path}/" if path else ""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from walked(part, prefix + str(key))
    elif isinstance(value, list | tuple):
        for key, part in enumerate(value):
            yield from walked(part, f"{prefix}{key}")
    else:
        yield path, value


def saved(path: Path, value: Any, form: str = "zip") -> Source:
    torch.save(value, path, **FORMS[form])
    return open_pytorch(path)


def bits(tensor: Any) -> tuple[str, tuple[int, ...], bytes]:
    if isinstance(tensor, torch.Tensor):
        found = tensor.detach().contiguous()
        name = str(found.dtype).removeprefix("torch.")
        raw = found.reshape(-1).view(torch.uint8).numpy() if found.numel() else np.zeros(0)
        return name, tuple(found.shape), raw.tobytes()
    array = np.asarray(tensor).astype(np.asarray(tensor).dtype.newbyteorder("<"))
    return array.dtype.name, array.shape, array.tobytes()


def compare(source: Source, expected: dict[str, Any]) -> None:
    assert list(source.tensors) == list(expected)
    for name, array in source.tensors.items():
        assert bits(array) == bits(expected[name]), name


def trainer() -> dict[str, Any]:
    """What a script of training leaves."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.zeros(2, 1, 3, 3)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 3, 5])
    return {
        "state_dict": {f"module.{k}": v for k, v in net.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "arch": "resnet18",
        "epoch": 3,
        "best": np.float64(76.5),
        "count": np.int64(-7),
        "args": argparse.Namespace(
            lr=0.1, out=Path("runs") / "a", nested=argparse.Namespace(x=None)
        ),
        "space": types.SimpleNamespace(a=1, t=drawn(3)),
        "seen": {"a"},
        "device": torch.device("cuda", 1),
        "size": torch.Size([2, 3]),
        "log": collections.defaultdict(list, loss=[0.5, float("inf")]),
        "keys": {-1: drawn(1), 0.5: drawn(2), None: drawn(3), True: drawn(4), (1, "a"): drawn(5)},
        "list": [drawn(2), (drawn(3), {"deep": drawn(4)})],
        "arrays": {
            "c": np.arange(6.0).reshape(2, 3),
            "none": np.zeros((0, 3), bool),
            "one": np.array(2.5, ">f4"),
            "f": np.asfortranarray(np.array([[1, 2], [3, 4]], "i2")),
        },
    }


@pytest.mark.parametrize("form", FORMS)
def test_a_tree_is_what_torch_loads(tmp_path: Path, form: str) -> None:
    source = saved(tmp_path / "a.pth", trainer(), form)
    loaded = dict(walked(torch.load(tmp_path / "a.pth", weights_only=False)))
    arrays = {k: v for k, v in loaded.items() if isinstance(v, torch.Tensor | np.ndarray)}
    assert len(arrays) > 25
    arrays = {k.replace("(1, 'a')", "(1, a)"): v for k, v in arrays.items()}
    compare(source, arrays)
    assert "optimizer/state/0/exp_avg" in arrays
    for name, value in source.metadata.items():
        if name not in ("device", "seen/0"):
            expected = str(loaded[name]) if isinstance(loaded[name], Path) else loaded[name]
            assert value == expected
    told = {"arch": "resnet18", "epoch": 3, "best": 76.5, "count": -7, "args/lr": 0.1}
    told |= {"args/out": "runs/a", "args/nested/x": None, "device": "cuda:1", "seen/0": "a"}
    told |= {"log/loss/1": float("inf"), "lr_scheduler/milestones/3": 2, "size/1": 3}
    assert told.items() <= source.metadata.items()
    assert source.opaque == {}


def test_a_state_dict_has_its_own_names(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    source = saved(tmp_path / "a.pth", net.state_dict())
    compare(source, dict(net.state_dict()))
    assert (source.metadata, source.opaque, source.modules) == ({}, {}, {})


@pytest.mark.parametrize("form", ["zip", "before 1.6"])
@pytest.mark.parametrize(
    "dtype",
    [
        *("float64", "float16", "bfloat16", "int64", "int8", "uint8", "bool", "complex64"),
        *("uint16", "uint64", "float8_e5m2", "float8_e4m3fn"),
    ],
)
def test_every_dtype_and_stride(tmp_path: Path, dtype: str, form: str) -> None:
    whole = (drawn(4, 6) * 9).abs().to(getattr(torch, dtype))
    expected = {"turned": whole.t(), "part": whole[1:3, ::2], "none": whole[:0], "one": whole[2, 2]}
    expected = {k: nn.Parameter(v, requires_grad=False) for k, v in expected.items()}
    compare(saved(tmp_path / "a.pth", expected, form), expected)


OBJECTS: dict[str, tuple[Callable[[], Any], str]] = {
    "a time": (lambda: datetime.datetime(2024, 1, 2), "datetime.datetime"),
    "an enum": (lambda: Mode.FAST, f"{__name__}.Mode"),
    "a class": (lambda: Mode, f"{__name__}.Mode"),
    "a function": (lambda: trainer, f"{__name__}.trainer"),
    "objects in an array": (
        lambda: np.array([{}, None], dtype=object),
        "numpy._core.multiarray._reconstruct",
    ),
    "an unknown object": (
        lambda: Holder(a=drawn(2), b=[drawn(3)], c=1),
        f"{__name__}.Holder (2 tensors in it)",
    ),
    "quantised": (
        lambda: torch.quantize_per_tensor(drawn(3), 0.1, 2, torch.qint8),
        "torch._utils._rebuild_qtensor (1 tensor in it)",
    ),
    "sparse": (
        lambda: drawn(3, 3).to_sparse(),
        "torch._utils._rebuild_sparse_tensor (2 tensors in it)",
    ),
    "a tensor of a class of its own": (
        lambda: drawn(3).as_subclass(Marked),
        f"{__name__}.Marked (1 tensor in it)",
    ),
    "expanded": (lambda: drawn(1).expand(5), "torch.Tensor (expanded)"),
    "on no device": (
        lambda: torch.empty(3, device="meta"),
        "torch._utils._rebuild_meta_tensor_no_storage",
    ),
    "an optimizer": (
        lambda: torch.optim.SGD([nn.Parameter(drawn(2))], 0.1),
        "torch.optim.sgd.SGD (1 tensor in it)",
    ),
}


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_beside_tensors_is_told_by_its_class(
    tmp_path: Path, name: str, form: str
) -> None:
    make, kind = OBJECTS[name]
    weight = drawn(3)
    source = saved(tmp_path / "a.pth", {"a": {"it": make()}, "weight": weight}, form)
    compare(source, {"weight": weight})
    assert source.opaque == {"a/it": kind}


@pytest.mark.parametrize("form", FORMS)
def test_tensors_of_other_classes(tmp_path: Path, form: str) -> None:
    marked = nn.Parameter(drawn(2))
    marked.note = "of its own"  # type: ignore[attr-defined]
    known = {"buffer": nn.Buffer(drawn(3)), "marked": marked}
    compare(saved(tmp_path / "a.pth", known, form), known)


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_model_has_the_names_of_its_state_dict(tmp_path: Path, form: str) -> None:
    net = Net()
    state = net.state_dict()
    assert "passing" not in state
    source = saved(tmp_path / "a.pth", net, form)
    assert sorted(source.tensors) == sorted(state)
    compare(source, {name: state[name] for name in source.tensors})
    inside = saved(tmp_path / "b.pth", {"model": net, "epoch": 2}, form)
    assert sorted(inside.tensors) == sorted(f"model/{name}" for name in state)
    assert inside.metadata == {"epoch": 2}
    assert source.opaque == {"aside": "torch.Tensor", "mode": f"{__name__}.Mode"}
    modules = dict(net.named_modules(remove_duplicate=False))
    assert sorted(source.modules) == sorted(modules)
    assert {f"model/{name}".rstrip("/") for name in modules} == set(inside.modules)
    for name, module in modules.items():
        kind = type(module)
        assert source.modules[name].type == f"{kind.__module__}.{kind.__qualname__}"
        for key, value in source.modules[name].attributes.items():
            assert getattr(module, key) == value
            assert type(getattr(module, key)) in (type(value), torch.Size)
    wanted = {"stride": (2, 2), "padding": (1, 0), "dilation": (1, 1), "groups": 1}
    assert wanted.items() <= source.modules["again.0"].attributes.items()
    wanted_norm = {"eps": 0.01, "momentum": 0.3, "track_running_stats": True}
    assert wanted_norm.items() <= source.modules["stem.1"].attributes.items()
    assert source.modules["stem.2"].attributes["inplace"] is True
    assert source.modules["pool"].attributes["ceil_mode"] is True


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.parametrize("wrap", [nn.DataParallel, nn.Sequential, torch.compile])
def test_a_wrapped_model_of_torchvision(tmp_path: Path, wrap: Any) -> None:
    net = wrap(torchvision_models().resnet18(num_classes=3))
    source = saved(tmp_path / "a.pth", net)
    compare(source, {name: net.state_dict()[name] for name in source.tensors})
    assert len(source.tensors) == 122
    (place,) = source.opaque
    assert place.endswith("._norm_layer")
    assert source.opaque[place] == "torch.nn.modules.batchnorm.BatchNorm2d"


def test_a_hook_of_a_module_is_told(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    net[0].register_forward_hook(trainer)
    source = saved(tmp_path / "a.pth", net)
    (place,) = source.opaque
    assert place.startswith("0._forward_hooks/")
    assert source.opaque[place] == f"{__name__}.trainer"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript(tmp_path: Path, how: str) -> None:
    net = torchvision_models().resnet18(num_classes=3).eval()
    given = torch.zeros(1, 3, 32, 32)
    made = torch.jit.script(net) if how == "script" else torch.jit.trace(net, given)
    made.save(str(tmp_path / "a.pt"))
    source = open_pytorch(tmp_path / "a.pt")
    state = torch.jit.load(str(tmp_path / "a.pt")).state_dict()
    assert sorted(source.tensors) == sorted(state)
    compare(source, {name: state[name] for name in source.tensors})
    assert source.modules["layer1.0.conv1"].type == "torch.nn.modules.conv.Conv2d"
    assert source.modules[""].type == "torchvision.models.resnet.ResNet"
    assert source.modules["bn1"].attributes["training"] is False
    assert source.opaque == {}
    settings = 0
    for name, module in net.named_modules():
        for key, value in source.modules[name].attributes.items():
            assert getattr(module, key) == value
            settings += key not in ("training", "bias")
    assert (settings > 300) == (how == "script")  # a trace has them in its code alone


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_of_torchscript_a_state_dict_is_what_its_classes_declare(tmp_path: Path) -> None:
    class Scripted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(
                [nn.BatchNorm2d(2, eps=0.01), nn.BatchNorm2d(2, momentum=0.0)]
            )
            self.register_buffer("kept", drawn(2))
            self.aside = drawn(3)
            self.listed = [drawn(4)]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norms[0](x) + self.kept.sum() + self.aside.sum() + self.listed[0].sum()

    torch.jit.script(Scripted()).save(str(tmp_path / "a.pt"))
    source = open_pytorch(tmp_path / "a.pt")
    state = torch.jit.load(str(tmp_path / "a.pt")).state_dict()
    assert len(state) == 11
    assert sorted(source.tensors) == sorted(state)
    assert source.opaque == {"aside": "torch.Tensor", "listed/0": "torch.Tensor"}
    assert source.modules["norms.0"].attributes["eps"] == 0.01
    assert source.modules["norms.1"].attributes["momentum"] == 0.0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_code_of_torchscript_is_not_run(tmp_path: Path) -> None:
    torch.jit.script(nn.Sequential(nn.Conv2d(1, 2, 3, padding=(2, 1)))).save(str(tmp_path / "a.pt"))
    members = [
        (name, data.replace(b"(2, 1)", b"open('owned', 'w')"), kind)
        for name, data, kind in members_of((tmp_path / "a.pt").read_bytes())
    ]
    assert any(b"owned" in data for _, data, _ in members)
    (tmp_path / "b.pt").write_bytes(zip_of(members))
    attributes = open_pytorch(tmp_path / "b.pt").modules["0"].attributes
    assert "padding" not in attributes
    assert attributes["kernel_size"] == (3, 3)


@pytest.mark.parametrize("how", ["reduce", "setstate"])
@pytest.mark.parametrize("form", FORMS)
def test_a_canary_stays_in_its_cage(tmp_path: Path, form: str, how: str) -> None:
    weight = drawn(3)
    source = saved(tmp_path / "a.pth", {"it": Canary(tmp_path, how), "weight": weight}, form)
    compare(source, {"weight": weight})
    assert list(source.opaque) == ["it"]
    assert not (tmp_path / "owned").exists()
    torch.load(tmp_path / "a.pth", weights_only=False)
    assert (tmp_path / "owned").exists()  # it is one


def test_nothing_is_imported(tmp_path: Path) -> None:
    kind = types.ModuleType("a_module_of_nobody")
    kind.Thing = type("Thing", (), {"__module__": kind.__name__})  # type: ignore[attr-defined]
    sys.modules[kind.__name__] = kind
    torch.save({"it": kind.Thing(), "weight": drawn(3)}, tmp_path / "a.pth")  # type: ignore[attr-defined]
    del sys.modules[kind.__name__]
    source = open_pytorch(tmp_path / "a.pth")
    assert source.opaque == {"it": "a_module_of_nobody.Thing"}
    assert kind.__name__ not in sys.modules


def test_the_source_of_a_class_is_not_run(tmp_path: Path) -> None:
    """Before 1.6, a whole model brought its classes' sources along, in persistent ids."""
    net = nn.Sequential(nn.Linear(2, 3))
    buffer = io.BytesIO()
    torch.save(net, buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()
    kind = b"ctorch.nn.modules.container\nSequential\n"
    source = b"(" + unicode("module") + kind + unicode("a.py") + unicode("open('owned')") + b"tQ"
    assert data.count(kind) == 1
    (tmp_path / "a.pth").write_bytes(data.replace(kind, source))
    found = open_pytorch(tmp_path / "a.pth")
    compare(found, dict(net.state_dict()))
    assert found.modules[""].type == "torch.nn.modules.container.Sequential"


def test_numbers_that_need_a_scale_are_opaque(tmp_path: Path) -> None:
    torch.save({"a": drawn(2), "b": drawn(3).double()}, tmp_path / "a.pth")
    data = [
        (name, content.replace(b"torch\nFloatStorage", b"torch\nQInt32Storage"), kind)
        for name, content, kind in members_of((tmp_path / "a.pth").read_bytes())
    ]
    (tmp_path / "a.pth").write_bytes(zip_of(data))
    source = open_pytorch(tmp_path / "a.pth")
    assert list(source.tensors) == ["b"]
    assert source.opaque == {"a": "torch._utils._rebuild_tensor_v2 (1 tensor in it)"}


def test_a_number_that_python_2_wrote(tmp_path: Path) -> None:
    """Its bytes are a text there."""
    number = np.float64(76.5)
    kind = pickle.dumps(np.dtype("f8"), 2)[2:-1].replace(b"q\x00", b"").replace(b"q\x01", b"")
    scalar = b"cnumpy.core.multiarray\nscalar\n" + kind + b"U\x08" + number.tobytes() + b"\x86R"
    pickled = b"\x80\x02}(" + unicode("best") + scalar + unicode("w") + tensor(storage()) + b"u."
    assert pickle.loads(scalar + b".", encoding="latin1") == number  # noqa: S301 made here
    path = tmp_path / torch_zip("a.pth", pickled, ("archive/data/0", bytes(8), 0))(tmp_path)
    assert open_pytorch(path).metadata == {"best": 76.5}


def test_containers_that_hold_themselves(tmp_path: Path) -> None:
    tree: dict[str, Any] = {"weight": drawn(2), "list": []}
    tree["self"] = tree
    tree["list"].append(tree["list"])
    net = nn.Sequential(nn.Linear(2, 2))
    net[0].__dict__["parent"] = [net]
    tree["net"] = net
    source = saved(tmp_path / "a.pth", tree)
    compare(
        source, {"weight": tree["weight"], "net/0.weight": net[0].weight, "net/0.bias": net[0].bias}
    )
    assert source.opaque == {
        "net/0.parent/0": "torch.nn.modules.container.Sequential (2 tensors in it)"
    }


def test_shared_containers_are_given_at_each_place(tmp_path: Path) -> None:
    state = {"a": drawn(2)}
    source = saved(tmp_path / "a.pth", {"model": state, "best": state})
    compare(source, {"model/a": state["a"], "best/a": state["a"]})


def test_two_tensors_of_one_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="two tensors would be called 'a/b'"):
        saved(tmp_path / "a.pth", {"a/b": drawn(1), "a": {"b": drawn(2)}})


def test_settings_are_few_and_the_least_deep_come_first(tmp_path: Path) -> None:
    deep = {"log": [{"loss": float(i)} for i in range(2000)], "w": drawn(1), "epoch": 4}
    source = saved(tmp_path / "a.pth", deep | {"text": "x" * 10_000, "big": 2**200})
    assert next(iter(source.metadata)) == "epoch"
    assert len(source.metadata) == 500
    assert {"text", "big"}.isdisjoint(source.metadata)


def test_no_tensors_but_objects_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no tensors, only objects \(.*Holder \(1 tensor in it"):
        saved(tmp_path / "a.pth", {"a": Holder(x=drawn(2))})


def test_an_ml_dtypes_array_is_opaque(tmp_path: Path) -> None:
    """Its dtype is a class of another library."""
    array = np.ones(2, ml_dtypes.bfloat16)
    source = saved(tmp_path / "a.pth", {"a": array, "weight": drawn(1)})
    assert list(source.tensors) == ["weight"]
    assert list(source.opaque) == ["a"]


@pytest.mark.parametrize("opcode", [b"\x82\x01", b"\x83\x01\x00", b"P1\n", b"\x97", b"2"])
def test_opcodes_that_reach_outside_are_refused(tmp_path: Path, opcode: bytes) -> None:
    path = tmp_path / torch_zip("a.pth", state_dict(value=opcode))(tmp_path)
    with pytest.raises(WeightsError, match=r"which torch\.save does not write"):
        open_pytorch(path)


@pytest.mark.parametrize("kind", ["avg", "max", "avgmax", "catavgmax"])
def test_a_whole_model_of_ours_keeps_its_pool(kind: str, tmp_path: Path) -> None:
    """No array tells of it, but where both kinds are side by side."""
    spec = resolve("resnet18", {"depths": [1, 1], "widths": [8, 16], "head_pool": kind})
    model = resnet_torch.create_model(spec, seed=1).eval()
    torch.save(model, tmp_path / "a.pth")
    checkpoint = read_checkpoint(tmp_path / "a.pth", spec)
    assert checkpoint.spec is not None
    assert checkpoint.spec.head_pool == kind
    again = resnet_torch.create_model(checkpoint.spec, weights=checkpoint.state).eval()
    images = drawn(2, 3, 32, 32)
    loaded = torch.load(tmp_path / "a.pth", weights_only=False)
    torch.testing.assert_close(again(images), loaded(images))
    with pytest.raises(WeightsError):
        read_checkpoint(
            tmp_path / "a.pth", spec.override(head_pool="max" if kind == "avg" else "avg")
        )


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (nn.AdaptiveMaxPool2d(1), "pools by max"),
        (nn.AdaptiveAvgPool2d(7), "pools by a map of 7"),
        (nn.Identity(), "and the net has a pool there"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_another_pool_under_torchvision_s_name(other: nn.Module, told: str, tmp_path: Path) -> None:
    spec = resolve("resnet18", {"depths": [1, 1], "widths": [8, 16]})
    model = resnet_torch.create_model(spec)
    model.avgpool = other
    torch.save(model, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=told):
        read_checkpoint(tmp_path / "a.pth", spec)
