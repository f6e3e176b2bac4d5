"""The verbs on models that the three backends share."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Literal

import numpy as np

from shared_spec.atomic_write import durable, workspace
from shared_spec.catalogue import CATALOGUE
from shared_spec.catalogue.resolve import ModelLike, resolve
from shared_spec.errors import (
    FrameworkError,
    ImageError,
    SpecError,
    WeightsError,
    WeightsWarning,
    arguments_as,
)
from shared_spec.export_formats import ANY_SIZE, Form, export_format, require_logits
from shared_spec.formats.hub_folder import HUB_FILES, save_hub_folder, write_card
from shared_spec.formats.hub_folder import certify as certify_folder
from shared_spec.formats.write import described, is_checkpoint_folder
from shared_spec.origin import origin_of
from shared_spec.plan.folding import Inference
from shared_spec.plan.layers import Join
from shared_spec.plan.network import Plan
from shared_spec.plan.summary import layer_rows
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.upload import require_writable, upload
from shared_spec.weight_verbs import (
    Model,
    WeightVerbs,
    remember,
    remembered,
    warn_of_notes,
)
from shared_spec.weights.adapt import ASKED, adapted, read_adapted
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.initialize import checked_seed, initial_weights
from shared_spec.weights.labels import Classified, classified
from shared_spec.weights.lazy_array import entries_of
from shared_spec.weights.preprocessing import ImagesLike, Preprocessing
from shared_spec.weights.state import (
    State,
    WeightsLike,
    cast_weights,
    numpy_dtype,
)

_OF_CREATE_MODEL = {
    "spec": "`model`, and the file by `weights`",
    "part": "`part` of read_checkpoint",
    "names": "`names` of read_checkpoint",
}
"""What `create_model` has for arguments of `read_checkpoint`."""

Outputs = dict[str, np.ndarray]
"""What layers and blocks gave, by their canonical names."""


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
    exporters: Mapping[str, Callable[[Model, Path, Form, Checkpoint], None]] = MappingProxyType({})
    """What writes each format of `shared_spec.export_formats` that is the framework's own."""
    native_options: frozenset[str] = frozenset()
    """Keywords of `create_model` that the framework's users know, and no spec has."""

    def __init__(self) -> None:
        self._named: dict[str, Callable[..., Model]] = {}

    def create_model(
        self,
        model: ModelLike,
        pretrained: bool | str = False,
        *,
        weights: Any = None,
        seed: int = 0,
        dtype: Any = None,
        inference: Inference | bool = False,
        **overrides: Any,
    ) -> Model:
        """Build a model, in training mode where its framework's models have one.

        Examples:
            >>> model = create_model("resnet50", pretrained=True)
            >>> model = create_model("resnet50", weights="resnet50.pth", num_classes=10)
            >>> model = create_model("hf-hub:timm/resnet50.a1_in1k")

        Args:
            model: a catalogue name, alone or with a tag of published weights (`resnet50.a1_in1k`);
                a `ResNetSpec`; the path of a YAML, TOML or JSON spec file; or a file or folder of
                weights that says which net it is, or `"hf-hub:owner/name"`, with its weights.
            pretrained: True for the default weights of the name or those of its tag, or a tag:
                `list_models("resnet50*", pretrained=True)` lists them. They are downloaded once.
            weights: None for fresh weights; the path of a checkpoint; `"hf-hub:owner/name"`; a tag
                of published weights, such as `"IMAGENET1K_V2"`, or torchvision's own record of
                them; or weights in memory, as `read_checkpoint` takes them. They have to fit,
                except where an override of `in_channels`, `num_classes` or `features_only` changes
                the net: see `shared_spec.weights.adapt`.
            seed: of the fresh weights, which are bit-identical in every framework, and at every
                call that does not name another.
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
        overrides = joined(overrides, self._fields(native))
        origin = origin_of(model, weights, pretrained)
        told = None
        if origin.model is None and origin.weights is not None:
            told = self._read(origin.weights, None)
        net = origin.model if told is None else told.spec
        if net is None:
            raise WeightsError(
                f"{model}: does not say which net it is; name the net, and the file by `weights`"
            )
        spec = resolve(net, overrides)
        variables = self._variable_dtype(dtype, native)
        self._numpy_dtype(variables)
        build = Build(dtype, variables, self._seed(seed, native), inference, native)
        built = self._build(spec, build)
        if origin.weights is None:
            return self._fresh(built, build)
        if told is not None:
            found = replace(told, state=adapted(told.state, spec, overrides, build.seed))
        else:
            # Without the overrides that ask for weights to be adapted.
            before = resolve(net, {k: v for k, v in overrides.items() if k not in ASKED})
            wanted = spec, before
            found = read_adapted(self._read, origin.weights, wanted, overrides, build.seed)
        self.weights.load_weights(built, found.state)
        remember(built, found)
        if "image_size" in overrides and built.preprocessing is not None:
            size = {"image_size": spec.image_size}
            built.preprocessing = built.preprocessing.model_copy(update=size)
        return built

    def _read(self, weights: WeightsLike, spec: ResNetSpec | None) -> Checkpoint:
        with arguments_as(_OF_CREATE_MODEL):
            checkpoint = self.weights.read_checkpoint(weights, spec)
        warn_of_notes(checkpoint, weights)
        return checkpoint

    def save_pretrained(
        self, model: Model, folder: str | os.PathLike[str], *, certify: bool = True
    ) -> None:
        """Write a folder from which `create_model` builds the model in any framework: weights,
        configuration with preprocessing and labels, model card and certificate. timm's
        `create_model("local-dir:...", pretrained=True)` takes it too, if it has such a net.

        Examples:
            >>> model.labels = ("cat", "dog")
            >>> save_pretrained(model, "cats-and-dogs")
            >>> other = resnet_flax.create_model("cats-and-dogs")

        Args:
            model: with `model.labels` and `model.preprocessing`, if they are known.
            folder: where to write; one that was written so before is replaced.
            certify: whether to run the weights in the frameworks that are installed, and write what
                they gave into the certificate. It takes some seconds for each.

        Raises:
            ParityError: if frameworks disagree; nothing is then written.
            ResNetError: if it cannot be written.
        """
        self._save_folder(model, folder, None, certify)

    def push_to_hub(self, model: Model, name: str, *, certify: bool = True, **options: Any) -> str:
        """Put what `save_pretrained` writes into a repository on the Hugging Face Hub.

        Examples:
            >>> push_to_hub(model, "me/cats-and-dogs", private=True)
            >>> other = resnet_keras.create_model("hf-hub:me/cats-and-dogs")

        Args:
            model: as in `save_pretrained`.
            name: `owner/name`; the repository is created if it does not exist.
            certify: as in `save_pretrained`.
            **options: `private`, `revision`, `token` and `message`, as in `shared_spec.upload`.

        Returns:
            The address of the commit.

        Raises:
            FrameworkError: if `huggingface_hub` is not installed.
            ParityError: if frameworks disagree.
            WeightsError: if the hub refuses or cannot be reached.
        """
        require_writable(name)
        with workspace() as scratch:
            folder, revision = scratch / name.rpartition("/")[2], options.get("revision")
            self._save_folder(model, folder, f"{name}@{revision}" if revision else name, certify)
            return upload(folder, name, replaced=sorted(HUB_FILES), **options)

    def _save_folder(
        self, model: Model, folder: str | os.PathLike[str], name: str | None, certify: bool
    ) -> None:
        self.weights.follow(model)
        self.weights.check_saved(model)
        whole = described(self.weights.export_weights(model), remembered(model), model.spec)
        with durable(folder, is_checkpoint_folder) as draft:
            save_hub_folder(draft, whole)
            if certify:
                certify_folder(draft)
            write_card(draft, whole, name)

    def export(
        self,
        model: Model,
        path: str | os.PathLike[str],
        *,
        form: Form = ANY_SIZE,
        dtype: Literal["int8"] | None = None,
        calibration: np.ndarray | ImagesLike | None = None,
    ) -> None:
        """Write a model, in evaluation mode and in its own dtype, to a file that runtimes run.

        Examples:
            >>> resnet_torch.export(model, "resnet50.pt2")
            >>> resnet_keras.export(model, "resnet50.tflite", form=Form(batch=1, size=(224, 224)))
            >>> resnet_torch.export(model, "resnet50.onnx", dtype="int8", calibration=paths)

        Args:
            model: with `model.labels` and `model.preprocessing`, if they are known.
            path: what is written follows from its suffix: any package writes `.onnx` and `.xml`
                (OpenVINO IR), `resnet_torch` `.pt2` (torch.export), `resnet_flax` `.stablehlo`,
                and `resnet_keras` on TensorFlow `.tflite` (LiteRT) and, without a suffix, a
                SavedModel.
            form: what the graph takes and gives; docs/export.md has what each format can.
            dtype: `"int8"` to quantise a float32 model in ONNX; None for the model's own.
            calibration: for int8, images on which tensors are to stay within 8 bits: [N, H, W, C],
                normalised, or what `preprocess` takes.

        Raises:
            ResNetError: if this package does not write such files, the format cannot say such a
                form, or the net has none; what was there is left as it was.
        """
        self.weights.follow(model)
        self.weights.require_values(model)
        if (ending := self._ending(model)) is not None:
            raise SpecError(
                f"the model ends in {ending}, which its spec does not say; make it without, and "
                f"export it with head='softmax' if that is what it is"
            )
        self.weights.check_saved(model)
        wanted, known = export_format(Path(path)), replace(remembered(model), spec=model.spec)
        own = self.weights.dtype_name(model)
        form = form.sized(model.spec)
        wanted.check(form, dtype or own)
        wanted.check_net(form, model.plan)
        if dtype is None and calibration is not None:
            raise SpecError("calibration: only with dtype='int8'")
        if dtype is not None:
            _check_quantized(model.spec, model.plan, dtype, own)
            images = self._calibration(model, calibration, form)
            state = entries_of(self.weights.held(model))
            self._onnx().write_quantized(path, model.plan, state, form, known, images)
            return
        if wanted.from_plan:
            state = entries_of(self.weights.held(model))
            self._onnx().write_file(path, model.plan, state, own, form, known)
            return
        write = self.exporters.get(wanted.name)
        if write is None:
            raise FrameworkError(f"{path}: {type(self).__module__} writes no {wanted.title}")
        with durable(path, wanted.replaceable) as draft:
            write(model, draft, form, known)

    def _calibration(
        self, model: Model, images: np.ndarray | ImagesLike | None, form: Form
    ) -> np.ndarray:
        """Normalised images."""
        if images is None:
            raise SpecError("dtype: int8 takes images to measure ranges on; give `calibration`")
        given = images if isinstance(images, np.ndarray) else self.transforms(model)(images)
        array = as_images(given, model.plan)
        if form.size not in (None, array.shape[1:3]):
            raise SpecError(
                f"size: the calibration's images are of {array.shape[1]}x{array.shape[2]}, and a "
                f"graph of int8 is for the size that its ranges were measured at; give that"
            )
        return array

    def compiled(self, model: Model) -> Callable[[Any], Any]:
        """The model in evaluation mode as a function, compiled as is fastest on the device at hand:
        for many calls with weights that no longer change (what it gives after they do is not
        defined). The first call of each size compiles, which in PyTorch takes up to a minute on
        CPUs.

        Examples:
            >>> forward = compiled(model)
            >>> logits = forward(images)

        Returns:
            A function that takes and gives what `model` does, as its framework's tensors: images
            [N, H, W, C], or [N, C, H, W] in PyTorch, to [N, num_classes].
        """
        self.weights.follow(model)
        self.weights.require_values(model)
        return self._compile(model)

    def predict(self, model: Model, images: np.ndarray, *, batch_size: int = 64) -> Any:
        """Logits in evaluation mode; in Keras and Flax, compiled.

        Examples:
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
        self.weights.follow(model)
        self.weights.require_values(model)
        return concatenate_outputs(self._outputs(model, batches(images, model.plan, batch_size)))

    def transforms(self, model: Model) -> Preprocessing:
        """How images become what the model's weights want: a function from Pillow images or paths
        to arrays for `predict`.

        Examples:
            >>> transforms(create_model("resnet50", pretrained=True)).image_size
            224

        Returns:
            The preprocessing that came with the weights, `model.preprocessing`; for weights without
            one that of ImageNet, or 0.5 and 0.5 for grey images.

        Raises:
            ImageError: if the model takes other numbers of channels than image files have.

        Warns:
            WeightsWarning: if the weights have none of their own.
        """
        self.weights.follow(model)
        if (known := remembered(model).preprocessing) is not None:
            return known
        found = Preprocessing.default(model.spec)
        told = "ImageNet's" if model.spec.in_channels == 3 else "a mean and deviation of 0.5"
        warnings.warn(
            f"preprocessing: the model's weights have none of their own, and {told} is used; set "
            f"model.preprocessing if it is another",
            WeightsWarning,
            stacklevel=2,
        )
        return found

    def preprocess(self, model: Model, images: ImagesLike) -> np.ndarray:
        """Pillow images or paths of image files, one or several, as the model's weights want them.

        Examples:
            >>> logits = predict(model, preprocess(model, ["cat.jpg", "dog.jpg"]))

        Returns:
            [N, H, W, C], float32; see `transforms`.

        Raises:
            ImageError: if a file is missing or no image.
        """
        return self.transforms(model)(images)

    def classify(self, model: Model, images: ImagesLike, *, top: int = 5) -> list[list[Classified]]:
        """The most probable classes of Pillow images or image files, one or several.

        Examples:
            >>> classify(create_model("resnet50", pretrained=True), "cat.jpg")[0][0].label
            'tabby'

        Args:
            model: the model; it keeps its mode.
            images: see `preprocess`.
            top: how many classes of each image.

        Returns:
            For each image its classes, the most probable first: label, index and probability. The
            labels are those of the weights, `model.labels`, or else numbers.

        Raises:
            ImageError: if a file is missing or no image.
            WeightsError: if the model has no classes, or its logits are not finite.
        """
        self.weights.follow(model)
        if model.plan.outputs or not model.spec.num_classes:
            raise WeightsError("the model gives features and no classes")
        if not isinstance(top, int) or top < 1:
            raise WeightsError(f"top: {top!r} is not a number of classes; give at least 1")
        labels, ending = remembered(model).labels, self._ending(model)
        outputs = self.predict(model, self.preprocess(model, images))
        if ending == "softmax":
            outputs = np.log(np.maximum(outputs.astype(np.float64), np.finfo(np.float64).tiny))
        elif ending is not None:
            raise WeightsError(f"the model ends in {ending}, whose outputs are no probabilities")
        return classified(outputs, labels, top)

    def activations(
        self, model: Model, images: np.ndarray, names: Iterable[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Outputs of the named layers and blocks (all blocks if None), in evaluation mode.

        Examples:
            >>> activations(model, images, ["conv1", "layer1.0"])["layer1.0"].shape
            (1, 56, 56, 256)

        Returns:
            Canonical name to array, channels last: [N, H, W, C], or [N, C] after the global pool.

        Raises:
            ResNetError: if the images do not fit the model, or it has no layer of such a name.
        """
        self.weights.follow(model)
        self.weights.require_values(model)
        images = as_images(images, model.plan)
        return self._recorded(model, images, activation_names(model.plan, names))

    def run_parts(self, model: Model, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of layers and blocks, each on its own input and apart from the rest, in
        evaluation mode: the name to the input, and in the answer to the output, all channels last.

        Examples:
            >>> run_parts(model, {"maxpool": np.zeros((1, 112, 112, 64), np.float32)})

        Raises:
            ResNetError: if the model has no layer or block of such a name, or an input is no array.
        """
        self.weights.follow(model)
        if not isinstance(inputs, Mapping):
            raise SpecError(
                f"inputs: expected the names of layers and blocks with their arrays, got "
                f"{type(inputs).__name__}"
            )
        self.weights.require_values(model)
        names = activation_names(model.plan, inputs)
        for layer in model.plan.layers():
            if isinstance(layer, Join) and layer.name in names:
                raise SpecError(f"inputs: {layer.name} takes several maps, and does not run alone")
        return self._parts(model, {name: _numbers(name, inputs[name]) for name in names})

    def parameter_count(self, model: Model) -> int:
        """Number of trainable scalars in the native model.

        Examples:
            >>> parameter_count(create_model("resnet50"))
            25557032
        """
        return sum(self._sizes(model))

    def _numpy_dtype(self, name: str) -> np.dtype[Any]:
        """The numpy dtype called `name`, in which the framework can compute."""
        dtype = numpy_dtype(name)
        if name == "float64" and not self._has_float64():
            raise FrameworkError(
                "dtype: float64 needs jax.config.update('jax_enable_x64', True) before JAX is used"
            )
        return dtype

    def _fields(self, native: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of the spec for which keywords of the framework's own stand."""
        return {}

    def _variable_dtype(self, dtype: Any, native: Mapping[str, Any]) -> str:
        """Name of the dtype of the variables that a call asks for."""
        return "float32" if dtype is None else dtype

    @abstractmethod
    def _build(self, spec: ResNetSpec, build: Build) -> Model:
        """A native model whose weights are still to be filled in."""

    def _seed(self, seed: int, native: Mapping[str, Any]) -> int:
        """The seed of the fresh weights that a call asks for."""
        return checked_seed(seed)

    def _fresh(self, model: Model, build: Build) -> Model:
        """`model` with fresh weights."""
        trained = model.plan.trained or model.plan
        return self._fill(
            model, cast_weights(initial_weights(trained, build.seed), build.variables)
        )

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

    @abstractmethod
    def _onnx(self) -> Any:
        """The package `resnet_onnx`; raises a FrameworkError if ONNX is not installed."""

    def _ending(self, model: Model) -> str | None:
        """The function behind the logits; None if there is none."""
        return None

    def named_model(self, name: str) -> Callable[..., Model]:
        """The function called as a model of the catalogue: `resnet50(**fields)` is
        `create_model("resnet50", **fields)`. It is a package's `__getattr__`.
        """
        package, entry = type(self).__module__, CATALOGUE.get(name)
        if entry is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")

        def build(pretrained: bool | str = False, **options: Any) -> Model:
            return self.create_model(name, pretrained, **options)

        build.__name__ = build.__qualname__ = name
        build.__module__ = package
        note = f" ({entry.note})" if entry.note else ""
        build.__doc__ = f"`create_model({name!r}, ...)`{note}. Source: {entry.source}."
        return self._named.setdefault(name, build)


def joined(overrides: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides of a spec, and what a framework's own keywords say of it.

    Raises:
        SpecError: if they differ.
    """
    for name in sorted(fields.keys() & overrides.keys()):
        if overrides[name] != fields[name]:
            raise SpecError(
                f"{name}: given as {overrides[name]!r}, and another argument makes it "
                f"{fields[name]!r}"
            )
    return {**overrides, **fields}


def as_images(images: object, p: Plan) -> np.ndarray:
    """Check a batch of images for a model: a real array [N, H, W, C] with the model's channels.

    Raises:
        ImageError: saying what was given and what the model takes.
    """
    array = _numbers("images", images)
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


_KINDS = {"S": "bytes", "U": "texts", "O": "objects", "V": "records", "b": "truth values"}
"""What arrays hold that are of no numbers, by numpy's letters."""


def _numbers(where: str, given: object) -> np.ndarray:
    """What was given as an array of real numbers in the machine's byte order.

    Raises:
        ImageError: saying what was given, `where` it is none.
    """
    try:
        array = np.asarray(given)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
    except (ValueError, TypeError, RuntimeError) as error:  # the last are PyTorch's
        why = str(error).partition(". ")[0].rstrip(".")
        raise ImageError(
            f"{where}: expected an array of numbers, got {type(given).__name__} that numpy does "
            f"not take ({why})"
        ) from None
    numeric = array.dtype.kind in "fiu" and array.dtype.itemsize <= 8
    if not numeric and array.dtype.name != "bfloat16":
        what = type(given).__name__ if array.ndim == 0 or not isinstance(given, np.ndarray) else ""
        held = _KINDS.get(array.dtype.kind, array.dtype.name)
        what = f"{what or 'an array'} of {held}" if array.ndim else what
        raise ImageError(
            f"{where}: expected an array of numbers, got {what}; preprocess() reads image files"
        )
    return array


def concatenate_outputs(outputs: Sequence[Any]) -> Any:
    """A model's outputs for the parts of a batch, joined: an array, or a list of arrays for a
    features-only model.
    """
    if isinstance(outputs[0], list):
        return [concatenate_outputs(level) for level in zip(*outputs, strict=True)]
    return np.concatenate([np.asarray(chunk) for chunk in outputs])


def _check_quantized(spec: ResNetSpec, p: Plan, dtype: str, own: str) -> None:
    """Raise a `SpecError` for a model that is not quantised."""
    if dtype != "int8":
        raise SpecError(f"dtype: {dtype!r} is not int8; a model is exported in its own, or in that")
    require_logits(spec)
    if own != "float32" or p.trained is not None:
        form = own if own != "float32" else "in a form for inference"
        raise SpecError(f"dtype: int8 is made of a model of float32 as it trains; this is {form}")


def batches(images: object, p: Plan, size: int) -> list[np.ndarray]:
    """Checked images in parts of at most `size`.

    Raises:
        ImageError: as `as_images`, and if `size` is less than 1.
    """
    if not isinstance(size, int) or size < 1:
        raise ImageError(f"batch_size: {size!r} is not a number of images; give at least 1")
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
