"""Files of PyTorch as people have them: a drawn net, changed or not, among what stands around it,
with what each way to read the file may give. Each is drawn from its number alone.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from shared_spec import ResNetSpec
from tests.probes.torch_nets import Draw, Net, changed, drawn_net, randomized, set_module

SIZE = (40, 56)
WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
PREFIXES = (
    *(
        "",
        "",
        "backbone.",
        "model.",
        "encoder.",
        "net.",
        "backbone.body.",
        "encoder_q.",
        "student.",
    ),
    *("model.backbone.", "net.encoder.", "image_encoder.trunk.", "0.", "features."),
)


@dataclass(frozen=True)
class Answer:
    """What a reading may give."""

    features: np.ndarray
    logits: np.ndarray | None
    told: tuple[str, ...] = ()
    """Of which the notes have to have one, where it is given; empty: nothing."""
    clear: bool = True
    """Whether the classifier may be left out only in words."""


@dataclass(frozen=True)
class Query:
    """A way to read the file, and what may come of it; nothing may if there is no answer."""

    spec: ResNetSpec | None
    part: str | None
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Tree:
    """A drawn file."""

    path: Path
    kind: str
    what: str
    queries: tuple[Query, ...]
    images: np.ndarray = field(repr=False)


class Thing:
    """Of a class of one's own."""

    def __init__(self) -> None:
        self.lr, self.weight = 0.1, torch.ones(2)


class Model(nn.Module):
    """A net, and what its features go through."""

    def __init__(self, backbone: nn.Module, *rest: tuple[str, nn.Module]) -> None:
        super().__init__()
        self.backbone = backbone
        self.order = [name for name, _ in rest]
        for name, module in rest:
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        x = self.backbone(x)
        for name in self.order:
            x = getattr(self, name)(x)
        return x


def drawn(number: int, folder: Path) -> Tree | None:
    """The file of a number; None if torch cannot run or save such a net."""
    draw = np.random.default_rng(number)
    before = drawn_net(draw)
    net, what, shown = changed(before, draw) if draw.random() < 0.6 else (before, "nothing", "")
    images = draw.random((2, *SIZE, 3))
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    try:
        known = {"old": before.features(x), "new": net.features(x)}
    except (RuntimeError, ValueError, AttributeError, TypeError):
        return None
    if known["new"].ndim != 2 or not all(torch.isfinite(f).all() for f in known.values()):
        return None
    form = ("dict", "dict", "dict", "whole", "whole", "script", "trace")[draw.integers(7)]
    make = _state_dict if form == "dict" else _whole
    path = folder / f"{number}{'.pt' if form in ('script', 'trace') else '.pth'}"
    seen = {"dict": ("arrays",), "trace": ("arrays", "types")}.get(
        form, ("arrays", "types", "settings")
    )
    hidden = shown not in ("nothing", "", *seen)
    try:
        made = make(net, known, hidden, x, path, form, draw)
    except (RuntimeError, torch.jit.Error, AttributeError, TypeError, ValueError):
        path.unlink(missing_ok=True)  # no script can be made of it
        return None
    if made is None:
        return None
    path, around, queries = made
    kind = f"{form}: {net.source}"
    return Tree(path, kind, f"{what} ({shown}); {around}", queries, images)


# Names and arrays.


def _linear(inputs: int, outputs: int, draw: Draw, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.from_numpy(draw.normal(size=p.shape)).float() / inputs**0.5)
    return layer


def _normal(draw: Draw, *shape: int) -> Tensor:
    return torch.from_numpy(draw.normal(size=shape)).float()


def _state_dict(
    net: Net,
    known: Mapping[str, Tensor],
    hidden: bool,
    x: Tensor,
    path: Path,
    form: str,
    draw: Draw,
) -> tuple[Path, str, tuple[Query, ...]]:
    arrays = dict(net.module.state_dict())
    own = {n: arrays.pop(n) for n in list(arrays) if n.startswith(f"{net.head}.")}
    if draw.random() < 0.15 and net.source == "torchvision":
        order = [n for n, _ in net.module.named_children()]
        arrays = {_numbered(n, order): t for n, t in arrays.items()}
        around = ["children"]
    else:
        around = []
    prefix = PREFIXES[draw.integers(len(PREFIXES))]
    inside = {prefix + n: t for n, t in arrays.items()}
    width = known["old"].shape[1]
    head, said, logits, clear = _head(net, own, known, prefix, width, bool(around), draw)
    inside |= head
    around += [f"at {prefix or '/'}", f"head {said}"]
    beside, more, blocked = _companions(net, prefix, width, draw)
    inside = {**beside, **inside} if draw.random() < 0.5 else {**inside, **beside}
    around += more
    wrap = "".join(WRAPPERS[i] for i in draw.integers(4, size=draw.integers(0, 3)))
    where = draw.integers(2) if prefix else 0
    inside = {
        (
            f"{prefix}{wrap}{n.removeprefix(prefix)}"
            if where and n.startswith(prefix)
            else wrap + n
        ): t
        for n, t in inside.items()
    }
    around += [f"wrapped in {wrap}"] if wrap else []

    def answers(told: tuple[str, ...] = ()) -> tuple[Answer, ...]:
        kinds = ("new", "old") if hidden else ("new",)
        return tuple(
            Answer(known[k].numpy(), None if logits is None else logits[k].numpy(), told, clear)
            for k in kinds
        )

    spec = net.spec
    tree: dict[str, Any] = inside
    part: str | None = None
    others: tuple[Answer, ...] | None = ()
    match draw.integers(9):
        case 0 | 1:
            tree = inside
        case 2 | 3:
            tree, part = {"state_dict": inside, "epoch": 3, **_objects(draw)}, "state_dict/"
            around.append("nested")
        case 4:
            momenta = {n: {"exp_avg": t * 0.1} for n, t in enumerate(inside.values())}
            optimizer = {"state": momenta, "param_groups": [{"lr": 0.1, "params": [0]}]}
            tree, part = {"model": inside, "optimizer": optimizer, **_objects(draw)}, "model/"
            around.append("with an optimizer")
        case 5:
            tree = {"state_dict": inside, "state_dict_ema": dict(inside)}
            part = "state_dict_ema/"
            around.append("with an equal average")
        case 6:
            other = {n: t * 0.9 if t.is_floating_point() else t for n, t in inside.items()}
            tree, part, others = {"model": inside, "model_ema": other}, "model/", None
            around.append("with another average")
        case 7:
            gradient = {n: t * 0.1 for n, t in inside.items() if "running" not in n}
            tree, part = {"model": inside, "grad_avg": gradient}, "model/"
            around.append("with averages of gradients")
        case 8:
            second = randomized(net.copy(), draw).module.state_dict()
            tree = {"student": inside, "teacher": {f"backbone.{n}": t for n, t in second.items()}}
            part, others = "student/", None
            around.append("with a teacher")
    if blocked:  # two nets in one mapping
        others = None
    plain = answers()
    hint = _hint(net, draw) if tree is not inside else {}
    tree |= hint
    around += [f"{k}={v}" for k, v in hint.items() if isinstance(v, str)]
    asked = None if part is None else f"{part}{prefix}"
    free = () if others is None else plain
    queries = [Query(None, None, free), Query(spec, None, free)]
    if asked is not None or blocked:
        queries.append(Query(spec, asked or prefix, plain))
        queries.append(Query(None, asked or prefix, plain))
    flat = tree is inside and all(isinstance(t, Tensor) for t in inside.values())
    if flat and draw.random() < 0.4:
        path = path.with_suffix(".safetensors")
        save_file({n: t.contiguous().clone() for n, t in inside.items()}, path)
    else:
        new = bool(draw.random() < 0.7)
        torch.save(tree, path, _use_new_zipfile_serialization=new)
        around += [] if new else ["before 1.6"]
    return path, ", ".join(around), tuple(queries)


def _numbered(name: str, order: list[str]) -> str:
    first, _, rest = name.partition(".")
    return f"{order.index(first)}.{rest}"


def _head(
    net: Net,
    own: Mapping[str, Tensor],
    known: Mapping[str, Tensor],
    prefix: str,
    width: int,
    numbered: bool,
    draw: Draw,
) -> tuple[dict[str, Tensor], str, dict[str, Tensor] | None, bool]:
    """Arrays of a head, what it is, its logits for each of the features, and whether they are
    clear.
    """
    above = prefix.rpartition(".")[0].rpartition(".")[0]
    above = f"{above}." if above else ""
    weight, bias = (own[f"{net.head}.{leaf}"].double() for leaf in ("weight", "bias"))
    weight = weight.flatten(1)
    logits = {k: f @ weight.T + bias for k, f in known.items()}
    dense = {"weight": weight.float(), "bias": bias.float()}

    def at(module: str, arrays: Mapping[str, Tensor] = dense) -> dict[str, Tensor]:
        return {f"{module}.{leaf}": t for leaf, t in arrays.items()}

    v2 = net.source == "timm V2"
    kind = draw.integers(12)
    if kind < 3 and not numbered:
        return {prefix + n: t for n, t in own.items()}, "its own", logits, True
    name = ("classifier", "head.fc", "last_linear", "fc.1", "head", "cls_head.fc", "linear")[
        draw.integers(7)
    ]
    place = prefix if draw.random() < 0.5 else above
    if v2 and place == prefix:
        place = above
    match kind:
        case 3 | 4 | 5:
            return at(place + name), place + name, logits, True
        case 6:
            return {}, "none", None, True
        case 7:
            other = _linear(width, 7, draw)
            found = {k: f @ other.weight.double().T + other.bias.double() for k, f in known.items()}
            arrays = {n: t.detach() for n, t in other.state_dict().items()}
            return at(place + name, arrays), f"another, {place + name}", found, True
        case 8:
            return at(place + name, {"weight": dense["weight"]}), "without bias", None, False
        case 9:
            mlp = at(
                f"{place}{name}.0", {"weight": _normal(draw, 12, width), "bias": _normal(draw, 12)}
            )
            mlp |= at(
                f"{place}{name}.2", {"weight": _normal(draw, 5, 12), "bias": _normal(draw, 5)}
            )
            return mlp, f"mlp at {place + name}", None, False
        case 10:
            other = {"weight": _normal(draw, 5, width + 3), "bias": _normal(draw, 5)}
            return at(place + name, other), "of other features", None, False
        case _:
            norm = {"weight": _normal(draw, width), "bias": _normal(draw, width)}
            norm |= {"running_mean": _normal(draw, width), "running_var": _normal(draw, width) ** 2}
            between = ("bottleneck", "neck", "embedding", "fc_norm", "bnneck")[draw.integers(5)]
            return (
                at(f"{above}{between}", norm) | at(f"{above}classifier"),
                f"classifier behind {between}",
                None,
                False,
            )


def _companions(
    net: Net, prefix: str, width: int, draw: Draw
) -> tuple[dict[str, Tensor], list[str], bool]:
    """What may stand beside a net, in words too, and whether there is another net among it."""
    found: dict[str, Tensor] = {}
    said: list[str] = []
    blocked = False
    above = prefix.rpartition(".")[0].rpartition(".")[0]
    above = f"{above}." if above else ""
    for _ in range(int(draw.integers(0, 3))):
        kind = draw.integers(13)
        place = above if draw.random() < 0.7 else prefix
        match kind:
            case 0:
                found |= {
                    f"{place}projector.0.weight": _normal(draw, 12, width),
                    f"{place}projector.0.bias": _normal(draw, 12),
                    f"{place}projector.2.weight": _normal(draw, 8, 12),
                }
            case 1:
                found |= {
                    f"{above}queue": _normal(draw, 8, 32),
                    f"{above}queue_ptr": torch.zeros(1),
                }
            case 2:
                found[f"{place}prototypes.weight"] = _normal(draw, 30, width)
            case 3:
                found[f"{above}criterion.weight"] = _normal(draw, 5)
            case 4:
                found |= {
                    f"{above}mu": _normal(draw, 3, 1, 1),
                    f"{above}sigma": _normal(draw, 3, 1, 1),
                }
            case 5:
                found[f"{above}decoder.blocks.0.conv1.0.weight"] = _normal(draw, 4, width, 3, 3)
            case 6:
                found |= {
                    f"{above}decoder.layer1.0.conv1.weight": _normal(draw, 4, width, 3, 3),
                    f"{above}decoder.layer1.0.conv2.weight": _normal(draw, 4, 4, 3, 3),
                }
            case 7:
                found[f"{above}classifier.4.weight"] = _normal(draw, 21, 8, 1, 1)
            case 8:
                second = randomized(net.copy(), draw).module.state_dict()
                found |= {f"{above}momentum_encoder.{n}": t for n, t in second.items()}
                blocked = True
            case 9:
                found[f"{above}text_model.layers.0.conv1.weight"] = _normal(draw, 4, 4)
            case 10:
                found[f"{above}logit_scale"] = _normal(draw, 1)[0]
            case 11:
                found[f"{place}layer9.weight" if draw.random() < 0.3 else f"{above}n_averaged"] = (
                    torch.zeros(1)
                )
            case 12:
                found[f"{prefix}pre_conv.weight"] = _normal(draw, 3, 3, 1, 1)
        said.append(f"company {kind}")
    return found, said, blocked


def _objects(draw: Draw) -> dict[str, Any]:
    """What training scripts leave beside the weights."""
    known: dict[str, Any] = {
        "args": argparse.Namespace(lr=0.1, out=Path("runs")),
        "best": np.float64(76.5),
        "milestones": collections.Counter([3, 5]),
        "config": Thing(),
        "logs": collections.defaultdict(list, a=[1.0]),
        "rng": torch.zeros(8, dtype=torch.uint8),
        "cls": Thing,
    }
    return {k: v for k, v in known.items() if draw.random() < 0.3}


def _hint(net: Net, draw: Draw) -> dict[str, Any]:
    name = ("resnet18", "resnet10t", "resnetblur18", "resnet50", "a net")[draw.integers(5)]
    return [{}, {}, {"arch": name}, {"hyper_parameters": {"backbone": name}}][draw.integers(4)]


# Whole models.


def _whole(
    net: Net,
    known: Mapping[str, Tensor],
    hidden: bool,
    x: Tensor,
    path: Path,
    form: str,
    draw: Draw,
) -> tuple[Path, str, tuple[Query, ...]] | None:
    width = known["old"].shape[1]
    kinds = ("new", "old") if hidden else ("new",)
    logits: dict[str, Tensor] | None
    if draw.random() < 0.5:
        model, around = net.module, "alone"
        replaced = draw.random() < 0.5
        if replaced and net.source != "timm V2":
            head, said, told, behind = _drawn_head(width, draw)
            model = net.copy().module
            set_module(model, net.head, head)
            around = f"alone, {net.head} is {said}"
        else:
            own = net.module.get_submodule(net.head)
            behind, told = own, ()
            if replaced:
                return None
    else:
        head, said, told, behind = _drawn_head(width, draw)
        rest = [(("head", "fc", "classifier")[draw.integers(3)], head)]
        before = draw.integers(6)
        if before == 0 and behind is not None:
            between = (nn.ReLU(), nn.BatchNorm1d(width), nn.Tanh())[draw.integers(3)]
            rest.insert(0, ("between", between))
            behind, told, said = None, (), f"{said} behind {type(between).__name__}"
        model = Model(net.body(), *rest)
        around = f"as backbone, {rest[-1][0]} is {said}"
    if behind is None:
        logits = None
    else:
        layer = behind.double() if isinstance(behind, nn.Module) else behind
        weight, bias = layer.weight.detach().double().flatten(1), layer.bias.detach().double()
        logits = {k: known[k] @ weight.T + bias for k in kinds}
        model.float()
    answers = tuple(
        Answer(known[k].numpy(), None if logits is None else logits[k].numpy(), told, False)
        for k in kinds
    )
    model.eval()
    if form == "script":
        torch.jit.script(model).save(str(path))
    elif form == "trace":
        torch.jit.trace(model, x.float(), check_trace=False).save(str(path))
    else:
        if draw.random() < 0.2:
            model, around = nn.DataParallel(model), f"{around}, in DataParallel"
        value = {"model": model, "epoch": 2} if draw.random() < 0.3 else model
        torch.save(value, path)
    return path, around, (Query(None, None, answers), Query(net.spec, None, answers))


def _drawn_head(width: int, draw: Draw) -> tuple[nn.Module, str, tuple[str, ...], nn.Linear | None]:
    """A head, what it is, what has to be told of it, and the layer that its logits are of, if they
    are of the features themselves.
    """
    dense = _linear(width, 5, draw)
    second = _linear(width, width, draw)
    heads: list[tuple[nn.Module, tuple[str, ...], nn.Linear | None]] = [
        (dense, (), dense),
        (nn.Sequential(nn.Dropout(0.5), dense), (), dense),
        (nn.Sequential(nn.Flatten(), dense), (), dense),
        (nn.Sequential(dense, nn.Softmax(1)), ("Softmax",), dense),
        (nn.Sequential(nn.Softmax(1), dense), (), None),
        (nn.Sequential(nn.ReLU(), dense), (), None),
        (nn.Sequential(dense, nn.Sigmoid(), nn.Sigmoid()), ("Sigmoid",), dense),
        (nn.Sequential(second, nn.ReLU(), dense), (), None),
        (nn.Sequential(nn.BatchNorm1d(width), dense), (), None),
        (nn.Sequential(nn.LayerNorm(width, elementwise_affine=False), dense), (), None),
        (nn.Identity(), (), None),
        (_linear(width, 5, draw, bias=False), (), None),
    ]
    number = int(draw.integers(len(heads)))
    module, told, behind = heads[number]
    kinds = [type(m).__name__ for m in module.modules() if not isinstance(m, nn.Sequential)]
    return module, "+".join(kinds), told, behind
