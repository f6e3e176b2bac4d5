"""ResNets as native Flax NNX modules. The verbs are those of `resnet_torch` and `resnet_keras`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any
from zlib import crc32

import numpy as np

from shared_spec.errors import FrameworkError, framework_missing

try:
    import jax
    import jax.numpy as jnp
    from flax import nnx
except ImportError:
    raise framework_missing("resnet_flax", "Flax (jax, flax, optax)", "flax") from None

from resnet_flax.model import ResNet, find, replace
from resnet_flax.training import Trainer
from resnet_flax.weights import WEIGHTS
from shared_spec.backend import Build, ModelVerbs, Outputs
from shared_spec.catalogue import list_models
from shared_spec.kernels import xla
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.folding import inference_form
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.state import numpy_dtype


class Verbs(ModelVerbs[ResNet]):
    """What the verbs do in Flax."""

    weights = WEIGHTS

    def _build(self, spec: ResNetSpec, build: Build) -> ResNet:
        p = inference_form(compile_plan(spec), build.inference)
        # Dropout alone draws from the seed.
        rngs = nnx.Rngs(crc32(str(build.seed).encode()))
        net = ResNet(p, spec, numpy_dtype(build.variables), rngs)
        if build.inference:
            net.set_attributes(
                use_running_average=True, deterministic=True, raise_if_not_found=False
            )
        return net

    def _has_float64(self) -> bool:
        return bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]

    def _compile(self, model: ResNet) -> Callable[[jax.Array], Any]:
        graph, state = nnx.split(_evaluating(model))
        run = xla.jit(lambda state, x: nnx.merge(graph, state)(x), dtype_name(model))
        return partial(run, state)

    def _outputs(self, model: ResNet, chunks: list[np.ndarray]) -> list[Any]:
        dtype = dtype_name(model)
        graph, state = nnx.split(_evaluating(model))
        run = _forward(dtype)
        return [run(graph, state, jnp.asarray(chunk, dtype)) for chunk in chunks]

    def _recorded(self, model: ResNet, images: np.ndarray, names: list[str]) -> Outputs:
        outputs: Outputs = {}

        def record(name: str, module: Any, x: jax.Array) -> jax.Array:
            y: jax.Array = module(x)
            outputs[name] = np.asarray(y)
            return y

        evaluated = _evaluating(model)
        # All are looked up before any is replaced: a block's layers cannot be reached through a
        # function.
        modules = [(find(evaluated, n.rpartition(".")[0]), n, find(evaluated, n)) for n in names]
        for owner, name, module in modules:
            replace(owner, name.rpartition(".")[2], partial(record, name, module))
        evaluated(jnp.asarray(images, dtype_name(model)))
        return outputs

    def _parts(self, model: ResNet, inputs: Mapping[str, np.ndarray]) -> Outputs:
        evaluated, dtype = _evaluating(model), dtype_name(model)
        return {
            name: np.asarray(find(evaluated, name)(jnp.asarray(array, dtype)))
            for name, array in inputs.items()
        }

    def _sizes(self, model: ResNet) -> Iterator[int]:
        return (v.size for v in jax.tree.leaves(nnx.state(model, nnx.Param)))


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
    "FrameworkError",
    "ResNet",
    "Trainer",
    "activations",
    "classify",
    "compiled",
    "create_model",
    "dtype_name",
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
