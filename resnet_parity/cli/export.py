"""The command `export`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnet_parity.cli.options import (
    JsonOption,
    WeightsOption,
    parse_names,
    parse_size,
    print_result,
)
from resnet_parity.engines.registry import parse_engines
from resnet_parity.render import tables
from resnet_parity.render.console import err
from resnet_parity.render.progress import downloading, progress
from shared_spec.catalogue.resolve import resolve
from shared_spec.errors import ResNetError
from shared_spec.export_formats import EXPORT_FORMATS, Form, export_format, require_logits
from shared_spec.origin import Origin, fetched, origin_of

if TYPE_CHECKING:
    from resnet_parity.convert.quantized import Quantization

_CALIBRATION = 512
"""Images of a calibration at most; more widen the ranges hardly."""

_DTYPES = ("float64", "float32", "float16", "bfloat16", "int8")


def export(
    model: Annotated[
        str,
        typer.Argument(help="A catalogue name, alone or with a tag; a spec file; or weights."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file or folder to write.")],
    format: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(EXPORT_FORMATS)}; default: by the suffix of OUTPUT."),
    ] = None,
    weights: WeightsOption = None,
    batch: Annotated[str, typer.Option(help="dynamic, or a number of images.")] = "dynamic",
    size: Annotated[str, typer.Option(help="dynamic, or pixels: 224 or 97x64.")] = "dynamic",
    dtype: Annotated[
        str, typer.Option(help="float32, float64, float16, bfloat16 or int8.")
    ] = "float32",
    calibration: Annotated[
        str | None,
        typer.Option(help="For int8: a folder of images, or a recipe for its training images."),
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option(
            help="For int8: held-out images that tell the accuracy; a folder of a folder for each "
            "class, or a recipe."
        ),
    ] = None,
    preprocessing: Annotated[
        str,
        typer.Option(
            help="outside; or inside, for a graph that takes pixels of 8 bits [N, H, W, C]."
        ),
    ] = "outside",
    head: Annotated[str, typer.Option(help="logits or softmax.")] = "logits",
    opset: Annotated[
        int | None,
        typer.Option(help="Version of the operators; default: 17; 22 with bfloat16, 19 with int8."),
    ] = None,
    fold: Annotated[
        bool, typer.Option("--fold/--no-fold", help="Whether norms go into convolutions.")
    ] = False,
    engines: Annotated[
        str | None,
        typer.Option(
            help="Run the file in these of the engines that run it; default: all installed."
        ),
    ] = None,
    verify_it: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Whether to run the file.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Export a net to a file that runtimes run.

    ONNX and OpenVINO's files are written from the plan, the others by their own framework. The file
    is run in each runtime and compared with the source in float64 before it takes its
    place. The certificate is written next to it as OUTPUT.parity.json.
    """
    from resnet_parity.convert.export import Wanted
    from resnet_parity.convert.export import export as run_export
    from resnet_parity.convert.verify import Proof

    if engines is not None and not verify_it:
        raise ResNetError("--engines: with --no-verify none is run; leave one of them out")
    found = export_format(output, format)
    (inside,) = parse_names("--preprocessing", preprocessing, ("outside", "inside"))
    (kind,) = parse_names("--dtype", dtype, _DTYPES)
    origin = origin_of(model, weights)
    chosen = None if engines is None else tuple(parse_engines(engines))
    form = Form(
        opset,
        None if batch == "dynamic" else _number(batch),
        None if size == "dynamic" else parse_size("--size", size),
        inside == "inside",
        head,  # type: ignore[arg-type]  # which Form checks
    )
    if kind != "int8" and (calibration is not None or evaluation is not None):
        raise ResNetError("--calibration and --evaluation: only with --dtype int8")
    with progress(err) as advance:
        if isinstance(origin.weights, str):
            fetched(origin.weights, downloading(advance, origin.weights))
        quantization = None
        if kind == "int8":
            quantization = _quantization(origin, calibration, evaluation, verify_it)
        advance(f"{model} to {output}")
        proof = Proof(chosen, on_progress=advance) if verify_it else None
        done = run_export(origin, output, Wanted(form, kind, fold, found, quantization), proof)
    print_result(asdict(done), as_json, tables.exported)


def _quantization(
    origin: Origin, calibration: str | None, evaluation: str | None, verify_it: bool
) -> Quantization:
    """Data for int8, opened before any work."""
    from resnet_parity.convert.quantized import Quantization, calibrating_engine
    from resnet_parity.datasets import Dataset, open_dataset, pixel_mean
    from resnet_parity.datasets.folder import read_images
    from resnet_parity.evaluate.inputs import EvaluationRequest, prepare, thinned
    from resnet_parity.train.recipes import find_recipe

    if calibration is None:
        raise ResNetError(
            "--dtype int8: name images to measure ranges on: --calibration FOLDER, or a recipe"
        )
    if evaluation is not None and not verify_it:
        raise ResNetError("--evaluation: with --no-verify nothing is run; leave one of them out")
    if evaluation is not None and not isinstance(origin.weights, str):
        raise ResNetError("--evaluation: fresh weights have no accuracy; name weights (--weights)")
    spec = None if origin.model is None else resolve(origin.model)
    if spec is not None:
        require_logits(spec)
    calibrating_engine()
    prepared = mean = None
    if evaluation is not None:
        request = EvaluationRequest(str(origin.weights), spec)
        if Path(evaluation).is_dir():
            if Path(evaluation).resolve() == Path(calibration).resolve():
                raise ResNetError("--evaluation: has to be other images than --calibration")
            request = replace(request, path=evaluation, format="folder")
        else:
            request = replace(request, recipe=find_recipe(evaluation))
        prepared = prepare(request)
    if Path(calibration).is_dir():
        channels = 3 if spec is None else spec.in_channels
        dataset: Dataset = read_images(
            calibration, prepared.spec.in_channels if prepared else channels
        )
    else:
        data = find_recipe(calibration).data
        dataset = open_dataset(data, "train")
        mean = pixel_mean(dataset) if data.per_pixel_mean else None
    if mean is None and prepared is not None:
        mean = prepared.loader.mean_image
    return Quantization(
        thinned(dataset, _CALIBRATION),
        calibration,
        None if prepared is None else prepared.views.preprocessing,
        mean,
        None if prepared is None else prepared.loader,
        None if prepared is None else prepared.data,
    )


def _number(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ResNetError(f"--batch: {text!r} is neither dynamic nor a number of images")
    return int(text)
