"""Every option set of the catalogue in the five engines, cut in depth and width.

`test_timm.py` holds PyTorch against timm at full width; here the others are held against PyTorch.
"""

from __future__ import annotations

import pytest

from resnet_parity.check.forward import check
from shared_spec import CATALOGUE, ResNetSpec
from tests.conftest import Pool
from tests.tiers import choice, covering, engines, selected, without_compilers


def cut(spec: ResNetSpec) -> ResNetSpec:
    """The same options on three narrow stages."""
    fields = spec.to_dict() | {"depths": [1, 2, 1], "widths": [32, 64, 64], "num_classes": 10}
    for of_size in ("strides", "image_size"):
        fields.pop(of_size, None)
    if spec.block_widths:
        fields["block_widths"] = [[20, 13, 30], [24, 17, 40], [19, 21, 40], [33, 18, 50]]
    if not isinstance(spec.block, str):
        edge = "edge" in spec.block
        fields["block"] = [
            "edge" if edge else "basic",
            "bottleneck",
            "bottleneck" if edge else "basic",
        ]
    if spec.groups > 1:
        fields |= {"groups": 4, "base_width": 16}
    if spec.convolution == "hierarchical":
        fields |= {"base_width": 32, "scale": min(spec.scale, 4)}
    if isinstance(spec.bottleneck_ratio, float) and spec.bottleneck_ratio > 1:
        fields["widths"] = [16, 24, 24]
    if spec.group_width is not None:
        fields["group_width"] = [16, 8, 1] if isinstance(spec.group_width, tuple) else 8
    if isinstance(spec.bottleneck_ratio, tuple):
        fields["bottleneck_ratio"] = spec.bottleneck_ratio[1:]
    if spec.norm_group_width is not None:
        fields["norm_group_width"] = 8
    if spec.attention == "gc":
        fields["se_divisor"] = 4
    if spec.head_width is not None:
        fields["head_width"] = 32
    if spec.stem_width > 64:
        fields["stem_width"] = 64
        if spec.stem_widths:
            fields["stem_widths"] = [8, 16, 32]
    return ResNetSpec.parse(fields)


# One name for each set of options that is left when depth, width and groups do not count.
DISTINCT = {
    cut(e.spec): name
    for name, e in reversed(CATALOGUE.items())
    if e.family.startswith(("timm", "keras", "flax"))
}


PAIRS = covering(DISTINCT, 2)
"""A few of them that have every two options together that any has: tier `test` runs these in the
engines that start at once."""
SINGLES = covering(DISTINCT, 1)
"""Those that have every option: tier `test` runs all engines on these alone, at one size."""


@pytest.mark.parametrize("spec", selected(PAIRS, DISTINCT), ids=DISTINCT.__getitem__)
def test_five_engines_agree(pool: Pool, spec: ResNetSpec) -> None:
    # Averages of anti-aliasing and of shortcuts part at sizes that do not halve evenly.
    even = spec.anti_alias == "avg" and spec.shortcut_pool == "none"
    sizes = [(32, 32), (48, 64)] if even or spec.anti_alias == "avg" else [(32, 32), (45, 33)]
    ran = engines() if spec in SINGLES else without_compilers()
    sizes = sizes[1:] if spec in SINGLES and choice.tier == "test" else sizes
    report = check(spec, ran, sizes=sizes, compiled=False, start=pool.start)
    assert report.problems == []
    assert len(report.pairs) == len(ran) * (len(ran) - 1) // 2
