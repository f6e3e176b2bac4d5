"""The ResNets of timm's byobnet: each set of options narrow and cut in depth, with timm's names,
strict loads both ways and the same logits; and counts of all names.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest

from resnet_parity.worker.reference_libraries import float64_statistics, timm_model
from shared_spec import CATALOGUE, ResNetSpec, compile_plan, resolve
from tests.parity.test_families import agree
from tests.peers import torchvision_models

NAMES = [name for name, entry in CATALOGUE.items() if entry.family == "timm_byob"]
WIDTHS = (32, 64, 64, 96)


def narrow(name: str, **more: Any) -> ResNetSpec:
    """A net of ours with blocks of few channels, two a stage."""
    spec = resolve(name)
    fields: dict[str, Any] = {"depths": (1, 2, 2, 1), "widths": WIDTHS, "num_classes": 10}
    if spec.stem_widths and spec.stem_width > 64:
        fields |= {"stem_width": 64, "stem_widths": (8, 16, 32)}
    if spec.head_width is not None:
        fields["head_width"] = 40
    if spec.group_width is not None:
        fields["group_width"] = 8
    if isinstance(spec.group_width, tuple):
        fields["group_width"] = tuple(n if n in (1, 256) else 8 for n in spec.group_width)
    if spec.norm_group_width is not None:
        fields["norm_group_width"] = 8
    return spec.override(**fields | more)


def timms(name: str, spec: ResNetSpec, **options: Any) -> Any:
    """timm's, of the same widths."""
    torchvision_models()  # timm imports torchvision
    from timm.layers import EvoNorm2dS0a
    from timm.models.byobnet import ByobNet, model_cfgs

    cfg = model_cfgs[name]
    groups = [b.gs if b.gs in (None, 0, 1) else 8 for b in cfg.blocks]
    blocks = tuple(
        replace(block, d=d, c=c, gs=gs)
        for block, d, c, gs in zip(cfg.blocks, spec.depths, spec.widths, groups, strict=True)
    )
    cfg = replace(cfg, blocks=blocks, width_factor=1.0)
    if not isinstance(cfg.stem_chs, tuple):
        cfg = replace(cfg, stem_chs=spec.stem_width)
    if cfg.num_features:
        cfg = replace(cfg, num_features=40)
    if isinstance(cfg.norm_layer, partial):
        cfg = replace(cfg, norm_layer=partial(EvoNorm2dS0a, group_size=8))
    return ByobNet(cfg, num_classes=spec.num_classes, **options)


@cache
def meta_model(name: str) -> Any:
    import torch

    with torch.device("meta"):
        return timm_model(name)


@pytest.mark.parametrize("name", NAMES)
def test_parameter_counts_are_timms(name: str) -> None:
    theirs = meta_model(name)
    spec = CATALOGUE[name].spec
    assert compile_plan(spec).parameter_count() == sum(p.numel() for p in theirs.parameters())
    assert spec.image_size == theirs.default_cfg["input_size"][1]
    assert spec.num_classes == theirs.num_classes


@pytest.mark.parametrize("name", NAMES)
def test_timm_agrees(name: str) -> None:
    spec = narrow(name)
    with float64_statistics():
        agree(spec, timms(name, spec), "timm")


DILATED = ["gcresnext26ts", "resnet61q", "regnetz_d8"]


@pytest.mark.parametrize("name", DILATED)
@pytest.mark.parametrize("stride", [8, 16])
def test_output_stride_is_timms(name: str, stride: int) -> None:
    spec = narrow(name, output_stride=stride)
    agree(spec, timms(name, spec, output_stride=stride), "timm")
