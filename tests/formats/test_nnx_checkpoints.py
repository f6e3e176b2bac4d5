"""Checkpoints of NNX's own states: orbax writes them, with optimizers, counters and steps around
the net, and what is read is what the model held.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resnet_parity.convert.conversion import convert
from resnet_parity.engines import job
from shared_spec import ResNetError, ResNetSpec, digest, read_safetensors, resolve
from shared_spec.formats.read import Asked
from tests.conftest import Pool

SMALL: dict[str, Any] = {"depths": [1, 1], "widths": [8, 16], "num_classes": 4}
SPECS = {
    "dropout": resolve("resnet18", SMALL | {"stem_width": 8, "drop_rate": 0.1}),
    "pre-activation": resolve("resnetv2_50", SMALL | {"stem_width": 8}),
    "no statistics": resolve("resnetv2_50x1_bit", SMALL | {"widths": [32, 64]}),
}
OUT = "left out, beside the net: "
FORMS: dict[str, tuple[str | None, list[str]]] = {
    "state": (None, []),
    "pure": (None, []),
    "pytree": (None, []),
    "list": (None, []),
    "parts": (None, [f"{OUT}rngs"]),
    "training": (None, [f"{OUT}optimizer, step"]),
    "moments": (None, [f"{OUT}adam"]),
    "training in pure dicts": (None, [f"{OUT}opt, step"]),
    "inside": (None, [f"{OUT}model/neck"]),
    "managed": (None, ["read at the last of its 3 steps, 10"]),
    "named steps": (None, []),
    "composite": (None, [f"{OUT}optimizer"]),
    "two": ("ema", [f"{OUT}model"]),
    "averaged parameters": ("ema_params/", [f"{OUT}params"]),
}
"""How it is saved, to the part asked for and what is told."""

Saved = tuple[ResNetSpec, Path, str]


@pytest.fixture(autouse=True)
def reuse_workers(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "Worker", pool.start)


@pytest.fixture(scope="module", params=SPECS)
def saved(
    request: pytest.FixtureRequest, pool: Pool, tmp_path_factory: pytest.TempPathFactory
) -> Saved:
    spec, folder = SPECS[request.param], tmp_path_factory.mktemp("saved")
    found = probe(pool, "saved", folder=str(folder), spec=spec.to_dict())
    assert set(found["forms"]) == set(FORMS)
    return spec, folder, found["digest"]


def probe(pool: Pool, name: str, **arguments: Any) -> Any:
    return pool["flax"].call("probe", function=f"nnx_checkpoints:{name}", **arguments)


@pytest.mark.parametrize("form", FORMS)
def test_what_orbax_writes_is_read(pool: Pool, saved: Saved, form: str) -> None:
    (spec, folder, expected), (part, notes) = saved, FORMS[form]
    asked: dict[str, Any] = {"path": str(folder / form), "spec": spec.to_dict()}
    found, told = probe(pool, "read", **asked, part=part)
    assert found == expected
    if spec is SPECS["dropout"] or form != "parts":  # only dropout has random states
        assert told == notes
    if part is not None:
        with pytest.raises(ResNetError, match="holds 2 ResNets, and which one is meant is not"):
            probe(pool, "read", **asked, part=None)
        with pytest.raises(ResNetError, match="there is no ResNet at 'teacher'; there are"):
            probe(pool, "read", **asked, part="teacher")


@pytest.mark.parametrize("form", ["state", "parts", "training in pure dicts"])
def test_what_orbax_restores_is_loaded(pool: Pool, saved: Saved, form: str) -> None:
    spec, folder, expected = saved
    found = probe(pool, "loaded", path=str(folder / form), spec=spec.to_dict())
    assert found == expected


@pytest.mark.parametrize("form", ["managed", "two"])
def test_they_are_converted(saved: Saved, form: str, tmp_path: Path) -> None:
    (spec, folder, expected), (part, notes) = saved, FORMS[form]
    target = tmp_path / "a.safetensors"
    done = convert(folder / form, target, spec, asked=Asked(part))
    assert list(done.notes) == notes
    assert digest(read_safetensors(target).state) == expected


def test_a_directory_of_steps_is_not_taken_for_a_checkpoint_to_replace(
    saved: Saved, tmp_path: Path
) -> None:
    spec, folder, _ = saved
    with pytest.raises(ResNetError, match="is a directory"):
        convert(folder / "state", folder / "managed", spec)
    assert (folder / "managed" / "8").is_dir()


def test_a_step_without_trees(pool: Pool, saved: Saved, tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "_CHECKPOINT_METADATA").write_text("{}")
    with pytest.raises(ResNetError, match="7: holds no tree of arrays"):
        probe(pool, "read", path=str(tmp_path), spec=saved[0].to_dict(), part=None)
