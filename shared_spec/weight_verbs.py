"""The verbs on weights that the three backends share."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from shared_spec.catalogue.resolve import ModelLike, resolve
from shared_spec.errors import (
    WeightsError,
    WeightsWarning,
)
from shared_spec.formats.detect import Opener
from shared_spec.formats.in_memory import open_in_memory
from shared_spec.formats.name_map import NameMap, read_names
from shared_spec.formats.read import Asked, read_checkpoint, read_source
from shared_spec.formats.variables import net_in
from shared_spec.formats.write import Save, described, target_format, write_checkpoint
from shared_spec.origin import completed, fetched
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.folding import require_trained
from shared_spec.plan.layers import Parameter
from shared_spec.plan.network import Plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.folding import weights_for
from shared_spec.weights.layouts import ParameterLayout
from shared_spec.weights.lazy_array import LazyArrays
from shared_spec.weights.preprocessing import Preprocessing
from shared_spec.weights.state import (
    State,
    WeightsLike,
    check_native,
    replaced,
)


class PlannedModel(Protocol):
    """A model of any backend."""

    preprocessing: Preprocessing | None
    """What images need before they enter it, if its weights tell."""
    labels: tuple[str, ...] | None
    """The names of its classes, if its weights tell."""

    @property
    def plan(self) -> Plan:
        """What it was built from."""

    @property
    def spec(self) -> ResNetSpec:
        """What the plan was compiled from."""


Model = TypeVar("Model", bound=PlannedModel)
Names = NameMap | str | os.PathLike[str]


class WeightVerbs(ABC, Generic[Model]):
    """The verbs on weights: what is the framework's is in the methods that a backend adds."""

    layouts: Mapping[str, ParameterLayout]
    openers: Mapping[str, Opener] = {}
    """Kinds of checkpoints that only this framework can open."""
    keeps_arrays = True
    """Whether `assign` may keep the array that it is given."""

    def export_weights(self, model: Model) -> State:
        """The model's weights as numpy arrays under canonical names: a copy.

        Examples:
            >>> other = resnet_flax.create_model("resnet50")
            >>> resnet_flax.load_weights(other, resnet_torch.export_weights(model))

        Raises:
            WeightsError: if a layer was replaced by one that its plan lacks, or has other settings.
        """
        self.follow(model)
        require_trained(model.plan, "to export")
        self.require_values(model)
        return self.held(model)

    def held(self, model: Model) -> State:
        """As `export_weights`; of an inference form, the arrays that it has itself."""
        self.check_layers(model)
        natives = self.natives(model)
        return {
            q.name: self.layouts[q.role].to_canonical(self.copied(natives[q.name]))
            for q in model.plan.parameters()
        }

    def load_weights(
        self,
        model: Model,
        weights: WeightsLike,
        *,
        part: str | None = None,
        names: Names | None = None,
    ) -> Model:
        """Load weights that are in memory, or a checkpoint of any kind (orbax needs Flax), strictly
        and in place.

        Examples:
            >>> model = load_weights(create_model("resnet50"), "resnet50.pth")
            >>> load_weights(model, torch.load("resnet50.pth", weights_only=True))
            >>> load_weights(model, nnx.state(flax_model))
            >>> load_weights(model, keras_model.variables)

        Args:
            model: the model.
            weights: see `read_checkpoint`.
            part: see `read_checkpoint`.
            names: see `read_checkpoint`.

        Raises:
            WeightsError: with every mismatch in its `mismatches`; the model is then unchanged.

        Warns:
            WeightsWarning: of what else a file holds, which is left out, and what was assumed.
        """
        self.follow(model)
        checkpoint = self.read_checkpoint(weights, model.spec, part=part, names=names)
        warn_of_notes(checkpoint, weights)
        # Read whole before anything is assigned.
        state = weights_for(model.plan, checkpoint.state, self.dtype_name(model), weights)
        natives = self.natives(model)
        shapes = {name: tuple(native.shape) for name, native in natives.items()}
        check_native(shapes, model.plan, self.layouts)
        for q in model.plan.parameters():
            array = self.layouts[q.role].to_native(state[q.name], own=self.keeps_arrays)
            self.assign(natives[q.name], array)
        remember(model, checkpoint)
        return model

    def save_weights(
        self,
        model: Model | Mapping[str, np.ndarray],
        path: str | os.PathLike[str],
        checkpoint: Checkpoint | None = None,
        *,
        format: str | None = None,
    ) -> None:
        """Write a model's weights durably, in the format that the suffix or `format` asks for.

        Examples:
            >>> save_weights(model, "resnet50.safetensors")
            >>> save_weights(model, "resnet50", format="huggingface")

        Args:
            model: the model, or its canonical weights.
            path: `.safetensors` is the canonical file; `.pth`, `.keras`, `.weights.h5`, `.h5` and
                `.msgpack` are those of the frameworks and libraries, no suffix a directory.
            checkpoint: may carry preprocessing and labels in place of the model's own, and the spec
                for weights without a model, whose net is else looked for in the catalogue.
            format: whose names, as in `resnet-parity convert --to`: `"huggingface"` for a directory
                of transformers, for example.

        Raises:
            ResNetError: if the format is unknown, has no such net, or needs another framework.
        """
        if isinstance(model, Mapping):
            whole = described(model, checkpoint)
        else:
            known = checkpoint or remembered(model)
            whole = described(self.export_weights(model), known, model.spec)
            if target_format(path, format).name != "keras":  # which has the model itself
                self.check_saved(model)
        write_checkpoint(path, whole, format, self.writers(model))

    def read_checkpoint(
        self,
        weights: WeightsLike,
        spec: ModelLike | None = None,
        *,
        part: str | None = None,
        names: Names | None = None,
    ) -> Checkpoint:
        """Canonical weights from memory or from a checkpoint of any kind (orbax needs Flax).

        Examples:
            >>> read_checkpoint("resnet50.pth").state["conv1.weight"].shape
            (64, 3, 7, 7)

        Args:
            weights: a path; canonical names to numpy arrays, or to tensors, arrays and variables of
                any framework on any device (a PyTorch state dict; its counters are left out); a
                tree of them under Flax's paths, such as `nnx.State`; or the variables of our Keras
                model, in a list or by their paths.
            spec: the net, if the weights do not identify it, as `create_model` takes it.
            part: which of several nets in a file, by its place: `teacher/backbone.`.
            names: a map from names in a file, or beginnings of names, to canonical ones; or the
                path of a YAML file with it.

        Raises:
            WeightsError: if the file is missing, damaged, or needs another framework, or the
                weights are of another kind.
        """
        if isinstance(weights, LazyArrays):  # what this has returned before
            return Checkpoint(weights)
        net = None if spec is None else resolve(spec)
        if isinstance(weights, str | os.PathLike):
            given = read_names(names) if isinstance(names, str | os.PathLike) else names
            asked = Asked(part, given)
            found = read_checkpoint(fetched(weights), net, self.openers, asked=asked)
            return completed(found, weights)
        if part is not None or names is not None:
            raise WeightsError(
                "part, names: only for files; weights in memory have to be the net's"
            )
        source = open_in_memory(weights)
        if source.kind != "flax":
            return read_source(source, net)
        source, notes = net_in(source, None)
        found = read_source(source, net)
        return replace(found, notes=notes + found.notes)

    def follow(self, model: Model) -> None:
        """Have plan and spec follow a classifier of another width that a user has put in, as
        `model.fc = nn.Linear(512, 10)` does.

        Raises:
            WeightsError: if the model is none that `create_model` made.
        """
        if not hasattr(model, "plan"):
            raise WeightsError(
                f"expected a model that create_model made, got {type(model).__name__}; one with "
                f"such a model inside is saved as its framework does, and convert reads the file"
            )
        found = model.plan.classifier
        if found is None or model.plan.trained is not None:
            return
        try:
            classifier = self.modules(model)(found.name)
        except (AttributeError, KeyError):
            return  # to be named when the layers are looked at
        width = getattr(classifier, "out_features", getattr(classifier, "out_channels", None))
        if isinstance(width, int) and width not in (0, model.spec.num_classes):
            spec = model.spec.override(num_classes=width)
            self.set_spec(model, compile_plan(spec), spec)
            model.labels = None

    def set_spec(self, model: Model, p: Plan, spec: ResNetSpec) -> None:
        """Give a model another plan and spec."""
        native: Any = model
        native.plan, native.spec = p, spec

    @abstractmethod
    def check_layers(self, model: Model) -> None:
        """Hold the layers against the plan: no weights would tell of other settings.

        Raises:
            WeightsError: naming the first that was replaced or has another setting.
        """

    def require_values(self, model: Model) -> None:
        """Raise a `WeightsError` if the model has shapes alone."""
        return

    def check_saved(self, model: Model) -> None:
        """Say what of a model no spec and no weights can tell.

        Raises:
            WeightsError: if its outputs would be others.
        """
        return

    @abstractmethod
    def dtype_name(self, model: Model) -> str:
        """The dtype of the model's parameters.

        Examples:
            >>> dtype_name(create_model("resnet18", dtype="bfloat16"))
            'bfloat16'
        """

    @abstractmethod
    def modules(self, model: Model) -> Callable[[str], Any]:
        """What finds the model's own module at a dotted path of the plan."""

    @abstractmethod
    def copied(self, native: Any) -> np.ndarray:
        """A copy of what a variable holds, in its own layout."""

    @abstractmethod
    def assign(self, native: Any, array: np.ndarray) -> None:
        """Give a variable a value, in its own layout."""

    def native(self, modules: Callable[[str], Any], q: Parameter) -> Any:
        """The model's own variable of a parameter.

        Raises:
            WeightsError: if its layer was replaced.
        """
        try:
            native = getattr(modules(q.module), self.layouts[q.role].leaf)
            native.shape  # noqa: B018 - a layer without a bias has None for it
        except (AttributeError, KeyError):
            raise replaced(q.module) from None
        return native

    def natives(self, model: Model) -> dict[str, Any]:
        """The model's own variables, by canonical name."""
        modules = self.modules(model)
        return {q.name: self.native(modules, q) for q in model.plan.parameters()}

    def writers(self, model: Model | Mapping[str, np.ndarray]) -> Mapping[str, Save]:
        """Formats that only this framework can write, with what writes `model` so."""
        return {}


def remember(model: PlannedModel, checkpoint: Checkpoint) -> None:
    """Have a model know the preprocessing and the labels of its weights, as far as they are true of
    its own channels and classes.
    """
    prepare, labels, spec = checkpoint.preprocessing, checkpoint.labels, model.spec
    if prepare is not None and len(prepare.mean) != spec.in_channels:
        prepare = prepare.for_channels(spec.in_channels)
    if labels is not None and len(labels) != spec.num_classes:
        labels = None
    # NNX counts what was ever set among a module's attributes.
    if model.preprocessing != prepare:
        model.preprocessing = prepare
    if model.labels != labels:
        model.labels = labels


def remembered(model: PlannedModel) -> Checkpoint:
    """What a model knows of its weights, and no arrays.

    Raises:
        WeightsError: if what was set as its labels or its preprocessing cannot be that.
    """
    labels: Any = model.labels  # a user may have set anything
    prepare: Any = model.preprocessing
    classes = model.spec.num_classes
    if prepare is not None and not isinstance(prepare, Preprocessing):
        raise WeightsError(
            f"model.preprocessing: expected a Preprocessing, got {type(prepare).__name__}"
        )
    if labels is None:
        return Checkpoint({}, model.spec, prepare)
    texts = not isinstance(labels, str) and all(isinstance(label, str) for label in labels)
    if not texts or len(labels) != classes:
        raise WeightsError(
            f"model.labels: expected {classes} texts, one a class, got {labels!r:.80}"
        )
    return Checkpoint({}, model.spec, prepare, tuple(labels))


def warn_of_notes(checkpoint: Checkpoint, weights: object) -> None:
    """Warn of what a file's reader has to say: nobody else would see it."""
    if checkpoint.notes:
        warnings.warn(f"{weights}: {'; '.join(checkpoint.notes)}", WeightsWarning, stacklevel=3)
