"""Specs drawn at random (hypothesis): narrow nets that mix every option there is."""

from __future__ import annotations

from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from shared_spec import ResNetSpec, SpecError, compile_plan
from shared_spec.plan.summary import layer_rows

SIZE = (37, 32)
"""Height and width of the images on which drawn nets are compared."""

# Few numbers, so that nets share layers: JAX compiles each kind of layer anew.
OPTIONS: dict[str, list[Any]] = {
    "pre_activation": [False, True],
    "shortcut": [
        "projection",
        "projection",
        "projection_stage",
        "projection_all",
        "zero_pad",
        "identity",
        "none",
    ],
    "shortcut_norm": [True, True, False],
    "shortcut_pool": ["none", "avg"],
    "shortcut_kernel": [1, 1, 3],
    "stride_on": ["3x3", "3x3", "1x1", "last"],
    "pre_norm": [False, True],
    "branch_activation": [False, True],
    "output_activation": [True, False],
    "stage_start": ["residual", "residual", "conv_pool"],
    "stride_block": ["first", "first", "last"],
    "groups": [1, 1, 2, 8],
    "base_width": [64, 128],
    "expansion": [4, 1],
    "bottleneck_ratio": [None, 1.0, 0.5],
    "group_width": [None, 8],
    "identity_from": ["input", "pre"],
    "final_norm": [None, True, False],
    "final_activation": [None, True, False],
    "head_width": [None, 32],
    "names": [None, "regnet"],
    "reduce_first": [1, 1, 2],
    "attention": ["none", "se", "eca"],
    "attention_on": ["last", "middle"],
    "se_ratio": [1 / 16, 0.25],
    "se_of": ["own", "input"],
    "se_activation": ["relu", "silu"],
    "layer_scale": [None, 0.1],
    "anti_alias": ["none", "none", "blur", "avg"],
    "stem": ["conv7x7", "conv3x3", "deep", "deep_tiered"],
    "stem_width": [16, 32],
    "stem_stride": [1, 2],
    "stem_pool": ["max", "max_zero", "max_ceil", "conv", "none"],
    "stem_padding": [None, "symmetric", "same"],
    "conv_bias": [False, True, "without_norm"],
    "padding": ["symmetric", "symmetric", "same"],
    "standardize": [None, None, 1e-8],
    "norm": ["batch", "batch", "group", "evonorm_s0", "frn"],
    "norm_groups": [8, 16],
    "norm_group_width": [None, 8],
    "norm_eps": [1e-5, 1e-3],
    "activation": [
        "relu",
        "relu",
        "silu",
        "gelu",
        "leaky_relu",
        "hardswish",
        "mish",
        "elu",
        "prelu",
    ],
    "head_pool": ["avg", "avg", "max", "avgmax", "catavgmax"],
    "output_norm": [False, True],
    "drop_rate": [0.0, 0.2],
    "branch_drop_rate": [0.0, 0.2],
    "drop_path_rate": [0.0, 0.2],
    "drop_block_rate": [0.0, 0.1],
    "features_only": [False, False, False, True],
    "zero_init_last": [False, True],
    "in_channels": [3, 1],
    "num_classes": [10, 10, 0],
}
CONVOLUTIONS: list[dict[str, Any]] = [
    {"convolution": "selective", "split_input": True, "se_divisor": 4},
    {"convolution": "selective", "se_ratio": 0.25},
    {"convolution": "hierarchical", "scale": 2},
    {"convolution": "hierarchical", "scale": 4, "drop_block_rate": 0.1},
    {"convolution": "split_attention", "radix": 2, "stride_pool": "last"},
    {"convolution": "split_attention", "radix": 1, "stride_pool": "first"},
    {"convolution": "split_attention", "radix": 4, "groups": 2, "se_ratio": 0.25},
]
"""What stands for a block's 3x3 convolution, with the fields that only it has."""


@st.composite
def fields(draw: st.DrawFn) -> dict[str, Any]:
    """Fields of a spec, most of them left at their defaults; they need not fit one another."""
    stages = draw(st.integers(1, 5))
    data: dict[str, Any] = {
        "depths": draw(st.lists(st.integers(1, 2), min_size=stages, max_size=stages)),
        "widths": draw(
            st.lists(st.sampled_from([16, 32]), min_size=stages, max_size=stages).map(sorted)
        ),
        "block": draw(
            st.sampled_from(["basic", "bottleneck"])
            | st.lists(st.sampled_from(["basic", "bottleneck"]), min_size=stages, max_size=stages)
        ),
    }
    if draw(st.booleans()):
        data["strides"] = draw(st.lists(st.integers(1, 2), min_size=stages, max_size=stages))
    chosen = draw(st.sets(st.sampled_from(sorted(OPTIONS)), min_size=3, max_size=9))
    for name in sorted(chosen):
        data[name] = draw(st.sampled_from(OPTIONS[name]))
    if draw(st.integers(0, 3)) == 0:
        data |= draw(st.sampled_from(CONVOLUTIONS))
    if draw(st.booleans()):
        data["output_stride"] = draw(st.sampled_from([2, 4, 8, 16]))
    return data


@st.composite
def specs(draw: st.DrawFn) -> ResNetSpec:
    """Specs that are valid, and have an output on images of `SIZE`."""
    data = draw(fields())
    try:
        spec = ResNetSpec.parse(data)
        layer_rows(compile_plan(spec), SIZE)
    except SpecError:
        assume(False)
    return spec


__all__ = ["OPTIONS", "SIZE", "fields", "specs"]
