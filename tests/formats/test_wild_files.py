"""Files of PyTorch as people have them, a kind each, in narrow nets. torchvision judges its own
blocks; other authors' nets are written from their published structure.
"""

from __future__ import annotations

import argparse
import collections
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import resnet_torch
from resnet_parity.convert.conversion import convert
from resnet_parity.convert.read import read_classifier, read_for
from shared_spec import (
    ResNetError,
    ResNetSpec,
    WeightsWarning,
    random_images,
    read_safetensors,
    resolve,
)
from shared_spec.formats.containers.source import Source
from shared_spec.formats.name_map import read_names, renamed
from shared_spec.formats.read import WHOLE, Asked
from shared_spec.weights.lazy_array import LazyArray, LazyArrays
from tests.judges import assert_near
from tests.peers import timm_model, torchvision_models
from tests.probes.libraries.ports import randomize

WIDTHS = [4, 8, 12, 16]
NARROW: dict[str, Any] = {"depths": [1] * 4, "widths": WIDTHS, "stem_width": 4, "num_classes": 5}
SPEC = resolve("resnet18", NARROW)
BODY = resolve("resnet18", NARROW | {"num_classes": 0})
State = dict[str, Tensor]


def narrow(block: str = "BasicBlock", dilate: tuple[int, ...] = (), **options: Any) -> Any:
    """torchvision's own class with fewer channels, and random numbers.

    Args:
        block: of torchvision.
        dilate: stages that are dilated and not strided.
        options: of its constructor.
    """
    resnet = torchvision_models().resnet
    kind = getattr(resnet, block)
    model = resnet.ResNet(kind, [1] * 4, num_classes=5, **options)
    norm = options.get("norm_layer", nn.BatchNorm2d)
    model.conv1, model.bn1 = nn.Conv2d(3, 4, 7, 2, 3, bias=False), norm(4)
    model.inplanes, model.dilation = 4, 1
    for i, planes in enumerate(WIDTHS, 1):
        stage = model._make_layer(kind, planes, 1, 1 + (i > 1), i in dilate)
        setattr(model, f"layer{i}", stage)
    model.fc = nn.Linear(WIDTHS[-1] * kind.expansion, 5)
    return randomize(model)


def body_of(model: Any) -> nn.Module:
    """What gives the features that a model's `fc` is given."""
    return nn.Sequential(*list(model.children())[:-1], nn.Flatten())


def under(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def without_fc(model: nn.Module) -> State:
    return {n: t for n, t in model.state_dict().items() if not n.startswith("fc.")}


def assert_converts(
    content: Any,
    judge: nn.Module,
    folder: Path,
    spec: ResNetSpec | None = SPEC,
    asked: Asked = WHOLE,
) -> str:
    """What is read computes what the judge does; returns the notes."""
    path = saved(content, folder)
    done = convert(path, folder / "canonical.safetensors", spec, asked=asked)
    found = read_safetensors(folder / "canonical.safetensors")
    assert found.spec is not None
    ours = resnet_torch.create_model(found.spec, weights=found.state, dtype="float64")
    for size in ((64, 64), (65, 97)):
        images = random_images((2, *size, 3))
        with torch.no_grad():
            expected = judge(torch.from_numpy(images.astype(np.float64)).permute(0, 3, 1, 2))
        assert_near(expected.numpy(), resnet_torch.predict(ours, images), f"{size}")
    return "; ".join(done.notes)


def saved(content: Any, folder: Path) -> Path:
    path = folder / "a.pth"
    if isinstance(content, torch.jit.ScriptModule):
        content.save(str(path))
    else:
        torch.save(content, path)
    return path


def refusal(
    content: Any, folder: Path, spec: ResNetSpec | None = SPEC, asked: Asked = WHOLE
) -> str:
    """Why a file is refused; nothing is written."""
    with pytest.raises(ResNetError) as caught:
        convert(saved(content, folder), folder / "b.safetensors", spec, asked=asked)
    assert not (folder / "b.safetensors").exists()
    return str(caught.value)


class Anything:
    """Of somebody's own module."""


@pytest.mark.parametrize(
    "beside",
    [
        {"args": argparse.Namespace(lr=0.1, output=Path("runs") / "a")},
        {"best": np.float64(76.1), "epoch": np.int64(3)},
        {"scheduler": {"milestones": collections.Counter([3, 3, 5])}},
        {"log": collections.defaultdict(list, loss=[1.0]), "seen": {1, 2}, -1: {0.5: None}},
        {"config": Anything(), "loss": Anything},
    ],
    ids=["arguments", "scalars", "counter", "containers", "classes"],
)
def test_objects_beside_the_weights(tmp_path: Path, beside: dict[Any, Any]) -> None:
    model = narrow()
    assert_converts({"model": model.state_dict(), **beside}, model, tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("form", ["whole", "in a tree", "script", "traced"])
def test_whole_models(tmp_path: Path, form: str) -> None:
    """Their classes and settings are in the file; TorchScript's, in its code."""
    model = narrow()
    forms: dict[str, Callable[[], Any]] = {
        "whole": lambda: model,
        "in a tree": lambda: {"epoch": 3, "model": nn.DataParallel(model)},
        "script": lambda: torch.jit.script(model),
        "traced": lambda: torch.jit.trace(model, torch.zeros(1, 3, 64, 64).double()),
    }
    assert_converts(forms[form](), model, tmp_path)


PREFIXES = [
    *("module.", "model._orig_mod.", "_fsdp_wrapped_module.", "module.encoder_q."),
    *("backbone.body.", "net.encoder.", "image_encoder.", "online_network.encoder.net."),
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes(tmp_path: Path, prefix: str) -> None:
    model = narrow()
    assert_converts({"state_dict": under(prefix, model.state_dict())}, model, tmp_path)


def test_company_is_left_out_and_told(tmp_path: Path) -> None:
    model = narrow()
    beside = {
        "encoder_q.fc.0.weight": torch.ones(16, 16),
        "encoder_q.fc.0.bias": torch.ones(16),
        "encoder_q.fc.2.weight": torch.ones(8, 16),
        "encoder_q.fc.2.bias": torch.ones(8),
        "queue": torch.ones(8, 32),
        "queue_ptr": torch.zeros(1, dtype=torch.long),
        "prototypes.weight": torch.ones(30, 8),
        "criterion.weight": torch.ones(5),
        "normalizer.mean": torch.ones(3, 1, 1),
        "decoder.0.weight": torch.ones(4, 4),
    }
    content = {"state_dict": under("encoder_q.", without_fc(model)) | beside}
    notes = assert_converts(content, body_of(model), tmp_path, BODY)
    assert "left out: the head fc.0, fc.2, which is not one dense layer" in notes
    told = "queue, queue_ptr, prototypes, criterion, normalizer, decoder.0"
    assert f"left out, beside the net: {told};" in notes
    assert "normalizer.mean may normalise images before the net" in notes


TWO = [
    ("state_dict/", "state_dict_ema/"),
    ("model/", "model_ema/"),
    ("student/backbone.", "teacher/backbone."),
    ("encoder_q.", "encoder_k."),
]


@pytest.mark.parametrize(("one", "other"), TWO)
def test_two_nets_are_asked_for(tmp_path: Path, one: str, other: str) -> None:
    models = {one: narrow(), other: narrow()}
    with torch.no_grad():
        models[other].layer2[0].conv1.weight.mul_(0.9)

    def tree() -> Any:
        if "/" not in one:
            return {k: v for p, m in models.items() for k, v in under(p, m.state_dict()).items()}
        parts = {place: place.partition("/") for place in models}
        return {key: under(p, models[place].state_dict()) for place, (key, _, p) in parts.items()}

    assert f"holds 2 ResNets, and which one is meant is not clear; name it (`part`): {one}" in (
        refusal(tree(), tmp_path)
    )
    assert "there is no ResNet at 'third.'; there are" in (
        refusal(tree(), tmp_path, asked=Asked("third."))
    )
    for place, model in models.items():
        assert_converts(tree(), model, tmp_path, asked=Asked(place))
    with torch.no_grad():
        models[other].layer2[0].conv1.weight.copy_(models[one].layer2[0].conv1.weight)
    notes = assert_converts(tree(), models[one], tmp_path)
    assert f"is also, bit for bit, at {other}" in notes


class Wrapped(nn.Module):
    """A net with a head of its own."""

    def __init__(self, head: nn.Module, word: str) -> None:
        super().__init__()
        self.backbone, self.word = narrow(), word
        self.backbone.fc = nn.Identity()
        setattr(self, word, randomize(head))

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.word)(self.backbone(x))


def with_fc(*layers: nn.Module) -> nn.Module:
    model = narrow()
    model.fc = nn.Sequential(*layers)
    return randomize(model)


def chain(*, nested: bool) -> nn.Module:
    *layers, fc = narrow().children()
    if nested:
        return nn.Sequential(nn.Sequential(*layers[:-1]), layers[-1], nn.Flatten(), fc)
    return nn.Sequential(*layers, nn.Flatten(), fc)


HEADS: dict[str, Callable[[], nn.Module]] = {
    "fc.1": lambda: with_fc(nn.Dropout(0.5), nn.Linear(16, 5)),
    "fc.0": lambda: with_fc(nn.Linear(16, 5), nn.Identity()),
    "classifier": lambda: Wrapped(nn.Linear(16, 5), "classifier"),
    "last_linear": lambda: Wrapped(nn.Linear(16, 5), "last_linear"),
    "head.1": lambda: Wrapped(nn.Sequential(nn.Dropout(), nn.Linear(16, 5)), "head"),
    "children": lambda: chain(nested=False),
    "children of a child": lambda: chain(nested=True),
}


@pytest.mark.parametrize("head", HEADS)
def test_classifiers_of_other_names(tmp_path: Path, head: str) -> None:
    model = HEADS[head]().eval()
    assert_converts(model.state_dict(), model, tmp_path)


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ((nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 5)), "which is not one dense layer with a"),
        ((nn.Linear(16, 5, bias=False),), "which is not one dense layer with a bias"),
        ((nn.BatchNorm1d(16), nn.Linear(16, 5)), "which is not one dense layer with a bias"),
    ],
)
def test_other_heads_are_left_out_and_told(
    tmp_path: Path, layers: tuple[nn.Module, ...], why: str
) -> None:
    model = with_fc(*layers)
    assert why in assert_converts(model.state_dict(), body_of(model), tmp_path, BODY)


class WideBlock(nn.Module):
    """xternalz/WideResNet-pytorch's."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        same = inputs == planes
        self.convShortcut = None if same else nn.Conv2d(inputs, planes, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(y)
        return self.conv2(torch.relu(self.bn2(self.conv1(y)))) + shortcut


class WideNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        inputs = 4
        for i, planes in enumerate((8, 16, 32)):
            block = nn.Module()
            first = WideBlock(inputs, planes, 1 + (i > 0))
            block.layer = nn.Sequential(first, WideBlock(planes, planes, 1))
            setattr(self, f"block{i + 1}", block)
            inputs = planes
        self.bn1, self.fc = nn.BatchNorm2d(inputs), nn.Linear(inputs, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for i in (1, 2, 3):
            x = getattr(self, f"block{i}").layer(x)
        return self.fc(torch.relu(self.bn1(x)).mean((2, 3)))


class ResidualBlock(nn.Module):
    """weiaicunzai/pytorch-cifar100's."""

    def __init__(self, inputs: int, planes: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = planes * (4 if bottleneck else 1)
        shapes = [(inputs, planes, 3, stride), (planes, planes, 3, 1)]
        if bottleneck:
            shapes = [(inputs, planes, 1, 1), (planes, planes, 3, stride), (planes, outputs, 1, 1)]
        layers: list[nn.Module] = []
        for a, b, k, s in shapes:
            layers += [nn.Conv2d(a, b, k, s, k // 2, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        self.residual_function = nn.Sequential(*layers[:-1])
        side = (nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Sequential(*(side if stride > 1 or inputs != outputs else ()))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.residual_function(x) + self.shortcut(x))


class ResidualNet(nn.Module):
    def __init__(self, bottleneck: bool) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
        )
        inputs, wider = 4, 4 if bottleneck else 1
        for i, planes in enumerate(WIDTHS):
            first = ResidualBlock(inputs, planes, 1 + (i > 0), bottleneck)
            inputs = planes * wider
            stage = nn.Sequential(first, ResidualBlock(inputs, planes, 1, bottleneck))
            setattr(self, f"conv{i + 2}_x", stage)
        self.fc = nn.Linear(inputs, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for i in range(2, 6):
            x = getattr(self, f"conv{i}_x")(x)
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize(
    "make",
    [WideNet, lambda: ResidualNet(False), lambda: ResidualNet(True)],
    ids=["WideResNet", "pytorch-cifar100", "its bottlenecks"],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_other_authors_nets_need_no_model(
    tmp_path: Path, make: Callable[[], nn.Module], prefix: str
) -> None:
    model = randomize(make())
    assert_converts({"state_dict": under(prefix, model.state_dict())}, model, tmp_path, None)


class Own(nn.Module):
    """Somebody's names for torchvision's modules."""

    WORDS = (("conv1", "stem.c"), ("bn1", "stem.n"), ("fc", "out"))

    def __init__(self) -> None:
        super().__init__()
        self.net = narrow()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def named(self) -> State:
        """Its arrays under those names, and a number beside them."""
        found = {}
        for name, tensor in self.net.state_dict().items():
            module, _, rest = name.partition(".")
            if module.startswith("layer"):
                number, _, rest = rest.partition(".")
                theirs = f"s{module[-1]}.b{number}.{rest.replace('downsample', 'skip')}"
            else:
                theirs = f"{dict(self.WORDS)[module]}.{rest}"
            found[theirs] = tensor
        return found | {"ema_decay": torch.ones(1)}


LINES = {
    "each module": "".join(
        f"s{i}.b0.{a}: layer{i}.0.{b}\n"
        for i in (1, 2, 3, 4)
        for a, b in [("conv1",) * 2, ("bn1",) * 2, ("conv2",) * 2, ("bn2",) * 2]
        + [("skip", "downsample")] * (i > 1)
    ),
    "beginnings": "".join(f"s{i}.b0: layer{i}.0\n" for i in (1, 2, 3, 4))
    + "".join(f"s{i}.b0.skip: layer{i}.0.downsample\n" for i in (2, 3, 4)),
    "patterns": "s1.b0.*: layer1.0.*\ns2.b0.*: layer2.0.*\ns3.b0.*: layer3.0.*\n"
    "s4.b0.*: layer4.0.*\ns2.b0.skip.*: layer2.0.downsample.*\n"
    "s3.b0.skip.*: layer3.0.downsample.*\ns4.b0.skip.*: layer4.0.downsample.*\n",
}
ENDS = "stem.c: conv1\nstem.n: bn1\nout: fc\nema_decay: null\n"


@pytest.mark.parametrize("form", LINES)
@pytest.mark.parametrize("place", ["", "state_dict/", "module."])
def test_names_by_a_map(tmp_path: Path, form: str, place: str) -> None:
    model = Own()
    state: Any = under(place, model.named()) if place.endswith(".") else model.named()
    content = {"state_dict": state, "epoch": 3} if place.endswith("/") else state
    assert "`names` maps them to canonical ones" in refusal(content, tmp_path, None)
    (tmp_path / "map.yaml").write_text(LINES[form] + ENDS)
    asked = Asked(names=read_names(tmp_path / "map.yaml"))
    assert_converts(content, model, tmp_path, asked=asked)


def test_a_map_may_be_that_of_trace(tmp_path: Path) -> None:
    """There, canonical names come first, and none is left out."""
    model = Own()
    lines = (LINES["each module"] + ENDS.replace("ema_decay: null\n", "")).splitlines()
    turned = "".join(f"{b}: {a}\n" for a, _, b in (line.partition(": ") for line in lines))
    (tmp_path / "map.yaml").write_text(turned)
    asked = Asked(names=read_names(tmp_path / "map.yaml"))
    state = {n: t for n, t in model.named().items() if n != "ema_decay"}
    assert_converts(state, model, tmp_path, asked=asked)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("body: layer1\n", "`names`: no array is called 'body'; expected names of arrays or"),
        ("s1.b0.bn1: layer1.0.bn2\ns1.b0.bn2: layer1.0.bn2\n", "two arrays become 'layer1.0.bn2."),
        ("s1.*.bn1: layer1.bn1\n", "or with as many * on both sides"),
        ("s1: 3\n", "expected lines 'name in the file: canonical name'"),
        ("- s1\n", "expected lines 'name in the file: canonical name'"),
        (ENDS, "s1.b0"),
    ],
)
def test_wrong_maps_are_refused(tmp_path: Path, lines: str, why: str) -> None:
    """By the map's own form, or by the file that it is for."""
    (tmp_path / "map.yaml").write_text(lines)
    path = saved(Own().named(), tmp_path)
    model = resnet_torch.create_model(SPEC)
    with pytest.raises(ResNetError) as caught:
        resnet_torch.load_weights(model, path, names=tmp_path / "map.yaml")
    assert why in str(caught.value)


@pytest.mark.parametrize(
    "head", [{"classifier.0.convs.0.0.weight": (4, 64, 1, 1)}, {"classifier.4.weight": (3, 16, 1)}]
)
def test_a_segmenter_s_net_is_dilated(tmp_path: Path, head: dict[str, tuple[int, ...]]) -> None:
    """As in torchvision's DeepLabV3 and FCN, whose arrays do not show it."""
    model = narrow("Bottleneck", dilate=(3, 4))
    shape = next(iter(head.values()))
    beside = {name: torch.ones(shape if len(shape) == 4 else (*shape, 1)) for name in head}
    content = under("backbone.", without_fc(model)) | beside
    spec = resolve("resnet50", NARROW | {"num_classes": 0})
    for given in (None, spec):
        why = refusal(content, tmp_path, given)
        assert "of a segmenter, whose net is dilated as a rule, and the arrays do not say" in why
    dilated = spec.override(output_stride=8)
    assert_converts(content, body_of(model), tmp_path, dilated)


def test_a_detector_s_net(tmp_path: Path) -> None:
    """torchvision's Faster R-CNN: frozen norms, and a pyramid beside the net."""
    torchvision_models()
    frozen = importlib.import_module("torchvision.ops.misc").FrozenBatchNorm2d
    model = narrow("Bottleneck", norm_layer=frozen)
    content = under("backbone.body.", without_fc(model)) | {
        "backbone.fpn.inner_blocks.0.0.weight": torch.ones(8, 16, 1, 1),
        "rpn.head.cls_logits.weight": torch.ones(3, 8, 1, 1),
        "roi_heads.box_predictor.cls_score.weight": torch.ones(3, 8),
    }
    assert "whose net may be dilated, and the arrays do not say" in refusal(content, tmp_path, None)
    spec = resolve("resnet50", NARROW | {"num_classes": 0})
    notes = assert_converts(content, body_of(model), tmp_path, spec)
    assert "left out, beside the net: backbone.fpn.inner_blocks.0.0, rpn.head.cls_logits" in notes


def clip() -> State:
    extra = {"conv2.weight": (4, 4, 3, 3), "conv3.weight": (4, 4, 3, 3)}
    extra |= {"attnpool.positional_embedding": (5, 16), "attnpool.q_proj.weight": (16, 16)}
    return under(
        "visual.",
        without_fc(narrow())
        | {n: torch.ones(shape, dtype=torch.float64) for n, shape in extra.items()},
    ) | {"text_projection": torch.ones(3, 3)}


def iresnet() -> State:
    extra = {f"layer{i}.0.prelu.weight": n for i, n in enumerate(WIDTHS, 1)}
    extra |= {"prelu.weight": 4, "bn2.weight": 16}
    ones = {name: torch.ones(n, dtype=torch.float64) for name, n in extra.items()}
    return without_fc(narrow()) | ones


def three_dimensional() -> State:
    state = narrow().state_dict()
    return {n: t[:, :, None].clone() if t.ndim == 4 else t for n, t in state.items()}


def quantised() -> State:
    state = narrow().float().state_dict()
    weight = torch.quantize_per_tensor(state["layer1.0.conv1.weight"], 0.1, 0, torch.qint8)
    return state | {"layer1.0.conv1.weight": weight, "layer1.0.conv1.scale": torch.ones(())}


def five_stages() -> State:
    state = narrow().state_dict()
    return state | {n.replace("layer4", "layer5"): t for n, t in state.items() if "layer4" in n}


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning")
@pytest.mark.parametrize("spec", [None, SPEC, BODY], ids=["unnamed", "named", "body"])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (clip, "conv2"),
        (iresnet, "prelu"),
        (three_dimensional, "conv1.weight has"),
        (quantised, "layer1.0.conv1.weight' is a 'torch._utils._rebuild_qtensor"),
        (five_stages, "layer5"),
    ],
)
def test_other_nets_are_refused(
    tmp_path: Path, make: Callable[[], State], name: str, spec: ResNetSpec | None
) -> None:
    why = refusal({"state_dict": make()}, tmp_path, spec)
    assert why.startswith(f"{tmp_path / 'a.pth'}: ")
    # What a spec file can have is told of where one is given.
    if spec is not None or make not in (five_stages, iresnet, clip):
        assert name in why


def test_the_line_of_a_map_that_says_most_counts() -> None:
    names = ["body.0.skip.0.weight", "body.0.first.weight", "body.1.skip.weight", "stem.weight"]
    source = Source(Path("a.pth"), "pytorch", LazyArrays({n: LazyArray.of(ONE) for n in names}))
    lines = {"body": "layer1", "body.*.skip": "layer1.*.downsample", "body.1.skip": "layer1.1.last"}
    _, found = renamed(source, lines)
    assert found == {
        "layer1.0.downsample.0.weight": "body.0.skip.0.weight",
        "layer1.0.first.weight": "body.0.first.weight",
        "layer1.1.last.weight": "body.1.skip.weight",
        "stem.weight": "stem.weight",
    }


ONE = np.ones(1, np.float32)


def rounded_down(net: Any) -> None:
    net.layer2[0].downsample[0].ceil_mode = False


def counting_padding(net: Any) -> None:
    net.layer2[0].downsample[0].count_include_pad = True


def another_gate(net: Any) -> None:
    net.layer2[0].se.gate = nn.Hardsigmoid()


def another_squeeze(net: Any) -> None:
    net.layer2[0].se.act = nn.SiLU()


def another_blur(net: Any) -> None:
    net.layer2[0].aa.pad_mode = "constant"


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("resnet26d", rounded_down, "layer2.0.downsample.0 has ceil_mode False"),
        ("resnet26d", counting_padding, "layer2.0.downsample.0 has count_include_pad True"),
        ("resnet26d", None, ""),
        ("seresnet18", None, ""),
        ("resnetblur18", None, ""),
        ("seresnet18", another_gate, "layer2.0.se.gate is a 'torch.nn.modules.activation.Hardsi"),
        ("seresnet18", another_squeeze, "layer2.0.se.act is a 'torch.nn.modules.activation.SiLU"),
        ("resnetblur18", another_blur, "layer2.0.aa is a 'timm.layers.blur_pool.BlurPool2d' with"),
    ],
)
def test_settings_inside_of_timm_s_whole_models(
    tmp_path: Path, name: str, change: Callable[[Any], None] | None, why: str
) -> None:
    """The model as timm makes it is read, also at an odd size; changed, it is refused by name."""
    net = randomize(timm_model(name, num_classes=5))
    if change is None:
        assert_converts(net, net, tmp_path, None)
    else:
        change(net)
        assert why in refusal(net, tmp_path, None)


def test_whoever_uses_the_weights_is_told_what_was_left_out(tmp_path: Path) -> None:
    path = saved(narrow().state_dict() | {"queue": torch.ones(3, dtype=torch.float64)}, tmp_path)
    with pytest.warns(WeightsWarning, match="left out, beside the net: queue"):
        read_classifier(path, SPEC, tmp_path)
    with pytest.warns(WeightsWarning, match="left out, beside the net: queue"):
        read_for(SPEC, path)
    with pytest.warns(WeightsWarning, match="left out, beside the net: queue"):
        resnet_torch.create_model(SPEC, weights=path, dtype="float64")
