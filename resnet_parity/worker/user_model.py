"""A user's own model beside a spec: weights loaded by name, layers seen. Runs in a worker."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from resnet_parity.numerics.teacher_forcing import inputs_of
from resnet_parity.worker.session import Session, one_line
from shared_spec.errors import ResNetError, did_you_mean
from shared_spec.plan.dataflow import Node, nodes, recorded
from shared_spec.plan.layers import Parameter
from shared_spec.plan.network import Plan
from shared_spec.weights.layouts import FLAX, KERAS, TORCH, ParameterLayout, keras_layer
from shared_spec.weights.state import State

_TOLD = 5


class _Framework(Protocol):
    """A user's model in one framework. Names are its own; arrays have channels last."""

    expected: str
    """What kind of object it is, in words."""
    layouts: Mapping[str, ParameterLayout]

    @staticmethod
    def takes(model: Any) -> bool:
        """Whether a model is of this framework."""

    def variables(self) -> dict[str, tuple[tuple[int, ...], Callable[[np.ndarray], object]]]:
        """Shape of each parameter and statistic, and what assigns it."""

    def path(self, module: str) -> str:
        """What the framework makes of a module's dotted name."""
        return module

    def has(self, name: str) -> bool:
        """Whether it has a module or layer of that name."""

    def run(self, images: np.ndarray, names: list[str]) -> tuple[State, State, list[np.ndarray]]:
        """Inputs and outputs of the modules that run once, and what it returns."""

    def force(self, name: str, x: np.ndarray) -> np.ndarray:
        """The output of one module, called by itself."""

    def load(self, state: Mapping[str, tuple[Parameter, np.ndarray]]) -> None:
        """Take arrays in canonical layout under its own names."""
        variables, arrays = self.variables(), {}
        for name, (parameter, array) in state.items():
            layout = self.layouts[parameter.role]
            leaf = f"{self.path(name.rpartition('.')[0])}.{layout.leaf}"
            arrays[leaf] = layout.to_native(array)
        _fitting({name: shape for name, (shape, _) in variables.items()}, arrays)
        for name, array in arrays.items():
            variables[name][1](np.ascontiguousarray(array))


class _Seen:
    """Inputs and outputs of modules, copied at once: what comes after may work in place."""

    def __init__(self, to_numpy: Callable[[Any], np.ndarray]) -> None:
        self._to_numpy = to_numpy
        self.entered: State = {}
        self.left: State = {}
        self.counts: Counter[str] = Counter()

    def enters(self, name: str, x: Any) -> None:
        if hasattr(x, "ndim"):
            self.entered[name] = self._to_numpy(x)

    def leaves(self, name: str, y: Any) -> None:
        self.counts[name] += 1
        if hasattr(y, "ndim"):
            self.left[name] = self._to_numpy(y)

    def once(self, result: Any) -> tuple[State, State, list[np.ndarray]]:
        """Of the modules that ran once, and what the model returned."""
        values = result if isinstance(result, list | tuple) else [result]
        entered, left = (
            {name: array for name, array in arrays.items() if self.counts[name] == 1}
            for arrays in (self.entered, self.left)
        )
        return entered, left, [self._to_numpy(x) for x in values if hasattr(x, "ndim")]


def run_own(
    session: Session,
    p: Plan,
    factory: str,
    names: Mapping[str, str],
    state: State,
    dtype: str,
    images: np.ndarray,
    reference: Mapping[str, np.ndarray],
) -> tuple[State, list[str]]:
    """Arrays `input/`, `output/`, `forced/` and `result/<name>`, and notes on what was not seen.

    Raises:
        ResNetError: if the model cannot be made, takes other weights, or fails.
    """
    check_names(names, p)
    own = _wrapped(session, made(factory)[0], dtype, factory)
    named = {q.name: renamed(q.name, names) for q in p.parameters()}
    own.load({named[q.name]: (q, state[q.name]) for q in p.parameters()})
    found = nodes(p)
    theirs = {part.name: renamed(part.name, names) for part in found}
    present = [part for part in found if own.has(theirs[part.name])]
    entered, left, result = tried(
        factory, lambda: own.run(images, [theirs[part.name] for part in present])
    )
    arrays: State = {}
    whole = inputs_of(
        found, images, {name: reference[f"output/{name}"] for name in recorded(found)}
    )
    for part in present:
        name, x = theirs[part.name], whole[part.name]
        if name not in left:
            continue
        arrays[f"output/{part.name}"] = left[name]
        if name not in entered or entered[name].shape != x.shape:
            # It is another cut: a convolution whose padding is a module before it, for example.
            continue
        arrays[f"input/{part.name}"] = entered[name]
        # It may take more than one input, as a user's block may; what enters and leaves it is seen.
        with suppress(Exception):
            arrays[f"forced/{part.name}"] = own.force(name, x)
    if len(result) == len(p.results()):
        arrays |= {f"result/{key}": x for key, x in zip(p.results(), result, strict=True)}
    return arrays, _notes(found, arrays)


def _notes(found: list[Node], arrays: State) -> list[str]:
    unseen = [part.name for part in found if f"output/{part.name}" not in arrays]
    if len(unseen) == len(found):
        raise ResNetError(
            "--against: no layer of the model has a name of the spec's; --names maps them"
        )
    what = "module of their own in the model, or one that runs more than once"
    return not_seen(unseen, len(found), what)


def not_seen(unseen: Sequence[str], count: int, what: str) -> list[str]:
    """A note on those of `count` layers and blocks that have no such thing, if there are any."""
    if not unseen:
        return []
    told = ", ".join(unseen[:_TOLD]) + (" and so on" if len(unseen) > _TOLD else "")
    return [f"{len(unseen)} of {count} layers and blocks have no {what}: {told}"]


def renamed(name: str, names: Mapping[str, str]) -> str:
    """A canonical name in the model's own words: the longest part of it that `names` has."""
    words = name.split(".")
    for end in range(len(words), 0, -1):
        start = ".".join(words[:end])
        if start in names:
            return ".".join([names[start], *words[end:]])
    return name


def check_names(names: Mapping[str, str], p: Plan) -> None:
    """Raise an error if a name map speaks of what the spec does not have."""
    whole = [part.name for part in nodes(p)] + [q.name for q in p.parameters()]
    known = {".".join(n.split(".")[:i]) for n in whole for i in range(1, n.count(".") + 2)}
    for name in names:
        if name not in known:
            near = did_you_mean(name, known)
            raise ResNetError(f"--names: the spec has no {name!r}{near}")


def made(factory: str, path: Path | None = None) -> tuple[Any, bool]:
    """What the user's function returns, and whether it has been given `path`: if it has a parameter
    for it.

    Raises:
        ResNetError: if there is no such function, or it fails.
    """
    module, _, name = factory.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        # Last, so that a file of theirs takes no installed module's place.
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        sys.modules.pop(module, None)
        loaded = importlib.import_module(module)
    except Exception as error:
        raise ResNetError(f"--against: {module} cannot be imported ({one_line(error)})") from None
    if not callable(getattr(loaded, name, None)):
        near = did_you_mean(name, vars(loaded))
        raise ResNetError(f"--against: {module} has no function {name!r}{near}")
    function = getattr(loaded, name)
    if path is None or not _takes_one(function):
        return tried(factory, function), False
    return tried(factory, lambda: function(str(path))), True


def _takes_one(function: Callable[..., Any]) -> bool:
    """Whether a function has a parameter that needs a value."""
    try:
        known = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # it is not written in Python
        return False
    named = (p for p in known if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
    return any(p.default is p.empty for p in named)


def tried(factory: str, call: Callable[[], Any]) -> Any:
    """What a call of the user's code returns; what it raises becomes a `ResNetError`."""
    try:
        return call()
    except ResNetError:
        raise
    except Exception as error:
        raise ResNetError(f"--against: {factory} failed ({one_line(error)})") from None


def _wrapped(session: Session, model: Any, dtype: str, factory: str) -> _Framework:
    kinds = {"resnet_torch": _Torch, "resnet_keras": _Keras, "resnet_flax": _Flax}
    kind: Any = kinds[session.package]
    if not kind.takes(model):
        given = f"{type(model).__module__}.{type(model).__qualname__}"
        raise ResNetError(
            f"--against: {factory} returned {given}, and --engines asks for {kind.expected}; "
            f"name the engine of the model's framework"
        )
    wrapped: _Framework = kind(model, dtype)
    return wrapped


def _fitting(shapes: Mapping[str, tuple[int, ...]], given: State) -> None:
    """Raise an error if names or shapes of a model's arrays are not those of the spec's."""
    missing = [name for name in given if name not in shapes]
    if missing:
        near = did_you_mean(missing[0], shapes)
        raise ResNetError(f"--against: the model has no {_some(missing)}{near}; {_HINT}")
    left = [name for name in shapes if name not in given]
    if left:
        raise ResNetError(
            f"--against: the model has {_some(left)}, which the spec does not; {_HINT}"
        )
    for name, array in given.items():
        if shapes[name] != array.shape:
            raise ResNetError(
                f"--against: {name} has shape {list(shapes[name])}, the spec {list(array.shape)}"
            )


def _some(names: list[str]) -> str:
    rest = len(names) - _TOLD
    return ", ".join(names[:_TOLD]) + (f" and {rest} more" if rest > 0 else "")


_HINT = "--names is a YAML file of 'canonical: theirs', for names or the starts of them"


class _Torch(_Framework):
    """A `torch.nn.Module` of images [N, C, H, W]."""

    expected = "a torch.nn.Module"
    layouts = TORCH

    def __init__(self, model: Any, dtype: str) -> None:
        import torch

        self.dtype = getattr(torch, dtype)
        self.model = model.to("cpu", self.dtype).eval()
        self.modules = dict(self.model.named_modules())

    @staticmethod
    def takes(model: Any) -> bool:
        import torch

        return isinstance(model, torch.nn.Module)

    def variables(self) -> dict[str, tuple[tuple[int, ...], Callable[[np.ndarray], object]]]:
        """Of its state dict; counters of batches are nobody's weights."""
        import torch

        def assigning(tensor: Any) -> Callable[[np.ndarray], object]:
            return lambda array: tensor.copy_(torch.tensor(array))

        tensors = ((k, t.detach()) for k, t in self.model.state_dict().items())
        return {k: (tuple(t.shape), assigning(t)) for k, t in tensors if t.is_floating_point()}

    def has(self, name: str) -> bool:
        return name in self.modules

    def run(self, images: np.ndarray, names: list[str]) -> tuple[State, State, list[np.ndarray]]:
        seen = _Seen(self._out)

        def before(name: str, module: Any, args: Any) -> None:
            seen.enters(name, args[0] if len(args) == 1 else None)

        def after(name: str, module: Any, args: Any, output: Any) -> None:
            seen.leaves(name, output)

        hooks = [self.modules[n].register_forward_pre_hook(partial(before, n)) for n in names]
        hooks += [self.modules[n].register_forward_hook(partial(after, n)) for n in names]
        try:
            return seen.once(self.model(self._in(images)))
        except Exception as error:
            place = f" after {next(reversed(seen.counts))}" if seen.counts else ""
            raise ResNetError(f"--against: the model failed{place} ({one_line(error)})") from None
        finally:
            for hook in hooks:
                hook.remove()

    def force(self, name: str, x: np.ndarray) -> np.ndarray:
        return self._out(self.modules[name](self._in(x)))

    def _in(self, x: np.ndarray) -> Any:
        import torch

        tensor = torch.tensor(np.array(x), dtype=self.dtype)
        return tensor.movedim(-1, 1) if tensor.ndim == 4 else tensor

    @staticmethod
    def _out(x: Any) -> np.ndarray:
        array: np.ndarray = (x.movedim(1, -1) if x.ndim == 4 else x).detach().cpu().numpy().copy()
        return array


class _Keras(_Framework):
    """A functional `keras.Model` of images [N, H, W, C]; layers are called as in Keras, with `_`
    for the dots of canonical names.
    """

    expected = "a functional keras.Model"
    layouts = KERAS

    def __init__(self, model: Any, dtype: str) -> None:
        self.model, self.dtype = model, dtype
        self.layers = {layer.name: layer for layer in model.layers}
        kinds = {str(v.dtype) for v in model.weights if "seed" not in v.path}
        if kinds - {dtype}:
            raise ResNetError(
                f"--against: the model's weights are {', '.join(sorted(kinds))}, and {dtype} is "
                f"compared; build it under keras.config.set_dtype_policy({dtype!r}) or name "
                f"--dtype float32"
            )

    @staticmethod
    def takes(model: Any) -> bool:
        import keras

        return isinstance(model, keras.Model) and hasattr(model, "output")

    def variables(self) -> dict[str, tuple[tuple[int, ...], Callable[[np.ndarray], object]]]:
        return {
            f"{layer.name}.{v.name}": (tuple(v.shape), v.assign)
            for layer in self.layers.values()
            for v in layer.weights
            if "seed" not in v.path
        }

    def path(self, module: str) -> str:
        return keras_layer(module)

    def has(self, name: str) -> bool:
        return keras_layer(name) in self.layers

    def run(self, images: np.ndarray, names: list[str]) -> tuple[State, State, list[np.ndarray]]:
        """By a model of the same layers that returns all."""
        import keras

        layers = {name: self.layers[keras_layer(name)] for name in names}
        outputs = {name: layer.output for name, layer in layers.items()}
        inputs = {
            name: layer.input for name, layer in layers.items() if not isinstance(layer.input, list)
        }
        whole = keras.Model(
            self.model.input, {"in": inputs, "out": outputs, "result": self.model.output}
        )
        found = whole(images.astype(self.dtype), training=False)
        seen = _Seen(self._out)
        for name, x in found["in"].items():
            seen.enters(name, x)
        for name, y in found["out"].items():
            seen.leaves(name, y)
        return seen.once(found["result"])

    def force(self, name: str, x: np.ndarray) -> np.ndarray:
        import keras

        tensor = keras.ops.convert_to_tensor(x.astype(self.dtype))
        return self._out(self.layers[keras_layer(name)](tensor, training=False))

    @staticmethod
    def _out(x: Any) -> np.ndarray:
        import keras

        return np.array(keras.ops.convert_to_numpy(x))


class _Flax(_Framework):
    """A `flax.nnx.Module` of images [N, H, W, C]; layers are attributes or entries of lists."""

    expected = "a flax.nnx.Module"
    layouts = FLAX

    def __init__(self, model: Any, dtype: str) -> None:
        from flax import nnx

        self.dtype = dtype
        self.model = nnx.view(
            model, raise_if_not_found=False, use_running_average=True, deterministic=True
        )

    @staticmethod
    def takes(model: Any) -> bool:
        from flax import nnx

        return isinstance(model, nnx.Module)

    def variables(self) -> dict[str, tuple[tuple[int, ...], Callable[[np.ndarray], object]]]:
        """Its parameters and statistics, which take the arrays' dtype."""
        from flax import nnx

        def assigning(variable: Any) -> Callable[[np.ndarray], object]:
            return lambda array: variable.set_value(self._in(array))

        return {
            ".".join(map(str, path)): (tuple(v.get_value().shape), assigning(v))
            for kind in (nnx.Param, nnx.BatchStat)
            for path, v in nnx.to_flat_state(nnx.state(self.model, kind))
        }

    def has(self, name: str) -> bool:
        try:
            return callable(self._at(name))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            return False

    def run(self, images: np.ndarray, names: list[str]) -> tuple[State, State, list[np.ndarray]]:
        """Seen by functions in place of modules, which are put back."""
        seen = _Seen(np.asarray)

        def call(name: str, module: Any, x: Any, *args: Any, **options: Any) -> Any:
            seen.enters(name, x)
            y = module(x, *args, **options)
            seen.leaves(name, y)
            return y

        kept = [(name, self._owner(name), self._at(name)) for name in names]
        try:
            for name, owner, module in kept:
                self._put(owner, name, partial(call, name, module))
            return seen.once(self.model(self._in(images)))
        finally:
            for name, owner, module in kept:
                self._put(owner, name, module)

    def force(self, name: str, x: np.ndarray) -> np.ndarray:
        return np.asarray(self._at(name)(self._in(x)))

    def _in(self, x: np.ndarray) -> Any:
        import jax.numpy as jnp

        return jnp.asarray(x, self.dtype)

    def _at(self, path: str) -> Any:
        found = self.model
        for part in path.split("."):
            found = found[int(part)] if part.isdigit() else getattr(found, part)
        return found

    def _owner(self, path: str) -> Any:
        owner, _, _ = path.rpartition(".")
        return self._at(owner) if owner else self.model

    @staticmethod
    def _put(owner: Any, name: str, child: Any) -> None:
        last = name.rpartition(".")[2]
        if last.isdigit():
            owner[int(last)] = child
        else:
            setattr(owner, last, child)
