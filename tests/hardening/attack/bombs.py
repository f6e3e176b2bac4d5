"""Small files that ask for a lot: elements, bytes, depth, time."""

from __future__ import annotations

import base64
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from shared_spec.plan.compiler import compile_plan
from tests.hardening.attack.cases import (
    Case,
    certificate,
    entry,
    hdf5,
    huggingface,
    keras,
    legacy,
    safetensors,
    state_dict,
    storage,
    tensor,
    text,
    torch_zip,
    unicode,
)
from tests.hardening.attack.onnx_cases import BOMBS
from tests.hardening.attack.samples import TINY

_SAFE = "not a readable safetensors file"
_TORCH = "not a readable PyTorch file"
_PRIME = 2**61 - 1
"""Python's hash of an integer is its remainder of this."""


def zeros(size: int) -> bytes:
    """`size` zeros, deflated: a block that is flushed can stand there again and again."""
    step = 2**24
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(bytes(step)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(step)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + block * (size // step - 1) + packer.flush()


def packed(
    name: str, member: str, size: int, told: int, *others: tuple[str, bytes]
) -> Callable[[Path], str]:
    """A maker of a zip file whose member unpacks to `size` zeros and says that it has `told`."""

    def make(folder: Path) -> str:
        raw, data = member.encode(), zeros(size)
        common = struct.pack("<HHHHHIII", 20, 0, 8, 0, 0x21, 0, len(data), told)
        common += struct.pack("<HH", len(raw), 0)
        # The empty extra field is the local header's; the directory has three fields more.
        directory = (
            b"PK\1\2" + struct.pack("<H", 20) + common + struct.pack("<HHHII", 0, 0, 0, 0, 0) + raw
        )
        out = b"PK\3\4" + common + raw + data
        for other, content in others:
            facts = struct.pack(
                "<HHHHHIII", 20, 0, 0, 0, 0x21, zlib.crc32(content), *(len(content),) * 2
            )
            facts += struct.pack("<HH", len(other), 0)
            directory += b"PK\1\2" + struct.pack("<H", 20) + facts
            directory += struct.pack("<HHHII", 0, 0, 0, 0, len(out)) + other.encode()
            out += b"PK\3\4" + facts + other.encode() + content
        count = 1 + len(others)
        end = struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(out), 0)
        (folder / name).write_bytes(out + directory + b"PK\5\6" + end)
        return name

    return make


def method(name: str, member: str, size: int, how: int) -> Callable[[Path], str]:
    """A maker of a zip file with a member of zeros in another method of compression."""

    def make(folder: Path) -> str:
        with zipfile.ZipFile(folder / name, "w", how) as archive, archive.open(member, "w") as file:
            for _ in range(size // 2**20):
                file.write(bytes(2**20))
        return name

    return make


def sparse(name: str, head: bytes, size: int) -> Callable[[Path], str]:
    """A maker of a file that begins with `head`, of a size that takes no room on disk."""

    def make(folder: Path) -> str:
        (folder / name).write_bytes(head)
        os.truncate(folder / name, size)
        return name

    return make


def many_members(folder: Path) -> str:
    """A zip file of a million empty members."""
    name = struct.pack("<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    count = 10**6
    directory = (b"PK\1\2" + name) * count
    far = struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, len(directory), 0)
    locator = b"PK\6\7" + struct.pack("<IQI", 0, len(directory), 1)
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, len(directory), 0, 0)
    (folder / "a.pth").write_bytes(directory + b"PK\6\6" + far + locator + end)
    return "a.pth"


def doubled(times: int = 40) -> bytes:
    """The opcodes of a tuple of 2^times parts, through the memo."""
    return b")" + b"q\x01h\x01\x86" * times


def long_number(size: int) -> bytes:
    return b"\x8b" + struct.pack("<I", size) + b"\x7f" * size


def whole(number: int) -> bytes:
    raw = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def collisions(count: int) -> bytes:
    """A dict whose keys all have the hash 0."""
    return b"\x80\x02}(" + b"".join(whole(i * _PRIME) + b"N" for i in range(1, count)) + b"u."


def memo_collisions(count: int) -> bytes:
    return b"\x80\x02N" + b"".join(b"p%d\n" % (i * _PRIME) for i in range(1, count)) + b"."


def many_names(count: int, last: str = "") -> str:
    """A header of `count` empty arrays, as small as one can be."""
    item = json.dumps(entry(0, 0, [0]), separators=(",", ":"))
    names = [f"a{i}" for i in range(count)] + ([last] if last else [])
    return "{" + ",".join(f'"{name}":{item}' for name in names) + "}"


def nets(count: int) -> str:
    """A header with the beginnings of `count` nets under prefixes of their own."""
    item = json.dumps(entry(0, 0, [0]), separators=(",", ":"))
    leaves = ("layer1.0.conv1.weight", "bn1.running_var")
    return "{" + ",".join(f'"p{i}.{leaf}":{item}' for i in range(count) for leaf in leaves) + "}"


def told(spec: Any) -> Callable[[Path], str]:
    """A maker of a safetensors file of ours that tells this net."""
    ours = json.dumps({"version": 1, "spec": spec})
    header = {"__metadata__": {"resnet_parity": ours}, "conv1.weight": entry(0, 4, [1])}
    return safetensors("a.safetensors", header, bytes(4))


def _gzip(group: Any) -> None:
    """A chunk that unpacks to 4 GB: HDF5 does not ask how much it should."""
    found = group.create_dataset("kernel:0", (2**14,), "f4", chunks=(2**14,), compression="gzip")
    data = zeros(2**32)
    checked = b"\x78\xda" + data + struct.pack(">I", 1)
    found.id.write_direct_chunk((0,), checked)


def _itself_often(file: Any) -> None:
    group = file.create_group("layers")
    for i in range(20_000):
        group[str(i)] = group


def _one_text_often(folder: Path) -> str:
    """A list of a thousand names that all lie in the same megabyte."""
    names = np.array(["x" * 2**20, *map(str, range(999))], dtype=object)
    name = hdf5(
        "a.h5", lambda file: file.attrs.create("layer_names", names, dtype=h5py.string_dtype())
    )
    path = folder / name(folder)
    data = bytearray(path.read_bytes())
    # An entry is a length, the place of a heap, and a number there.
    heaps = [data.find(b"GCOL")]
    while heaps[-1] >= 0:
        heaps.append(data.find(b"GCOL", heaps[-1] + 1))
    entries = [struct.pack("<IQ", 2**20, heap) for heap in heaps[:-1]]
    at = max(data.find(found) for found in entries)
    data[at : at + 16_000] = bytes(data[at : at + 16]) * 1000
    path.write_bytes(data)
    return path.name


_HUGE = TINY.override(num_classes=10_000_000, depths=[1], widths=[2048])


def _promised(folder: Path) -> str:
    """A dataset of a shape that the net has, and of no data."""
    q = list(compile_plan(_HUGE).parameters())[-2]

    def fill(file: Any) -> None:
        group = file.create_group("layers/dense/vars")
        group.attrs["name"] = q.module
        file.create_group("vars")
        kept = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        kept.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
        space = h5py.h5s.create_simple(q.shape[::-1])
        h5py.h5d.create(group.id, b"0", h5py.h5t.NATIVE_FLOAT, space, kept)

    return hdf5("a.weights.h5", fill)(folder)


def _zipped_array(size: int) -> dict[str, Any]:
    data = zlib.compress(bytes(size), 9)
    return {"shape": [size // 8], "float64": base64.b64encode(data).decode()}


def _msgpack(name: str, content: bytes) -> Case:
    return Case(
        f"msgpack: {name}", text("a.msgpack", content), "not a Flax msgpack file|a.msgpack: "
    )


_SCALAR = b"\xc7\x0a\x01\x93\x90\xa4bool\xc4\x01\x00"
_LONG = b"\xda\x01\x90" + b"n" * 400
"""A name of 400 characters in msgpack."""


def shared(levels: int, leaf: bytes, of: Callable[[bytes], bytes]) -> bytes:
    """A tree in which each level holds the next one twice: 2^levels paths to the leaf."""
    out = b"\x80\x02" + leaf + b"q\x000"
    twice = unicode("a") + b"h\x00" + unicode("b") + b"h\x00"
    return out + (of(b"}(" + twice + b"u") + b"q\x000") * levels + b"h\x00."


def module(members: bytes) -> bytes:
    """The opcodes of a module whose modules are given as those of a dict."""
    empty = unicode("_parameters") + b"}" + unicode("_buffers") + b"}"
    return b"cx\ny\n)\x81}(" + empty + unicode("_modules") + members + b"ub"


FLOATS = tensor(storage())
BYTES = b"c_codecs\nencode\n(" + unicode("x" * 7_000_000) + unicode("latin1") + b"tRq\x01"
DTYPE = b"cnumpy\ndtype\nU\x02i1\x85R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbq\x02"
NUMBER = b"cnumpy.core.multiarray\nscalar\nh\x02h\x01\x86R"
ARRAY = (
    b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    b"(K\x01J\xc0\xcf\x6a\x00\x85h\x02\x89h\x01tb"  # 7,000,000 numbers
)
OBJECT = b"cx\ny\n"
TREES: dict[str, tuple[bytes, str]] = {
    "2^40 paths to a tensor": (
        shared(40, b"}" + unicode("t") + FLOATS + b"s", lambda twice: twice),
        "more than any model",
    ),
    "2^40 paths to an object": (
        shared(40, OBJECT + b")\x81", lambda twice: twice),
        "more than any",
    ),
    "2^40 modules": (shared(40, module(b"}"), module), "more than any model"),
    "lists 100,000 deep with a tensor": (
        state_dict(value=b"]" * 10**5 + FLOATS + b"a" * 10**5),
        "nested more than",
    ),
    "modules 1,000 deep": (
        b"\x80\x02"
        + module(b"}")
        + b"q\x000"
        + (module(b"}" + unicode("a") + b"h\x00s") + b"q\x000") * 1000
        + b"}("
        + unicode("net")
        + b"h\x00"
        + unicode("t")
        + FLOATS
        + b"u.",
        "a.pth",
    ),
    "objects 100,000 deep": (
        state_dict(value=OBJECT + b"q\x000" + b"h\x00" * 10**5 + b")\x81" + b"\x85\x81" * 99_999),
        "no tensors, only objects",
    ),
    "7 MB as a number, 20,000 times": (
        b"\x80\x02](" + BYTES + DTYPE + NUMBER * 20_000 + b"e.",
        "no tensors, only objects",
    ),
    "7 MB as an array, 8,000 times": (
        b"\x80\x02](" + BYTES + DTYPE + ARRAY * 8_000 + b"e.",
        "containers hold more than any model",
    ),
    "a key of 7 MB before 50,000 containers": (
        b"\x80\x02}"
        + unicode("n" * 7_000_000)
        + b"](}"
        + unicode("a")
        + FLOATS
        + b"sq\x01"
        + b"h\x01" * 50_000
        + b"es.",
        "7,000,000 characters",
    ),
    "a module with a name of 7 MB, 20,000 times": (
        b"\x80\x02]("
        + module(b"}" + unicode("x" * 7_000_000) + b"Ns")
        + b"q\x01"
        + b"h\x01" * 19_000
        + b"e.",
        "holds no tensors",
    ),
    "2,000 keys too long for a path, in one dict 10,000 times": (
        b"\x80\x02](}("
        + b"".join(unicode(f"{i:0600}") + b"N" for i in range(2_000))
        + b"uq\x01"
        + b"h\x01" * 10_000
        + b"e.",
        "containers hold more than any model",
    ),
    "10,000 objects that hold one long list": (
        b"\x80\x02]("
        + FLOATS
        + b"q\x01"
        + b"h\x01" * 50_000
        + b"eq\x020]("
        + (OBJECT + b"h\x02\x85\x81") * 10_000
        + b"e.",
        "objects hold more than any model",
    ),
    "10,000 modules with one long set of names": (
        b"\x80\x02](]("
        + unicode("a") * 50_000
        + b"eq\x020"
        + module(b"}" + unicode("_non_persistent_buffers_set") + b"h\x02")
        + b"q\x030"
        + b"h\x03" * 10_000
        + b"e.",
        "containers hold more than any model",
    ),
    "an OrderedDict of Python 2 with 50,000 items, 10,000 times": (
        b"\x80\x02](]("
        + b"".join(unicode(f"{i:05}") + b"N\x86" for i in range(50_000))
        + b"eq\x01"
        + (b"ccollections\nOrderedDict\nh\x01\x85R") * 10_000
        + b"e.",
        "containers hold more than any model",
    ),
    "60,000 tensors": (
        b"\x80\x02](" + FLOATS + b"q\x01" + b"h\x01" * 60_000 + b"e.",
        "more than 50,000 arrays",
    ),
}
"""Pickles of small trees that would be large ones."""

CASES = [
    *(
        Case(f"pth: {k}", torch_zip("a.pth", p, ("archive/data/0", bytes(8), 0)), e)
        for k, (p, e) in TREES.items()
    ),
    Case(
        "safetensors: 10^18 elements",
        safetensors("a.safetensors", {"conv1.weight": entry(0, 4, [10**18])}, bytes(4)),
        _SAFE,
    ),
    Case(
        "safetensors: 10^18 bytes told",
        safetensors("a.safetensors", {"conv1.weight": entry(0, 4 * 10**18, [10**18])}, bytes(4)),
        _SAFE,
    ),
    Case(
        "safetensors: a header of 99 MB",
        sparse("a.safetensors", (99 * 10**6).to_bytes(8, "little") + b"{}", 99 * 10**6 + 8),
        "its header would have",
    ),
    Case(
        "safetensors: 60,000 arrays",
        safetensors("a.safetensors", many_names(60_000)),
        "more than any model|values in its JSON",
    ),
    Case(
        "safetensors: 30,000 arrays",
        safetensors("a.safetensors", many_names(30_000)),
        "no ResNet under names that are known",
    ),
    Case(
        "safetensors: the first block of 4,000 nets",
        safetensors("a.safetensors", nets(4_000)),
        "has the names of 4,000 ResNets",
    ),
    Case(
        "safetensors: the last of 30,000 names twice",
        safetensors("a.safetensors", many_names(30_000, "a29999")),
        "appears twice",
    ),
    Case(
        "safetensors: a million axes",
        safetensors(
            "a.safetensors",
            '{"a":{"dtype":"F32","shape":[' + "1," * 10**6 + '0],"data_offsets":[0,0]}}',
        ),
        "axes|values in its JSON",
    ),
    Case(
        "safetensors: nested a million times",
        safetensors("a.safetensors", '{"a":' + "[" * 10**6),
        _SAFE,
    ),
    Case("spec: 80,000 blocks", told({"depths": [10_000] * 8, "block": "basic"}), "depths"),
    Case(
        "spec: 30,000 fields that it lacks",
        told({f"a{i}": 1 for i in range(30_000)}),
        "no such field|fields",
    ),
    Case(
        "spec: 90,000 blocks of pruned widths",
        told({"depths": [1], "block": "basic", "block_widths": [["x"]] * 90_000}),
        "block_widths",
    ),
    Case(
        "spec: 90,000 depths that are words",
        told({"depths": ["x"] * 90_000, "block": "basic"}),
        "depths: has more than 40,000 values",
    ),
    # zip
    Case(
        "keras: config.json of 10 GB",
        packed("a.keras", "config.json", 10 * 2**30, 2**32 - 2, ("model.weights.h5", bytes(100))),
        "more than any model's",
    ),
    Case(
        "keras: config.json of 10 GB that tells 1,000 bytes",
        packed("a.keras", "config.json", 10 * 2**30, 1000, ("model.weights.h5", bytes(100))),
        "not a readable|JSON",
    ),
    Case(
        "keras: config.json of 100 MB, LZMA",
        method("a.keras", "config.json", 100 * 2**20, zipfile.ZIP_LZMA),
        "a.keras",
    ),
    Case(
        "keras: config.json of a million lists",
        keras("a.keras", "[" + "[]," * 10**6 + "[]]"),
        "a.keras",
    ),
    Case(
        "keras: config.json of 300,000 layers",
        keras("a.keras", json.dumps({"config": {"layers": [1] * 300_000}})),
        "more than any model's",
    ),
    Case(
        "keras: config.json nested a million times",
        keras("a.keras", "[" * 10**6),
        "nested too deep|JSON",
    ),
    Case(
        "pth: data.pkl of 10 GB",
        packed("a.pth", "a/data.pkl", 10 * 2**30, 2**32 - 2),
        "more than any model's",
    ),
    Case(
        "pth: data.pkl of 10 GB that tells 1,000 bytes",
        packed("a.pth", "a/data.pkl", 10 * 2**30, 1000),
        _TORCH,
    ),
    Case(
        "pth: data.pkl of 100 MB, bzip2",
        method("a.pth", "a/data.pkl", 100 * 2**20, zipfile.ZIP_BZIP2),
        "a.pth",
    ),
    Case(
        "pth: byteorder of 10 GB",
        packed("a.pth", "a/byteorder", 10 * 2**30, 2**32 - 2, ("a/data.pkl", b"}.")),
        "more than any model's",
    ),
    Case(
        "npz: a member of 10 GB", packed("a.npz", "x.npy", 10 * 2**30, 2**32 - 2), "not a readable"
    ),
    Case(
        "npz: a member of 100 MB, LZMA",
        method("a.npz", "x.npy", 100 * 2**20, zipfile.ZIP_LZMA),
        "neither stored nor",
    ),
    Case(
        "npz: 10^18 elements",
        lambda folder: _npz(folder),
        "not of floats|not have the length of its shape",
    ),
    Case("zip: a million members", many_members, "its directory would have"),
    # pickle
    Case(
        "pth: a tuple of 2^40 parts as a key",
        torch_zip("a.pth", state_dict(doubled())),
        "no tensors",
    ),
    Case(
        "pth: a tuple of 2^40 parts as a value",
        torch_zip("a.pth", state_dict(value=doubled())),
        "more than any model",
    ),
    Case(
        "pth: a tuple of 2^40 parts as a module",
        torch_zip("a.pth", b"\x80\x04" + doubled() + unicode("x") + b"\x93."),
        "not text",
    ),
    Case(
        "pth: a tuple of 2^40 parts as a type",
        torch_zip("a.pth", state_dict(value=tensor(storage(kind=doubled())))),
        "no type",
    ),
    Case(
        "pth: a tuple of 2^40 parts as a shape",
        torch_zip("a.pth", state_dict(value=tensor(storage(), doubled()))),
        "in a form",
    ),
    Case(
        "pth: a tuple of 2^40 parts as a device",
        torch_zip("a.pth", state_dict(value=b"ctorch\ndevice\n" + doubled() + b"R")),
        "a device of no name",
    ),
    Case(
        "pth: a tuple of 2^40 parts for an OrderedDict",
        torch_zip("a.pth", state_dict(value=b"ccollections\nOrderedDict\n" + doubled() + b"R")),
        "OrderedDict",
    ),
    Case(
        "pth: a tuple of 2^40 parts as a list of storages",
        text(
            "a.pth",
            b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
            + b"\x80\x02}." * 2
            + b"\x80\x02("
            + doubled()
            + b"l.",
        ),
        _TORCH,
    ),
    Case(
        "pth: a tuple nested 490,000 deep as a key",
        torch_zip("a.pth", state_dict(b")" + b"\x85" * 490_000)),
        "no tensors",
    ),
    Case(
        "pth: a list nested 240,000 deep",
        torch_zip("a.pth", state_dict(value=b"]" * 240_000 + b"a" * 239_999)),
        "no tensors",
    ),
    Case(
        "pth: eight million marks",
        torch_zip("a.pth", b"\x80\x02" + b"(" * (2**23 - 9) + b"."),
        "longer than",
    ),
    Case(
        "pth: 490,000 dicts",
        torch_zip("a.pth", b"\x80\x02" + b"}" * 490_000 + b"N."),
        "no tensors",
    ),
    Case(
        "pth: a number of 30 MB",
        torch_zip("a.pth", state_dict(value=long_number(30 * 10**6))),
        "more than any",
    ),
    Case(
        "pth: a number of 7 MB",
        torch_zip("a.pth", state_dict(long_number(7 * 10**6))),
        "no tensors",
    ),
    Case("pth: 100,000 keys of one hash", torch_zip("a.pth", collisions(100_000)), "no tensors"),
    Case(
        "pth: 100,000 places of the memo of one hash",
        torch_zip("a.pth", memo_collisions(100_000)),
        "numbers its",
    ),
    Case(
        "pth: a prefix a million times",
        torch_zip(
            "a.pth",
            state_dict(unicode("module." * 10**6), tensor(storage())),
            ("archive/data/0", bytes(8), 0),
        ),
        "mismatch|a.pth",
    ),
    Case(
        "pth: a name of 7 MB",
        torch_zip(
            "a.pth",
            state_dict(unicode("x" * 7 * 10**6), tensor(storage())),
            ("archive/data/0", bytes(8), 0),
        ),
        "7,000,000 characters",
    ),
    Case(
        "pth: a function's name of 7 MB",
        torch_zip("a.pth", state_dict(value=b"cos\n" + b"x" * 7 * 10**6 + b"\n)R")),
        "nothing is executed",
    ),
    Case(
        "pth: a shape copied 200,000 times",
        torch_zip(
            "a.pth",
            b"\x80\x02]("
            + b"N" * 300_000
            + b"eq\x01"
            + b"ctorch\nSize\nh\x01\x85R" * 200_000
            + b".",
        ),
        "more axes|longer than",
    ),
    Case(
        "pth of before 1.6: a line of 8 GB", sparse("a.pth", b"\x80\x02c", 8 * 2**30), "larger than"
    ),
    Case(
        "pth of before 1.6: bytes of 2^62",
        text("a.pth", b"\x80\x04\x8e" + (2**62).to_bytes(8, "little")),
        _TORCH,
    ),
    Case(
        "pth of before 1.6: bytes of 8 GB",
        sparse("a.pth", b"\x80\x04\x8e" + (2**33).to_bytes(8, "little"), 9 * 2**30),
        "larger than|" + _TORCH,
    ),
    # HDF5
    Case(
        "h5: 10^18 elements",
        hdf5("a.h5", legacy(lambda g: g.create_dataset("kernel:0", (10**18,), "f4", chunks=(8,)))),
        "less data than",
    ),
    Case("h5: a chunk of 4 GB, gzipped", hdf5("a.h5", legacy(_gzip)), "is compressed"),
    Case("h5: one name of 1 MB, a thousand times", _one_text_often, "no arrays|of one dtype"),
    Case(
        "weights.h5: a group that holds itself 20,000 times",
        hdf5("a.weights.h5", _itself_often),
        "more groups",
    ),
    Case("weights.h5: a promise of 80 GB", _promised, "less data than|is missing", model=_HUGE),
    # msgpack
    _msgpack("a map of 2^32 - 1", b"\xdf\xff\xff\xff\xff"),
    _msgpack("a list of 2^32 - 1", b"\x81\xa1a\xdd\xff\xff\xff\xff" + b"\xc0" * 10**6),
    _msgpack("lists in lists", b"\x81\xa1a" + b"\xdd\x00\x00\xff\xff" * 10**6),
    _msgpack("maps nested 100,000 deep", b"\x81\xa1a" * 100_000 + b"\xc0"),
    _msgpack("an array of 4 GB", b"\x81\xa1a\xc9\xff\xff\xff\xff\x01\x93\x90"),
    _msgpack(
        "a shape of 32 lengths of 2^64 - 1",
        b"\x81\xa1a\xc8\x01\x40\x01\x93\xdc\x00\x20"
        + (b"\xcf" + b"\xff" * 8) * 32
        + b"\xa7float32\xc4\x00"
        + bytes(99),
    ),
    _msgpack(
        "long names of long names",
        (b"\x81" + _LONG) * 60
        + b"\xde\x9c\x40"
        + b"".join(b"\xa5%05d" % i + _SCALAR for i in range(40_000)),
    ),
    _msgpack(
        "60,000 members",
        b"\x81\xa1a\xde\xea\x60" + b"".join(b"\xa5%05d\xc0" % i for i in range(60_000)),
    ),
    *BOMBS,
    # transformers
    Case(
        "config.json: 10^12 blocks",
        huggingface(depths=[10**12, 1], hidden_sizes=[6, 6], layer_type="bottleneck"),
        "depths",
    ),
    Case(
        "config.json: a million labels",
        huggingface(id2label={str(i): "" for i in range(10**6)}),
        "config.json",
    ),
    Case(
        "config.json: 5 million lists",
        lambda folder: _spoilt(folder, "[" + "[]," * 5 * 10**6 + "[]]"),
        "config.json",
    ),
    Case(
        "config.json: nested a million times",
        lambda folder: _spoilt(folder, '{"a":' * 10**6),
        "config.json",
    ),
    Case("config.json: text of 20 MB", huggingface(hidden_act="x" * 20 * 10**6), "config.json"),
    # Specs
    Case(
        "yaml: aliases that double",
        text(
            "a.yaml",
            "b0: &b0 [1,1]\n" + "".join(f"b{i + 1}: &b{i + 1} [*b{i}, *b{i}]\n" for i in range(40)),
        ),
        "aliases are not accepted",
        "show",
    ),
    Case(
        "yaml: a number of 33,000 sixties",
        text("a.yaml", "depths: 1" + ":59" * 33_000),
        "a.yaml",
        "show",
    ),
    Case(
        "yaml: 50,000 items",
        text("a.yaml", "depths: [" + "1," * 49_000 + "1]"),
        "more items than any spec",
        "show",
    ),
    Case(
        "yaml: 24,000 items", text("a.yaml", "depths: [" + "1," * 24_000 + "1]"), "depths", "show"
    ),
    Case("yaml: nested 99,000 deep", text("a.yaml", "[" * 99_000), "nested deeper", "show"),
    Case("yaml: mappings 24,000 deep", text("a.yaml", "{a: " * 24_000), "nested deeper", "show"),
    Case("yaml: lists 49,000 deep", text("a.yaml", "- " * 49_000), "nested deeper", "show"),
    Case("yaml: keys 49,000 deep", text("a.yaml", "? " * 49_000), "nested deeper", "show"),
    Case("yaml: 1 GB", sparse("a.yaml", b"depths: [1]\n", 2**30), "larger than", "show"),
    Case(
        "json: 8,000 fields that a spec lacks",
        text("a.json", json.dumps({f"a{i}": 1 for i in range(8000)})),
        "no such field|fields",
        "show",
    ),
    Case(
        "json: 80,000 blocks",
        text("a.json", json.dumps({"depths": [10_000] * 8, "block": "basic"})),
        "depths",
        "show",
    ),
    Case(
        "toml: a key of 49,000 parts",
        text("a.toml", ".".join(["a"] * 49_000) + " = 1"),
        "not valid TOML",
        "show",
    ),
    Case(
        "toml: tables in tables",
        text("a.toml", "a = " + "{a = " * 15_000),
        "not valid TOML",
        "show",
    ),
    Case(
        "toml: 24,000 tables",
        text("a.toml", "".join(f"[{i:x}]\n" for i in range(14_000))),
        "a.toml",
        "show",
    ),
    # Certificates
    Case(
        "certificate: logits of 1 GB",
        certificate(reference={"engine": "torch", "outputs": [_zipped_array(2**30 - 8)]}),
        "certificate",
        "verify",
    ),
    Case(
        "certificate: twenty logits of 50 MB",
        certificate(reference={"engine": "torch", "outputs": [_zipped_array(50 * 10**6)] * 20}),
        "certificate",
        "verify",
    ),
    Case(
        "certificate: logits of 10^18",
        certificate(reference={"engine": "torch", "outputs": [{"shape": [10**18], "float64": ""}]}),
        "certificate",
        "verify",
    ),
    Case(
        "certificate: 80,000 blocks",
        certificate(spec={"depths": [10_000] * 8, "block": "basic"}),
        "depths",
        "verify",
    ),
    Case(
        "certificate: nested a million times",
        certificate(versions=[]) and (lambda folder: _certificate(folder, '{"a":' * 10**6)),
        "nested too deep|JSON",
        "verify",
    ),
]


def _npz(folder: Path) -> str:
    text_ = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000000,), }".ljust(117)
    header = b"\x93NUMPY\1\0" + struct.pack("<H", 118) + text_.encode() + b"\n"
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        archive.writestr("x.npy", header + bytes(8))
    return "a.npz"


def _spoilt(folder: Path, config: str) -> str:
    name = huggingface()(folder)
    (folder / name / "config.json").write_text(config)
    return name


def _certificate(folder: Path, content: str) -> str:
    name = certificate()(folder)
    (folder / f"{name}.parity.json").write_text(content)
    return name


__all__ = ["CASES"]
