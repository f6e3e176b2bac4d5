"""Every option set of the catalogue in the five engines, cut in depth and width.

`test_timm.py` holds PyTorch against timm at full width; here the others are held against PyTorch.
"""

from __future__ import annotations

import pytest

from resnet_parity.check.forward import check
from resnet_parity.engines.registry import ENGINES
from shared_spec import CATALOGUE, ResNetSpec
from tests.conftest import Pool


def cut(spec: ResNetSpec) -> ResNetSpec:
    """The same options on three narrow stages."""
    fields = spec.to_dict() | {"depths": [1, 2, 1], "widths": [32, 64, 64], "num_classes": 10}
    fields.pop("strides", None)
    if spec.block_widths:
        fields["block_widths"] = [[20, 13, 30], [24, 17, 40], [19, 21, 40], [33, 18, 50]]
    if not isinstance(spec.block, str):
        fields["block"] = ["basic", "bottleneck", "basic"]
    if spec.groups > 1:
        fields |= {"groups": 4, "base_width": 16}
    if spec.stem_width > 64:
        fields["stem_width"] = 64
    return ResNetSpec.parse(fields)


# One name for each set of options that is left when depth, width and groups do not count.
DISTINCT = {
    cut(e.spec): name
    for name, e in reversed(CATALOGUE.items())
    if e.family.startswith(("timm", "keras", "flax"))
}


@pytest.mark.parametrize("spec", DISTINCT, ids=list(DISTINCT.values()))
def test_five_engines_agree(pool: Pool, spec: ResNetSpec) -> None:
    # Averages of anti-aliasing and of shortcuts part at sizes that do not halve evenly.
    even = spec.anti_alias == "avg" and spec.shortcut_pool == "none"
    sizes = [(32, 32), (48, 64)] if even or spec.anti_alias == "avg" else [(32, 32), (45, 33)]
    engines = list(ENGINES.values())
    report = check(spec, engines, sizes=sizes, compiled=False, start=pool.start)
    assert report.problems == []
    assert len(report.logits) == 10
