"""The commands `convert` and `verify`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    parse_names,
    print_result,
    require_factory,
)
from resnet_parity.engines.registry import parse_device, parse_engines
from resnet_parity.render import tables
from resnet_parity.render.console import err
from resnet_parity.render.progress import downloading, progress
from shared_spec.catalogue import CATALOGUE
from shared_spec.catalogue.resolve import resolve
from shared_spec.errors import ResNetError
from shared_spec.formats.hub_folder import CERTIFICATE, WEIGHTS
from shared_spec.formats.write import format_names
from shared_spec.origin import fetched
from shared_spec.weights.labels import read_labels

if TYPE_CHECKING:
    from resnet_parity.convert.certificate import Certificate, Check


def convert(
    source: Annotated[
        str,
        typer.Argument(help="A file or directory, hf-hub:owner/name, torchvision:name or a URL."),
    ],
    target: Annotated[
        Path, typer.Argument(help="The file to write; without a suffix, an orbax directory.")
    ],
    model: NetOption = None,
    to: Annotated[
        str | None,
        typer.Option(help=f"If the suffix leaves it open: {', '.join(format_names())}."),
    ] = None,
    labels: LabelsOption = None,
    part: PartOption = None,
    names: NamesOption = None,
    engines: Annotated[
        str | None,
        typer.Option(help="Verify in these; default: one of the target's framework."),
    ] = None,
    device: DeviceOption = "cpu",
    verify_it: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify", help="Whether to run the new file and compare logits."
        ),
    ] = True,
    judge: Annotated[
        str,
        typer.Option(
            help="required refuses what neither another library nor a model of yours has run."
        ),
    ] = "any",
    against: Annotated[
        str | None,
        typer.Option(
            help="MODULE:FUNCTION that makes your own PyTorch model, which then judges; one with a "
            "parameter gets the file's path and returns the model loaded."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Convert weights between the formats of PyTorch, Keras, Flax and the libraries around them.

    The format of SOURCE is recognised by its content. The new file is read back and compared bit
    for bit, then run in an engine of its framework and compared with the source. The certificate is
    written next to it as TARGET.parity.json.
    """
    from resnet_parity.convert.conversion import convert as run_convert
    from resnet_parity.convert.conversion import keep_freed_memory
    from resnet_parity.convert.verify import Proof

    if engines is not None and not verify_it:
        raise ResNetError("--engines: with --no-verify none is run; leave one of them out")
    if judge not in ("any", "required"):
        raise ResNetError(f"--judge: {judge!r} is not one of any, required")
    if judge == "required" and not verify_it:
        raise ResNetError("--judge: with --no-verify nobody judges; leave one of them out")
    if against is not None:
        require_factory(against)
        if not verify_it:
            raise ResNetError("--against: with --no-verify nobody judges; leave one of them out")
    spec = None if model is None else resolve(model)
    classes = None if labels is None else read_labels(labels)
    place = asked_of(source, part, names)
    chosen = None if engines is None else tuple(parse_engines(engines))
    keep_freed_memory()
    with progress(err) as advance:
        fetched(source, downloading(advance, source))
        advance(f"{source} to {target}")
        asked = Proof(chosen, parse_device(device), advance, judge == "required", against)
        proof = asked if verify_it else None
        named = model in CATALOGUE  # and not by a file that tells channels and classes
        done = run_convert(source, target, spec, to, classes, proof, resize=named, asked=place)
    data = {**asdict(done), "source": source}
    print_result(data, as_json, tables.converted)


def certify(
    weights: Annotated[
        str, typer.Argument(help="A file of weights, or a folder that save_pretrained wrote.")
    ],
    engines: Annotated[
        str | None,
        typer.Option(help="Comma-separated; default: one of each installed framework."),
    ] = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Write a certificate for weights as they are, with nothing to convert.

    The library whose files these are judges, if it is installed; each engine is held to its logits.
    The certificate is written next to the weights as WEIGHTS.parity.json.
    """
    from resnet_parity.convert.verify import Proof, certify_file

    chosen = None if engines is None else tuple(parse_engines(engines))
    with progress(err) as advance:
        path = fetched(weights, downloading(advance, weights))
        certificate = certify_file(path, Proof(chosen, parse_device(device), advance))
    conclude(_compared(path, certificate, certificate.checks), as_json, tables.verified)


def _compared(target: Path, certificate: Certificate, checks: Sequence[Check]) -> dict[str, Any]:
    """What engines gave for a file, as plain JSON data."""
    return {
        "target": str(target),
        "holds": all(found.holds for found in checks),
        "source": certificate.source,
        "converted": certificate.source["sha256"] != certificate.target["sha256"],
        "reference": certificate.reference_engine,
        "judged_by": certificate.judged_by,
        "assumed": certificate.assumed,
        "notes": certificate.notes,
        "checks": [asdict(found) for found in checks],
    }


def verify(
    target: Annotated[Path, typer.Argument(help="A file or directory that convert wrote.")],
    engines: Annotated[
        str | None,
        typer.Option(help="Comma-separated; default: those of the certificate that are installed."),
    ] = None,
    device: DeviceOption = "cpu",
    dtype: Annotated[
        str, typer.Option(help="Comma-separated: float64 and float32; a TPU has no float64.")
    ] = "float64,float32",
    as_json: JsonOption = False,
) -> None:
    """Verify a converted file against its certificate, TARGET.parity.json, on this machine.

    The certificate carries the inputs and the source's float64 logits, so neither the source nor
    its framework is needed.
    """
    from resnet_parity.convert.certificate import FULL
    from resnet_parity.convert.verify import verify as run_verify

    dtypes = parse_names("dtype", dtype, FULL)
    if (target / CERTIFICATE).is_file():  # a folder for the hub, which has its own
        target = target / WEIGHTS
    chosen = None if engines is None else parse_engines(engines)
    with progress(err) as advance:
        certificate, checks = run_verify(target, chosen, parse_device(device), dtypes, advance)
    conclude(_compared(target, certificate, checks), as_json, tables.verified)
