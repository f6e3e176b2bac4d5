"""What the public verbs of the three backends share."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from shared_spec.catalogue import CATALOGUE
from shared_spec.catalogue.resolve import ModelLike, resolve
from shared_spec.download import download, is_reference
from shared_spec.errors import (
    FrameworkError,
    ImageError,
    SpecError,
    WeightsError,
    WeightsWarning,
)
from shared_spec.formats.detect import Opener
from shared_spec.formats.in_memory import open_in_memory
from shared_spec.formats.name_map import NameMap, read_names
from shared_spec.formats.read import Asked, read_checkpoint, read_source
from shared_spec.formats.write import Save, described, write_checkpoint
from shared_spec.plan.folding import Inference, require_trained
from shared_spec.plan.layers import Parameter
from shared_spec.plan.network import Plan
from shared_spec.plan.summary import layer_rows
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.adapt import ASKED, read_adapted
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.folding import weights_for
from shared_spec.weights.initialize import initial_weights
from shared_spec.weights.layouts import ParameterLayout
from shared_spec.weights.lazy_array import LazyArrays
from shared_spec.weights.state import (
    State,
    WeightsLike,
    cast_weights,
    check_native,
    numpy_dtype,
    replaced,
)


class PlannedModel(Protocol):
    """A model of any backend."""

    plan: Plan
    spec: ResNetSpec


Model = TypeVar("Model", bound=PlannedModel)
Names = NameMap | str | os.PathLike[str]
Outputs = dict[str, np.ndarray]
"""What layers and blocks gave, by their canonical names."""


class WeightVerbs(ABC, Generic[Model]):
    """The verbs on weights: what is the framework's is in the methods that a backend adds."""

    layouts: Mapping[str, ParameterLayout]
    openers: Mapping[str, Opener] = {}
    """Kinds of checkpoints that only this framework can open."""
    keeps_arrays = True
    """Whether `assign` may keep the array that it is given."""

    def export_weights(self, model: Model) -> State:
        """The model's weights as numpy arrays under canonical names: a copy.

        Example:
            >>> other = resnet_flax.create_model("resnet50")
            >>> resnet_flax.load_weights(other, resnet_torch.export_weights(model))

        Raises:
            WeightsError: if a layer was replaced by one that its plan lacks.
        """
        require_trained(model.plan, "to export")
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

        Example:
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

        Example:
            >>> save_weights(model, "resnet50.safetensors")
            >>> save_weights(model, "resnet50", format="huggingface")

        Args:
            model: the model, or its canonical weights.
            path: `.safetensors` is the canonical file; `.pth`, `.keras`, `.weights.h5`, `.h5` and
                `.msgpack` are those of the frameworks and libraries, no suffix a directory.
            checkpoint: may carry preprocessing and labels, and the spec for weights without a
                model; without one, their net is looked for in the catalogue.
            format: whose names, as in `resnet-parity convert --to`: `"huggingface"` for a directory
                of transformers, for example.

        Raises:
            ResNetError: if the format is unknown, has no such net, or needs another framework.
        """
        if isinstance(model, Mapping):
            whole = described(model, checkpoint)
        else:
            whole = described(self.export_weights(model), checkpoint, model.spec)
        write_checkpoint(path, whole, format, self.writers(model))

    def read_checkpoint(
        self,
        weights: WeightsLike,
        spec: ResNetSpec | None = None,
        *,
        part: str | None = None,
        names: Names | None = None,
    ) -> Checkpoint:
        """Canonical weights from memory or from a checkpoint of any kind (orbax needs Flax).

        Example:
            >>> read_checkpoint("resnet50.pth").state["conv1.weight"].shape
            (64, 3, 7, 7)

        Args:
            weights: a path; canonical names to numpy arrays, or to tensors, arrays and variables of
                any framework on any device (a PyTorch state dict; its counters are left out); a
                tree of them under Flax's paths, such as `nnx.State`; or the variables of our Keras
                model, in a list or by their paths.
            spec: the net, if the weights do not identify it.
            part: which of several nets in a file, by its place: `teacher/backbone.`.
            names: a map from names in a file, or beginnings of names, to canonical ones; or the
                path of a YAML file with it.

        Raises:
            WeightsError: if the file is missing, damaged, or needs another framework, or the
                weights are of another kind.
        """
        if isinstance(weights, LazyArrays):  # what this has returned before
            return Checkpoint(weights)
        if isinstance(weights, str | os.PathLike):
            given = read_names(names) if isinstance(names, str | os.PathLike) else names
            return read_checkpoint(fetched(weights), spec, self.openers, asked=Asked(part, given))
        if part is not None or names is not None:
            raise WeightsError(
                "part, names: only for files; weights in memory have to be the net's"
            )
        return read_source(open_in_memory(weights), spec)

    @abstractmethod
    def dtype_name(self, model: Model) -> str:
        """The dtype of the model's parameters, such as `"float32"`."""

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


@dataclass(frozen=True)
class Build:
    """What a call of `create_model` asks of a native model beside its spec."""

    dtype: Any
    """Of parameters and computation, as the call gives it; None if it does not."""
    variables: str
    """Name of the dtype of the model's variables."""
    seed: int
    inference: Inference | bool
    native: Mapping[str, Any]
    """Keywords of the framework's own, as in `ModelVerbs.native_options`."""


class ModelVerbs(ABC, Generic[Model]):
    """The verbs on models: what is the framework's is in the methods that a backend adds."""

    weights: WeightVerbs[Model]
    native_options: frozenset[str] = frozenset()
    """Keywords of `create_model` that the framework's users know, and no spec has."""

    def __init__(self) -> None:
        self._named: dict[str, Callable[..., Model]] = {}

    def create_model(
        self,
        model: ModelLike,
        *,
        weights: WeightsLike | None = None,
        seed: int = 0,
        dtype: Any = None,
        inference: Inference | bool = False,
        **overrides: Any,
    ) -> Model:
        """Build a model, in training mode where its framework's models have one.

        Example:
            >>> model = create_model("resnet50", weights="resnet50.pth", num_classes=10)

        Args:
            model: a catalogue name, a `ResNetSpec`, or the path of a YAML, TOML or JSON spec file.
            weights: None for fresh weights; the path of a checkpoint; `"hf-hub:owner/name"`; or
                weights in memory, as `read_checkpoint` takes them. They have to fit, except where
                an override of `in_channels`, `num_classes` or `features_only` changes the net: see
                `shared_spec.weights.adapt`.
            seed: of the fresh weights, which are bit-identical in every framework.
            dtype: of parameters and computation: float64 (in JAX with `jax_enable_x64`), float32
                (the default), float16 or bfloat16.
            inference: True for the form that is fastest in inference, in evaluation mode and with
                its batch norms folded into the convolutions; an `Inference` chooses among such
                forms. It computes the same logits except for rounding, and can neither be trained
                nor saved.
            **overrides: any field of the spec, such as `num_classes=10, in_channels=1`.

        Raises:
            ResNetError: with one sentence, if the name, spec, dtype or weights are not valid.
        """
        native = {k: overrides.pop(k) for k in sorted(self.native_options & set(overrides))}
        spec = resolve(model, overrides)
        variables = self._variable_dtype(dtype, native)
        numpy_dtype(variables)
        if variables == "float64" and not self._has_float64():
            raise FrameworkError(
                "dtype: float64 needs jax.config.update('jax_enable_x64', True) before JAX is used"
            )
        net = self._build(spec, Build(dtype, variables, seed, inference, native))
        if weights is None:
            return self._initialise(net, seed, variables)
        # Without the overrides that ask for weights to be adapted.
        before = resolve(model, {k: v for k, v in overrides.items() if k not in ASKED})

        def read(weights: WeightsLike, spec: ResNetSpec) -> Checkpoint:
            checkpoint = self.weights.read_checkpoint(weights, spec)
            warn_of_notes(checkpoint, weights)
            return checkpoint

        adapted = read_adapted(read, weights, (spec, before), overrides, seed)
        return self.weights.load_weights(net, adapted)

    def compiled(self, model: Model) -> Callable[[Any], Any]:
        """The model in evaluation mode as a function, compiled as is fastest on the device at hand:
        for many calls with weights that no longer change (what it gives after they do is not
        defined). The first call of each size compiles, which in PyTorch takes up to a minute on
        CPUs.

        Example:
            >>> forward = compiled(model)
            >>> logits = forward(images)

        Returns:
            A function that takes and gives what `model` does, as its framework's tensors: images
            [N, H, W, C], or [N, C, H, W] in PyTorch, to [N, num_classes].
        """
        return self._compile(model)

    def predict(self, model: Model, images: np.ndarray, *, batch_size: int = 64) -> Any:
        """Logits in evaluation mode; in Keras and Flax, compiled.

        Example:
            >>> predict(model, np.zeros((1, 224, 224, 3), np.float32)).shape
            (1, 1000)

        Args:
            model: the model; it keeps its mode.
            images: [N, H, W, C], already normalised.
            batch_size: images computed at a time.

        Returns:
            [N, num_classes] of the model's dtype, or [N, features] if it has no classes; a list of
            [N, H, W, C] for a features-only model.

        Raises:
            ImageError: saying what was given and what the model takes.
        """
        return concatenate_outputs(self._outputs(model, batches(images, model.plan, batch_size)))

    def activations(
        self, model: Model, images: np.ndarray, names: Iterable[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Outputs of the named layers and blocks (all blocks if None), in evaluation mode.

        Example:
            >>> activations(model, images, ["conv1", "layer1.0"])["layer1.0"].shape
            (1, 56, 56, 256)

        Returns:
            Canonical name to array, channels last: [N, H, W, C], or [N, C] after the global pool.

        Raises:
            ResNetError: if the images do not fit the model, or it has no layer of such a name.
        """
        images = as_images(images, model.plan)
        return self._recorded(model, images, activation_names(model.plan, names))

    def run_parts(self, model: Model, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of layers and blocks, each on its own input and apart from the rest, in
        evaluation mode: the name to the input, and in the answer to the output, all channels last.

        Example:
            >>> run_parts(model, {"maxpool": np.zeros((1, 112, 112, 64), np.float32)})

        Raises:
            SpecError: if the model has no layer or block of such a name.
        """
        names = activation_names(model.plan, inputs)
        return self._parts(model, {name: inputs[name] for name in names})

    def parameter_count(self, model: Model) -> int:
        """Number of trainable scalars in the native model.

        Example:
            >>> parameter_count(create_model("resnet50"))
            25557032
        """
        return sum(self._sizes(model))

    def _variable_dtype(self, dtype: Any, native: Mapping[str, Any]) -> str:
        """Name of the dtype of the variables that a call asks for."""
        return "float32" if dtype is None else dtype

    @abstractmethod
    def _build(self, spec: ResNetSpec, build: Build) -> Model:
        """A native model whose weights are still to be filled in."""

    def _initialise(self, model: Model, seed: int, dtype: str) -> Model:
        """`model` with weights drawn from `seed`."""
        trained = model.plan.trained or model.plan
        return self._fill(model, cast_weights(initial_weights(trained, seed), dtype))

    def _fill(self, model: Model, state: State) -> Model:
        """`model` with fresh weights that are nobody else's."""
        return self.weights.load_weights(model, state)

    def _has_float64(self) -> bool:
        """Whether the framework computes in float64 as it is set up."""
        return True

    @abstractmethod
    def _compile(self, model: Model) -> Callable[[Any], Any]:
        """The model as a function, compiled for evaluation."""

    @abstractmethod
    def _sizes(self, model: Model) -> Iterator[int]:
        """The number of scalars in each array that trains."""

    @abstractmethod
    def _outputs(self, model: Model, chunks: list[np.ndarray]) -> list[Any]:
        """For each chunk of a batch what the model gives: an array, or a list of feature maps."""

    @abstractmethod
    def _recorded(self, model: Model, images: np.ndarray, names: list[str]) -> Outputs:
        """What the layers and blocks of these names gave for checked images."""

    @abstractmethod
    def _parts(self, model: Model, inputs: Mapping[str, np.ndarray]) -> Outputs:
        """What layers and blocks give, each for its own input."""

    def named_model(self, name: str) -> Callable[..., Model]:
        """The function called as a model of the catalogue: `resnet50(**fields)` is
        `create_model("resnet50", **fields)`. It is a package's `__getattr__`.
        """
        package, entry = type(self).__module__, CATALOGUE.get(name)
        if entry is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")

        def build(**options: Any) -> Model:
            return self.create_model(name, **options)

        build.__name__ = build.__qualname__ = name
        build.__module__ = package
        note = f" ({entry.note})" if entry.note else ""
        build.__doc__ = f"`create_model({name!r}, ...)`{note}. Source: {entry.source}."
        return self._named.setdefault(name, build)


def warn_of_notes(checkpoint: Checkpoint, weights: object) -> None:
    """Warn of what a file's reader has to say: nobody else would see it."""
    if checkpoint.notes:
        warnings.warn(f"{weights}: {'; '.join(checkpoint.notes)}", WeightsWarning, stacklevel=3)


def fetched(
    weights: str | os.PathLike[str], progress: Callable[[int, int | None], None] | None = None
) -> Path:
    """The path of a checkpoint, downloaded first if it is on the hub or at a URL.

    Raises:
        WeightsError: if it cannot be had.
    """
    if is_reference(weights):
        return download(str(weights), progress=progress)
    return Path(weights)


def as_images(images: object, p: Plan) -> np.ndarray:
    """Check a batch of images for a model: a real array [N, H, W, C] with the model's channels.

    Raises:
        ImageError: saying what was given and what the model takes.
    """
    try:
        array = np.asarray(images)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
    except (ValueError, TypeError) as error:
        raise ImageError(f"images: expected an array of numbers ({error})") from None
    numeric = array.dtype.kind in "fiu" and array.dtype.itemsize <= 8
    if not numeric and array.dtype.name != "bfloat16":
        raise ImageError(f"images: expected an array of numbers, got dtype {array.dtype}")
    if array.ndim != 4 or array.shape[0] == 0 or array.shape[3] != p.in_channels:
        raise ImageError(
            f"images: expected shape [N, height, width, {p.in_channels}] with N of at least 1, "
            f"got {list(array.shape)}"
        )
    try:
        layer_rows(p, (array.shape[1], array.shape[2]))
    except SpecError as error:
        raise ImageError(f"images: {error}") from None
    return array


def concatenate_outputs(outputs: Sequence[Any]) -> Any:
    """A model's outputs for the parts of a batch, joined: an array, or a list of arrays for a
    features-only model.
    """
    if isinstance(outputs[0], list):
        return [concatenate_outputs(level) for level in zip(*outputs, strict=True)]
    return np.concatenate([np.asarray(chunk) for chunk in outputs])


def batches(images: object, p: Plan, size: int) -> list[np.ndarray]:
    """Checked images in parts of at most `size`.

    Raises:
        ImageError: as `as_images`, and if `size` is less than 1.
    """
    if not isinstance(size, int) or size < 1:
        raise ImageError(f"batch_size: {size} is not a number of images; give at least 1")
    array = as_images(images, p)
    return [array[i : i + size] for i in range(0, len(array), size)]


def activation_names(p: Plan, names: object) -> list[str]:
    """The names asked of `activations`: all blocks if None.

    Raises:
        SpecError: naming one that the plan lacks, or if there are none.
    """
    blocks = [block.name for block in p.blocks()]
    if names is None:
        return blocks
    if not isinstance(names, Iterable) or isinstance(names, str):
        raise SpecError("activations: expected the names of layers and blocks in a list")
    wanted = [str(name) for name in names]
    if not wanted:
        raise SpecError("activations: name at least one layer or block")
    known = {*blocks, *(layer.name for layer in p.layers())}
    for name in wanted:
        if name not in known:
            raise SpecError(f"activations: the model has no layer or block named {name!r}")
    return wanted
