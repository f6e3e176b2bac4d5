"""The libraries that judge the catalogue: which names each of them has, and how to run it.

A library runs in the process of an engine that has its framework, on our canonical weights. These
are loaded by name and strictly: all that the library has is assigned, and all that we have is used.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from resnet_parity.engines.reference_libraries import REFERENCES, Reference, recast
from shared_spec.catalogue import Entry
from shared_spec.errors import ResNetError
from shared_spec.formats.dialects.keras_applications import layer_name
from shared_spec.plan.compiler import compile_plan
from shared_spec.weights.state import State

Outputs = tuple[int, list[np.ndarray]]
"""Number of parameters, and the logits of each batch of images."""


def reference_logits(
    reference: Reference, entry: Entry, state: State, dtype: str, images: Sequence[np.ndarray]
) -> Outputs:
    """Run a library's net on canonical weights, in a process that has its framework.

    Args:
        reference: the library.
        entry: which net.
        state: canonical weights, each of which is used.
        dtype: of parameters and computation, float64 or float32.
        images: batches [N, H, W, C].

    Raises:
        ResNetError: if the library's parameters and `state` do not match name by name.
    """
    return _RUN[reference.name](entry, state, dtype, images)


def torchvision_models() -> Any:
    """`torchvision.models`, also where torchvision's compiled operators do not load.

    A CUDA build of torchvision beside a CPU build of torch has none, and its import then fails
    while it registers fakes for two of them. Their schemas are enough for the models.
    """
    import torch

    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError:
        library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        return importlib.import_module("torchvision.models")


_KEPT: list[object] = []  # a Library drops its definitions when it is collected


def timm_model(name: str, **options: Any) -> Any:
    """A timm model with random weights."""
    torchvision_models()  # timm imports torchvision
    return importlib.import_module("timm").create_model(name, pretrained=False, **options)


@contextmanager
def float64_statistics() -> Iterator[None]:
    """Let timm's `x.float()` keep float64: EvoNorm and FRN take their statistics through it."""
    import torch

    kept = torch.Tensor.float
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.float = kept  # type: ignore[method-assign]


def _torchvision(entry: Entry, state: State, dtype: str, images: Sequence[np.ndarray]) -> Outputs:
    return _torch(getattr(torchvision_models(), entry.name)(weights=None), state, dtype, images)


def _timm(entry: Entry, state: State, dtype: str, images: Sequence[np.ndarray]) -> Outputs:
    with float64_statistics() if recast(REFERENCES["timm"], entry, dtype) else nullcontext():
        return _torch(timm_model(entry.name), state, dtype, images)


def _torch(net: Any, state: State, dtype: str, images: Sequence[np.ndarray]) -> Outputs:
    import torch

    kind = getattr(torch, dtype)
    net = net.to(kind).eval()
    try:
        net.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    except RuntimeError as error:
        raise ResNetError(" ".join(str(error).split())[:500]) from None
    with torch.inference_mode():
        found = [net(torch.from_numpy(x).to(kind).permute(0, 3, 1, 2)).numpy() for x in images]
    return sum(p.numel() for p in net.parameters()), found


def _keras(entry: Entry, state: State, dtype: str, images: Sequence[np.ndarray]) -> Outputs:
    import keras

    # keras_resnet50v2 is ResNet50V2.
    name = entry.name.removeprefix("keras_").replace("resnet", "ResNet").replace("v2", "V2")
    modules = {q.module for q in compile_plan(entry.spec).parameters()}
    names = {layer_name(module, entry.spec): module for module in modules}
    count, found = 0, []
    for batch in images:  # the classifier makes it ask for a static size
        with keras_dtype(dtype):
            net = getattr(keras.applications, name)(
                weights=None, input_shape=batch.shape[1:], classifier_activation=None
            )
        unused = sorted(state.keys() - set(assign(net.layers, names, state)))
        if unused:
            raise ResNetError(f"keras.applications has no {', '.join(unused[:5])}")
        found.append(np.asarray(net(batch.astype(dtype), training=False)))
        count = sum(math.prod(v.shape) for v in net.trainable_variables)
    return count, found


@contextmanager
def keras_dtype(dtype: str) -> Iterator[None]:
    """Let Keras build layers of `dtype`: by the policy too, which keeps an earlier floatx."""
    import keras

    kept = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(kept[0])
        keras.config.set_dtype_policy(kept[1])


KEYS = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}
KEYS |= {"moving_mean": "running_mean", "moving_variance": "running_var"}


def assign(layers: Iterable[Any], names: Mapping[str, str], state: State) -> list[str]:
    """Put weights into Keras's own layers, given each layer's canonical name.

    Returns:
        The names that were used.

    Raises:
        ResNetError: if `state` lacks one that a layer needs.
    """
    used = []
    for layer in layers:
        for variable in layer.variables:
            name = f"{names[layer.name]}.{KEYS[variable.name]}"
            if name not in state:
                raise ResNetError(f"{layer.name} needs {name}, which the weights lack")
            array = state[name]
            if array.ndim == 4 and len(variable.shape) == 2:  # our 1x1 convolution, a Dense here
                array = array[:, :, 0, 0]
            variable.assign(array.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim, (0,))))
            used.append(name)
    return used


_RUN: dict[str, Callable[[Entry, State, str, Sequence[np.ndarray]], Outputs]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "keras.applications": _keras,
}
