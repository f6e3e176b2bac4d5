"""Recipes: those that are shipped, and a user's changes to one."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shared_spec.errors import RecipeError, did_you_mean
from shared_spec.spec.files import SUFFIXES
from shared_spec.training.state import IGNORED
from shared_spec.weights.initialize import generator

if TYPE_CHECKING:
    from shared_spec.spec.resnet_spec import ResNetSpec
    from shared_spec.training.optimization import Optimization
    from shared_spec.training.recipe import Recipe

DROP_RATES = ("drop_rate", "branch_drop_rate", "drop_path_rate", "drop_block_rate")
"""Fields of a spec; nets for segmentation have `head_drop` too."""


def shipped() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = Path(str(files("resnet_parity") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(text: str) -> Recipe:
    """A recipe from the name of one that comes with the package, or from a file.

    Raises:
        RecipeError: if there is no such recipe, or it is not valid.
    """
    from shared_spec.training.recipe import load_recipe

    known = shipped()
    if text in known:
        return load_recipe(known[text])
    if Path(text).suffix.lower() in SUFFIXES:
        return load_recipe(text)
    near = did_you_mean(text, known) or f"; known: {', '.join(known)}, or the path of a YAML file"
    raise RecipeError(f"recipe: there is no {text!r}{near}")


def changed(recipe: Recipe, data: str | None, changes: Sequence[str]) -> Recipe:
    """A recipe with fields replaced; `a.b=c` reaches into one.

    Raises:
        RecipeError: if a change is not of that form, or the recipe is no longer valid.
    """
    import yaml

    from shared_spec.training.recipe import Recipe

    fields, whole = recipe.to_dict(), recipe.model_dump(mode="json")
    if data is not None:
        fields["data"] = {**fields["data"], "path": data}
    for text in changes:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise RecipeError(f"--set: {text!r} is not of the form FIELD=VALUE")
        *outer, last = name.split(".")
        inner, full = fields, whole
        for part in outer:
            known = full.get(part)
            full = known if isinstance(known, dict) else {}
            inner = inner.setdefault(part, full)
            if not isinstance(inner, dict):
                raise RecipeError(f"--set: {part!r} of {name!r} has no fields")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            raise RecipeError(f"--set: {value!r} is not a valid YAML value") from None
        if parsed is None:
            inner.pop(last, None)
        else:
            inner[last] = parsed
        # Of the two ways to give the length, the one that is set counts.
        if name in ("steps", "epochs"):
            fields.pop("epochs" if name == "steps" else "steps", None)
    return Recipe.parse(fields)


def comparison_optimization(precision: str = "float64") -> Optimization:
    """What engines are compared with: it has a case for every rule in which frameworks differ.

    The learning rate is one at which a net of random weights trains along a stable path. At ten
    times as much, a ResNet-50 multiplies any difference by about 4 a step: rounding would be 1e-8
    after eight steps, between any two engines, and what is compared would be chaos.
    """
    from shared_spec.training.optimization import optimization

    return optimization(
        optimizer={"name": "sgd", "momentum": 0.9, "nesterov": True},
        learning_rate=1e-3,
        warmup={"steps": 2, "start": 0.5},
        schedule={"name": "step", "at": [8, 16], "by": 0.5},
        weight_decay=1e-3,
        decay_norms=False,
        label_smoothing=0.1,
        clip_norm=1.0,
        ema_decay=0.9,
        precision=precision,
    )


def without_drops(spec: ResNetSpec) -> tuple[ResNetSpec, list[str]]:
    """The net without its dropout, for which engines draw different numbers, and the fields of the
    spec that were set to 0.
    """
    dropped = [name for name in DROP_RATES if getattr(spec, name)]
    changes: dict[str, object] = dict.fromkeys(dropped, 0.0)
    if spec.segmentation != "none" and spec.head_drop:
        changes["head_drop"] = False
    return spec.override(**changes), [*changes]


def random_labels(spec: ResNetSpec, shape: Sequence[int], seed: int, name: str) -> np.ndarray:
    """Labels of images [N, H, W, C], each drawn by the seed and the name: of every image, or for
    segmentation of every pixel, some of which count for nothing.
    """
    classes, draw = spec.num_classes, generator(seed, name)
    if spec.segmentation == "none":
        return draw.integers(0, classes, shape[0]).astype(np.int64)
    labels = draw.integers(0, classes + 1, tuple(shape[:3])).astype(np.int64)
    return np.where(labels == classes, IGNORED, labels)
