"""Dropout, stochastic depth and DropBlock: by their statistics in each engine, and off in
evaluation.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnet_parity.engines.process import Worker
from shared_spec import (
    Checkpoint,
    compile_plan,
    initial_weights,
    plan,
    random_images,
    read_safetensors,
    resolve,
    write_safetensors,
)
from tests.conftest import Pool
from tests.peers import torchvision_models

DROPS = {"drop_rate": 0.3, "drop_path_rate": 0.4, "drop_block_rate": 0.2}
LAYERS: dict[str, dict[str, Any]] = {
    "Dropout": {"rate": 0.3},
    "DropPath": {"rate": 0.3},
    "DropBlock": {"rate": 0.3, "block_size": 5, "gamma_scale": 0.25},
}


def draw(
    worker: Worker,
    tmp_path: Path,
    kind: str,
    shape: list[int],
    training: bool = True,
    **fields: Any,
) -> np.ndarray:
    """What the layer makes of ones, [N, H, W, C]."""
    output = str(tmp_path / "y.safetensors")
    arguments = {"kind": kind, "fields": LAYERS[kind] | fields, "shape": shape}
    arguments |= {"training": training, "output": output}
    worker.call("probe", function="dropping:layer", **arguments)
    return read_safetensors(output).state["y"]


def close(found: float, probability: float, trials: int) -> bool:
    """Whether a share of `trials` is within five standard deviations of its probability."""
    return abs(found - probability) < 5 * math.sqrt(probability * (1 - probability) / trials)


@pytest.mark.parametrize("kind", LAYERS)
def test_evaluation_drops_nothing(worker: Worker, tmp_path: Path, kind: str) -> None:
    assert (draw(worker, tmp_path, kind, [4, 6, 6, 3], training=False) == 1).all()


def test_dropout_draws_each_number(worker: Worker, tmp_path: Path) -> None:
    y = draw(worker, tmp_path, "Dropout", [50, 4, 4, 30])
    assert np.allclose(y[y != 0], 1 / 0.7)
    assert close((y == 0).mean(), 0.3, y.size)
    # Neither images, nor pixels, nor channels share a draw.
    for axes in ((1, 2, 3), (0, 3), (0, 1, 2)):
        share = (y == 0).mean(axes)
        assert share.std() == pytest.approx(math.sqrt(0.21 * share.size / y.size), rel=0.5)


def test_drop_path_draws_each_image(worker: Worker, tmp_path: Path) -> None:
    y = draw(worker, tmp_path, "DropPath", [4000, 2, 3, 2])
    assert (y == y[:, :1, :1, :1]).all()
    kept = y[:, 0, 0, 0]
    assert np.allclose(kept[kept != 0], 1 / 0.7)
    assert close((kept == 0).mean(), 0.3, len(kept))


def windows(x: np.ndarray, kh: int, kw: int, border: float) -> np.ndarray:
    """Every kh x kw neighbourhood of [N, H, W]: [N, H, W, kh, kw]."""
    around = ((0, 0), ((kh - 1) // 2, kh // 2), ((kw - 1) // 2, kw // 2))
    padded = np.pad(x, around, constant_values=border)
    return np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), (1, 2))


@pytest.mark.parametrize("size", [(11, 14), (4, 7), (2, 2), (1, 3)])
def test_drop_block_drops_squares(worker: Worker, tmp_path: Path, size: tuple[int, int]) -> None:
    h, w = size
    y = draw(worker, tmp_path, "DropBlock", [3000, h, w, 2])
    # All channels of an image lose the same pixels, and the batch keeps its mean.
    assert (y == y[..., :1]).all()
    assert y.mean() == pytest.approx(1, abs=1e-5)
    dropped = y[..., 0] == 0
    assert np.allclose(y[y != 0], 1 / (1 - dropped.mean()), rtol=1e-5)
    record = plan.DropBlock("layer", **LAYERS["DropBlock"])
    kh, kw, gamma = record.window(h, w)
    # A pixel stays if there is no centre in its window, which the border cuts.
    reach = windows(np.ones((1, h, w)), kh, kw, 0).sum((-1, -2))[0]
    expected = 1 - (1 - gamma) ** reach
    found = dropped.mean(0)
    assert all(close(f, e, 3000) for f, e in zip(found.flat, expected.flat, strict=True))
    if kh % 2 and kw % 2:
        centres = windows(dropped, kh, kw, True).all((-1, -2))
        assert (windows(centres, kh, kw, False).any((-1, -2)) == dropped).all()


@pytest.mark.parametrize("size", [(11, 14), (4, 7), (2, 2)])
def test_drop_block_drops_as_much_as_timms(size: tuple[int, int]) -> None:
    torchvision_models()
    from timm.layers import DropBlock2d

    from resnet_torch.layers import build

    theirs = DropBlock2d(drop_prob=0.3, block_size=5, gamma_scale=0.25)
    ours = build(plan.DropBlock("layer", **LAYERS["DropBlock"]))
    ones = torch.ones(20_000, 2, *size)
    torch.manual_seed(0)
    a, b = ((module.train()(ones) == 0).double().mean(0) for module in (theirs, ours))
    assert float((a - b).abs().max()) < 5 * math.sqrt(2 * 0.25 / 20_000)


def test_where_they_are() -> None:
    """As in timm: rates of stochastic depth grow from 0, DropBlock is in the last two stages."""
    for name, rates in (("resnet18", DROPS), ("resnetv2_50", DROPS)):
        p = compile_plan(resolve(name, rates))
        paths = [x for x in p.layers() if isinstance(x, plan.DropPath)]
        blocks = list(p.blocks())
        assert [x.rate for x in paths] == [
            pytest.approx(0.4 * i / (len(blocks) - 1)) for i in range(1, len(blocks))
        ]
        squares = [x for x in p.layers() if isinstance(x, plan.DropBlock)]
        assert [x.block_size for x in squares] == [
            size for stage, size in zip(p.stages[-2:], (5, 3), strict=True) for _ in stage.blocks
        ]
        assert [x.rate for x in p.head if isinstance(x, plan.Dropout)] == [0.3]
        # Weights do not depend on them.
        assert list(p.parameters()) == list(compile_plan(resolve(name)).parameters())


def test_timms_rates_of_stochastic_depth() -> None:
    torchvision_models()
    import timm

    theirs = timm.create_model("resnet50", drop_path_rate=0.4)
    p = compile_plan(resolve("resnet50", {"drop_path_rate": 0.4}))
    found = {n: m.drop_prob for n, m in theirs.named_modules() if n.endswith("drop_path")}
    ours = {x.name: x.rate for x in p.layers() if isinstance(x, plan.DropPath)}
    assert ours == {name: pytest.approx(rate) for name, rate in found.items()}


@pytest.mark.parametrize("pre_activation", [False, True])
def test_a_whole_net(worker: Worker, tmp_path: Path, pre_activation: bool) -> None:
    """In training it draws, as the seed says; in evaluation it is the net without."""
    fields = {"depths": [1, 2], "block": "bottleneck", "widths": [8, 16], "stem_width": 8}
    spec = resolve("resnet50", fields | {"num_classes": 5, "pre_activation": pre_activation})
    dropping = spec.override(**DROPS)
    first, again, other = (
        worker.call("probe", function="dropping:training_pass", spec=dropping.to_dict(), seed=seed)
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first[0] != first[1]
    # Another seed has other weights too, and its draws are its own.
    assert other != first
    names = ("weights", "images", "a", "b")
    paths = {name: str(tmp_path / f"{name}.safetensors") for name in names}
    write_safetensors(paths["weights"], Checkpoint(initial_weights(compile_plan(spec))))
    write_safetensors(paths["images"], Checkpoint({"images": random_images((2, 32, 32, 3))}))
    for which, output in ((spec, "a"), (dropping, "b")):
        worker.call(
            "predict",
            spec=which.to_dict(),
            weights=paths["weights"],
            dtype="float32",
            images=paths["images"],
            outputs=paths[output],
        )
    a, b = (read_safetensors(paths[x]).state["logits"] for x in ("a", "b"))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("engine", ["keras:tensorflow", "keras:jax", "keras:torch"])
def test_no_two_layers_draw_the_same(pool: Pool, tmp_path: Path, engine: str) -> None:
    """Nor do they after a Keras model was saved and loaded: its file holds no generator's state."""
    spec = resolve("resnet18", DROPS | {"depths": [2, 2], "widths": [8, 8], "stem_width": 8})
    made, loaded, cloned = pool[engine].call(
        "probe",
        function="dropping:seeds_of_a_loaded_model",
        spec=spec.to_dict(),
        file=str(tmp_path / "m.keras"),
    )
    assert made == loaded
    for states in (made, cloned):
        assert len(states) == 3 + 4 + 1
        assert len({tuple(state) for state in states}) == len(states)
