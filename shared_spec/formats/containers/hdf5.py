"""Weights files of Keras without Keras: the legacy `.h5`, and Keras 3's `.weights.h5` and `.keras`.

The HDF5 library may crash on a damaged file, so that a process of its own opens it and tells
where the arrays are (`hdf5_child`). They are read from there on demand. No link in a
file is followed, nothing outside the file is read, and no array before its shape is known to fit.
"""

from __future__ import annotations

import base64
import math
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from shared_spec.atomic_write import early
from shared_spec.errors import WeightsError
from shared_spec.formats.containers.hdf5_sandbox import ask, h5py_module
from shared_spec.formats.containers.safetensors import read_at, write_array
from shared_spec.formats.containers.source import (
    Source,
    mapping,
    open_zip,
    parse_json,
    read_member,
    reading,
    shown,
)
from shared_spec.weights.lazy_array import LazyArray, LazyArrays, read_ahead

_KIND = "Keras weights file"
CONFIG, WEIGHTS = "config.json", "model.weights.h5"
_CONFIG_LIMIT = 2**20
"""Bytes of a configuration, besides a quarter of what the weights take."""
_CONFIG_VALUES = 1_000_000
_DEPTH = 12
"""Of models in models."""
_LAYERS = 25_000
"""In a model; ResNet-1202 has 4,800."""
_NUMBERS = re.compile(r"[<>|][fiu](1|2|4|8|16)|bfloat16")


def open_hdf5(path: Path, names: Mapping[str, str] | None = None) -> Source:
    """A legacy file (arrays named `<layer>/<leaf>`) or one of Keras 3 (`<layer>/<number>`).

    Args:
        path: the file.
        names: group (`conv2d_1`) to layer, for files of Keras before 3.10, which do not say.

    Raises:
        WeightsError: if the file is damaged, or holds something else.
    """
    with reading(path, _KIND):
        return _opened(path, 0, path.stat().st_size, {}, names or {})


def open_keras(path: Path) -> Source:
    """A `.keras` file: its weights, and its configuration as metadata.

    Raises:
        WeightsError: as `open_hdf5`.
    """
    with reading(path, _KIND), open_zip(path) as archive:
        members = archive.namelist()
        if len(set(members)) < len(members) or not {CONFIG, WEIGHTS} <= set(members):
            raise ValueError(f"it has no {CONFIG} and {WEIGHTS}, or one of them twice")
        info = archive.getinfo(WEIGHTS)
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{WEIGHTS} is compressed, which Keras does not do")
        # The archive knows where the data begin, and that they are in the file.
        with archive.open(info) as found:
            begin, size = found._orig_compress_start, info.file_size  # type: ignore[attr-defined]
        if begin + size > path.stat().st_size:
            raise ValueError(f"{WEIGHTS} is cut off")
        text = read_member(archive, CONFIG, _CONFIG_LIMIT + size // 4)
        metadata = parse_json(text, f"{path}: {CONFIG}", _CONFIG_VALUES)
        if not isinstance(metadata, dict):
            raise ValueError(f"{CONFIG} holds no mapping")
        return _opened(path, begin, size, metadata, _listed(metadata))


def _listed(model: Mapping[str, Any], depth: int = 0) -> dict[str, str]:
    """Layers by their groups, from a model's configuration, which is in their order; those of
    models in it begin with these.
    """
    config = model.get("config")
    layers = config.get("layers") if isinstance(config, dict) else config
    if isinstance(layers, list) and len(layers) > _LAYERS:
        raise ValueError(f"{CONFIG} lists {len(layers):,} layers, more than any model's")
    listed = [mapping(x) for x in layers] if isinstance(layers, list) and depth < _DEPTH else []
    named = [
        (_snake_case(str(layer.get("class_name"))), str(mapping(layer.get("config")).get("name")))
        for layer in listed
        if model.get("class_name") != "Sequential" or layer.get("class_name") != "InputLayer"
    ]
    found = group_names(named)
    for group, layer in zip(list(found), listed[len(listed) - len(found) :], strict=True):
        inside = _listed(layer, depth + 1)
        found |= {f"{group}/{below}": name for below, name in inside.items()}
    return found


def _snake_case(name: str) -> str:
    """A class's name as Keras makes that of a group from it."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _with_names(
    path: Path,
    arrays: list[tuple[str, LazyArray]],
    told: Mapping[str, str],
    layers: Mapping[str, str],
) -> list[tuple[str, LazyArray]]:
    """Arrays by the names of the models and layers that they are in: as the groups themselves tell
    them, or else as `layers` has them.
    """
    known: dict[str, str] = {}

    def name_of(group: str) -> str:
        if group not in known:
            above, _, last = group.rpartition("/")
            inside = any(other.startswith(f"{group}/") for other in told)
            name = told.get(group) or layers.get(group) or (last if inside else None)
            if name is None:
                raise WeightsError(
                    f"{path}: {shown(group)} does not name its layer, as files of Keras before "
                    f"3.10 do not; save it again with a newer Keras"
                )
            known[group] = f"{name_of(above)}/{name}" if above else name
        return known[group]

    renamed: list[tuple[str, LazyArray]] = []
    for key, array in arrays:
        group, _, number = key.rpartition("/")
        renamed.append((f"{name_of(group)}/{number}", array))
    if len(set(known.values())) < len(known):
        twice = next(name for name in known.values() if [*known.values()].count(name) > 1)
        raise WeightsError(f"{path}: has two layers named {shown(twice)}")
    return renamed


def group_names(layers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Keras 3's names of groups (`conv2d`, `conv2d_1`, ...) to names of layers, from the kind and
    the name of each layer in their order.
    """
    counts: Counter[str] = Counter()
    names = {}
    for kind, layer in layers:
        names[f"{kind}_{counts[kind]}" if counts[kind] else kind] = layer
        counts[kind] += 1
    return names


def _opened(
    path: Path, begin: int, size: int, metadata: Mapping[str, Any], layers: Mapping[str, str]
) -> Source:
    """A HDF5 file that lies in another, or is the whole of it."""
    answer = ask(path, begin, size)
    try:
        if "refused" in answer:
            before, name, after = map(str, answer["refused"])
            raise WeightsError(f"{path}: {before}{shown(name) if name else ''}{after}")
        if "failed" in answer:
            raise ValueError(str(answer["failed"]))
        regions: list[tuple[int, int]] = []
        found = answer["found"]
        kind = found["kind"]
        arrays = [_tensor(item, path, begin, size, regions) for item in found["arrays"]]
        if kind == "keras3":
            arrays = _with_names(path, arrays, found["names"], layers)
        elif found["config"] is not None:
            metadata = parse_json(found["config"], f"{path}: model_config", _CONFIG_VALUES)
            if not isinstance(metadata, dict):
                raise ValueError("its model_config holds no mapping")
    except (KeyError, TypeError, AttributeError):  # a library gone astray may say anything
        raise ValueError("its description of itself makes no sense") from None
    # The library does not ask whether what describes the file and its arrays lie in each other.
    regions = sorted(set(regions))
    if any(end > start for (_, end), (start, _) in pairwise(regions)):
        raise ValueError("two of its arrays overlap")
    if len(dict(arrays)) < len(arrays) or kind not in ("keras2", "keras3"):
        raise ValueError("two of its arrays have one name")
    return Source(path, kind, LazyArrays(dict(arrays)), metadata)


def _tensor(
    item: Sequence[Any], path: Path, begin: int, length: int, regions: list[tuple[int, int]]
) -> tuple[str, LazyArray]:
    """An array by its name; the parts of the file where it lies are added to `regions`."""
    name, numbers, kind, where = item
    shape = tuple(_count(n) for n in numbers)
    if not isinstance(name, str) or not _NUMBERS.fullmatch(kind):
        raise TypeError
    dtype = np.dtype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)

    def region(at: Any, size: int) -> int:
        """Where a part begins in the whole file."""
        if _count(at) + size > length:
            raise ValueError("it ends before the data of its arrays do")
        if size:
            regions.append((at, at + size))
        return begin + int(at)

    size = math.prod(shape) * dtype.itemsize
    if isinstance(where, str):
        data = base64.b64decode(where)
        if len(data) != size:
            raise TypeError
        return name, LazyArray.of(np.frombuffer(data, dtype).reshape(shape))
    if isinstance(where, list):
        chunk = tuple(_count(n) for n in where[0])
        part = math.prod(chunk) * dtype.itemsize
        starts = [region(at, part) for at in where[1]]
        corners = [range(0, n, c) for n, c in zip(shape, chunk, strict=True)]
        if math.prod(map(len, corners)) != len(starts):
            raise TypeError

        def read() -> np.ndarray:
            array = np.empty(shape, dtype)
            for start, corner in zip(starts, product(*corners), strict=True):
                target = array[tuple(slice(i, i + n) for i, n in zip(corner, chunk, strict=True))]
                whole = read_at(path, start, chunk, dtype)
                target[...] = whole[tuple(slice(n) for n in target.shape)]  # beyond it is padding
            return array

        return name, LazyArray(shape, dtype, read)
    start = region(where, size)
    return name, LazyArray(shape, dtype, lambda: read_at(path, start, shape, dtype))


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError
    return value


@dataclass(frozen=True)
class KerasLayer:
    """A layer that has variables, as Keras saves it."""

    name: str
    kind: str
    """Its class in snake case, such as `conv2d`."""
    variables: Mapping[str, LazyArray]
    """Leaf (`kernel`) to array, in the order of Keras's own list."""


def save_legacy(path: Path, layers: Sequence[KerasLayer]) -> None:
    """Write what Keras 2 and 3 load from a `.h5`; the order of layers is the one of their graph.

    Raises:
        WeightsError: for bfloat16, which Keras reads from its newer files alone.
    """
    for layer in layers:
        for leaf, array in layer.variables.items():
            if array.dtype.name == "bfloat16":
                raise WeightsError(
                    f"{path}: {layer.name}/{leaf} is bfloat16, which a .h5 cannot hold; write a "
                    f".weights.h5"
                )
    with _writing(path, layers) as (root, add):
        root.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        root.attrs["backend"] = "tensorflow"
        root.attrs["keras_version"] = "2.15.0"
        for layer in layers:
            group = root.create_group(layer.name)
            names = [f"{layer.name}/{leaf}:0" for leaf in layer.variables]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, entry in zip(names, layer.variables.values(), strict=True):
                add(group, name, entry)


def save_keras3(path: Path, layers: Sequence[KerasLayer]) -> None:
    """Write a `.weights.h5` of Keras 3: groups are named by class and number in this order."""
    groups = group_names((layer.kind, layer.name) for layer in layers)
    with _writing(path, layers) as (root, add):
        for group_name, layer in zip(groups, layers, strict=True):
            group = root.create_group(f"layers/{group_name}/vars")
            group.attrs["name"] = layer.name
            for index, entry in enumerate(layer.variables.values()):
                made = add(group, str(index), entry)
                if entry.dtype.name == "bfloat16":
                    h5py_module().Dataset(made).attrs["dtype"] = "bfloat16"
        root.create_group("vars")


@contextmanager
def _writing(
    path: Path, layers: Sequence[KerasLayer]
) -> Iterator[tuple[Any, Callable[[Any, str, LazyArray], Any]]]:
    """A new HDF5 file, and what adds an array to a group of it and returns the dataset of h5py's
    lower level. The library writes what describes the arrays and sets places aside for them; they
    are written there at the end, which takes half the time.
    """
    entries = [array for layer in layers for array in layer.variables.values()]
    size = sum(array.nbytes for array in entries) + 2048 * (len(entries) + len(layers))
    with path.open("wb") as new:
        if hasattr(os, "posix_fallocate"):  # on a full disk the HDF5 library ends the process
            os.posix_fallocate(new.fileno(), 0, size)
    path.unlink()
    h5py = h5py_module()
    kept, links = h5py.h5p.create(h5py.h5p.DATASET_CREATE), h5py.h5p.create(h5py.h5p.LINK_CREATE)
    kept.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    kept.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    kept.set_obj_track_times(False)  # equal weights make equal files
    links.set_create_intermediate_group(True)
    places: list[tuple[int, LazyArray]] = []

    def add(group: Any, name: str, array: LazyArray) -> Any:
        # Little-endian, as the data are written.
        kind = h5py.h5t.py_create(array.dtype.newbyteorder("<"), logical=True)
        space = h5py.h5s.create_simple(array.shape)
        inside = links if "/" in name else None
        made = h5py.h5d.create(group.id, name.encode(), kind, space, kept, inside)
        if array.nbytes:
            places.append((made.get_offset(), array))
        return made

    with h5py.File(path, "w") as root:
        yield root, add
    with path.open("r+b", buffering=0) as file, early(file.fileno()) as written:
        arrays = read_ahead(array for _, array in places)
        for start, array in places:
            file.seek(start)
            write_array(file, next(arrays))
            written(start + array.nbytes)
