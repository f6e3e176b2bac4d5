"""Frameworks' own exporters, broken."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

PLACES = {
    "pt2": "torch.export:export",
    "stablehlo": "jax.export:export",
    "savedmodel": "resnet_keras.exporting:save_program",
    "litert": "tensorflow:lite.TFLiteConverter.from_saved_model",
    "openvino": "openvino:convert_model",
}
"""What each format is written by."""

_patches: list[pytest.MonkeyPatch] = []


def _fail(*given: Any, **named: Any) -> Any:
    raise RuntimeError("no such\noperator")


def broken(resnet: Any, name: str) -> None:
    """Have an exporter fail."""
    module, _, place = PLACES[name].partition(":")
    *owners, last = place.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    patch = pytest.MonkeyPatch()
    patch.setattr(owner, last, _fail)
    _patches.append(patch)


def unchecked(resnet: Any) -> None:
    """Have what is refused from the plan reach its exporter."""
    patch = pytest.MonkeyPatch()
    patch.setattr("shared_spec.export_formats.ExportFormat.check_net", lambda *given: None)
    _patches.append(patch)


def mended(resnet: Any) -> None:
    """Undo `broken` and `unchecked`."""
    while _patches:
        _patches.pop().undo()
