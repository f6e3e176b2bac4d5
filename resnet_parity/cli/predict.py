"""The command `predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resnet_parity.cli.options import (
    DeviceOption,
    EngineOption,
    JsonOption,
    LabelsOption,
    NamesOption,
    NetOption,
    PartOption,
    WeightsOption,
    asked_of,
    one_engine,
    print_result,
)
from resnet_parity.engines.registry import parse_device
from resnet_parity.render import tables
from resnet_parity.render.console import err
from resnet_parity.render.progress import progress
from shared_spec.catalogue.resolve import resolve
from shared_spec.errors import ResNetError
from shared_spec.weights.labels import read_labels


def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: NetOption = None,
    weights: WeightsOption = None,
    engine: EngineOption = "torch",
    device: DeviceOption = "cpu",
    top: Annotated[int, typer.Option(min=1, help="Number of classes to show.")] = 5,
    labels: LabelsOption = None,
    part: PartOption = None,
    names: NamesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Classify image files: show the most probable classes of each."""
    from resnet_parity.evaluate.predict import classify

    if weights is None:
        raise ResNetError("--weights: name a weights file; an untrained model predicts nothing")
    chosen = one_engine(engine)
    spec = None if model is None else resolve(model)
    classes = None if labels is None else read_labels(labels)
    place = asked_of(weights, part, names)
    with progress(err) as advance:
        advance(f"{len(images)} image{'s' if len(images) > 1 else ''} on {chosen.name}")
        where = parse_device(device)
        found = classify(images, weights, spec, chosen, where, top, classes, place)
    print_result(found, as_json, tables.predictions)
