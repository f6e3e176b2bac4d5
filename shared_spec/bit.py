"""Weights of Big Transfer as Google published them (`BiT-M-R50x1.npz`): Kolesnikov et al. 2019,
arXiv:1912.11370. They are read by name, with numpy alone.
"""

from __future__ import annotations

import math
import re
import zipfile
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from shared_spec.catalogue import CATALOGUE
from shared_spec.compiler import compile_plan
from shared_spec.errors import WeightsError
from shared_spec.plan import Parameter
from shared_spec.preprocessing import Preprocessing
from shared_spec.renaming import Rules, rename
from shared_spec.spec import ResNetSpec
from shared_spec.weights import Checkpoint, State

NAMES: Rules = [
    (r"^stem\.conv\.", "root_block/standardized_conv2d/"),
    (r"^norm\.", "group_norm/"),
    (r"^head\.fc\.", "head/conv2d/"),
    (
        r"^stages\.(\d)\.blocks\.(\d+)\.",
        lambda m: f"block{int(m[1]) + 1}/unit{int(m[2]) + 1:02d}/",
    ),
    (r"conv(\d)\.", lambda m: f"{'abc'[int(m[1]) - 1]}/standardized_conv2d/"),
    (r"norm(\d)\.", lambda m: f"{'abc'[int(m[1]) - 1]}/group_norm/"),
    (r"downsample\.conv\.", "a/proj/standardized_conv2d/"),
    (r"group_norm/weight$", "group_norm/gamma"),
    (r"group_norm/bias$", "group_norm/beta"),
    (r"/weight$", "/kernel"),
]
"""From canonical names to those in the file, after its prefix `resnet/`; applied in this order."""

PREFIX = "resnet/"
_HEADER_LIMIT = 10_000


def read_bit(path: Path, given: ResNetSpec | None = None) -> Checkpoint:
    """A `.npz` of BiT. The net follows from it: depths, widths and classes.

    No array is read before its shape is known to fit, and nothing is unpickled.

    Raises:
        WeightsError: if the file is damaged, or holds something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                name.removesuffix(".npy").removeprefix(PREFIX): name for name in archive.namelist()
            }
            if len(members) < len(archive.namelist()):
                raise WeightsError(f"{path}: holds two arrays of one name")
            shapes = {name: _header(archive, member)[0] for name, member in members.items()}
            spec = given or _spec_of(shapes, path)
            state: State = {}
            for q in compile_plan(spec).parameters():
                name = rename(q.name, NAMES)
                if name not in shapes:
                    continue
                expected = _foreign_shape(q)
                if shapes.pop(name) != expected:
                    raise WeightsError(
                        f"{path}: {name} has shape {_header(archive, members[name])[0]}, expected "
                        f"{expected}"
                    )
                state[q.name] = _read(archive, members[name], q)
    # zipfile and numpy raise errors of many kinds for files that are damaged.
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path}: not a readable .npz file ({reason})") from None
    if shapes:
        extra = ", ".join(sorted(shapes)[:5])
        raise WeightsError(f"{path}: has {len(shapes)} arrays that the model lacks: {extra}")
    half = (0.5,) * spec.in_channels
    prepare = (
        Preprocessing(image_size=spec.image_size, mean=half, std=half, interpolation="bilinear")
        if spec.in_channels in (1, 3)
        else None
    )
    return Checkpoint(state, spec, prepare)


Header = tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any]]
"""Shape, order and dtype of an array."""


def _header(archive: zipfile.ZipFile, member: str) -> Header:
    with archive.open(member) as file:
        return _array_header(file)


def _array_header(file: IO[bytes]) -> Header:
    """The header of a `.npy`, whose data follow."""
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"its arrays are of version {version}")
    shape, fortran, dtype = readers[version](file, max_header_size=_HEADER_LIMIT)
    if dtype.kind != "f":
        raise ValueError(f"an array is of {dtype}")
    return shape, "F" if fortran else "C", dtype


def _read(archive: zipfile.ZipFile, member: str, q: Parameter) -> np.ndarray:
    with archive.open(member) as file:
        shape, order, dtype = _array_header(file)
        data = file.read(math.prod(shape) * dtype.itemsize)
    array = np.frombuffer(data, dtype).reshape(shape, order=order)
    native = array.astype(dtype.newbyteorder("="))
    return np.ascontiguousarray(native.transpose(3, 2, 0, 1) if len(q.shape) == 4 else native)


def _foreign_shape(q: Parameter) -> tuple[int, ...]:
    if len(q.shape) == 4:
        out, channels, height, width = q.shape
        return height, width, channels, out
    return q.shape


def _spec_of(shapes: dict[str, tuple[int, ...]], path: Path) -> ResNetSpec:
    stem, head = (shapes.get(rename(f"{x}.weight", NAMES), ()) for x in ("stem.conv", "head.fc"))
    units = {match[0] for name in shapes if (match := re.match(r"block\d/unit\d+/", name))}
    depths = [sum(u.startswith(f"block{i}/") for u in units) for i in (1, 2, 3, 4)]
    widths = [shapes.get(f"block{i}/unit01/a/standardized_conv2d/kernel", ()) for i in (1, 2, 3, 4)]
    if len(stem) != 4 or 0 in depths or any(len(shape) != 4 for shape in widths):
        raise WeightsError(f"{path}: not the weights of a BiT ResNet")
    return CATALOGUE["resnetv2_50x1_bit"].spec.override(
        depths=depths,
        widths=[int(shape[3]) for shape in widths],
        stem_width=int(stem[3]),
        in_channels=int(stem[2]),
        num_classes=int(head[3]) if len(head) == 4 else 0,
    )


__all__ = ["NAMES", "PREFIX", "read_bit"]
