"""Where the arrays of HDF5 files lie, found out in a process of its own.

The HDF5 library may crash on a damaged file, or never end. So this module is run as a script that
imports nothing of ours: a process that waits for paths on its standard input, forks for each, and
reports what the fork found; the fork is limited in time, memory and length. It ends when its input
does, or when nothing was requested for a while.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import io
import itertools
import json
import math
import os
import re
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Any

if __name__ == "__main__":  # once for all forks; who imports this module has no need of them
    sys.path += sys.argv[1:]
    import h5py
    import numpy as np

NAMES = 500
"""Characters of a name."""
OBJECTS = 25_000
"""Groups and arrays in a file; ResNet-1202's has 16,000."""
DEPTH = 32
ANSWER = 32 * 2**20
"""Bytes; that about ResNet-1202 takes 0.3 million, and its configuration 11 million."""
CONFIG = 12 * 2**20
"""Bytes of a model's configuration."""
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
MEMORY = 2**30
"""Bytes of address space for the library, of which importing it takes a ninth."""
WAIT = 60.0
"""Seconds for one file, on a slow disk."""
IDLE = 20.0
"""Seconds without a question after which the process ends."""


def processor_seconds(size: int) -> int:
    """Of work on a file of so many bytes; ResNet-1202's 78 million take 0.8."""
    return 1 + size // 2**23


class RefusedError(Exception):
    """What is wrong with a file: words, a name in it, words."""

    def __init__(self, before: str, name: str = "", after: str = "") -> None:
        super().__init__(before, name, after)


def index(path: str, begin: int, size: int | None) -> dict[str, Any]:
    """The arrays of a weights file of Keras.

    Args:
        path: the file.
        begin: where in it the HDF5 file begins.
        size: how long that is; None if it is the whole.

    Returns:
        `kind`, and `arrays`: for each its name, shape, dtype and place. A place is the number of
        bytes before it; or, for an array in chunks, their shape and such numbers; or its data. In
        files of Keras 3 names are `<group>/<number>`, and `names` has the layers' own by their
        groups; in older ones `config` is the model's configuration, if the file has one.

    Raises:
        RefusedError: for what a file of Keras does not hold.
        Exception: of h5py, for damaged files.
    """
    part = None if size is None else io.BufferedReader(_Slice(path, begin, size))
    # Of h5py the lower level, which is several times as fast for files of a thousand small parts.
    with h5py.File(path if part is None else part, "r") as file:
        root = h5py.h5g.open(file.id, b"/")
        names = set(root)
        if b"layers" in names or b"_layer_checkpoint_dependencies" in names:
            names3: dict[str, str] = {}
            return {"kind": "keras3", "arrays": list(_keras3(root, names3)), "names": names3}
        config = _text(root, b"model_config", CONFIG)
        if b"model_weights" in names:
            if root.links.get_info(b"model_weights").type != h5py.h5l.TYPE_HARD:
                raise RefusedError("'model_weights' is a link, which is not followed")
            root = h5py.h5g.open(root, b"model_weights")
        return {"kind": "keras2", "arrays": list(_legacy(root)), "config": config}


class _Slice(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, path: str, begin: int, size: int) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 closed with this one
        self._begin, self._size, self._at = begin, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._at)]
        self._file.seek(self._begin + self._at)
        count = self._file.readinto(view) or 0
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _keras3(root: Any, names: dict[str, str]) -> Iterator[list[Any]]:
    """`<group>/<number of the variable>` to array. A group is named for its layer's class and
    number, with those of the models that it is in before it; a layer's own name is an attribute.
    """
    for where, found in _objects(root):
        parts = where.split("/")
        if "optimizer" in parts or "seed_generator" in parts:
            continue
        if isinstance(found, h5py.h5g.GroupID):
            if parts[-1] == "vars" and (name := _text(found, b"name", NAMES)) is not None:
                names["/".join(p for p in parts[:-1] if p not in _CONTAINERS)] = name
        elif parts[-2:-1] == ["vars"] and re.fullmatch(r"[0-9]+", parts[-1]):
            group = "/".join(p for p in parts[:-2] if p not in _CONTAINERS)
            key = f"{group}/{parts[-1]}"
            yield [key, *_array(found, key)]


def _legacy(root: Any) -> Iterator[list[Any]]:
    """`<layer>/<leaf>` to array, which lies at `<layer>/.../<leaf>:0`; in a model among the layers
    `<model>/<layer>/<leaf>`.

    Keras also lists layers and arrays in attributes. What is in the file says the same, and texts
    of attributes may be made to fill any memory.
    """
    if not any(h5py.h5a.exists(root, name) for name in (b"layer_names", b"layer_names0")):
        raise RefusedError("has no list of layers, so Keras did not write it")
    seen: set[str] = set()
    for where, found in _objects(root):
        layer, _, rest = where.partition("/")
        if isinstance(found, h5py.h5g.GroupID) or not rest:
            continue
        parts = rest.split("/")
        owner = parts[-2] if len(parts) > 1 else layer
        at = layer if owner == layer else f"{layer}/{owner}"
        key = f"{at}/{parts[-1].partition(':')[0]}"
        if key in seen:
            raise RefusedError("has two arrays ", key)
        seen.add(key)
        yield [key, *_array(found, where)]


def _objects(root: Any) -> Iterator[tuple[str, Any]]:
    """All groups and arrays really in the file, with their paths."""
    pending, count = [("", root)], 0
    while pending:
        here, node = pending.pop()
        count += node.get_num_objs()
        # A group may hold itself.
        if count > OBJECTS or here.count("/") > DEPTH or len(here) > NAMES:
            raise RefusedError("has more groups than any model")
        yield here, node
        for name in list(node):
            inside = f"{here}/{name.decode()}" if here else name.decode()
            if node.links.get_info(name).type != h5py.h5l.TYPE_HARD:
                raise RefusedError("", inside, " is a link, which is not followed")
            child = h5py.h5o.open(node, name)
            if isinstance(child, h5py.h5g.GroupID):
                pending.append((inside, child))
            else:
                yield inside, child


def _text(found: Any, attribute: bytes, most: int) -> str | None:
    """A text of limited length in an attribute, if it is there."""
    if not h5py.h5a.exists(found, attribute):
        return None
    stored = h5py.h5a.open(found, attribute)
    if stored.shape != () or h5py.check_string_dtype(stored.dtype) is None:
        return None
    name = attribute.decode()
    if stored.dtype.itemsize > most:
        raise RefusedError(f"has an attribute {name} that is longer than any model's")
    owner = h5py.Group if isinstance(found, h5py.h5g.GroupID) else h5py.Dataset
    text = owner(found).attrs[name]
    text = text.decode() if isinstance(text, bytes) else str(text)
    if len(text) > most:
        raise RefusedError(f"has an attribute {name} that is longer than any model's")
    return text


def _array(found: Any, name: str) -> list[Any]:
    """Shape, dtype and place of an array of the file."""
    if not isinstance(found, h5py.h5d.DatasetID):
        raise RefusedError("", name, " is no array in the file itself")
    offset = found.get_offset()
    # Only what lies in one piece in the file itself has an offset; to ask for more takes time.
    layout = h5py.h5d.CONTIGUOUS if offset is not None else _layout(found, name)
    stored = found.get_type()
    dtype = stored.dtype
    if dtype.itemsize == 2 and _text(found, b"dtype", NAMES) == "bfloat16":
        kind = "bfloat16"  # Keras keeps it as bytes and says so in an attribute
    # Nothing but what numpy would write: HDF5 knows numbers of any layout of bits.
    elif dtype.kind in "fiu" and h5py.h5t.py_create(dtype).equal(stored):
        kind = dtype.str
    else:
        raise RefusedError("", name, " is no array of numbers")
    space = found.get_space()
    if space.get_simple_extent_type() == h5py.h5s.NULL:
        raise RefusedError("", name, " is no array of numbers")
    shape = [int(n) for n in space.shape]
    size = math.prod(shape) * dtype.itemsize
    if found.get_storage_size() < size:
        raise _lacking(name, shape)
    if not size:
        return [shape, kind, 0]
    if layout == h5py.h5d.CONTIGUOUS:
        return [shape, kind, offset]
    if layout == h5py.h5d.CHUNKED:
        return [shape, kind, _chunks(found, name, shape, dtype.itemsize)]
    data = bytearray(size)  # among what describes the array, where it has at most 64 kB
    found.read(h5py.h5s.ALL, h5py.h5s.ALL, np.frombuffer(data, dtype).reshape(shape))
    return [shape, kind, base64.b64encode(data).decode()]


def _layout(found: Any, name: str) -> int:
    """How an array is kept that is not in one piece."""
    kept = found.get_create_plist()
    layout: int = kept.get_layout()
    if kept.get_external_count() or layout == h5py.h5d.VIRTUAL:
        raise RefusedError("", name, " is no array in the file itself")
    if kept.get_nfilters():
        # Unpacking knows no limit in HDF5, and Keras does not pack.
        raise RefusedError("", name, " is compressed, which Keras does not do")
    return layout


def _lacking(name: str, shape: list[int]) -> RefusedError:
    return RefusedError("", name, f" has less data than its shape {tuple(shape)} takes")


def _chunks(found: Any, name: str, shape: list[int], itemsize: int) -> list[Any]:
    """The shape of chunks, and the places of all of them in C order."""
    chunk = found.get_create_plist().get_chunk()
    corners = [range(0, n, c) for n, c in zip(shape, chunk, strict=True)]
    total = math.prod(map(len, corners))
    if total > ANSWER or found.get_num_chunks() != total:
        raise _lacking(name, shape)
    size = math.prod(chunk) * itemsize
    places: dict[tuple[int, ...], int] = {}

    def add(info: Any) -> None:
        if info.size != size:
            raise _lacking(name, shape)
        places[tuple(info.chunk_offset)] = info.byte_offset

    if hasattr(found, "chunk_iter"):
        found.chunk_iter(add)
    else:
        for i in range(total):
            add(found.get_chunk_info(i))
    try:
        return [list(chunk), [places[corner] for corner in itertools.product(*corners)]]
    except KeyError:
        raise _lacking(name, shape) from None


def _told(question: dict[str, Any]) -> bytes:
    """The answer to a question, as text."""
    answer: dict[str, Any]
    try:
        answer = {"found": index(**question)}
    except RefusedError as error:
        answer = {"refused": list(error.args)}
    # h5py raises errors of many kinds for files that are damaged.
    except Exception as error:
        answer = {"failed": (str(error) or type(error).__name__)[:2000]}
    return json.dumps(answer).encode()


def _limit(question: dict[str, Any]) -> None:
    """Limits that hold inside the library too."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, WAIT)
    size = question["size"] or os.stat(question["path"]).st_size
    for kind, most in (
        (resource.RLIMIT_CPU, processor_seconds(size)),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(OSError, ValueError):  # not every system has every limit
            resource.setrlimit(kind, (most, hard))


def _asked(question: dict[str, Any]) -> tuple[int, bytes]:
    """How a fork ended that was asked a question, and what it said: at most `ANSWER` bytes and one
    more. Its limits end it, so that nothing has to be waited for with a clock.
    """
    here, there = os.pipe()
    process = os.fork()
    if not process:
        code = 1
        try:
            os.close(here)
            os.dup2(2, 0)  # no answer and no question is in reach
            os.dup2(2, 1)
            _limit(question)
            with open(there, "wb") as out:
                out.write(_told(question))
            code = 0
        finally:
            os._exit(code)
    os.close(there)
    with open(here, "rb") as answer:
        said = answer.read(ANSWER + 1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), said


def serve() -> None:
    """Answer the questions on standard input, one a line: a line that tells how it went and how
    many bytes were said, and those. An empty line asks for nothing but an answer.
    """
    gc.disable()  # a fork is over before there is anything to collect
    while True:
        signal.setitimer(signal.ITIMER_REAL, IDLE)  # its signal ends the process
        line = sys.stdin.buffer.readline()
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not line:
            return
        code, said = _asked(json.loads(line)) if line.strip() else (0, b"")
        sys.stdout.buffer.write(b"%d %d\n%b" % (code, len(said), said))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve()
