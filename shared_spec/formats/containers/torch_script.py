"""What the code in a TorchScript archive declares of its modules. It is text here, of which no more
than the heads of classes is looked at; nothing is run.
"""

from __future__ import annotations

import re
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from shared_spec.formats.containers.source import read_member
from shared_spec.formats.containers.torch_pickle import PICKLE_LIMIT

_SHORT = 200
"""Characters of a constant."""
_CLASS = re.compile(r"class (\w+)\(Module\):")
_NAMES = re.compile(r"  __(?:parameters|buffers)__ = \[.*")
_CONSTANT = re.compile(r"  (\w+) : Final\[.*\] = (.+)")

_WORDS = {"True": True, "False": False, "None": None}


@dataclass
class Script:
    """A class of modules."""

    tensors: set[str] = field(default_factory=set)
    """Names of its parameters and buffers."""
    constants: dict[str, Any] = field(default_factory=dict)
    """Its settings; a pickle has only what may change."""


def read_scripts(archive: zipfile.ZipFile, root: str) -> dict[str, Script]:
    """The classes of modules in the code of an archive, by their full names.

    Raises:
        ValueError: if there is more code than any model has.
        Errors of `read_member`: if it is damaged.
    """
    found: dict[str, Script] = {}
    left = PICKLE_LIMIT
    for info in archive.infolist():
        inside = info.filename.removeprefix(f"{root}code/")
        if inside == info.filename or not inside.endswith(".py"):
            continue
        text = read_member(archive, info.filename, left).decode()
        left -= info.file_size
        module = inside.removesuffix(".py").replace("/", ".")
        script = Script()
        for line in text.split("\n"):
            if head := _CLASS.match(line):
                script = found[f"{module}.{head[1]}"] = Script()
            elif _NAMES.match(line):
                script.tensors.update(re.findall('"([^"]*)"', line))
            elif (constant := _CONSTANT.fullmatch(line)) and len(constant[2]) <= _SHORT:
                with suppress(ValueError):  # another kind of constant: no setting of a layer
                    script.constants[constant[1]] = _value(constant[2])
    return found


def _value(text: str) -> Any:
    """Of a number, a tuple of numbers, a text, a truth value or None."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1]
    if text[0] == "(" and text[-1] == ")":
        return tuple(_number(part) for part in text[1:-1].split(",") if part.strip())
    return _number(text)


def _number(text: str) -> int | float:
    return int(text) if text.strip().lstrip("-").isdecimal() else float(text)
