"""ResNets as native Flax NNX modules. The verbs are those of `resnet_torch` and `resnet_keras`.

`create_model` and the functions named after models also take keywords of NNX's own:

- `rngs`: an `nnx.Rngs`. Fresh weights follow from its stream `params`, and dropout from its stream
  `dropout`, or both from `default`; what it lacks follows from `seed`. Weights from `seed` alone
  are those of the other frameworks.
- `param_dtype`: of the variables, norm statistics included; `dtype` is then of computation alone.
- `axis_name`: the axis of `jax.pmap`, `jax.shard_map` or `jax.vmap` over which batch norms take
  their statistics.

Examples:
    >>> model = create_model("resnet50", dtype=jnp.bfloat16, param_dtype=jnp.float32)
    >>> nnx.vmap(lambda rngs: create_model("resnet20", rngs=rngs))(nnx.Rngs(0).split(5))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import Any

import numpy as np

from shared_spec.errors import FrameworkError, framework_missing
from shared_spec.weights.preprocessing import Preprocessing

try:
    import jax
    import jax.numpy as jnp
    from flax import nnx
except ImportError:
    raise framework_missing("resnet_flax", "Flax (jax, flax, optax)", "flax") from None

from resnet_flax.exporting import write_stablehlo
from resnet_flax.layers import Options, find
from resnet_flax.model import ResNet, evaluating, replace
from resnet_flax.training import Trainer
from resnet_flax.weights import WEIGHTS
from shared_spec.backend import Build, ModelVerbs, Outputs
from shared_spec.catalogue import list_models
from shared_spec.export_formats import Form
from shared_spec.kernels import xla
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.folding import inference_form
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.folding import weights_for
from shared_spec.weights.initialize import checked_seed, initial_weights
from shared_spec.weights.layouts import FLAX
from shared_spec.weights.state import cast_weights, numpy_dtype


class Verbs(ModelVerbs[ResNet]):
    """What the verbs do in Flax."""

    weights = WEIGHTS
    exporters = MappingProxyType({"stablehlo": write_stablehlo})
    native_options = frozenset({"rngs", "param_dtype", "axis_name"})

    def _variable_dtype(self, dtype: Any, native: Mapping[str, Any]) -> str:
        given = _name(native.get("param_dtype"))
        if given is None:
            return super()._variable_dtype(_name(dtype), native)
        return numpy_dtype(given, "param_dtype").name

    def _seed(self, seed: int, native: Mapping[str, Any]) -> Any:
        rngs = native.get("rngs")
        if rngs is not None and not isinstance(rngs, nnx.Rngs):
            raise FrameworkError(f"rngs: expected nnx.Rngs, got {type(rngs).__name__}")
        stream = _stream(rngs, "params")
        if stream is not None:
            words: Any = jax.random.key_data(stream())
            return words if isinstance(words, jax.core.Tracer) else _number(words)
        given: Any = seed
        if (
            isinstance(given, jax.core.Tracer)
            and given.ndim == 0
            and jnp.issubdtype(given.dtype, jnp.integer)
        ):
            return given
        return super()._seed(seed, native)

    def _build(self, spec: ResNetSpec, build: Build) -> ResNet:
        p = inference_form(compile_plan(spec), build.inference)
        native = build.native
        # Layers ask for keys of parameters too, which are filled in later.
        rngs = nnx.Rngs(params=0)
        rngs.dropout = _stream(native.get("rngs"), "dropout") or nnx.Rngs(_key(build.seed)).default
        dtype = None
        if native.get("param_dtype") is not None and build.dtype is not None:
            dtype = self._numpy_dtype(_name(build.dtype))
        options = Options(numpy_dtype(build.variables), dtype, native.get("axis_name"), rngs)
        net = ResNet(p, spec, options)
        if build.inference:
            net.set_attributes(
                use_running_average=True, deterministic=True, raise_if_not_found=False
            )
        return net

    def _fresh(self, model: ResNet, build: Build) -> ResNet:
        """While JAX traces, numpy draws when the program runs: members of a `vmap` differ, an
        `eval_shape` draws nothing, and weights are no constants of a program.
        """
        natives = self.weights.natives(model)
        given: Any = build.seed
        seed = [given] if isinstance(given, jax.core.Tracer) else []
        if not seed and not any(
            isinstance(v.get_value(), jax.core.Tracer) for v in natives.values()
        ):
            return super()._fresh(model, build)

        def draw(*traced: Any) -> dict[str, np.ndarray]:
            state = initial_weights(p.trained or p, _number(traced[0]) if traced else build.seed)
            fitting = weights_for(p, cast_weights(state, build.variables), build.variables)
            return {q.name: FLAX[q.role].to_native(fitting[q.name]) for q in p.parameters()}

        p = model.plan
        shapes = {name: jax.typeof(v.get_value()) for name, v in natives.items()}
        arrays = jax.pure_callback(draw, shapes, *seed, vmap_method="sequential")
        for name, variable in natives.items():
            variable.set_value(arrays[name])
        return model

    def _has_float64(self) -> bool:
        return bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]

    def _compile(self, model: ResNet) -> Callable[[jax.Array], Any]:
        graph, state = nnx.split(evaluating(model))
        run = xla.jit(lambda state, x: nnx.merge(graph, state)(x), _computed(model))
        return partial(run, state)

    def _outputs(self, model: ResNet, chunks: list[np.ndarray]) -> list[Any]:
        dtype = dtype_name(model)
        graph, state = nnx.split(evaluating(model))
        run = _forward(_computed(model))
        return [run(graph, state, jnp.asarray(chunk, dtype)) for chunk in chunks]

    def _recorded(self, model: ResNet, images: np.ndarray, names: list[str]) -> Outputs:
        outputs: Outputs = {}

        def record(name: str, module: Any, x: Any) -> jax.Array:
            y: jax.Array = module(x)
            outputs[name] = np.asarray(y)
            return y

        evaluated = evaluating(model)
        # All are looked up before any is replaced: a block's layers cannot be reached through a
        # function.
        modules = [(find(evaluated, n.rpartition(".")[0]), n, find(evaluated, n)) for n in names]
        for owner, name, module in modules:
            replace(owner, name.rpartition(".")[2], partial(record, name, module))
        evaluated(jnp.asarray(images, dtype_name(model)))
        return outputs

    def _parts(self, model: ResNet, inputs: Mapping[str, np.ndarray]) -> Outputs:
        evaluated, dtype = evaluating(model), dtype_name(model)
        return {
            name: np.asarray(find(evaluated, name)(jnp.asarray(array, dtype)))
            for name, array in inputs.items()
        }

    def _onnx(self) -> Any:
        import resnet_onnx

        return resnet_onnx

    def _sizes(self, model: ResNet) -> Iterator[int]:
        return (v.size for v in jax.tree.leaves(nnx.state(model, nnx.Param)))


@cache
def _forward(dtype: str) -> Any:
    """One function for all models: those of one kind are compiled once."""
    return xla.jit(lambda graph, state, x: nnx.merge(graph, state)(x), dtype, static_argnums=0)


def _computed(model: ResNet) -> str:
    """Name of the dtype of computation."""
    return dtype_name(model) if model.dtype is None else str(model.dtype)


def _name(dtype: Any) -> Any:
    """The name of a dtype that may be given as `jnp.bfloat16` is."""
    if dtype is None or isinstance(dtype, str):
        return dtype
    try:
        return jnp.dtype(dtype).name
    except TypeError:  # what it is instead is told by whoever looks it up
        return dtype


def _stream(rngs: nnx.Rngs | None, name: str) -> nnx.RngStream | None:
    """The stream called `name`, or else `default`, if there is one."""
    if rngs is None or not (name in rngs or "default" in rngs):
        return None
    stream: nnx.RngStream = rngs[name]
    return stream


def _number(seed: Any) -> int:
    """The integer that a seed is, or that the words of a key's data make up."""
    if np.ndim(seed) == 0:
        return checked_seed(seed)
    return int.from_bytes(np.asarray(seed, ">u4").tobytes(), "big")


def _key(seed: Any) -> jax.Array:
    """A key from the last word of a seed, or of a key's data, which may be traced."""
    if isinstance(seed, jax.core.Tracer):
        return jax.random.key(seed.ravel()[-1].astype(jnp.uint32))
    return jax.random.key(np.uint32(seed % 2**32))


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
