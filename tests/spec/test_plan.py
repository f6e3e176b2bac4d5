"""The plan and what is folded from it, against figures from papers and libraries."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from shared_spec import (
    CATALOGUE,
    Plan,
    SpecError,
    compile_plan,
    initial_weights,
    list_models,
    resolve,
)
from shared_spec.plan.layers import BatchNorm, Conv, ZeroPadShortcut
from shared_spec.plan.summary import (
    block_rows,
    describe_stage,
    layer_rows,
    macs,
    stage_rows,
    totals,
)

# CIFAR: table 6 of He et al. 2015, in millions; option A.
CIFAR_MILLIONS = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7, 1202: 19.4}


@pytest.mark.parametrize(("depth", "millions"), list(CIFAR_MILLIONS.items()))
def test_cifar_counts_are_the_papers(depth: int, millions: float) -> None:
    count = compile_plan(resolve(f"resnet{depth}")).parameter_count() / 1e6
    assert round(count, 2 if millions < 1 else 1) == millions
    assert compile_plan(resolve(f"plain{depth}")).parameter_count() / 1e6 == count


def test_layer_scale_counts_the_channels_of_each_branch() -> None:
    plain, scaled = (resolve("resnet50", {"layer_scale": x}) for x in (None, 1e-6))
    more = compile_plan(scaled).parameter_count() - compile_plan(plain).parameter_count()
    assert more == 3 * 256 + 4 * 512 + 6 * 1024 + 3 * 2048
    state = initial_weights(compile_plan(scaled))
    assert (state["layer4.2.layer_scale.gamma"] == np.float32(1e-6)).all()


def test_d2l_count_is_the_books() -> None:
    for name in ("d2l_resnet18", "d2l_resnet18_same"):
        assert compile_plan(resolve(name)).parameter_count() == 11_178_378


# Table 1 of the paper, in units of 10^9 multiply-adds; it gives the stride to the first 1x1.
@pytest.mark.parametrize(
    ("name", "billions"),
    [("resnet18", 1.8), ("resnet34", 3.6), ("resnet50", 3.8), ("resnet101", 7.6)],
)
def test_macs_are_the_papers(name: str, billions: float) -> None:
    v1 = {} if name in ("resnet18", "resnet34") else {"stride_on": "1x1"}
    p = compile_plan(resolve(name, v1))
    assert macs(p, (224, 224)) / 1e9 == pytest.approx(billions, abs=0.07)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("skresnet18", "[selected of 2 3×3, 64; 3×3, 64] × 2"),
        ("res2net50_26w_4s", "[1×1, 104; 4 parts of 3×3, 26; 1×1, 256] × 3"),
        ("resnest50d", "[1×1, 64; split attention on 3×3, 128, 2 groups; 1×1, 256] × 3"),
    ],
)
def test_convolutions_of_several_parts_are_told(name: str, expected: str) -> None:
    assert describe_stage(compile_plan(resolve(name)).stages[0]) == expected


def test_stage_shapes_are_the_papers() -> None:
    rows = stage_rows(compile_plan(resolve("resnet50")), (224, 224))
    shapes = [row.shape for row in rows]
    assert shapes == [
        (56, 56, 64),
        (56, 56, 256),
        (28, 28, 512),
        (14, 14, 1024),
        (7, 7, 2048),
        (1000,),
    ]
    assert sum(row.parameters for row in rows) == 25_557_032


@pytest.mark.parametrize("name", list_models())
def test_folds_agree_with_one_another(name: str) -> None:
    spec = CATALOGUE[name].spec
    p = compile_plan(spec)
    size = (spec.image_size, spec.image_size)
    for rows in (layer_rows(p, size), block_rows(p, size), stage_rows(p, size)):
        assert sum(row.parameters for row in rows) == p.parameter_count()
        assert sum(row.macs for row in rows) == macs(p, size)
        maps = () if spec.segmentation == "none" else size
        assert rows[-1].shape == (*maps, spec.num_classes or spec.out_channels[-1])


@pytest.mark.parametrize("name", list_models())
def test_totals_count_what_repeats(name: str) -> None:
    spec = CATALOGUE[name].spec
    p = compile_plan(spec)
    size = (spec.image_size, spec.image_size)
    assert totals(spec) == (p.parameter_count(), macs(p, size))


@pytest.mark.parametrize("name", list_models())
def test_names_are_unique_and_plans_equal(name: str) -> None:
    p = compile_plan(resolve(name))
    names = [layer.name for layer in p.layers()] + [block.name for block in p.blocks()]
    assert len(set(names)) == len(names)
    parameters = [q.name for q in p.parameters()]
    assert len(set(parameters)) == len(parameters)
    compile_plan.cache_clear()
    again = compile_plan(resolve(name))
    assert again is not p
    assert again == p
    assert hash(again) == hash(p)


def test_the_depth_is_in_the_name() -> None:
    for name in list_models("*resnet[0-9]*") + list_models("plain*"):
        if not name.startswith(("resnet", "plain")) or CATALOGUE[name].family == "timm_byob":
            continue  # those count their stems
        depth = int("".join(c for c in name.split("_")[0] if c.isdigit()))
        p = compile_plan(resolve(name))
        convs = [x for b in p.blocks() for x in b.branch if isinstance(x, Conv)]
        # The stem counts as one layer however deep it is, the classifier as another.
        assert len(convs) + 2 == depth, name


def test_stride_placement() -> None:
    def strides(p: Plan) -> dict[str, int]:
        return {x.name: x.stride for x in p.layers() if isinstance(x, Conv) and x.stride > 1}

    v15 = strides(compile_plan(resolve("resnet50")))
    v1 = strides(compile_plan(resolve("resnet50", {"stride_on": "1x1"})))
    assert {n for n in v15 if "layer2" in n} == {"layer2.0.conv2", "layer2.0.downsample.0"}
    assert {n for n in v1 if "layer2" in n} == {"layer2.0.conv1", "layer2.0.downsample.0"}


def test_shortcut_options() -> None:
    def shortcuts(name: str) -> dict[str, list[str]]:
        blocks = compile_plan(resolve(name)).blocks()
        return {b.name: [type(x).__name__ for x in b.shortcut] for b in blocks if b.shortcut}

    assert shortcuts("resnet20") == {
        "layer2.0": ["ZeroPadShortcut"],
        "layer3.0": ["ZeroPadShortcut"],
    }
    assert shortcuts("resnet20_b") == {
        "layer2.0": ["Conv", "BatchNorm"],
        "layer3.0": ["Conv", "BatchNorm"],
    }
    assert len(shortcuts("resnet20_c")) == 9
    assert shortcuts("plain20") == {}
    assert {b.shortcut_from for b in compile_plan(resolve("plain20")).blocks()} == {None}
    assert shortcuts("d2l_resnet18") == {f"layer{i}.0": ["Conv"] for i in (2, 3, 4)}
    pads = [x for x in compile_plan(resolve("resnet20")).layers() if isinstance(x, ZeroPadShortcut)]
    assert [(x.before, x.after) for x in pads] == [(8, 8), (16, 16)]


def test_zero_init_last() -> None:
    p = compile_plan(resolve("resnet50", {"zero_init_last": True}))
    zero = {x.name for x in p.layers() if isinstance(x, BatchNorm) and x.scale_init == 0}
    assert zero == {f"{block.name}.bn3" for block in p.blocks()}


def test_an_image_can_be_too_small() -> None:
    p = compile_plan(resolve("resnet18", {"padding": "symmetric"}))
    assert layer_rows(p, (1, 1))[-1].shape == (1000,)
    bare = dataclasses.replace(p.stem[0], padding=0)
    with pytest.raises(SpecError, match="too small: conv1 would have the output"):
        layer_rows(dataclasses.replace(p, stem=(bare, *p.stem[1:])), (6, 6))


def test_a_plan_whose_sums_do_not_fit_is_refused() -> None:
    p = compile_plan(resolve("resnet18"))
    block = dataclasses.replace(p.stages[1].blocks[0], shortcut=())
    stage = dataclasses.replace(p.stages[1], blocks=(block,))
    with pytest.raises(SpecError, match=r"layer2\.0: the shortcut gives .* where the branch"):
        layer_rows(dataclasses.replace(p, stages=(p.stages[0], stage)), (32, 32))
