"""Families of nets beside the ResNets, each set of options narrow and cut in depth, and judged by
the library that has it: same names, strict loads both ways, same logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import resnet_torch
from resnet_parity.engines.reference_libraries import names_there, references_of
from resnet_parity.worker.reference_libraries import torch_net
from shared_spec import (
    CATALOGUE,
    ResNetSpec,
    cast_weights,
    compile_plan,
    random_images,
    random_weights,
    resolve,
)
from shared_spec.catalogue.families.regnet import GROUP_NORM, SE, SILU, V, Z, net
from shared_spec.catalogue.families.timm_nfnet import NF
from shared_spec.catalogue.families.timm_resnet import ECA
from shared_spec.catalogue.families.timm_resnet import SE as SE_NF
from tests.peers import torchvision_models


@dataclass(frozen=True)
class Case:
    """A narrow net of ours, and the library's."""

    fields: dict[str, Any]
    theirs: Callable[..., Any]
    library: str = "timm"

    @property
    def spec(self) -> ResNetSpec:
        return ResNetSpec.parse(self.fields | {"num_classes": 10})


RULE = (24, 20.0, 2.0, 7, 8)
"""Four stages, of 24, 48, 96 and 192 channels."""
FEWER_GROUPS = (24, 20.0, 2.0, 7, 32)
"""Whose groups are wider than the first stage is, and widths no multiples of theirs."""


def _timm_regnet(rule: tuple[Any, ...], cfg: dict[str, Any], **options: Any) -> Any:
    torchvision_models()  # timm imports torchvision
    from timm.layers import GroupNormAct
    from timm.models.regnet import RegNet, RegNetCfg

    if "norm_layer" in cfg:
        cfg = cfg | {"norm_layer": partial(GroupNormAct, group_size=cfg["norm_layer"])}
    keys = ("w0", "wa", "wm", "depth", "group_size")
    return RegNet(RegNetCfg(**dict(zip(keys, rule, strict=True)), **cfg), num_classes=10, **options)


def _torchvision_regnet(rule: tuple[Any, ...], se_ratio: float | None) -> Any:
    models = torchvision_models().regnet
    keys = ("w_0", "w_a", "w_m", "depth", "group_width")
    params = models.BlockParams.from_init_params(
        **dict(zip(keys, rule, strict=True)), se_ratio=se_ratio
    )
    return models.RegNet(params, num_classes=10)


def _regnet(parts: dict[str, Any], rule: tuple[Any, ...] = RULE, **cfg: Any) -> Case:
    return Case(net(*rule, parts=parts), partial(_timm_regnet, rule, cfg))


NF_NARROW = {"depths": [1, 2, 1, 2], "widths": [8, 16, 24, 32], "stem_width": 16}
NF_THERE = {"depths": (1, 2, 1, 2), "channels": (32, 64, 96, 128), "stem_chs": 16}
NF_THERE |= {"stem_type": "7x7_pool", "bottle_ratio": 0.25, "act_layer": "relu"}


def _timm_nf(cfg: dict[str, Any], **options: Any) -> Any:
    torchvision_models()  # timm imports torchvision
    from timm.models.nfnet import NfCfg, NormFreeNet

    return NormFreeNet(NfCfg(**NF_THERE | cfg), num_classes=10, **options)


def _nf(fields: dict[str, Any], **cfg: Any) -> Case:
    return Case({"block": "bottleneck"} | NF | NF_NARROW | fields, partial(_timm_nf, cfg))


TV: Any = partial(net, rounding="nine_tenths")
SE_THERE = {"se_ratio": 0.25}
Z_THERE = SE_THERE | {"bottle_ratio": 4.0, "downsample": None, "linear_out": True}
Z_THERE |= {"act_layer": "silu"}
V_THERE = SE_THERE | {"preact": True, "act_layer": "silu"}
SGN_THERE = SE_THERE | {"act_layer": "silu", "norm_layer": 8}
CASES: dict[str, Case] = {
    "regnetx": _regnet({}),
    "regnetx wide groups": _regnet({}, FEWER_GROUPS),
    "regnety": _regnet(SE, **SE_THERE),
    "regnety avg": _regnet(SE | {"shortcut_pool": "avg"}, **SE_THERE, downsample="avg"),
    "regnety sgn": _regnet(SE | SILU | GROUP_NORM | {"norm_group_width": 8}, **SGN_THERE),
    "regnetv": _regnet(V, **V_THERE),
    "regnetv avg": _regnet(V | {"shortcut_pool": "avg"}, **V_THERE, downsample="avg"),
    "regnetz": _regnet(Z, **Z_THERE),
    "regnetz head": _regnet(Z | {"head_width": 40}, **Z_THERE, num_features=40),
    "nf": _nf({}),
    "nf se": _nf(SE_NF, attn_layer="se", attn_kwargs={"rd_ratio": 1 / 16}),
    "nf eca": _nf(ECA, attn_layer="eca", attn_kwargs={}),
    "nf skip gain": _nf({"skip_gain": True}, skipinit=True),
    "nf silu": _nf({"activation": "silu"}, act_layer="silu"),
    "nf deep": _nf(
        {"stem": "deep", "stem_pool": "none", "strides": [2, 2, 2, 2]}, stem_type="deep"
    ),
    "torchvision x": Case(TV(*RULE), partial(_torchvision_regnet, RULE, None), "torchvision"),
    "torchvision x wide groups": Case(
        TV(*FEWER_GROUPS), partial(_torchvision_regnet, FEWER_GROUPS, None), "torchvision"
    ),
    "torchvision y": Case(
        TV(*RULE, parts=SE), partial(_torchvision_regnet, RULE, 0.25), "torchvision"
    ),
}
SIZES = [(64, 64), (65, 65), (97, 64)]


def agree(spec: ResNetSpec, theirs: Any, library: str) -> None:
    """Names, strict loads both ways, and logits in float64."""
    state = cast_weights(random_weights(compile_plan(spec), 3), "float64")
    ours = resnet_torch.create_model(spec, weights=state, dtype="float64").eval()
    theirs = theirs.double().eval()
    names = names_there(library, spec, ours.state_dict())
    assert set(names.values()) == set(theirs.state_dict())
    theirs.load_state_dict({names[k]: v for k, v in ours.state_dict().items()}, strict=True)
    arrays = theirs.state_dict()
    ours.load_state_dict({k: arrays[there] for k, there in names.items()}, strict=True)
    for size in SIZES:
        images = random_images((2, *size, 3))
        with torch.inference_mode():
            reference = theirs(torch.from_numpy(images).double().permute(0, 3, 1, 2)).numpy()
        logits = resnet_torch.predict(ours, images)
        assert np.abs(logits - reference).max() / np.abs(reference).max() <= 1e-12


FAMILIES = ("timm_regnet", "torchvision_regnet", "timm_nf")
NAMES = [name for name, entry in CATALOGUE.items() if entry.family in FAMILIES]


@pytest.fixture
def rule_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision computes widths with tensors, which on the meta device have no numbers."""
    params = torchvision_models().regnet.BlockParams
    made = params.from_init_params

    def computed(**rule: Any) -> Any:
        with torch.device("cpu"):
            return made(**rule)

    monkeypatch.setattr(params, "from_init_params", computed)


@pytest.mark.usefixtures("rule_on_the_cpu")
@pytest.mark.parametrize("name", NAMES)
def test_parameter_counts_are_the_librarys(name: str) -> None:
    (reference,) = references_of(CATALOGUE[name])
    with torch.device("meta"):
        theirs = torch_net(reference.name, name)
    count = sum(p.numel() for p in theirs.parameters())
    assert compile_plan(resolve(name)).parameter_count() == count
    if reference.name == "timm":
        assert CATALOGUE[name].spec.image_size == theirs.default_cfg["input_size"][1]


def options(spec: ResNetSpec) -> dict[str, Any]:
    """What tells one net from another but for sizes."""
    sizes = ("depths", "widths", "strides", "image_size", "num_classes", "head_width")
    sizes += ("stem_width",)
    skip = (*sizes, "group_width", "norm_group_width", "zero_init_last")
    return {k: v for k, v in spec.to_dict().items() if k not in skip}


def test_every_option_set_is_compared() -> None:
    compared = [options(case.spec) for case in CASES.values()]
    assert [name for name in NAMES if options(CATALOGUE[name].spec) not in compared] == []


@pytest.mark.parametrize("case", CASES)
def test_the_library_agrees(case: str) -> None:
    agree(CASES[case].spec, CASES[case].theirs(), CASES[case].library)


@pytest.mark.parametrize("case", ["regnety", "regnety avg", "regnetv avg", "regnetz", "nf se"])
@pytest.mark.parametrize("stride", [8, 16])
def test_output_stride_is_timms(case: str, stride: int) -> None:
    spec = CASES[case].spec.override(output_stride=stride)
    agree(spec, CASES[case].theirs(output_stride=stride), "timm")
