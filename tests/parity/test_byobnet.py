"""The ResNets of timm's byobnet: each set of options narrow and cut in depth, with timm's names,
strict loads both ways and the same logits; and counts of all names.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resnet_torch
from resnet_parity.worker.reference_libraries import float64_statistics, timm_model
from shared_spec import CATALOGUE, ResNetSpec, compile_plan, random_images, resolve
from shared_spec.formats.containers.source import Source
from shared_spec.formats.dialects.renamed import OPENAI_CLIP
from shared_spec.formats.read import read_checkpoint, read_source
from shared_spec.weights.lazy_array import LazyArray, LazyArrays
from tests.parity.test_families import agree
from tests.peers import torchvision_models

NAMES = [name for name, entry in CATALOGUE.items() if entry.family == "timm_byob"]
WIDTHS = (64, 64, 96, 96)


def narrow(name: str, **more: Any) -> ResNetSpec:
    """A net of ours with blocks of few channels, two a stage."""
    spec = resolve(name)
    fields: dict[str, Any] = {"depths": (1, 2, 2, 1), "widths": WIDTHS, "num_classes": 10}
    if spec.stem_widths and spec.stem_width > 64:
        fields |= {"stem_width": 64, "stem_widths": (8, 16, 32)}
    if spec.head_width is not None:
        fields["head_width"] = 40
    if spec.anti_alias == "avg":
        fields |= {"widths": (32, 64, 64, 128), "stem_width": 32, "image_size": 64}
    if spec.head_hidden is not None:
        fields["head_hidden"] = 24
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
    cfg = replace(cfg, stem_chs=spec.stem_width)
    if spec.anti_alias == "avg":
        cfg = replace(cfg, stem_chs=(16, 16, 32))
    if cfg.head_hidden_size:
        cfg = replace(cfg, head_hidden_size=24)
    if cfg.head_type == "attn_abs":
        options["img_size"] = spec.image_size
    if cfg.num_features:
        cfg = replace(cfg, num_features=40)
    if isinstance(cfg.norm_layer, partial):
        cfg = replace(cfg, norm_layer=partial(EvoNorm2dS0a, group_size=8))
    return ByobNet(cfg, num_classes=spec.num_classes, **options)


@cache
def meta_model(name: str) -> Any:
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


@pytest.mark.parametrize("size", [32, 128])
def test_a_table_of_positions_is_resampled_as_timms(size: int) -> None:
    """To more places and to fewer."""
    spec = narrow("resnet50_clip", image_size=size)
    with float64_statistics():  # timm rounds what it resamples to float32
        agree(spec, timms("resnet50_clip", spec), "timm")


DILATED = ["gcresnext26ts", "resnet61q", "regnetz_d8", "resnet50_clip"]


@pytest.mark.parametrize("name", DILATED)
@pytest.mark.parametrize("stride", [8, 16])
def test_output_stride_is_timms(name: str, stride: int) -> None:
    spec = narrow(name, output_stride=stride)
    with float64_statistics():
        agree(spec, timms(name, spec, output_stride=stride), "timm")


def as_openai(name: str) -> str:
    """timm's name of an array, as OpenAI's CLIP calls it."""
    parts = name.split(".")
    leaf = parts[-1]
    if parts[0] == "stem":
        number, kind = parts[1][-1], parts[2]
        return f"visual.{kind}{number}.{leaf}"
    if parts[0] == "head":
        renamed = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "proj": "c_proj"}
        inner = renamed[parts[1]] + f".{leaf}" if len(parts) > 2 else "positional_embedding"
        return f"visual.attnpool.{inner}"
    block = f"visual.layer{int(parts[1]) + 1}.{parts[2]}"
    if parts[3] == "shortcut":
        return f"{block}.downsample.{'0' if parts[5] == 'conv' else '1'}.{leaf}"
    return f"{block}.{parts[4]}{parts[3][4]}.{leaf}"


@pytest.mark.parametrize("texts", [False, True])
def test_openais_and_open_clips_files_are_read(tmp_path: Path, texts: bool) -> None:
    spec = narrow("resnet50_clip")
    theirs = timms("resnet50_clip", spec).double().eval()
    from timm.models.byobnet import _convert_openai_clip

    arrays = {as_openai(name): array for name, array in theirs.state_dict().items()}
    assert set(_convert_openai_clip(arrays, theirs)) == set(theirs.state_dict())
    if texts:
        arrays |= {
            "positional_embedding": torch.ones(7, 8),
            "text_projection": torch.ones(8, 10),
            "logit_scale": torch.ones(()),
            "token_embedding.weight": torch.ones(9, 8),
            "transformer.resblocks.0.attn.in_proj_weight": torch.ones(24, 8),
            "ln_final.weight": torch.ones(8),
        }
    path = tmp_path / "clip.pt"
    torch.save(arrays, path)
    read = read_checkpoint(path, spec)
    ours = resnet_torch.create_model(spec, weights=dict(read.state), dtype="float64").eval()
    images = random_images((2, 64, 64, 3))
    with torch.inference_mode():
        reference = theirs(torch.from_numpy(images).double().permute(0, 3, 1, 2)).numpy()
    assert np.abs(resnet_torch.predict(ours, images) - reference).max() <= 1e-12
    told = " ".join(read.notes)
    assert ("transformer" in told) == texts
    assert ("left out" in told) == texts


def test_a_whole_clip_tells_its_net() -> None:
    """By shapes alone, the size of images from the table of positions too."""
    spec = resolve("resnet50x4_clip")
    entries = {
        OPENAI_CLIP.foreign_name(q, spec).name: LazyArray(q.shape, np.dtype("f4"), list)
        for q in compile_plan(spec).parameters()
    }
    source = Source(Path("clip.safetensors"), "safetensors", LazyArrays(entries), {})
    assert read_source(source).spec == spec
