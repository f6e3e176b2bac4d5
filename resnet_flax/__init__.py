"""ResNets as native Flax NNX modules. The verbs are those of `resnet_torch` and `resnet_keras`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from shared_spec.errors import FrameworkError, framework_missing

try:
    import jax
    import jax.numpy as jnp
    from flax import nnx
except ImportError:
    raise framework_missing("resnet_flax", "Flax (jax, flax, optax)", "flax") from None

from resnet_flax.model import ResNet, find, parent, replace
from resnet_flax.training import Trainer
from resnet_flax.weights import (
    dtype_name,
    export_weights,
    load_weights,
    read_checkpoint,
    save_weights,
)
from shared_spec.backend import (
    activation_names,
    as_images,
    batches,
    concatenate_outputs,
    entry_points,
    resolve_both,
)
from shared_spec.catalogue import list_models
from shared_spec.catalogue.resolve import ModelLike
from shared_spec.kernels import xla
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.folding import Inference, inference_form
from shared_spec.weights.adapt import read_adapted
from shared_spec.weights.initialize import initial_weights
from shared_spec.weights.state import WeightsLike, cast_weights, numpy_dtype


def create_model(
    model: ModelLike,
    *,
    weights: WeightsLike | None = None,
    seed: int = 0,
    dtype: str = "float32",
    inference: Inference | bool = False,
    **overrides: Any,
) -> ResNet:
    """Build a model in training mode, as `nnx` modules start.

    Args:
        model: a catalogue name, a `ResNetSpec`, or the path of a YAML, TOML or JSON spec file.
        weights: None for fresh weights; a dict of canonical arrays; the path of a checkpoint;
            or `"hf-hub:owner/name"`. They have to fit, except where an override of `in_channels`,
            `num_classes` or `features_only` changes the net: see `shared_spec.weights.adapt`.
        seed: of the fresh weights, which are bit-identical in every framework.
        dtype: of parameters and computation: float64 (with `jax_enable_x64`), float32, float16
            or bfloat16.
        inference: True for the form that is fastest in inference, in evaluation mode and with its
            batch norms folded into the convolutions; an `Inference` chooses among such forms.
            It computes the same logits except for rounding, and can neither be trained nor saved.
        **overrides: any field of the spec, such as `num_classes=10, in_channels=1`.

    Raises:
        ResNetError: with one sentence, if the name, spec, dtype or weights are not valid.
    """
    specs = resolve_both(model, overrides)
    spec = specs[0]
    trained = compile_plan(spec)
    p = inference_form(trained, inference)
    native = numpy_dtype(dtype)
    if dtype == "float64" and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise FrameworkError(
            "dtype: float64 needs jax.config.update('jax_enable_x64', True) before JAX is used"
        )
    # Dropout alone draws from it.
    net = ResNet(p, spec, native, nnx.Rngs(crc32(str(seed).encode())))
    if inference:
        net.set_attributes(use_running_average=True, deterministic=True, raise_if_not_found=False)
    if weights is None:
        return load_weights(net, cast_weights(initial_weights(trained, seed), dtype))
    return load_weights(net, read_adapted(read_checkpoint, weights, specs, overrides, seed))


def compiled(model: ResNet) -> Callable[[jax.Array], Any]:
    """The model in evaluation mode as a function, compiled as is fastest on the device at hand: for
    many calls with weights that no longer change (what it gives after they do is not defined). The
    first call of each size compiles.

    Returns:
        A function that takes and gives what `model` does: [N, H, W, C] to [N, num_classes].
    """
    graph, state = nnx.split(_evaluating(model))
    run = xla.jit(lambda state, x: nnx.merge(graph, state)(x), dtype_name(model))
    return partial(run, state)


def predict(model: ResNet, images: np.ndarray, *, batch_size: int = 64) -> Any:
    """Logits in evaluation mode, compiled.

    Args:
        model: the model; the mode of its modules is left as it was.
        images: [N, H, W, C], already normalised.
        batch_size: images computed at a time.

    Returns:
        [N, num_classes] of the model's dtype, or [N, features] if it has no classes; a list of
        [N, H, W, C] for a features-only model.
    """
    parts = batches(images, model.plan, batch_size)
    dtype = dtype_name(model)
    graph, state = nnx.split(_evaluating(model))
    run = _forward(dtype)
    return concatenate_outputs([run(graph, state, jnp.asarray(part, dtype)) for part in parts])


def activations(
    model: ResNet, images: np.ndarray, names: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """Outputs of the named layers and blocks (all blocks if None), in evaluation mode.

    Returns:
        Canonical name to array, channels last: [N, H, W, C], or [N, C] after the global pool.
    """
    images = as_images(images, model.plan)
    wanted = activation_names(model.plan, names)
    found: dict[str, np.ndarray] = {}

    def recording(name: str, module: Any) -> Any:
        def call(x: jax.Array) -> jax.Array:
            y: jax.Array = module(x)
            found[name] = np.asarray(y)
            return y

        return call

    evaluated = _evaluating(model)
    # All looked up before any is replaced: a block's layers cannot be reached through a function.
    modules = [(name, parent(evaluated, name), find(evaluated, name)) for name in wanted]
    for name, owner, module in modules:
        replace(owner, name.rpartition(".")[2], recording(name, module))
    evaluated(jnp.asarray(images, dtype_name(model)))
    return found


def run_parts(model: ResNet, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs of layers and blocks, each on its own input and apart from the rest, in evaluation
    mode: the name to the input, and in the answer to the output, all channels last.
    """
    evaluated, dtype = _evaluating(model), dtype_name(model)
    return {
        name: np.asarray(find(evaluated, name)(jnp.asarray(inputs[name], dtype)))
        for name in activation_names(model.plan, inputs)
    }


def parameter_count(model: ResNet) -> int:
    """Number of trainable scalars in the native model."""
    return sum(v.size for v in jax.tree.leaves(nnx.state(model, nnx.Param)))


@cache
def _forward(dtype: str) -> Any:
    """One function for all models: those of one kind are compiled once."""
    return xla.jit(lambda graph, state, x: nnx.merge(graph, state)(x), dtype, static_argnums=0)


def _evaluating(model: ResNet) -> ResNet:
    """The same variables seen in evaluation mode; `model` keeps its own mode."""
    view: ResNet = nnx.view(
        model, raise_if_not_found=False, use_running_average=True, deterministic=True
    )
    return view


globals().update(entry_points(create_model))

if TYPE_CHECKING:

    def __getattr__(name: str) -> Callable[..., ResNet]:
        """Every catalogue name is a function, such as `resnet50(num_classes=10)`."""


__all__ = [
    "FrameworkError",
    "ResNet",
    "Trainer",
    "activations",
    "compiled",
    "create_model",
    "dtype_name",
    "export_weights",
    "list_models",
    "load_weights",
    "parameter_count",
    "predict",
    "read_checkpoint",
    "run_parts",
    "save_weights",
]
