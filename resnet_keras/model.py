"""The residual block, the stage and the network as a functional `keras.Model`."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from inspect import signature
from typing import Any

import keras
import numpy as np
from keras import ops

from resnet_keras.layers import PACKAGE, STAND_INS, Add, apply, arrange_kernels, layer_seed
from shared_spec import plan
from shared_spec.errors import FrameworkError
from shared_spec.formats.keras_config import (
    FUNCTIONAL_CLASS,
    extras_in,
    has_own_spec,
    headless,
    structure,
    without_activation,
)
from shared_spec.kernels.xla import recomputed
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.folding import Inference, inference_form
from shared_spec.plan.network import Plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weight_verbs import remember, remembered
from shared_spec.weights.layouts import keras_layer
from shared_spec.weights.preprocessing import Preprocessing


def residual_block(x: Any, block: plan.Block, dtype: keras.DTypePolicy) -> Any:
    """`output(branch(pre(x)) + shortcut)` on the symbolic tensor `x` of shape [N, H, W, C]."""
    h = chain(x, block.pre, dtype)
    y = chain(h, block.branch, dtype)
    if block.shortcut_from is not None:
        s = chain(x if block.shortcut_from == "input" else h, block.shortcut, dtype)
        y = Add(dtype=dtype, name=keras_layer(f"{block.name}.add"))([y, s])
    return chain(y, block.output, dtype)


def residual_stage(x: Any, stage: plan.Stage, dtype: keras.DTypePolicy) -> Any:
    """Residual blocks one after another."""
    for block in stage.blocks:
        x = residual_block(x, block, dtype)
    return x


@dataclass(frozen=True)
class Form:
    """What a model is beside its spec, as `create_model` is asked for it."""

    dtype: keras.DTypePolicy
    name: str = "resnet"
    seed: int = 0
    inference: Inference | bool = False
    maps: bool = False
    """Whether it ends in the last maps, without pool and classifier."""
    image_shape: tuple[int | None, int | None] = (None, None)
    """Height and width of images, if they are fixed."""
    images: Any = None
    """The symbolic tensor that enters it, if there is one already."""
    activation: Any = None
    """Of the classifier."""


def build(spec: ResNetSpec, form: Form, kind: type[ResNet] | None = None) -> ResNet:
    """The model of a spec, whose weights are still to be filled in.

    Raises:
        FrameworkError: if Keras is set to channels before rows.
    """
    if keras.config.image_data_format() != "channels_last":
        raise FrameworkError(
            "image_data_format: resnet_keras computes on channels_last alone; call "
            "keras.config.set_image_data_format('channels_last') before a model is made"
        )
    p = planned(spec, form.inference, form.maps)
    x, dtype = form.images, form.dtype
    if x is None:
        shape = (*form.image_shape, p.in_channels)
        x = keras.Input(shape, dtype=dtype.variable_dtype, name="images")
    (inputs,) = keras.utils.get_source_inputs(x)
    whole, found = x is inputs, {"": x}
    for layer in p.stem:
        found[layer.name] = x = apply(layer, x, dtype)
    for stage in p.stages:
        found[stage.name] = x = residual_stage(x, stage, dtype)
    for layer in p.head:
        found[layer.name] = x = apply(layer, x, dtype)
    for junction in p.junctions:
        entering = [found[name] for name in junction.sources]
        x = entering if len(entering) > 1 else entering[0]
        found[junction.name] = x = chain(x, junction.layers, dtype)
    outputs = [found[name] for name in p.outputs] or x
    model = (kind or ResNet)(
        inputs,
        outputs,
        form.name,
        spec=spec,
        seed=form.seed,
        inference=form.inference,
        maps=form.maps,
    )
    # What is in front of the net is not the spec's.
    if whole:
        with without_tensorflow():
            model.structure = structure(model.get_config())
    if form.inference:
        model.trainable = False
    if form.activation is not None and model.classifier is not None:
        model.get_layer(model.classifier).activation = keras.activations.get(form.activation)
    return model


def planned(spec: ResNetSpec, inference: Inference | bool = False, maps: bool = False) -> Plan:
    """The plan of a model; with `maps`, of what Keras calls a net without its top."""
    p = compile_plan(spec)
    return inference_form(replace(p, head=headless(p.head)) if maps else p, inference)


@keras.saving.register_keras_serializable(PACKAGE, "Functional")
class ResNet(keras.Model):
    """A residual network built from a plan, as a functional model.

    Layer names are the plan's, with `_` for `.`: `layer1_0_conv1`. Takes float images
    [N, H, W, C] and returns logits [N, num_classes], or, if the spec says `features_only`, the
    list of feature maps.

    In files it is a functional model with all that is set on its layers. Keras makes a `ResNet` of
    it again where `resnet_keras` is imported, and else a `keras.Model` of the same layers, unless
    one of them is in `resnet_keras` alone.
    """

    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None
    remat = False
    """Whether blocks' activations are computed again in the backward pass, instead of kept; `fit`
    and `Trainer` see it when they compile a step."""

    __module__ = "keras.src.models.functional"  # with the name below, Keras's own class in files
    _unpickle_model = keras.Model._unpickle_model

    def __new__(cls, *args: Any, spec: Any = None, **kwargs: Any) -> Any:
        """A model without a spec, such as a clone with other layers, is Keras's own."""
        if spec is None and (args or kwargs):
            return keras.Model(*args, **kwargs)
        return super().__new__(cls)

    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        name: str | None = None,
        *,
        spec: ResNetSpec | dict[str, Any],
        seed: int = 0,
        inference: Inference | bool | dict[str, Any] = False,
        maps: bool = False,
        structure: str | None = None,
        **kwargs: Any,
    ) -> None:
        spec = spec if isinstance(spec, ResNetSpec) else ResNetSpec.parse(spec)
        inference = Inference(**inference) if isinstance(inference, dict) else inference
        p = planned(spec, inference, maps)
        with deep_graph(p):
            super().__init__(inputs, outputs, name=name, **kwargs)
        self.plan, self.spec, self.seed = p, spec, seed
        self.inference, self.maps, self.structure = inference, maps, structure
        self.kind = str(keras.backend.standardize_dtype(self.weights[0].dtype))
        self.classifier = None if p.classifier is None else keras_layer(p.classifier.name)
        arrange_kernels(self)
        self._seed_dropouts()
        if keras.backend.backend() == "tensorflow":
            # On a CPU, XLA makes this engine slower; compile(jit_compile=...) decides anew.
            self.jit_compile = False

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None, **args: Any) -> Any:
        """[N, H, W, C] to [N, num_classes], or to feature maps."""
        if not (self.remat and training):
            return super().call(inputs, training=training, mask=mask, **args)
        front, blocks, rest = self._parts
        (images,) = self._standardize_inputs(inputs)
        found = front([images])
        known = dict(zip(map(id, front.function.outputs), found, strict=True))
        for entered, left, block in blocks:
            known[id(left)] = block(known[id(entered)], remat=True)
        outputs = rest([images, *known.values()])
        return outputs if len(outputs) > 1 else outputs[0]

    @cached_property
    def _parts(self) -> tuple[Part, list[tuple[Any, Any, Part]], Part]:
        """The layers before the blocks, each block with what enters and leaves it, and the layers
        that take any of that.
        """
        ends = [part_ends(self, block.name) for block in self.plan.blocks()]
        names = (output_layer(self.plan, layer.name) for layer in self.plan.stem)
        stem = [self.get_layer(name).output for name in names]
        before = {id(x): x for x in (*stem, *(x for x, _ in ends[:1]))}
        front = Part(self.inputs, [*before.values()])
        blocks = [(entered, left, Part(entered, left)) for entered, left in ends]
        known = [*self.inputs, *before.values(), *(left for _, left in ends)]
        return front, blocks, Part(known, self.outputs)

    def get_config(self) -> dict[str, Any]:
        """What files keep: that of a functional model, the spec, and what is known of images and
        classes.

        Raises:
            WeightsError: if what was set as `labels` or `preprocessing` cannot be that.
        """
        known = remembered(self).metadata()
        form = self.inference if isinstance(self.inference, bool) else asdict(self.inference)
        config: dict[str, Any] = super().get_config()
        return config | {
            "spec": self.spec.to_dict(),
            "seed": self.seed,
            "inference": form,
            "maps": self.maps,
            "structure": self.structure,
            "classifier": self.classifier,
            "preprocessing": known.get("preprocessing"),
            "labels": known.get("labels"),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> ResNet:
        """From what `get_config` gave; earlier files have the spec alone."""
        if "layers" not in config:
            known = {k: config[k] for k in ("name", "seed") if k in config}
            inference = config.get("inference", False)
            if isinstance(inference, dict):
                inference = Inference(**inference)
            policy = keras.DTypePolicy(config.get("dtype", "float32"))
            spec = ResNetSpec.parse(config["spec"])
            model = build(spec, Form(policy, inference=inference, **known), EarlierResNet)
            model.trainable = config.get("trainable", True)
            return model
        unchanged = has_own_spec({"registered_name": FUNCTIONAL_CLASS, "config": config})
        with keras.saving.custom_object_scope(STAND_INS):
            told = "classifier", "preprocessing", "labels"
            needed = {k: v for k, v in config.items() if k not in told}
            found: ResNet = super().from_config(needed, custom_objects)
        remember(found, extras_in(config, found.spec, f"the configuration of {found.name}"))
        if unchanged:
            # Another version of Keras may have other settings.
            found.structure = structure(without_activation(found.get_config()))
        return found

    def _seed_dropouts(self) -> None:
        """Make what dropout draws follow from the model's seed too."""
        for layer in drawing_layers(self):
            key, state = layer_seed(layer.name, self.seed), layer.seed_generator.state
            state.assign(np.array([key, 0], state.dtype))


ResNet.__name__ = "Functional"


@keras.saving.register_keras_serializable(PACKAGE, "ResNet")
class EarlierResNet(ResNet):
    """From a file of an earlier version, in which a model around it has its weights under the name
    that the class had.
    """


EarlierResNet.__name__ = "ResNet"


class Part(keras.layers.Layer):
    """What makes some symbolic tensors of a model from others, in training."""

    def __init__(self, inputs: Any, outputs: Any) -> None:
        super().__init__(autocast=False)  # so that variables are read here as they are
        self.function = keras.Function(inputs, outputs)

    def call(self, inputs: Any, remat: bool = False) -> Any:
        """The outputs; with `remat`, activations are computed again in the backward pass. What the
        layers write, such as norms' statistics, they write once.
        """
        if not remat:
            return self.function._run_through_graph(inputs, operation_fn=_in_training)
        variables = [v for layer in self.function.operations for v in layer.variables]
        trained = [v for v in variables if v.trainable]
        others = [v for v in variables if not v.trainable]
        # Copies: what dropout draws from has changed when it draws again.
        kept = [ops.copy(v.value) for v in others]

        def run(x: Any, *values: Any) -> tuple[Any, ...]:
            held = list(zip([*trained, *others], [*values, *kept], strict=True))
            with keras.StatelessScope(state_mapping=held) as scope:
                y = self(x)
            if keras.backend.backend() == "torch":
                # Keras walks through arguments by functions that refer to themselves, and these
                # keep each layer's input until Python collects them. They are young.
                gc.collect(1)
            return y, *(ops.stop_gradient(scope.get_current_value(v)) for v in others)

        again = recomputed if keras.backend.backend() == "jax" else keras.remat
        with _whole_runs():
            y, *after = again(run)(inputs, *(ops.convert_to_tensor(v.value) for v in trained))
        for variable, value in zip(others, after, strict=True):
            variable.assign(value)
        return y


def _whole_runs() -> AbstractContextManager[None]:
    """On the PyTorch engine, what is computed again is so to its end. PyTorch would stop it by an
    exception, of which Keras makes another for each layer on the way. Those are cycles, and their
    frames keep the block's tensors until Python collects them.
    """
    if keras.backend.backend() != "torch":
        return nullcontext()
    from torch.utils.checkpoint import set_checkpoint_early_stop

    return set_checkpoint_early_stop(False)


def _in_training(operation: Any) -> Any:
    """A layer, whose calls in a graph say that nothing trains."""
    if "training" not in signature(operation.call).parameters:
        return operation
    return lambda *args, **kwargs: operation(*args, **{**kwargs, "training": True})


def drawing_layers(model: keras.Model) -> list[Any]:
    """The layers that draw at random in training."""
    return [layer for layer in model.layers if getattr(layer, "seed_generator", None) is not None]


@contextmanager
def without_tensorflow() -> Iterator[None]:
    """Keras asks of each argument of a layer whether it is TensorFlow's. On other engines it would
    import that, which takes seconds, although nothing can be of what nobody has imported.
    """
    library = keras.src.utils.module_utils.tensorflow
    if "tensorflow" in sys.modules or getattr(library, "_available", True) is not None:
        yield
        return
    library._available = False
    try:
        yield
    finally:
        library._available = None


@contextmanager
def deep_graph(p: Plan) -> Iterator[None]:
    """Let Keras walk the graph of a net of hundreds of layers: it recurses, a call a layer."""
    kept = sys.getrecursionlimit()
    # A record of the plan is at most six Keras layers in a row.
    sys.setrecursionlimit(max(kept, 1000 + 6 * sum(1 for _ in p.layers())))
    try:
        yield
    finally:
        sys.setrecursionlimit(kept)


def chain(x: Any, layers: plan.Layers, dtype: keras.DTypePolicy) -> Any:
    """Apply `layers` one after another."""
    for layer in layers:
        x = apply(layer, x, dtype)
    return x


def output_layer(p: Plan, path: str) -> str:
    """Name of the Keras layer whose output is that of the block or layer at a dotted path."""
    for block in p.blocks():
        if block.name == path:
            summed = block.shortcut_from is not None and not block.output
            path = f"{block.name}.add" if summed else (*block.branch, *block.output)[-1].name
    return keras_layer(path)


def part_ends(model: keras.Model, path: str) -> tuple[Any, Any]:
    """Symbolic input and output of the block or layer at a dotted path, which may be several Keras
    layers: those called `<path>_...` on the way back from its output.
    """
    last = model.get_layer(output_layer(model.plan, path))
    prefix = f"{keras_layer(path)}_"
    seen, waiting = {last.name}, [last]
    while waiting:
        layer = waiting.pop()
        for tensor in layer.input if isinstance(layer.input, list) else [layer.input]:
            maker = tensor._keras_history.operation
            if not maker.name.startswith(prefix):
                entered = tensor
            elif maker.name not in seen:
                seen.add(maker.name)
                waiting.append(maker)
    return entered, last.output
