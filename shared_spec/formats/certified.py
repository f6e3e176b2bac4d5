"""The net of a file by its certificate, which `resnet-parity convert` writes beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from shared_spec.errors import ResNetError
from shared_spec.formats.containers.source import mapping, read_json, system_errors
from shared_spec.spec.resnet_spec import ResNetSpec

SUFFIX = ".parity.json"
"""Behind a file's name in that of its certificate."""


def certificate_path(target: Path) -> Path:
    """Where the certificate of a file or a directory lies."""
    return target.with_name(target.name + SUFFIX)


def certified_spec(path: Path) -> ResNetSpec | None:
    """The net that a certificate names for just this file; None if there is none, or it is of
    another file or damaged.
    """
    beside = certificate_path(path)
    if not path.is_file() or not beside.is_file():
        return None
    try:
        data = read_json(beside)
        with system_errors(path), path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if mapping(data.get("target")).get("sha256") != found:
            return None
        if data.get("resnet_parity") not in (1, 2) or data.get("holds") is not True:
            return None
        return ResNetSpec.parse(data.get("spec"), str(beside))
    except ResNetError:
        return None
