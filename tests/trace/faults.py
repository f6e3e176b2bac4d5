"""A net with one layer damaged in one engine, which a trace has to name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from typing import Any
from unittest.mock import patch

import numpy as np

from resnet_parity.worker.operations import trace, train
from resnet_parity.worker.session import Session
from shared_spec import plan
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.network import Plan

State = dict[str, np.ndarray]

COMPILERS = {
    "resnet_torch": "resnet_torch",
    "resnet_keras": "resnet_keras.model",
    "resnet_flax": "resnet_flax",
}
"""Where each backend gets its plan from."""


def changed(p: Plan, name: str, change: Mapping[str, Any]) -> Plan:
    """The plan with fields of one layer or block replaced; `becomes` makes it another layer."""

    def other(record: Any) -> Any:
        if record.name != name:
            return record
        values = dict(change)
        kind = getattr(plan, values.pop("becomes", type(record).__name__))
        known = {f.name for f in fields(kind)}
        kept = {k: v for k, v in asdict(record).items() if k in known}
        if isinstance(record, plan.Block):
            return replace(record, **values)
        return kind(**{**kept, **values})

    def block(b: plan.Block) -> plan.Block:
        chains = {
            c: tuple(map(other, getattr(b, c))) for c in ("pre", "branch", "shortcut", "output")
        }
        found: plan.Block = other(replace(b, **chains))
        return found

    stages = tuple(replace(s, blocks=tuple(map(block, s.blocks))) for s in p.stages)
    return replace(p, stem=tuple(map(other, p.stem)), stages=stages, head=tuple(map(other, p.head)))


def exchanged(a: str, b: str) -> Callable[[State, str], State]:
    """Two arrays of a layer in each other's place."""

    def change(state: State, layer: str) -> State:
        x, y = state[f"{layer}.{a}"], state[f"{layer}.{b}"]
        return {**state, f"{layer}.{a}": y, f"{layer}.{b}": x}

    return change


def altered(
    leaf: str, function: Callable[[np.ndarray], np.ndarray]
) -> Callable[[State, str], State]:
    """One array of a layer, changed."""
    return lambda state, layer: {
        **state,
        f"{layer}.{leaf}": np.ascontiguousarray(function(state[f"{layer}.{leaf}"])),
    }


def through_bfloat16(array: np.ndarray) -> np.ndarray:
    bits = array.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(array.dtype)


def square(w: np.ndarray) -> np.ndarray:
    """In and out exchanged, in the part of the kernel where both are there."""
    n = min(w.shape[:2])
    out = w.copy()
    out[:n, :n] = w[:n, :n].swapaxes(0, 1)
    return out


WEIGHTS: dict[str, Callable[[State, str], State]] = {
    "scale and bias swapped": exchanged("weight", "bias"),
    "mean and variance swapped": exchanged("running_mean", "running_var"),
    "mean forgotten": altered("running_mean", np.zeros_like),
    "variance forgotten": altered("running_var", np.ones_like),
    "bias dropped": altered("bias", np.zeros_like),
    "bias negated": altered("bias", np.negative),
    "height and width swapped": altered("weight", lambda w: w.transpose(0, 1, 3, 2)),
    "kernel flipped": altered("weight", lambda w: w[:, :, ::-1, ::-1]),
    "in and out swapped": altered("weight", square),
    "groups out of order": altered("weight", lambda w: np.roll(w, len(w) // 4, 0)),
    "channels out of order": altered("weight", lambda w: w[:, ::-1]),
    "classes out of order": altered("weight", lambda w: w[::-1]),
    "through bfloat16": altered("weight", through_bfloat16),
    "off by a float32's rounding": altered("weight", lambda w: w * (1 + 2.0**-24)),
    "gate's bias dropped": altered("fc2.bias", np.zeros_like),
    "gate's first bias negated": altered("fc1.bias", np.negative),
    "gate's kernel reversed": altered("fc2.weight", lambda w: w[::-1]),
    "line reversed": altered("conv.weight", lambda w: w[..., ::-1]),
    "threshold forgotten": altered("tau", np.zeros_like),
    "gate forgotten": altered("v", np.ones_like),
    "scale forgotten": altered("gamma", np.ones_like),
    "NaN": altered("weight", lambda w: w * np.nan),
}


def faulty_trace(session: Session, fault: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    """The worker's `trace`, with a fault in the model: of its weights, its plan, or a
    PyTorch module's attributes."""

    class Faulty:
        def __getattr__(self, name: str) -> Any:
            return getattr(session, name)

        def placed(self, spec: Any, state: State, dtype: str) -> Any:
            if "weights" in fault:
                state = WEIGHTS[fault["weights"]](dict(state), fault["layer"])
                return session.placed(spec, state, dtype)
            if "native" in fault:
                model = session.placed(spec, state, dtype)
                for name, value in fault["native"].items():
                    setattr(model.get_submodule(fault["layer"]), name, tuple(value))
                return model
            change = dict(fault["plan"])
            further = change.pop("and", None)
            p = changed(compile_plan(spec), fault["layer"], change)
            if further:
                p = changed(p, *further)
            assert p != compile_plan(spec)
            module = importlib.import_module(COMPILERS[session.package])
            with ExitStack() as stack:
                stack.enter_context(patch.object(module, "compile_plan", lambda spec: p))
                # A layer that is gone has no weights.
                kept = {q.name for q in p.parameters()}
                return session.placed(spec, {k: state[k] for k in kept}, dtype)

    return trace(Faulty(), **arguments)  # type: ignore[arg-type]


def faulty_gradient(session: Session, layer: str, **arguments: Any) -> dict[str, Any]:
    """The worker's `train` in PyTorch, where a layer passes twice its input's gradient back."""

    class Faulty:
        def __getattr__(self, name: str) -> Any:
            return getattr(session, name)

        def placed(self, *args: Any) -> Any:
            model = session.placed(*args)
            module = model.get_submodule(layer)
            module.register_full_backward_hook(
                lambda m, entered, left: tuple(2 * g for g in entered)
            )
            return model

    return train(Faulty(), **arguments)  # type: ignore[arg-type]
