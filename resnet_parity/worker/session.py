"""One engine in this process: its package, device, precision and models."""

from __future__ import annotations

import functools
import gc
import importlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared_spec.errors import FrameworkError
from shared_spec.formats.canonical_file import read_safetensors, save_canonical
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.state import State, cast_weights, numpy_dtype

LITERT = "resnet_parity.worker.litert"
"""In the place of a backend package."""

Operation = Callable[..., Any]

Written = tuple[dict[str, Any], Mapping[str, np.ndarray]]
"""What an operation answers, and the arrays that go into a file."""


@dataclass
class Side:
    """A net that is ready. `run` does so many passes and waits: it gives the logits of the last, or
    the loss. `parameters` reads arrays by canonical name, in training alone.
    """

    run: Callable[[int], Any]
    parameters: Callable[[Sequence[str]], State] = lambda names: {}


class Session:
    """What operations share: the backend package, and where models go."""

    def __init__(self, package: str, device: str) -> None:
        self.device = device
        self.package = package
        self.keras_backend = os.environ.get("KERAS_BACKEND") if "keras" in package else None
        start = time.perf_counter()
        set_precision(self.uses, "highest")
        self.resnet: Any = importlib.import_module(package)
        self.import_seconds = time.perf_counter() - start
        self.hardware = self._hardware()
        self.kept: tuple[Any, set[tuple[int, ...]]] | None = None
        """A model that stays from one request to the next, and the shapes that it was given."""
        self.sides: dict[str, tuple[Side, bool]] = {}
        """What `bench` times, by its key, and whether with TF32."""

    @property
    def uses(self) -> set[str]:
        """The frameworks that compute: torch, tensorflow, jax."""
        if self.package == LITERT:
            return {"ai_edge_litert"}
        if self.package == "resnet_keras":
            return {self.keras_backend or "tensorflow"}
        if self.package == "resnet_onnx":
            return {os.environ["RESNET_ONNX_RUNTIME"].partition(":")[0]}
        return {"resnet_torch": {"torch"}, "resnet_flax": {"jax"}}[self.package]

    def model(self, spec: Mapping[str, Any], weights: str, dtype: str) -> Any:
        """A model on the session's device, with the weights of a canonical file in `dtype`."""
        state = narrowed(read_safetensors(weights).state, dtype)
        return self.placed(ResNetSpec.parse(dict(spec)), state, dtype)

    def placed(self, spec: ResNetSpec, state: State, dtype: str) -> Any:
        """A model on the session's device."""
        return self.moved(self.resnet.create_model(spec, weights=state, dtype=dtype))

    def moved(self, model: Any) -> Any:
        """A model, on the session's device; all frameworks but PyTorch see to that themselves."""
        to_cuda = self.package == "resnet_torch" and self.device == "gpu"
        return model.to("cuda") if to_cuda else model

    def function(
        self, model: Any, form: str = "predict"
    ) -> Callable[[np.ndarray], list[np.ndarray]]:
        """A model as a function from images [N, H, W, C] to what it gives, channels last:
        `predict`; `strict`, which is that for one image at a time; `compiled`; and, in
        resnet_torch, `channels_first` in memory (`predict` has channels last).
        """
        if form in ("predict", "strict"):
            options = {"batch_size": 1} if form == "strict" else {}
            return lambda images: arrays_of(self.resnet.predict(model, images, **options))
        forward = self.resnet.compiled(model) if form == "compiled" else model.eval()
        name = self.resnet.dtype_name(model)
        if "torch" not in self.uses:
            return lambda images: arrays_of(forward(images.astype(numpy_dtype(name))))
        import torch

        dtype = getattr(torch, name)
        first = self.package == "resnet_torch"

        def call(images: np.ndarray) -> list[np.ndarray]:
            x = torch.from_numpy(images).to(dtype, copy=True)
            x = x.permute(0, 3, 1, 2) if first else x
            found = arrays_of(forward(x.contiguous() if form == "channels_first" else x))
            return [np.moveaxis(y, 1, -1) if first and y.ndim == 4 else y for y in found]

        return call

    def forward_only(self) -> AbstractContextManager[object]:
        """Keep PyTorch from holding what a gradient would need, under Keras too."""
        if "torch" not in self.uses:
            return nullcontext()
        import torch

        return torch.no_grad()

    @contextmanager
    def at_precision(self, precision: str) -> Iterator[None]:
        """Multiply float32 numbers so for a while."""
        set_precision(self.uses, precision)
        try:
            yield
        finally:
            set_precision(self.uses, "highest")

    def _hardware(self) -> str:
        """The device's name; raises FrameworkError if the engine cannot compute there."""
        (framework,) = self.uses
        found = _DEVICE_NAMES[framework](self.device)
        if found is None:
            raise FrameworkError(f"{framework} finds no {self.device} on this machine")
        return (platform.processor() or platform.machine()) if self.device == "cpu" else found


def writing(operation: Callable[..., Written]) -> Operation:
    """The operation's answer, with the `seconds` that it took unless it has some of its own; its
    arrays are written to the file `outputs`, and its models given back.
    """

    @functools.wraps(operation)
    def call(session: Session, outputs: str, **arguments: Any) -> dict[str, Any]:
        start = time.perf_counter()
        answer, arrays = operation(session, **arguments)
        save_canonical(Path(outputs), Checkpoint(arrays))
        gc.collect()  # Keras's models hold themselves in cycles
        return {"seconds": time.perf_counter() - start} | answer

    return call


def arrays_of(result: Any) -> list[np.ndarray]:
    """What a net gives, one tensor of a framework or several, as numpy; what numpy has not is
    widened.
    """

    def numpy(value: Any) -> np.ndarray:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            return (value.float() if value.itemsize < 4 else value).numpy()  # type: ignore[no-any-return]
        return np.asarray(value)

    return [numpy(x) for x in (result if isinstance(result, list | tuple) else [result])]


def one_line(error: Exception) -> str:
    """What a library raised, in a sentence."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def narrowed(state: Mapping[str, np.ndarray], dtype: str) -> State:
    """`state` rounded where `dtype` is narrower. What is narrower itself stays: loading widens it
    exactly, and the largest nets leave no room for another copy.
    """
    target = numpy_dtype(dtype)
    wider = {k: a for k, a in state.items() if np.promote_types(a.dtype, target) != target}
    return dict(state) | cast_weights(wider, dtype)


def _torch_device(device: str) -> str | None:
    import torch

    if device == "gpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return device if device == "cpu" else None


def _jax_device(device: str) -> str | None:
    import jax

    try:
        found = jax.devices()
    # An unknown platform is a RuntimeError in some versions and a failed assertion in others.
    except (RuntimeError, AssertionError):
        return None
    return str(found[0].device_kind) if found[0].platform == device else None


def _tensorflow_device(device: str) -> str | None:
    import tensorflow as tf

    found = tf.config.list_physical_devices(device.upper())
    if device == "cpu" or not found:
        return device if found else None
    return str(tf.config.experimental.get_device_details(found[0]).get("device_name", device))


def _runtime_device(device: str) -> str | None:
    return device if device == "cpu" else None


_DEVICE_NAMES: dict[str, Callable[[str], str | None]] = {
    "onnxruntime": _runtime_device,
    "openvino": _runtime_device,
    "onnx": _runtime_device,
    "ai_edge_litert": _runtime_device,
    "torch": _torch_device,
    "jax": _jax_device,
    "tensorflow": _tensorflow_device,
}


def set_precision(frameworks: set[str], precision: str) -> None:
    """Multiply float32 numbers in full (`highest`: no TF32, no bfloat16 passes), in `tf32`, or as
    the frameworks do by themselves (`default`).
    """
    if "torch" in frameworks:
        import torch

        # torch's own default: convolutions yes, products no
        torch.backends.cudnn.allow_tf32 = precision != "highest"
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    if "tensorflow" in frameworks:
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(precision != "highest")
    if "jax" in frameworks:
        import jax

        chosen = {"highest": "highest", "tf32": "tensorfloat32"}.get(precision)
        jax.config.update("jax_default_matmul_precision", chosen)  # type: ignore[no-untyped-call]
