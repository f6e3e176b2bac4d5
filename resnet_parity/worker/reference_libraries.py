"""The libraries that judge the catalogue: which names each of them has, and how to run it.

A library runs in the process of an engine that has its framework, on our canonical weights. These
are loaded by name and strictly: all that the library has is assigned, and all that we have is used.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from resnet_parity.engines.reference_libraries import Reference, names_there, recast
from shared_spec.catalogue import CATALOGUE, Entry
from shared_spec.errors import ResNetError
from shared_spec.formats.dialects import keras_applications, keras_hub
from shared_spec.plan.compiler import compile_plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.state import State

Outputs = tuple[int, list[list[np.ndarray]]]
"""Number of parameters, and of each batch of images what the net returns."""


def reference_results(
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
    if "keras" in reference.requires:
        return _run_keras(reference.name, entry.spec, state, dtype, images)
    import torch

    with float64_statistics() if recast(reference, entry, dtype) else nullcontext():
        there = names_there(reference.name, entry.spec, state)
        named = {there[name]: array for name, array in state.items()}
        net = load_torch(torch_net(reference.name, entry.name), named, dtype)
        kind = getattr(torch, dtype)
        with torch.inference_mode():
            given = (net(torch.from_numpy(x).to(kind).permute(0, 3, 1, 2)) for x in images)
            found = [_channels_last(one) for one in given]
    return sum(p.numel() for p in net.parameters()), found


def _channels_last(given: Any) -> list[np.ndarray]:
    """Logits, or the maps that torchvision has in a dict."""
    if isinstance(given, Mapping):
        return [found.permute(0, 2, 3, 1).numpy() for found in given.values()]
    return [given.numpy()]


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
    """Let timm's `x.float()` keep float64: EvoNorm and FRN take their statistics through it, and
    tables of positions are resampled behind it.
    """
    import torch

    kept = torch.Tensor.float
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.float = kept  # type: ignore[method-assign]


def torch_net(library: str, name: str) -> Any:
    """Timm's or torchvision's net of a name, with random weights."""
    if library == "timm":
        return timm_model(name)
    segments = CATALOGUE[name].spec.segmentation != "none"
    options = {"weights_backbone": None, "aux_loss": True} if segments else {}
    return torchvision_models().get_model(name, weights=None, **options)


def load_torch(net: Any, state: State, dtype: str) -> Any:
    """`net` in `dtype` with weights under its own names, each of which it needs and has.

    Raises:
        ResNetError: if names or shapes differ.
    """
    import torch

    net = net.to(getattr(torch, dtype)).eval()
    try:
        net.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    except RuntimeError as error:
        raise ResNetError(" ".join(str(error).split())[:500]) from None
    return net


def keras_net(
    library: str, net: ResNetSpec, size: tuple[int, int], dtype: str
) -> tuple[Any, dict[str, Any]]:
    """The net that keras.applications or KerasHub builds for a spec, and its layers with variables
    by canonical name.
    """
    import keras

    layers: Iterable[Any]
    if library == "keras.applications":
        depth = 3 * sum(net.depths) + 2
        model = getattr(keras.applications, f"ResNet{depth}{'V2' if net.pre_activation else ''}")(
            weights=None,
            input_shape=(*size, net.in_channels),
            classes=net.num_classes,
            classifier_activation=None,
        )
        layers, name = model.layers, keras_applications.layer_name
    else:
        models = importlib.import_module("keras_hub").models
        config = keras_hub.backbone_config(net, dtype)["config"]
        unused = ("name", "trainable", "dtype")
        backbone = models.ResNetBackbone(**{k: v for k, v in config.items() if k not in unused})
        model = models.ResNetImageClassifier(backbone, net.num_classes, compile=False)
        layers, name = [*model.backbone.layers, model.output_dense], keras_hub.layer_name
    names = {name(q.module, net): q.module for q in compile_plan(net).parameters()}
    return model, {names[layer.name]: layer for layer in layers if layer.variables}


def load_keras(library: str, layers: Mapping[str, Any], state: State) -> None:
    """Put canonical weights into Keras's own layers, which `keras_net` found.

    Raises:
        ResNetError: if a layer needs one that `state` lacks, or no layer takes one that it has.
    """
    used = set()
    for module, layer in layers.items():
        for variable in layer.variables:
            name = f"{module}.{KEYS[variable.name]}"
            if name not in state:
                raise ResNetError(f"{layer.name} needs {name}, which the weights lack")
            array = state[name]
            if array.ndim == 4 and len(variable.shape) == 2:  # our 1x1 convolution, a Dense here
                array = array[:, :, 0, 0]
            variable.assign(array.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim, (0,))))
            used.add(name)
    unused = sorted(state.keys() - used)
    if unused:
        raise ResNetError(f"{library} has no {', '.join(unused[:5])}")


def _run_keras(
    library: str, spec: ResNetSpec, state: State, dtype: str, images: Sequence[np.ndarray]
) -> Outputs:
    found: list[list[np.ndarray]] = []
    count = 0
    for batch in images:  # the classifier makes it ask for a static size
        with keras_dtype(dtype):
            net, layers = keras_net(library, spec, batch.shape[1:3], dtype)
        load_keras(library, layers, state)
        found.append([np.asarray(net(batch.astype(dtype), training=False))])
        count = sum(math.prod(v.shape) for v in net.trainable_variables)
    return count, found


@contextmanager
def keras_dtype(dtype: str, policy: str | None = None) -> Iterator[None]:
    """Let Keras build layers of `dtype`: by the policy too, which keeps an earlier floatx."""
    import keras

    with keras_settings_kept():
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(policy or dtype)
        yield


@contextmanager
def keras_settings_kept() -> Iterator[None]:
    """Let nothing that runs in it, such as a user's own code, change what Keras builds later."""
    keras = sys.modules.get("keras")
    if keras is None:
        yield
        return
    kept = keras.config.floatx(), keras.config.dtype_policy()
    try:
        yield
    finally:
        keras.config.set_floatx(kept[0])
        keras.config.set_dtype_policy(kept[1])


KEYS = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}
KEYS |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
