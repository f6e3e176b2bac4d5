"""What a hostile file is made of, and how one is given to the command line."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from shared_spec import ResNetSpec, save_spec
from shared_spec.formats.keras_config import KERAS_CLASS
from shared_spec.formats.write import write_checkpoint
from tests.hardening.attack.child import Child
from tests.hardening.attack.mutate import Member, zip_of
from tests.hardening.attack.samples import TINY, checkpoint

SECRET = "canary-that-sings"  # noqa: S105
"""What a file beside the hostile one holds; no message may tell it."""


@dataclass(frozen=True)
class Case:
    """One hostile file."""

    name: str
    make: Callable[[Path], str]
    """Writes it into a folder, and gives the name of what is to be read there."""
    expect: str
    """A pattern in the message; empty if the file is harmless and has to be read."""
    command: str = "convert"
    """`convert`, `show`, `check` or `verify`."""
    model: ResNetSpec | None = TINY
    """With which `convert` is called."""
    memory: float | None = None
    """Megabytes that it may take, where a valid file of its size takes as many."""


@dataclass(frozen=True)
class Found:
    """What came of a case."""

    case: Case
    outcome: dict[str, Any]
    canary: str
    """What is wrong with the files around it; empty if nothing is."""

    @property
    def problem(self) -> str:
        case, outcome = self.case, self.outcome
        problem = self.canary or str(outcome["problem"])
        if problem and case.memory and outcome["megabytes"] <= case.memory:
            problem = problem if "MB (" not in problem else ""
        if problem:
            return problem
        if SECRET in outcome["detail"]:
            return f"tells another file's content: {outcome['detail'][:300]}"
        wanted = "refused" if case.expect else "valid"
        if outcome["kind"] != wanted or not re.search(case.expect, outcome["detail"]):
            return f"expected {case.expect!r}, got {outcome['kind']}: {outcome['detail'][:300]}"
        return ""


def run_case(child: Child, case: Case, folder: Path) -> Found:
    """Make a case in an empty folder and give it to the command line."""
    given, kept, canary = folder / "in", folder / "out" / "kept.safetensors", folder / "canary"
    for part in (given, kept.parent):
        part.mkdir(parents=True)
    kept.write_text("old")
    canary.write_text(SECRET)
    with h5py.File(folder / "canary.h5", "w") as file:
        file["x"] = np.zeros(3, "f4")
    path = given / case.make(given)
    arguments = [case.command, str(path)]
    if case.command == "convert":
        arguments += [str(kept), "--no-verify"]
        if case.model is not None:
            save_spec(folder / "model.yaml", case.model)
            arguments += ["--model", str(folder / "model.yaml")]
    if case.command == "check":
        arguments += ["--engines", "torch"]
    allowed = [str(given), str(kept.parent), str(folder / "model.yaml")]
    outcome = child.one(
        "command", arguments=arguments, path=str(path), untouched=str(kept), allowed=allowed
    )
    return Found(case, outcome, _disturbed(folder, kept, outcome))


def _disturbed(folder: Path, kept: Path, outcome: dict[str, Any]) -> str:
    names = {path.name for path in folder.iterdir()} - {"model.yaml"}
    if names != {"in", "out", "canary", "canary.h5"}:
        return f"left {sorted(names)}"
    if (folder / "canary").read_text() != SECRET:
        return "wrote to the canary"
    if list(folder.rglob("owned")):
        return "executed what the file holds"
    if outcome["kind"] != "valid" and kept.read_text() != "old":
        return "wrote the target"
    return ""


def text(name: str, content: str | bytes) -> Callable[[Path], str]:
    """A maker of a file of this content."""

    def make(folder: Path) -> str:
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
        return name

    return make


def unicode(words: str) -> bytes:
    """The opcode of a text."""
    raw = words.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


RUN = unicode("touch owned ../owned")
"""What a payload would have a shell do."""


def torch_zip(name: str, pickled: bytes, *more: Member) -> Callable[[Path], str]:
    """A maker of a `.pth` whose description is `pickled`."""
    members = [("archive/data.pkl", pickled, 0), ("archive/byteorder", b"little", 0), *more]
    return text(name, zip_of([*members, ("archive/version", b"3\n", 0)]))


def state_dict(key: bytes = unicode("conv1.weight"), value: bytes = b"N") -> bytes:
    """A pickle of a dict with one item, given as opcodes."""
    return b"\x80\x02}" + key + value + b"s."


def tensor(storage: bytes, shape: bytes = b"K\x02\x85", stride: bytes = b"K\x01\x85") -> bytes:
    """The opcodes of a tensor on a persistent id of these opcodes."""
    head = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"Q"
    return head + b"K\x00" + shape + stride + b"\x89ccollections\nOrderedDict\n)RtR"


def storage(kind: bytes = b"ctorch\nFloatStorage\n", count: bytes = b"K\x02") -> bytes:
    return b"(" + unicode("storage") + kind + unicode("0") + unicode("cpu") + count + b"t"


def safetensors(
    name: str, header: dict[str, Any] | str | bytes, data: bytes = b""
) -> Callable[[Path], str]:
    """A maker of a safetensors file with this header."""
    raw = json.dumps(header) if isinstance(header, dict) else header
    raw = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    return text(name, len(raw).to_bytes(8, "little") + raw + data)


def entry(start: int, stop: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def valid(name: str, to: str | None = None) -> Callable[[Path], str]:
    """A maker of a good checkpoint, to be spoilt."""

    def make(folder: Path) -> str:
        write_checkpoint(folder / name, checkpoint(TINY), to)
        return name

    return make


def hdf5(name: str, write: Callable[[Any], None], **options: Any) -> Callable[[Path], str]:
    """A maker of a HDF5 file that `write` fills."""

    def make(folder: Path) -> str:
        with h5py.File(folder / name, "w", **options) as file:
            write(file)
        return name

    return make


def legacy(write: Callable[[Any], None], layers: list[str] | None = None) -> Callable[[Any], None]:
    """What fills a legacy `.h5`: a layer `conv1_conv` whose `kernel:0` comes from `write`."""

    def fill(file: Any) -> None:
        names = layers or ["conv1_conv"]
        file.attrs["layer_names"] = np.array([x.encode() for x in names])
        group = file.create_group("conv1_conv")
        group.attrs["weight_names"] = np.array([b"kernel:0"])
        write(group)

    return fill


def keras(name: str, config: str | bytes | None, *more: Member) -> Callable[[Path], str]:
    """A maker of a `.keras` file with the weights of the small net."""

    def make(folder: Path) -> str:
        from tests.hardening.attack.samples import FORMATS

        inner = folder / "inner.weights.h5"
        FORMATS[".weights.h5"].write(inner)
        members: list[Member] = [("metadata.json", b"{}", 0)]
        if config is not None:
            data = config.encode() if isinstance(config, str) else config
            members.append(("config.json", data, 0))
        members += [("model.weights.h5", inner.read_bytes(), 0), *more]
        (folder / name).write_bytes(zip_of(members))
        inner.unlink()
        return name

    return make


OUR_CONFIG = json.dumps({"registered_name": KERAS_CLASS, "config": {"spec": TINY.to_dict()}})


def huggingface(**config: Any) -> Callable[[Path], str]:
    """A maker of a directory of transformers with these fields in its configuration."""

    def make(folder: Path) -> str:
        valid("a", "huggingface")(folder)
        path = folder / "a" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return "a"

    return make


def certificate(**fields: Any) -> Callable[[Path], str]:
    """A maker of a file with a certificate that has these fields."""

    def make(folder: Path) -> str:
        from tests.hardening.attack.samples import FORMATS

        path = folder / "a.safetensors.parity.json"
        FORMATS["certificate"].write(path)
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
        return "a.safetensors"

    return make


__all__ = [
    "OUR_CONFIG",
    "RUN",
    "SECRET",
    "Case",
    "Found",
    "certificate",
    "entry",
    "hdf5",
    "huggingface",
    "keras",
    "legacy",
    "run_case",
    "safetensors",
    "state_dict",
    "storage",
    "tensor",
    "text",
    "torch_zip",
    "unicode",
    "valid",
]
