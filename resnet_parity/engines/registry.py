"""The engines, and worker processes that run them apart from one another.

Keras can have one engine a process, and frameworks compete for memory and threads; so each engine
runs in a process of its own and exchanges safetensors files with this one.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from shared_spec.errors import FrameworkError, did_you_mean

Device = Literal["cpu", "gpu", "tpu"]
DEVICES: tuple[Device, ...] = ("cpu", "gpu", "tpu")

Precision = Literal["highest", "default"]
"""Of the products of float32 numbers: in full, or as each framework does them when nobody asks."""
PRECISIONS: tuple[Precision, ...] = ("highest", "default")


def missing_modules(modules: Iterable[str], install: str | None = None) -> str | None:
    """None, or a sentence that says which are not installed and how to get them: by what pip calls
    `install`, or by their own names.
    """
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    if not absent:
        return None
    return f"{', '.join(absent)} not installed; run: pip install {install or ' '.join(absent)}"


_ONNX = "resnet_onnx"


@dataclass(frozen=True)
class Engine:
    """A backend package on a framework or a runtime: `requires` are the modules that must be
    installed, `install` the extra that brings them.
    """

    name: str
    package: str
    requires: tuple[str, ...]
    install: str
    keras_backend: str | None = None
    runtime: str | None = None
    """Of exported models; None for a framework."""
    variables: tuple[tuple[str, str], ...] = ()
    """Of its worker's environment, beside those that every worker has."""

    @property
    def framework(self) -> str:
        """What computes: torch, tensorflow, jax, or a runtime."""
        own = {"resnet_torch": "torch", "resnet_flax": "jax"}
        return self.runtime or self.keras_backend or own[self.package]

    @property
    def trains(self) -> bool:
        """Whether it is a framework, and no runtime of exported models."""
        return self.runtime is None

    def missing(self) -> str | None:
        """None, or a sentence that says what is not installed and how to get it."""
        return missing_modules(self.requires, f"'resnet-parity[{self.install}]'")

    def environment(self, device: Device) -> dict[str, str]:
        """Environment of the worker process."""
        env = dict(os.environ)
        # Most of the notes that TensorFlow and XLA print on every start.
        env |= {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_ENABLE_X64": "1", "PYTHONUNBUFFERED": "1"}
        if self.keras_backend is not None:
            env["KERAS_BACKEND"] = self.keras_backend
        if self.package == _ONNX and self.runtime is not None:
            env["RESNET_ONNX_RUNTIME"] = self.runtime
        if device == "cpu":
            env |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
        elif device == "tpu":
            env["JAX_PLATFORMS"] = "tpu"
        else:
            env["JAX_PLATFORMS"] = "cuda"
            env["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        for name, value in self.variables:
            # A list of flags: others stay in force.
            before = env.get(name, "") if name == "XLA_FLAGS" else ""
            env[name] = f"{before} {value}".strip()
        return env


ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine("torch", "resnet_torch", ("torch",), "torch"),
        Engine(
            "keras:tensorflow",
            "resnet_keras",
            ("keras", "h5py", "tensorflow"),
            "tensorflow",
            "tensorflow",
        ),
        Engine("keras:jax", "resnet_keras", ("keras", "h5py", "jax"), "keras,flax", "jax"),
        Engine("keras:torch", "resnet_keras", ("keras", "h5py", "torch"), "keras,torch", "torch"),
        Engine("flax", "resnet_flax", ("jax", "flax", "optax"), "flax"),
    )
}
"""Frameworks, in which models train too."""


RUNTIMES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine("onnxruntime", _ONNX, ("onnx", "onnxruntime"), "onnx", runtime="onnxruntime"),
        Engine("openvino", _ONNX, ("onnx", "openvino"), "openvino", runtime="openvino"),
        Engine("onnx:reference", _ONNX, ("onnx",), "onnx", runtime="onnx:reference"),
        # Keras makes its models.
        Engine(
            "litert",
            "resnet_parity.worker.litert",
            ("keras", "h5py", "tensorflow", "ai_edge_litert"),
            "litert",
            "tensorflow",
            "litert",
        ),
    )
}
"""What runs exported models, and no other."""

ALL_ENGINES = ENGINES | RUNTIMES


def parse_engines(text: str | None) -> list[Engine]:
    """Engines from a comma-separated list; all frameworks, and no runtimes, if None.

    Raises:
        FrameworkError: naming an unknown or repeated entry.
    """
    if text is None:
        return list(ENGINES.values())
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise FrameworkError(f"engines: name at least one of {', '.join(ALL_ENGINES)}")
    for name in names:
        if name not in ALL_ENGINES:
            near = did_you_mean(name, ALL_ENGINES) or "; known: " + ", ".join(ALL_ENGINES)
            raise FrameworkError(f"engines: there is no engine {name!r}{near}")
        if names.count(name) > 1:
            raise FrameworkError(f"engines: {name!r} is named twice")
    return [ALL_ENGINES[name] for name in names]


def require_training(engines: Iterable[Engine]) -> None:
    """Refuse what runs models and does not train them.

    Raises:
        FrameworkError: naming the first.
    """
    for engine in engines:
        if not engine.trains:
            raise FrameworkError(
                f"{engine.name}: runs models and does not train them; {', '.join(ENGINES)} do"
            )


def parse_device(text: str) -> Device:
    """A device kind.

    Raises:
        FrameworkError: if it is none of cpu, gpu, tpu.
    """
    for device in DEVICES:
        if text == device:
            return device
    raise FrameworkError(f"device: {text!r} is not one of {', '.join(DEVICES)}")


def parse_precision(text: str) -> Precision:
    """A precision.

    Raises:
        FrameworkError: if it is neither highest nor default.
    """
    for precision in PRECISIONS:
        if text == precision:
            return precision
    raise FrameworkError(f"precision: {text!r} is not one of {', '.join(PRECISIONS)}")


def first_available(names: Sequence[str]) -> Engine:
    """The first of several engines that is installed.

    Raises:
        FrameworkError: if none is.
    """
    for name in names:
        if ALL_ENGINES[name].missing() is None:
            return ALL_ENGINES[name]
    raise FrameworkError(f"{names[0]}: {ALL_ENGINES[names[0]].missing()}")
