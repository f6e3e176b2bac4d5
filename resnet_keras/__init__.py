"""ResNets as native Keras 3 models, on its TensorFlow, JAX or PyTorch engine. The verbs are those
of `resnet_torch` and `resnet_flax`.

`create_model`, and so each named function, takes what keras.applications' functions take too:

- `include_top=False` leaves out the classifier; `pooling="avg"` or `"max"` then pools the maps;
- `input_shape=(height, width, channels)`, where None is any size, as both are if it is left out;
- `input_tensor`: a `keras.Input`, or what layers make of one;
- `classes`: another name of `num_classes`;
- `classifier_activation`: None, unlike there, so that a net gives logits;
- `name` of the model, for several of them in one program;
- `dtype` may be a policy or its name; if it is left out, Keras's global policy counts.

Examples:
    >>> body = resnet_keras.resnet50(
    ...     include_top=False, input_shape=(96, 96, 3), name="body", dtype="mixed_bfloat16"
    ... )
    >>> body.output_shape
    (None, 3, 3, 2048)
    >>> net = keras.Sequential([body, keras.layers.Flatten(), keras.layers.Dense(10)])
    >>> net.save("net.keras")  # with all that is set on its layers

A file loads with `keras.saving.load_model`: without importing this package, where all layers are
Keras's own (those of `keras_resnet50`, `resnet_vd_50` and `flax_resnet50` are; PyTorch's rule for
running variances and what else Keras has no layer for need `import resnet_keras` first). A whole
`.h5` file becomes a `keras.Model` of the same layers, as it has no place for the class; one of
another model with ours inside needs the import too, and Keras says so with `Unknown layer:
'resnet_keras>Functional'`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

import numpy as np

from shared_spec.errors import FrameworkError, SpecError, framework_missing
from shared_spec.formats.keras_config import own_activation
from shared_spec.weights.preprocessing import Preprocessing

try:
    import keras
except ImportError:
    if find_spec("keras") is None:
        raise framework_missing("resnet_keras", "Keras 3", "keras") from None
    engine = os.environ.get("KERAS_BACKEND", "tensorflow")
    extra = {"jax": "keras,flax", "torch": "keras,torch"}.get(engine, engine)
    raise framework_missing(f"resnet_keras on the {engine} engine", engine, extra) from None

from resnet_keras.exporting import write_litert, write_saved_model
from resnet_keras.model import Form as Built
from resnet_keras.model import ResNet, deep_graph, output_layer, part_ends
from resnet_keras.model import build as built
from resnet_keras.training import Trainer
from resnet_keras.weights import WEIGHTS
from shared_spec.backend import Build, ModelVerbs, Outputs
from shared_spec.catalogue import list_models
from shared_spec.export_formats import Form
from shared_spec.kernels import xla
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.state import numpy_dtype


class Verbs(ModelVerbs[ResNet]):
    """What the verbs do in Keras."""

    weights = WEIGHTS
    exporters = MappingProxyType({"savedmodel": write_saved_model, "litert": write_litert})
    native_options = frozenset(
        {
            "classes",
            "classifier_activation",
            "include_top",
            "input_shape",
            "input_tensor",
            "name",
            "pooling",
        }
    )

    def _fields(self, native: Mapping[str, Any]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        _, _, channels = _image_shape(native)
        if channels is not None:
            fields["in_channels"] = channels
        if not native.get("include_top", True):
            fields["num_classes"] = 0
            if (pooling := native.get("pooling")) is not None:
                if pooling not in ("avg", "max"):
                    raise SpecError(f"pooling: {pooling!r} is not one of 'avg', 'max' and None")
                fields["head_pool"] = pooling
        elif native.get("classes") is not None:
            fields["num_classes"] = native["classes"]
        return fields

    def _variable_dtype(self, dtype: Any, native: Mapping[str, Any]) -> str:
        return str(_policy(dtype).variable_dtype)

    def _build(self, spec: ResNetSpec, build: Build) -> ResNet:
        native = build.native
        top = native.get("include_top", True)
        form = Built(
            _policy(build.dtype),
            native.get("name") or "resnet",
            build.seed,
            build.inference,
            not top and native.get("pooling") is None and not spec.features_only,
            _image_shape(native)[:2],
            native.get("input_tensor"),
            native.get("classifier_activation") if top else None,
        )
        return built(spec, form)

    def _has_float64(self) -> bool:
        if keras.backend.backend() != "jax":
            return True
        import jax

        return bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]

    def _ending(self, model: ResNet) -> str | None:
        return own_activation(model.get_config())

    def _compile(self, model: ResNet) -> Callable[[Any], Any]:
        dtype = str(model.layers[-1].compute_dtype)
        if keras.backend.backend() == "torch":
            from shared_spec.kernels.torch_compile import frozen_graph

            fixed = frozen_graph(model, lambda x: model(x, training=False), dtype)
            return lambda images: fixed(keras.ops.convert_to_tensor(images))
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            forward: Callable[[Any], Any] = tf.function(lambda x: model(x, training=False))
            return forward
        trained, others = model.trainable_variables, model.non_trainable_variables
        run = xla.jit(lambda t, o, x: model.stateless_call(t, o, x, training=False)[0], dtype)
        # Read at each call: Keras's own functions give the memory of variables away.
        return lambda images: run([v.value for v in trained], [v.value for v in others], images)

    def _outputs(self, model: ResNet, chunks: list[np.ndarray]) -> list[Any]:
        return [model.predict_on_batch(_input(model, chunk)) for chunk in chunks]

    def _recorded(self, model: ResNet, images: np.ndarray, names: list[str]) -> Outputs:
        ends = {name: model.get_layer(output_layer(model.plan, name)).output for name in names}
        with deep_graph(model.plan):
            inner = keras.Model(model.input, ends)
        with _without_gradients():
            outputs = inner(_input(model, images), training=False)
        return {name: WEIGHTS.copied(outputs[name]) for name in names}

    def _parts(self, model: ResNet, inputs: Mapping[str, np.ndarray]) -> Outputs:
        outputs = {}
        with _without_gradients():
            for name, array in inputs.items():
                part = keras.Function(*part_ends(model, name))
                x = keras.ops.convert_to_tensor(_input(model, array))
                outputs[name] = WEIGHTS.copied(part(x))
        return outputs

    def _onnx(self) -> Any:
        import resnet_onnx

        return resnet_onnx

    def _sizes(self, model: ResNet) -> Iterator[int]:
        return (int(np.prod(v.shape)) for v in model.trainable_variables)


def _policy(dtype: Any) -> keras.DTypePolicy:
    """What `dtype=` asks for: a dtype or its name, a policy or its name, or Keras's global one."""
    policy = keras.config.dtype_policy() if dtype is None else dtype
    if isinstance(policy, str) and policy.startswith("mixed_"):
        kind = policy.removeprefix("mixed_")
        policy = keras.DTypePolicy(policy) if kind in ("float16", "bfloat16") else policy
    if not isinstance(policy, keras.DTypePolicy):
        numpy_dtype(policy)
        policy = keras.DTypePolicy(policy)
    if type(policy) is not keras.DTypePolicy:
        raise FrameworkError(
            f"dtype: {policy.name} is a policy of {type(policy).__name__}, expected a DTypePolicy; "
            f"model.quantize quantises a model that is made"
        )
    return policy


def _image_shape(native: Mapping[str, Any]) -> tuple[int | None, int | None, int | None]:
    """Height, width and channels of images, as far as a call says them.

    Raises:
        SpecError: if it says no such thing.
    """
    given, tensor = native.get("input_shape"), native.get("input_tensor")
    if tensor is not None and not keras.utils.is_keras_tensor(tensor):
        raise SpecError(f"input_tensor: expected a keras.Input, got {type(tensor).__name__}")
    shape = (None, None, None) if given is None else given
    if tensor is not None:
        if given is not None and tuple(tensor.shape[1:]) != tuple(given):
            raise SpecError(f"input_tensor: has shape {tensor.shape}, and input_shape is {given}")
        shape = tensor.shape[1:]
    if not isinstance(shape, tuple | list) or len(shape) != 3:
        raise SpecError(f"input_shape: {shape} is not (height, width, channels)")
    if any(n is not None and type(n) is not int for n in shape):
        raise SpecError(f"input_shape: {shape} is not of whole numbers or None")
    height, width, channels = shape
    return height, width, channels


def _input(model: ResNet, array: np.ndarray) -> np.ndarray:
    return array.astype(numpy_dtype(model.kind), copy=False)


def _without_gradients() -> AbstractContextManager[Any]:
    """Keep Keras's PyTorch engine from recording a graph of every activation."""
    if keras.backend.backend() != "torch":
        return nullcontext()
    import torch

    return torch.no_grad()


_VERBS = Verbs()

create_model = _VERBS.create_model
compiled = _VERBS.compiled
predict = _VERBS.predict
transforms = _VERBS.transforms
preprocess = _VERBS.preprocess
classify = _VERBS.classify
save_pretrained = _VERBS.save_pretrained
push_to_hub = _VERBS.push_to_hub
activations = _VERBS.activations
export = _VERBS.export
run_parts = _VERBS.run_parts
parameter_count = _VERBS.parameter_count
export_weights = WEIGHTS.export_weights
load_weights = WEIGHTS.load_weights
save_weights = WEIGHTS.save_weights
read_checkpoint = WEIGHTS.read_checkpoint
dtype_name = WEIGHTS.dtype_name

# Every catalogue name is a function, such as `resnet50(num_classes=10)`.
__getattr__: Callable[[str], Callable[..., ResNet]] = _VERBS.named_model


def __dir__() -> list[str]:
    return [*globals(), *list_models()]


__all__ = [
    "Form",
    "FrameworkError",
    "Preprocessing",
    "ResNet",
    "Trainer",
    "activations",
    "classify",
    "compiled",
    "create_model",
    "dtype_name",
    "export",
    "export_weights",
    "list_models",
    "load_weights",
    "parameter_count",
    "predict",
    "preprocess",
    "push_to_hub",
    "read_checkpoint",
    "run_parts",
    "save_pretrained",
    "save_weights",
    "transforms",
]
