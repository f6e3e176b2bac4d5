"""The residual block, the stage and the network as a functional `keras.Model`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import keras
import numpy as np

from resnet_keras.layers import PACKAGE, Add, apply, arrange_kernels, layer_seed
from shared_spec import plan
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.folding import Inference, inference_form
from shared_spec.plan.network import Plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.layouts import keras_layer
from shared_spec.weights.preprocessing import Preprocessing


def residual_block(x: Any, block: plan.Block, dtype: str) -> Any:
    """`output(branch(pre(x)) + shortcut)` on the symbolic tensor `x` of shape [N, H, W, C]."""
    h = chain(x, block.pre, dtype)
    y = chain(h, block.branch, dtype)
    if block.shortcut_from is not None:
        s = chain(x if block.shortcut_from == "input" else h, block.shortcut, dtype)
        y = Add(dtype=dtype, name=keras_layer(f"{block.name}.add"))([y, s])
    return chain(y, block.output, dtype)


def residual_stage(x: Any, stage: plan.Stage, dtype: str) -> Any:
    """Residual blocks one after another."""
    for block in stage.blocks:
        x = residual_block(x, block, dtype)
    return x


@keras.saving.register_keras_serializable(PACKAGE)
class ResNet(keras.Model):
    """A residual network built from a plan, as a functional model.

    Layer names are the plan's, with `_` for `.`: `layer1_0_conv1`. Takes float images
    [N, H, W, C] and returns logits [N, num_classes], or, if the spec says `features_only`, the
    list of feature maps.
    """

    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None

    def __init__(
        self,
        spec: ResNetSpec | dict[str, Any],
        dtype: str = "float32",
        name: str = "resnet",
        trainable: bool = True,
        seed: int = 0,
        inference: Inference | bool | dict[str, Any] = False,
    ) -> None:
        if not isinstance(spec, ResNetSpec):
            spec = ResNetSpec.parse(spec)
        if isinstance(inference, dict):
            inference = Inference(**inference)
        p = inference_form(compile_plan(spec), inference)
        inputs = keras.Input((None, None, p.in_channels), dtype=dtype, name="images")
        found, x = {}, inputs
        for layer in p.stem:
            found[layer.name] = x = apply(layer, x, dtype)
        for stage in p.stages:
            found[stage.name] = x = residual_stage(x, stage, dtype)
        outputs = [found[name] for name in p.outputs] or chain(x, p.head, dtype)
        with deep_graph(p):
            super().__init__(inputs, outputs, name=name)
        self.plan, self.spec, self.kind, self.seed = p, spec, dtype, seed
        self.inference = inference
        arrange_kernels(self)
        self._seed_dropouts()
        self.trainable = trainable
        if keras.backend.backend() == "tensorflow":
            # On a CPU, XLA makes this engine slower; compile(jit_compile=...) decides anew.
            self.jit_compile = False

    def get_config(self) -> dict[str, Any]:
        """What `.keras` files keep: the spec, from which the model is built again."""
        form = self.inference if isinstance(self.inference, bool) else asdict(self.inference)
        return {
            "spec": self.spec.to_dict(),
            "dtype": self.kind,
            "name": self.name,
            "trainable": self.trainable,
            "seed": self.seed,
            "inference": form,
        }

    def _seed_dropouts(self) -> None:
        """Make what dropout draws follow from the model's seed too."""
        for layer in drawing_layers(self):
            key, state = layer_seed(layer.name, self.seed), layer.seed_generator.state
            state.assign(np.array([key, 0], state.dtype))


def drawing_layers(model: keras.Model) -> list[Any]:
    """The layers that draw at random in training."""
    return [layer for layer in model.layers if getattr(layer, "seed_generator", None) is not None]


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


def chain(x: Any, layers: plan.Layers, dtype: str) -> Any:
    """Apply `layers` one after another."""
    for layer in layers:
        x = apply(layer, x, dtype)
    return x


def output_layer(p: Plan, path: str) -> str:
    """Name of the Keras layer whose output is that of the block or layer at a dotted path."""
    for block in p.blocks():
        if block.name == path:
            path = block.output[-1].name if block.output else f"{block.name}.add"
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
