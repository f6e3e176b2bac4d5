"""The command `download`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from resnet_parity.cli.options import JsonOption, print_result
from resnet_parity.render import tables
from resnet_parity.render.console import err
from resnet_parity.render.progress import downloading, progress
from shared_spec.catalogue import CATALOGUE, list_models
from shared_spec.catalogue.pretrained import published
from shared_spec.download import is_reference
from shared_spec.errors import ResNetError
from shared_spec.origin import fetched


def download(
    weights: Annotated[
        list[str],
        typer.Argument(
            help="Published weights: the default ones of a model (resnet50), by name "
            "(resnet50.a1_in1k), all that match ('resnet5*'); or hf-hub:owner/name, or a URL."
        ),
    ],
    library: Annotated[
        str | None, typer.Option(help="Only published weights of this library, such as timm.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch weights into the cache, to be used where there is no network.

    Weights of the Hugging Face Hub go into its own cache (HF_HOME), others into
    RESNET_PARITY_CACHE. Exits with 1 if some could not be fetched.
    """
    names = list(dict.fromkeys(name for text in weights for name in _named(text, library)))
    rows: list[dict[str, Any]] = []
    with progress(err) as advance:
        for name in names:
            advance(name)
            row: dict[str, Any] = {"name": name, "path": None, "error": None}
            try:
                row["path"] = str(fetched(name, downloading(advance, name)))
            except ResNetError as error:
                row["error"] = str(error)
            rows.append(row)
    print_result(rows, as_json, tables.downloaded)
    if any(row["error"] for row in rows):
        raise typer.Exit(1)


def _of(name: str, library: str) -> bool:
    return library.lower() == published()[name].library.lower()


def _named(text: str, library: str | None) -> list[str]:
    """The weights that one argument asks for."""
    if is_reference(text):
        return [text]
    names = list_models(text, pretrained=True)
    found = [name for name in names if library is None or _of(name, library)]
    if text in CATALOGUE:
        found = found[:1]
    if not found:
        where = f" of {library}" if library else ""
        raise ResNetError(
            f"no published weights{where} match {text!r}; `resnet-parity list --pretrained` has all"
        )
    return found
