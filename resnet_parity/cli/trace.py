"""The command `trace`: where two implementations diverge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_parity.cli.options import (
    DeviceOption,
    JsonOption,
    ModelArgument,
    PartOption,
    SeedOption,
    WeightsOption,
    asked_of,
    conclude,
    require_factory,
)
from resnet_parity.engines.registry import ALL_ENGINES, parse_device, parse_engines
from resnet_parity.render import plots
from resnet_parity.render.console import err
from resnet_parity.render.progress import progress
from resnet_parity.render.trace import table
from shared_spec.catalogue.resolve import resolve
from shared_spec.errors import ResNetError
from shared_spec.formats.containers.source import require_file as require_source
from shared_spec.origin import fetched
from shared_spec.spec.resnet_spec import ResNetSpec

if TYPE_CHECKING:
    import numpy as np

    from resnet_parity.trace.compare import ExportedFile, UserModel

UNDECIDED = 3
"""The exit code if rounding hides too much for a verdict."""


def trace(
    model: ModelArgument,
    engines: Annotated[
        str | None,
        typer.Option(
            help=f"Two of {', '.join(ALL_ENGINES)}, the reference first; one for --against."
        ),
    ] = None,
    weights: WeightsOption = None,
    part: PartOption = None,
    what: Annotated[
        str, typer.Option("--input", help="random, image (photographs), or an image file.")
    ] = "random",
    dtype: Annotated[str, typer.Option(help="float64 or float32.")] = "float64",
    image_size: Annotated[
        int | None,
        typer.Option(min=1, help="Height and width; default: the net's own, at most 64."),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Number of random images; default: 2, with --gradients 4."),
    ] = None,
    device: DeviceOption = "cpu",
    seed: SeedOption = 0,
    gradients: Annotated[
        bool, typer.Option("--gradients", help="Compare every parameter's gradient too.")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(
            help="MODULE:FUNCTION that makes a model of your own, in --engines' framework; or an "
            "ONNX file, with its --weights."
        ),
    ] = None,
    names: Annotated[
        Path | None,
        typer.Option(help="With --against: a YAML file, 'canonical name: name in your model'."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write a chart of the errors along depth to this file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the first layer in which two engines differ, or an engine and your own model.

    Every layer and block is compared twice: as each side computes it, and on the reference's input,
    so that a faulty layer is told apart from later ones that only receive a wrong input. Exits with
    0 if nothing differs, 1 if something does, and 3 if rounding hides too much for a verdict.
    """
    plots.require_picture(plot)
    own = _against(against, names)
    chosen = parse_engines(engines or ("torch,flax" if own is None else "torch"))
    if own is None and len(chosen) != 2:
        raise ResNetError("engines: name two, the reference first")
    if own is not None and len(chosen) != 1:
        raise ResNetError("engines: with --against name one, of your model's framework")
    if against is not None and against.endswith(".onnx") and weights is None:
        raise ResNetError("--against: with an ONNX file, --weights names those that are in it")
    spec = resolve(model)
    images = _images(spec, what, image_size, batch or (4 if gradients else 2), seed)
    from resnet_parity.convert.read import read_for
    from resnet_parity.trace import compare as tracing

    asked = asked_of(weights, part)
    given = None if weights is None else dict(read_for(spec, fetched(weights), asked).state)
    with progress(err) as advance:
        found = tracing.trace(
            spec,
            chosen[0],
            chosen[1] if own is None else own,
            images,
            name=model,
            dtype=dtype,
            weights=given,
            device=parse_device(device),
            seed=seed,
            gradients=gradients,
            on_progress=advance,
        )
    if plot is not None:
        plots.trace(found, plot)
    conclude(found, as_json, table, UNDECIDED if found.verdict == "undecided" else 1)


def _against(factory: str | None, names: Path | None) -> UserModel | ExportedFile | None:
    if factory is None:
        if names is not None:
            raise ResNetError("--names: only with --against")
        return None
    if factory.endswith(".onnx"):
        from resnet_parity.trace.compare import ExportedFile

        if names is not None:
            raise ResNetError("--names: only for a model of your own")
        require_source(Path(factory))
        return ExportedFile(Path(factory))
    require_factory(factory)
    from resnet_parity.trace.compare import UserModel
    from shared_spec.spec.files import read_declaration

    if names is None:
        return UserModel(factory)
    data = read_declaration(names, "name map", ResNetError)
    if not isinstance(data, dict) or not all(isinstance(v, str) for v in data.values()):
        raise ResNetError(f"{names}: expected a line 'canonical name: name in your model' for each")
    return UserModel(factory, data)


def _images(
    spec: ResNetSpec, what: str, image_size: int | None, batch: int, seed: int
) -> np.ndarray:
    side = image_size or spec.small_size
    if what == "random":
        from shared_spec.weights.initialize import random_images

        return random_images((batch, side, side, spec.in_channels), seed)
    from importlib.resources import files

    from shared_spec.weights.preprocessing import Preprocessing, open_images

    paths = [Path(what)]
    if what == "image":
        folder = Path(str(files("resnet_parity") / "assets"))
        paths = [folder / "china.jpg", folder / "flower.jpg"]
    elif not paths[0].suffix:
        raise ResNetError(f"--input: {what!r} is not random, image, or the path of an image")
    prepare = Preprocessing.default(spec).model_copy(update={"image_size": side})
    return prepare(open_images(paths))
