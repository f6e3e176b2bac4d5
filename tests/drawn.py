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
    "stride_on": ["3x3", "3x3", "1x1", "last"],
    "pre_norm": [False, True],
    "branch_activation": [False, True],
    "output_activation": [True, False],
    "stage_start": ["residual", "residual", "conv_pool"],
    "stride_block": ["first", "first", "last"],
    "expansion": [4, 1],
    "final_norm": [None, True, False],
    "final_activation": [None, True, False],
    "head_width": [None, 32],
    "names": [None, "regnet", "byobnet", "senet"],
    "reduce_first": [1, 1, 2],
    "layer_scale": [None, 0.1],
    "anti_alias": ["none", "none", "blur", "avg"],
    "stem_width": [16, 32],
    "stem_stride": [1, 2],
    "stem_pool": ["max", "max_zero", "max_ceil", "conv", "none"],
    "stem_padding": [None, "symmetric", "same"],
    "conv_bias": [False, True, "without_norm"],
    "padding": ["symmetric", "symmetric", "same"],
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
    "head_pool": ["avg", "avg", "max", "avgmax", "catavgmax", "attention"],
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
# Fields that go together: most of them need others, and would hardly be drawn together by chance.
BUNDLES: dict[str, list[dict[str, Any]]] = {
    "pyramid": [
        {"features_only": True, "pyramid": 8, "pyramid_extra": "pool"},
        {"features_only": True, "pyramid": 8, "pyramid_norm": True, "pyramid_extra": "p6p7"},
        {"features_only": True, "pyramid": 8, "pyramid_extra": "p6p7_of_stage"},
    ],
    "convolution": [
        {"convolution": "selective", "split_input": True, "se_divisor": 4},
        {"convolution": "selective", "se_ratio": 0.25},
        {"convolution": "hierarchical", "scale": 2, "block": "bottleneck"},
        {"convolution": "hierarchical", "scale": 4, "block": "bottleneck", "drop_block_rate": 0.1},
        {"convolution": "split_attention", "block": "bottleneck", "stride_pool": "last"},
        {"convolution": "split_attention", "block": "bottleneck", "radix": 1},
        {
            "convolution": "split_attention",
            "block": "bottleneck",
            "radix": 4,
            "groups": 2,
            "stride_pool": "first",
        },
    ],
    "attention": [
        {"attention": "se", "se_ratio": 0.25, "se_of": "input", "se_activation": "silu"},
        {"attention": "se", "attention_on": "middle"},
        {"attention": "eca"},
        {"attention": "eca", "attention_on": "middle"},
        {"attention": "gc", "se_ratio": 0.25},
    ],
    "norm": [
        {"norm": "frozen_batch"},
        {"norm": "group", "norm_groups": 8},
        {"norm": "group", "norm_group_width": 8},
        # Of groups of one or two numbers, the variance is rounding, times its root's 300.
        {"norm": "evonorm_s0", "norm_groups": 4, "pre_activation": True},
        {"norm": "evonorm_s0", "norm_group_width": 8},
        {"norm": "frn", "norm_eps": 1e-3, "pre_activation": True},
        {"norm": "none", "pre_activation": True, "standardize": 1e-5},
        {"norm": "none", "pre_activation": True, "standardize": 1e-5, "skip_gain": True},
        {
            "norm": "none",
            "pre_activation": True,
            "standardize": 1e-5,
            "branch_scale": 0.5,
            "activation": "silu",
        },
        {"standardize": 1e-8},
    ],
    "block": [
        {"pre_activation": True},
        {"pre_activation": True, "identity_from": "pre"},
        {"pre_activation": True, "names": "regnet", "block": "bottleneck"},
        {"block": "bottleneck", "groups": 8},
        {"block": "bottleneck", "groups": 2, "base_width": 128},
        {"block": "bottleneck", "bottleneck_ratio": 0.5},
        {"block": "bottleneck", "bottleneck_ratio": 1.0, "group_width": 8},
        {"block": "bottleneck", "bottleneck_ratio": 1.0, "bottleneck_of": "input"},
        {"block": "bottleneck", "extra_conv": True, "names": "byobnet"},
        {"block": "basic", "names": "iresnet", "output_activation": False, "pre_norm": True},
    ],
    "stem": [
        {"stem": "conv3x3"},
        {"stem": "deep"},
        {"stem": "deep", "stem_last_stride": 2, "stem_pool": "none"},
        {"stem": "deep", "stem_linear": 1},
        {"stem": "deep_tiered"},
    ],
    "ends": [
        {"shortcut_kernel": 3, "output_stride": 8},
        {"head_width": 32, "head_hidden": 16},
        {"head_pool": "attention", "image_size": 64},
    ],
}


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
    chosen = draw(st.sets(st.sampled_from(sorted(OPTIONS)), min_size=1, max_size=5))
    for name in sorted(chosen):
        data[name] = draw(st.sampled_from(OPTIONS[name]))
    for bundle in BUNDLES.values():
        if draw(st.integers(0, 3)) == 0:
            data |= draw(st.sampled_from(bundle))
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
