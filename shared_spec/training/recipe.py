"""A recipe: which net to train, on what, and how; a YAML, TOML or JSON file."""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import Field, model_validator

from shared_spec.catalogue.resolve import resolve
from shared_spec.errors import RecipeError
from shared_spec.plan.compiler import compile_plan
from shared_spec.spec.files import read_declaration
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.training.data_spec import Augmentations, DataSpec
from shared_spec.training.optimization import Optimization
from shared_spec.training.state import require_classes
from shared_spec.weights.preprocessing import Preprocessing

Count = Annotated[int, Field(strict=True, ge=1, le=10**9)]


class Recipe(Optimization):
    """All that a training depends on. The classes and channels of the net follow from the data."""

    title = ("Recipe", "A training for resnet-parity")

    description: str = Field(default="", max_length=2000)
    model: str | dict[str, Any]
    """A name of the catalogue, a spec file, or the fields of a spec."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Fields of the spec that are replaced."""
    weights: str | None = None
    """What to start from: a checkpoint of any kind. Another number of classes gets a new head."""
    data: DataSpec
    """The data set."""
    augmentation: Augmentations = ()
    """Of training images, in order."""
    preprocessing: dict[str, Any] | None = None
    """Size, crop, mean and std of the inputs; what is left out is the size of the images, and mean
    and std are measured on the training data."""
    batch_size: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 128
    steps: Count | None = None
    """Updates; or give epochs."""
    epochs: Count | None = None
    """Passes over the training data."""
    evaluate_every: Count | None = None
    """Steps between looks at the held-out data; an epoch if left out."""
    save_every: Count | None = None
    """Steps between checkpoints; as evaluate_every if left out."""

    @model_validator(mode="after")
    def _length(self) -> Recipe:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("steps or epochs: give one of them")
        return self

    @property
    def optimization(self) -> Optimization:
        """The part that a backend's trainer takes."""
        return Optimization(**{name: getattr(self, name) for name in Optimization.model_fields})

    def spec(self, classes: int, channels: int, size: int) -> ResNetSpec:
        """The net, for data of so many classes, channels and pixels a side.

        Raises:
            ResNetError: if the model is unknown or its options are not valid.
        """
        base = resolve(self.model) if isinstance(self.model, str) else self._inline()
        derived = {"num_classes": classes, "in_channels": channels, "image_size": size}
        for field in ("num_classes", "in_channels"):
            if self.options.get(field, derived[field]) != derived[field]:
                raise RecipeError(
                    f"recipe: options.{field}: {self.options[field]}, and the data has "
                    f"{derived[field]}"
                )
        return base.override(**(derived | self.options))

    def _inline(self) -> ResNetSpec:
        return ResNetSpec.parse(self.model, "recipe: model")

    def check_parts(self, spec: ResNetSpec) -> None:
        """Check that the parts that `freeze` and `rates` name are there.

        Raises:
            RecipeError: naming the part that is not.
        """
        require_classes(spec)
        self.updates(compile_plan(spec))

    def length(self, per_epoch: int) -> int:
        """How many steps the whole training has."""
        return self.steps if self.steps is not None else (self.epochs or 0) * per_epoch

    def measured(self, mean: tuple[float, ...], std: tuple[float, ...], size: int) -> Preprocessing:
        """Preprocessing, where what the recipe leaves out was measured.

        Raises:
            ResNetError: if what the recipe says is not valid.
        """
        given = self.preprocessing or {}
        whole = {"image_size": size, "crop": 1.0, "mean": mean, "std": std} | given
        return Preprocessing.parse(whole, "recipe: preprocessing")


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe file.

    Raises:
        RecipeError: if the file is missing, over 100 kB, not of its suffix's format, or no recipe.
    """
    return Recipe.parse(read_declaration(path, "recipe", RecipeError), str(path))
