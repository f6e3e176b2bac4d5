"""The command that scores weights on labelled images."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from resnet_parity.cli.options import (
    DeviceOption,
    JsonOption,
    LabelsOption,
    NamesOption,
    NetOption,
    PartOption,
    asked_of,
    conclude,
)
from resnet_parity.engines.registry import ALL_ENGINES, Engine, parse_device, parse_engines
from resnet_parity.render import tables
from resnet_parity.render.console import err
from resnet_parity.render.progress import ImageProgress
from shared_spec.errors import FrameworkError, ResNetError
from shared_spec.weights.labels import read_labels

FORMATS = ("cifar10", "cifar100", "idx", "folder", "huggingface", "digits")


def evaluate(
    weights: Annotated[
        str,
        typer.Argument(help="Weights in any format that convert can read, or a run's folder."),
    ],
    model: NetOption = None,
    data: Annotated[str | None, typer.Option(help="Path of the images.")] = None,
    data_format: Annotated[
        str | None, typer.Option("--format", help=f"Format of the data: {', '.join(FORMATS)}.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Use the held-out data of this recipe (file or name).")
    ] = None,
    labels: LabelsOption = None,
    part: PartOption = None,
    names: NamesOption = None,
    engines: Annotated[
        str | None,
        typer.Option(help=f"Comma-separated, of {', '.join(ALL_ENGINES)}; default: all installed."),
    ] = None,
    crops: Annotated[
        str, typer.Option(help="center, 10, or multi_scale (fully convolutional).")
    ] = "center",
    scales: Annotated[
        str | None,
        typer.Option(help="With multi_scale: shorter sides; 224,256,384,480,640 for 224 pixels."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float64, float32, float16 or bfloat16.")] = "float32",
    device: DeviceOption = "cpu",
    batch_size: Annotated[
        int, typer.Option(min=1, help="Number of crops computed at a time.")
    ] = 64,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use at most this many images, spread over the data.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score weights on labelled images in each engine, and compare the engines.

    Top-1, top-5 and loss, by the middle of each image, or by the papers' protocols: ten crops, or
    whole images at several scales. Exits with 1 if engines differ by more than rounding explains.
    """
    from resnet_parity.evaluate import scoring as evaluating
    from resnet_parity.evaluate.inputs import EvaluationRequest, prepare
    from resnet_parity.train.recipes import find_recipe
    from shared_spec.catalogue import CATALOGUE
    from shared_spec.catalogue.resolve import resolve
    from shared_spec.weights.state import numpy_dtype

    chosen = _installed(engines)
    where = parse_device(device)
    numpy_dtype(dtype)
    with ImageProgress(err) as display:
        display.on_progress("opening")
        request = EvaluationRequest(
            weights,
            None if model is None else resolve(model),
            path=data,
            format=data_format,
            recipe=None if recipe is None else find_recipe(recipe),
            labels=None if labels is None else read_labels(labels),
            crops=crops,
            scales=None if scales is None else _sides(scales),
            asked=asked_of(weights, part, names),
            limit=limit,
            batch_size=batch_size,
            resize=model in CATALOGUE,
        )
        prepared = prepare(request)
        display.expect(len(prepared.dataset))
        if where == "gpu":
            # The engines share the device, of which TensorFlow would take all there is.
            os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        report = evaluating.evaluate(
            prepared,
            chosen,
            dtype=dtype,
            device=where,
            on_progress=display.on_progress,
            advance=display.advance,
        )
    conclude(report.to_dict(), as_json, tables.evaluated)


def _installed(text: str | None) -> list[Engine]:
    """The engines that were named, each of which must be installed; or all that are."""
    named = parse_engines(text)
    absent = {engine.name: engine.missing() for engine in named}
    installed = [engine for engine in named if absent[engine.name] is None]
    if len(installed) < len(named) if text is not None else not installed:
        name, reason = next((n, r) for n, r in absent.items() if r is not None)
        raise FrameworkError(f"{name}: {reason}")
    return installed


def _sides(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ResNetError(f"scales: {text!r} is not a list of pixels such as 224,256") from None
