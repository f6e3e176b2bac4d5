"""Seeded damage that knows a format: its header, its names, its opcodes, its records."""

from __future__ import annotations

import io
import json
import os
import pickletools
import signal
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import h5py
import numpy as np

from tests.hardening.attack.samples import Files, Sample

Change = Callable[[Random, bytes], bytes]
INTEGERS = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    16,
    64,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**48, 2**53, 2**61 - 1, 2**63 - 1, 2**63, 2**64 - 1),
]


def mutate(sample: Sample, name: str, seed: int) -> Files:
    """The files of a sample, damaged in one to three places that follow from the seed."""
    rng = Random(f"{name}/{seed}")  # noqa: S311 damage need not be secret
    files = dict(sample.files)
    target = rng.choice(sample.targets())
    for number in range(rng.choice([1, 1, 1, 2, 3])):
        try:
            # Two in three know the format; the rest only know where its header is.
            if name in _STRUCTURED and rng.random() < 0.66:
                change = _STRUCTURED[name]
                apart = number and name in _HDF5
                files[target] = (_apart if apart else _here)(change, rng, files[target])
            else:
                files[target] = damaged(rng, files[target], sample.spans[target])
        except Exception:  # what an earlier damage left can no longer be taken apart
            files[target] = damaged(rng, files[target], [(0, len(files[target]))])
    return files


def _here(change: Change, rng: Random, data: bytes) -> bytes:
    return change(rng, data)


def _apart(change: Change, rng: Random, data: bytes) -> bytes:
    """A change in a process of its own: the HDF5 library may crash on what an earlier damage left,
    or never end.
    """
    here, there = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads, of which the fork needs none
        process = os.fork()
    if not process:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(5)
            with open(there, "wb") as out:
                out.write(change(rng, data))
            code = 0
        finally:
            os._exit(code)
    os.close(there)
    with open(here, "rb") as found:
        changed = found.read()
    if os.waitpid(process, 0)[1]:
        raise ValueError("the change was not to be made")
    return changed


def damaged(rng: Random, data: bytes, spans: Sequence[tuple[int, int]]) -> bytes:
    """Bytes changed, taken out or put in, in one of the spans."""
    spans = [(a, min(b, len(data))) for a, b in spans if a < len(data)] or [(0, len(data))]
    start, stop = rng.choices(spans, [b - a for a, b in spans])[0] if data else (0, 0)
    if stop <= start:
        return bytes(rng.randbytes(rng.randrange(1, 40)))
    at = rng.randrange(start, stop)
    if not data[at] and rng.random() < 0.8:  # most of a header's zeros are padding
        at = next((i for i in range(at, stop) if data[i]), at)
    out = bytearray(data)
    kind = rng.randrange(9)
    length = min(rng.choice([1, 1, 2, 4, 8, 16, 64]), stop - at)
    if kind == 0:
        out[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        out[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    elif kind in (2, 3):
        width = rng.choice([1, 2, 4, 8])
        number = rng.choice(INTEGERS) % 256**width
        out[at : at + width] = number.to_bytes(width, rng.choice(["little", "big"]))
    elif kind == 4:
        del out[at : at + length]
    elif kind == 5:
        out[at:at] = rng.randbytes(length)
    elif kind == 6:
        out[at:at] = out[at : at + length]
    elif kind == 7:
        out[at : at + length] = bytes(length)
    else:
        other = rng.randrange(start, stop)
        out[at : at + length], out[other : other + length] = (
            out[other : other + length],
            out[at : at + length],
        )
    return bytes(out)


class Raw(str):
    """JSON text that stands for itself."""


class Pairs(list[tuple[str, Any]]):
    """An object whose names may be there twice."""


STRANGE: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    7,
    2**31,
    2**53,
    2**63,
    10**12,
    10**18,
    0.5,
    -0.0,
    1e-9,
    1e300,
    Raw("NaN"),
    Raw("Infinity"),
    Raw("-Infinity"),
    Raw("1e999"),
    Raw("1" * 400),
    Raw("9" * 5000),
    "",
    "x",
    "relu",
    "F32",
    "I64",
    "F8_E5M2",
    "float32",
    "complex64",
    "x" * 5000,
    "a\x1b[31mb",
    "[bold red]x[/]",
    "a\u202eb",
    "a\nb",
    Raw('"\\ud800"'),
    Raw('"\\u0000"'),
    "../../etc/passwd",
    "/etc/passwd",
    "é日本",
    [],
    Pairs(),
    [[]],
    [0, 10**12],
    [-1],
    [1.5],
    ["x"],
    [None],
    [1] * 40,
    ["x"] * 300,
    Pairs([("a", 1)]),
    Raw("[" * 300 + "]" * 300),
    Raw("[" * 50_000),
    Raw('{"a":' * 300 + "1" + "}" * 300),
    Raw("[" * 50_000 + "]" * 50_000),
]


def parsed(text: str | bytes) -> Any:
    return json.loads(text, object_pairs_hook=Pairs)


def dumped(value: Any) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{_key(k)}:{dumped(v)}" for k, v in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dumped, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _key(key: Any) -> str:
    return str(key) if isinstance(key, Raw) else json.dumps(str(key), ensure_ascii=False)


def changed(rng: Random, root: Any) -> Any:
    """A tree of JSON with one node changed."""
    box = [root]
    places: list[tuple[Any, int]] = [(box, 0)]
    for parent, index in places:
        node = _at(parent, index)
        if isinstance(node, list):
            places += [(node, i) for i in range(len(node))]
    parent, index = rng.choice(places)
    node = _at(parent, index)
    kind = rng.randrange(8)
    if kind <= 3 or parent is box:
        _put(parent, index, rng.choice(STRANGE))
    elif kind == 4:
        del parent[index]
    elif kind == 5:
        parent.insert(rng.randrange(len(parent) + 1), parent[index])
    elif kind == 6 and isinstance(parent, Pairs):
        names = [*(str(x) for x in STRANGE if isinstance(x, str)), *(k for k, _ in parent)]
        parent[index] = (rng.choice(names), node)
    else:
        other, there = rng.choice(places[1:])
        _put(parent, index, _at(other, there) if kind == 6 else [node])
    return box[0]


def _at(parent: Any, index: int) -> Any:
    return parent[index][1] if isinstance(parent, Pairs) else parent[index]


def _put(parent: Any, index: int, value: Any) -> None:
    parent[index] = (parent[index][0], value) if isinstance(parent, Pairs) else value


def _json(rng: Random, data: bytes) -> bytes:
    return dumped(changed(rng, parsed(data))).encode("utf-8", "surrogatepass")


def _safetensors(rng: Random, data: bytes) -> bytes:
    size = int.from_bytes(data[:8], "little")
    kind = rng.randrange(10)
    if kind == 0:
        return rng.choice(INTEGERS).to_bytes(8, "little") + data[8:]
    header = parsed(data[8 : 8 + size])
    if kind == 1:  # inside the text of our own metadata
        metadata = dict(header)["__metadata__"]
        ours = changed(rng, parsed(dict(metadata)["resnet_parity"]))
        index = [k for k, _ in metadata].index("resnet_parity")
        _put(metadata, index, dumped(ours))
        text = dumped(header).encode("utf-8", "surrogatepass")
    else:
        text = _json(rng, data[8 : 8 + size])
    if rng.random() < 0.3:
        text += b" " * rng.randrange(9)
    length = len(text) + (rng.choice([-1, 1, 8]) if rng.random() < 0.1 else 0)
    return length.to_bytes(8, "little") + text + data[8 + size :]


SNIPPETS = [
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"cposix\nsystem\n",
    b"ctorch\nload\n",
    b"ctorch\nFloatStorage\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nSize\n",
    b"ctorch\ndevice\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch._tensor\n_rebuild_from_type_v2\n",
    b"ccopyreg\n_reconstructor\n",
    b"cargparse\nNamespace\n)\x81}b",
    b"c__torch__.a\nB\n)\x81}U\x08training\x88sb",
    b"cnumpy.core.multiarray\nscalar\n",
    b"c_codecs\nencode\n",
    b"X\x0b\x00\x00\x00touch owned\x85R",
    b"R",
    b"b",
    b"(ios\nsystem\n",
    b"(o",
    b"o",
    b"\x81",
    b"\x92",
    b"\x82\x01",
    b"\x83\x01\x00",
    b"\x84\x01\x00\x00\x00",
    b"P1\n",
    b"Q",
    b"2",
    b"0",
    b"1",
    b"h\x00",
    b"q\x00",
    b"j\xff\xff\xff\xff",
    b"r\xff\xff\xff\xff",
    b"g99\n",
    b"p99\n",
    b"]",
    b"}",
    b")",
    b"(",
    b"t",
    b"d",
    b"l",
    b"\x85",
    b"\x86",
    b"\x87",
    b"s",
    b"u",
    b"a",
    b"e",
    b"N",
    b"\x88",
    b"K\x05",
    b"M\xff\xff",
    b"J\xff\xff\xff\xff",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x8b\x04\x00\x00\x00\xff\xff\xff\xff",
    b"\x8b\xff\xff\xff\xff",
    b"G\x7f\xf8\0\0\0\0\0\0",
    b"X\x04\x00\x00\x00evil",
    b"\x8c\x04evil",
    b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"C\x02ab",
    b"B\xff\xff\xff\x7f",
    b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x96\x01\0\0\0\0\0\0\0x",
    b"\x97",
    b"\x98",
    b"\x95\xff\xff\xff\xff\xff\xff\xff\xff",
    b"I99999\n",
    b"I01\n",
    b"L123L\n",
    b"F1.5\n",
    b"Vtext\n",
    b"S'x'\n",
    b"U\x01x",
    b"T\xff\xff\xff\x7f",
    b"\x93",
    b"\x94",
    b"\x8f",
    b"\x90",
    b"\x91",
    b".",
    b"\x80\x05",
    b"X\x02\x00\x00\x00\xff\xfe",
    b"X\x03\x00\x00\x00\xed\xa0\x80",
]


def pickle_changed(rng: Random, data: bytes) -> bytes:
    """One opcode of a pickle taken out, doubled, moved, replaced or given another argument."""
    ops = _opcodes(data)
    rest = data[sum(map(len, ops)) :]
    at = rng.randrange(len(ops))
    kind = rng.randrange(8)
    if kind == 0:
        del ops[at]
    elif kind == 1:
        ops.insert(at, ops[at])
    elif kind == 2:
        other = rng.randrange(len(ops))
        ops[at], ops[other] = ops[other], ops[at]
    elif kind == 3:
        ops[at] = rng.choice(SNIPPETS)
    elif kind == 4:
        ops[at:at] = rng.choices(SNIPPETS, k=rng.randrange(1, 4))
    elif kind == 5:
        ops[at] = _other_argument(rng, ops[at])
    elif kind == 6:
        stop = min(len(ops), at + rng.randrange(2, 9))
        ops[at:at] = ops[at:stop]
    else:
        numbers = [i for i, op in enumerate(ops) if op[:1] in b"KMJ\x8aX"]
        if numbers:
            at = rng.choice(numbers)
            ops[at] = _other_argument(rng, ops[at])
    return b"".join(ops) + rest


def _opcodes(data: bytes) -> list[bytes]:
    starts = [position or 0 for _, _, position in pickletools.genops(data)]
    return [data[a:b] for a, b in zip(starts, [*starts[1:], starts[-1] + 1], strict=True)]


def _other_argument(rng: Random, op: bytes) -> bytes:
    if op[:1] in (b"K", b"M", b"J", b"\x8a"):
        number = rng.choice([*INTEGERS, -1, -(2**31), 10**18])
        raw = number.to_bytes(10, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw
    if op[:1] == b"X":
        names = ("conv1.weight", "module.fc.bias", "0", "../1", "storage", "cpu", "\x1b[31m", "")
        text = rng.choice([*names, "y" * 5000]).encode()
        return b"X" + struct.pack("<I", len(text)) + text
    return damaged(rng, op, [(0, len(op))])


def _legacy_pickle(rng: Random, data: bytes) -> bytes:
    """One of the five pickles at the beginning of a file of before 1.6."""
    parts, at = [], 0
    for _ in range(5):
        length = sum(map(len, _opcodes(data[at:])))
        parts.append(data[at : at + length])
        at += length
    which = rng.choice([0, 1, 2, 3, 3, 3, 3, 3, 4, 4])
    parts[which] = pickle_changed(rng, parts[which])
    return b"".join(parts) + data[at:]


Member = tuple[str, bytes, int]
"""Name, content and method of compression."""


def members_of(data: bytes) -> list[Member]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(i.filename, archive.read(i), i.compress_type) for i in archive.infolist()]


def zip_of(members: Sequence[Member]) -> bytes:
    """A zip file that holds just this; names may be there twice."""
    out, directory = bytearray(), bytearray()
    for name, content, method in members:
        raw, packed = name.encode("utf-8", "surrogatepass"), _packed(content, method)
        sums = struct.pack("<III", zlib.crc32(content), len(packed), len(content))
        common = struct.pack("<HHHHH", 20, 0x800, method, 0, 0x21) + sums
        directory += b"PK\1\2" + struct.pack("<H", 20) + common
        directory += struct.pack("<HHHHHII", len(raw), 0, 0, 0, 0, 0, len(out)) + raw
        out += b"PK\3\4" + common + struct.pack("<HH", len(raw), 0) + raw + packed
    end = struct.pack("<HHHHIIH", 0, 0, *(len(members),) * 2, len(directory), len(out), 0)
    return bytes(out + directory + b"PK\5\6" + end)


def _packed(content: bytes, method: int) -> bytes:
    if method == zipfile.ZIP_STORED:
        return content
    packer = zipfile._get_compressor(method)  # type: ignore[attr-defined]
    return bytes(packer.compress(content) + packer.flush())


def _zip(inner: Callable[[Random, str, bytes], bytes]) -> Callable[[Random, bytes], bytes]:
    """Damage of a zip file: to the records that describe its members, to the members, or, through
    `inner`, to what one of them holds.
    """

    def change(rng: Random, data: bytes) -> bytes:
        kind = rng.randrange(10)
        if kind < 3:
            return _record(rng, data)
        members = members_of(data)
        at = rng.randrange(len(members))
        name, content, method = members[at]
        if kind == 3:
            names = ["../x", "/etc/passwd", "config.json", "archive/data.pkl", "a\x1b[31m", ""]
            members[at] = (rng.choice([*names, name.upper(), f"{name}/"]), content, method)
        elif kind == 4:
            members.insert(rng.randrange(len(members)), members[at])
        elif kind == 5:
            del members[at]
        elif kind == 6:
            other = rng.randrange(len(members))
            members[at], members[other] = (
                (name, members[other][1], method),
                (members[other][0], content, members[other][2]),
            )
        elif kind == 7:
            cut = content[: rng.randrange(len(content) + 1)]
            longer = content + bytes(rng.randrange(1, 40))
            methods = [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
            members[at] = rng.choice(
                [(name, cut, method), (name, longer, method), (name, content, rng.choice(methods))]
            )
        else:
            members = [
                (n, inner(rng, n, c), m) if i == at else (n, c, m)
                for i, (n, c, m) in enumerate(members)
            ]
        return zip_of(members)

    return change


def _record(rng: Random, data: bytes) -> bytes:
    """A field of the directory of a zip file, of its end, or of a member's own header."""
    out = bytearray(data)
    end = data.rindex(b"PK\5\6")
    fields = [
        (end, offset, width) for offset, width in ((8, 2), (10, 2), (12, 4), (16, 4), (20, 2))
    ]
    at = int.from_bytes(data[end + 16 : end + 20], "little")
    while data[at : at + 4] == b"PK\1\2":
        sizes = struct.unpack_from("<HHH", data, at + 28)
        widths = {8: 2, 10: 2, 16: 4, 20: 4, 24: 4, 28: 2, 30: 2, 32: 2, 42: 4, 38: 4}
        fields += [(at, offset, width) for offset, width in widths.items()]
        header = int.from_bytes(data[at + 42 : at + 46], "little")
        local = {0: 4, 6: 2, 8: 2, 14: 4, 18: 4, 22: 4, 26: 2, 28: 2}
        fields += [(header, offset, width) for offset, width in local.items()]
        at += 46 + sum(sizes)
    begin, offset, width = rng.choice(fields)
    value = int.from_bytes(data[begin + offset : begin + offset + width], "little")
    nearby = [value + 1, value - 1, value ^ 1, value ^ 8, value * 2, value + 40, len(data) - 20]
    number = rng.choice([*INTEGERS, *nearby]) % 256**width
    out[begin + offset : begin + offset + width] = number.to_bytes(width, "little")
    return bytes(out)


def _torch_member(rng: Random, name: str, content: bytes) -> bytes:
    if name.endswith("data.pkl"):
        return pickle_changed(rng, content)
    return damaged(rng, content, [(0, len(content))])


def _torch(rng: Random, data: bytes) -> bytes:
    if rng.random() < 0.6:  # the pickle is one member of many
        members = members_of(data)
        return zip_of(
            [(n, pickle_changed(rng, c) if n.endswith("data.pkl") else c, m) for n, c, m in members]
        )
    return _zip(_torch_member)(rng, data)


def _keras_member(rng: Random, name: str, content: bytes) -> bytes:
    return _hdf5(rng, content) if name.endswith(".h5") else _json(rng, content)


def _npz_member(rng: Random, name: str, content: bytes) -> bytes:
    """The text at the beginning of a numpy array."""
    size = int.from_bytes(content[8:10], "little")
    text = content[10 : 10 + size].decode()
    news = {
        "'<f4'": [
            "'|O'",
            "'>f4'",
            "'<f8'",
            "'<c8'",
            "'<i4'",
            "'|V4'",
            "[('a','<f4')]",
            "'(3,)<f4'",
            "'<f3'",
            "''",
            "0",
            "'f'",
            "'<M8[s]'",
            "'|S4'",
        ],
        "False": ["True", "0", "None", "'x'", "[]"],
        "(": [
            "(-1, ",
            "(0, 1000000000000, ",
            "(1.5, ",
            "('x', ",
            "(1e9, ",
            "[",
            "((",
            "(10**9, ",
            "(99999999999999999999, ",
            "(True, ",
            "(" * 90,
        ],
        "'shape'": ["'shap'", "'descr'", "'a': 1, 'shape'", "0"],
        "{": ["[", "{{", "dict(", "{'a': lambda: 0, ", "\x00{", "\xff{"],
        ",": ["", ",,", ";", "\n", "#", "\\"],
    }
    old = rng.choice([key for key in news if key in text] or [""])
    text = text.replace(old, rng.choice(news.get(old, ["x"])), 1)
    raw = text.encode("latin1")
    version = rng.choice([b"\1\0"] * 6 + [b"\2\0", b"\3\0", b"\4\0"])
    length = len(raw) + (rng.choice([-1, 1, 60000]) if rng.random() < 0.1 else 0)
    return content[:6] + version + struct.pack("<H", length) + raw + content[10 + size :]


def _hdf5(rng: Random, data: bytes) -> bytes:
    """One object or attribute of a HDF5 file changed, with the library itself."""
    file = io.BytesIO(data)
    with h5py.File(file, "r+") as root:
        groups: list[Any] = [root]
        items: list[tuple[Any, str]] = []
        for group in groups:
            for name in group:
                if group.get(name, getlink=True).__class__ is not h5py.HardLink:
                    continue
                items.append((group, name))
                if isinstance(group[name], h5py.Group) and len(groups) < 200:
                    groups.append(group[name])
        kind = rng.randrange(10)
        if kind < 4:
            _attribute(rng, rng.choice([*groups, *(g[n] for g, n in items)]))
        elif kind < 8:
            _object(rng, *rng.choice([x for x in items if isinstance(x[0][x[1]], h5py.Dataset)]))
        else:
            group, name = rng.choice(items)
            _link(rng, root, group, name)
    return file.getvalue()


def _attribute(rng: Random, owner: Any) -> None:
    names = [*owner.attrs] or [rng.choice(["name", "layer_names", "weight_names", "dtype"])]
    name = rng.choice(names)
    old = owner.attrs.get(name)
    many = [b"conv1_conv", b"conv1_conv", b"../x", b"", b"a/b/../c", b"\xff", b"\x1b[31m"]
    values: list[Any] = [
        None,
        1,
        1.5,
        b"x",
        "é",
        "x" * 300,
        h5py.Empty("f4"),
        np.zeros((3, 3)),
        np.array(many),
        [1, 2],
        np.bool_(True),
        "bfloat16",
        np.array([], "S1"),
        np.array(many[:1] * 300),
        np.array(["a", "b"], dtype=object),
    ]
    if isinstance(old, np.ndarray) and old.ndim == 1 and old.size:
        values += [old[::-1], old[:-1], np.concatenate([old, old[:1]]), old[0]]
    value = values[rng.randrange(len(values))]
    if name in owner.attrs:
        del owner.attrs[name]
    if value is not None:
        if isinstance(value, np.ndarray) and value.dtype == object:
            owner.attrs.create(name, value, dtype=h5py.string_dtype())
        else:
            owner.attrs[rng.choice([name, name, name, f"{name}0", "name"])] = value


def _object(rng: Random, group: Any, name: str) -> None:
    """A dataset in another form."""
    old = group[name]
    shape, data = old.shape, old[()]
    del group[name]
    kind = rng.randrange(13)
    if kind == 0:
        group.create_group(name)
    elif kind == 1:
        group[name] = data.astype(rng.choice(["f8", "f2", ">f4", "i4", "i8", "u1", "?", "c8"]))
    elif kind == 2:
        group[name] = data.reshape(rng.choice([(-1,), (1, -1), (*shape, 1)]))
    elif kind == 3:
        sizes = [10**12, 2**31, 10**18, 0]
        group.create_dataset(name, (rng.choice(sizes), *shape[1:]), "f4", chunks=(1, *shape[1:]))
    elif kind == 4:
        group.create_dataset(name, data=data, chunks=True, compression="gzip")
    elif kind == 5:
        group.create_dataset(name, data=data, chunks=shape)
    elif kind == 6:
        group.create_dataset(name, shape, "f4", external=[("../canary", 0, h5py.h5f.UNLIMITED)])
    elif kind == 7:
        layout = h5py.VirtualLayout(shape, "f4")
        layout[...] = h5py.VirtualSource("../canary.h5", "x", shape)
        group.create_virtual_dataset(name, layout)
    elif kind == 8:
        group.create_dataset(name, shape, h5py.string_dtype())
    elif kind == 9:
        group.create_dataset(name, shape, np.dtype([("a", "f4"), ("b", "i4")]))
    elif kind == 10:
        group[name] = h5py.Empty("f4")
    elif kind == 11:
        group.create_dataset(name, shape, h5py.ref_dtype)
    else:
        group.create_dataset(name, shape, np.dtype(("f4", (2,))))


def _link(rng: Random, root: Any, group: Any, name: str) -> None:
    kind = rng.randrange(7)
    if kind == 0:
        del group[name]
    elif kind == 1:
        group.move(name, rng.choice([f"{name}_", "x", "name", "layers", "vars", "\x1b[31m", "0"]))
    elif kind == 2:
        del group[name]
        group[name] = h5py.SoftLink(rng.choice(["/", group.name, "/nowhere"]))
    elif kind == 3:
        del group[name]
        group[name] = h5py.ExternalLink("../canary.h5", "/x")
    elif kind == 4:
        group["again"] = root
    elif kind == 5:
        del group[name]
        group[name] = rng.choice([root, group])
    else:
        group[
            rng.choice(["layers", "model_weights", "optimizer", "vars"]) + "x" * rng.randrange(2)
        ] = group[name]


def _msgpack(rng: Random, data: bytes) -> bytes:
    """The first byte, the length or the text of one object; the positions are found by walking."""
    places = list(_msgpack_places(data))
    at, head, size = rng.choice(places)
    out = bytearray(data)
    kind = rng.randrange(7)
    if kind == 0:
        out[at] = rng.choice([0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, *range(0xC0, 0xE0)])
    elif kind in (1, 2) and head > 1:
        width = head - 1
        value = int.from_bytes(data[at + 1 : at + head], "big")
        number = rng.choice([*INTEGERS, value + 1, value - 1, value * 2]) % 256**width
        out[at + 1 : at + head] = number.to_bytes(width, "big")
    elif kind == 3:
        other, h, s = rng.choice(places)
        out[at : at + head + size] = data[other : other + h + s]
    elif kind == 4:
        del out[at : at + head + size]
    elif kind == 5:
        out[at:at] = data[at : at + head + size]
    else:
        deep = rng.choice(
            [
                b"\x81\xa1a" * 100,
                b"\x91" * 100,
                b"\xdf\xff\xff\xff\xff",
                b"\xc1",
                b"\xc7\x02\x01\x93\x90",
                b"\xdd\x00\x01\x00\x00",
                b"\xd9\x03../",
            ]
        )
        out[at : at + head + size] = deep
    return bytes(out)


def _msgpack_places(data: bytes, at: int = 0, stop: int | None = None) -> Any:
    """Position, length of what precedes the content, and length of the content of each object."""
    stop = len(data) if stop is None else stop
    while at < stop:
        first = data[at]
        if first < 0xA0:
            head, size = 1, 0  # a small number, map or list: what it holds comes after it
        elif first < 0xC0:
            head, size = 1, first & 0x1F
        else:
            head = 1 + {
                0xC4: 1,
                0xC5: 2,
                0xC6: 4,
                0xC7: 1,
                0xC8: 2,
                0xC9: 4,
                0xCC: 1,
                0xCD: 2,
                0xCE: 4,
                0xCF: 8,
                0xD9: 1,
                0xDA: 2,
                0xDB: 4,
                0xDC: 2,
                0xDD: 4,
                0xDE: 2,
                0xDF: 4,
            }.get(first, 0)
            texts = (0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB)
            size = int.from_bytes(data[at + 1 : at + head], "big") if first in texts else 0
            if first in (0xC7, 0xC8, 0xC9):
                head += 1
        yield at, head, min(size, stop - at - head)
        at += head + size


def _spec_text(rng: Random, data: bytes) -> bytes:
    """Lines of YAML or TOML moved, or values that JSON lacks."""
    text = data.decode()
    lines = text.splitlines()
    at = rng.randrange(len(lines))
    mark = ": " if ": " in lines[0] else " = "
    key, _, _ = lines[at].partition(mark)
    values = [
        "!!python/object/apply:os.system [touch owned]",
        "!!python/name:os.system",
        "&a [*a]",
        "&a 1",
        "*a",
        "<<: {depths: [1]}",
        "!!binary aGk=",
        "!!timestamp 2020-01-01",
        "2020-01-01",
        "!!set {a, b}",
        "? [a]\n: 1",
        "0x7fffffffffffffffff",
        "1:59:59",
        ".nan",
        ".inf",
        "-.inf",
        "~",
        "yes",
        "on",
        "'",
        '"""',
        "'''",
        "{",
        "[",
        "[[[[[[[[[[",
        "|\n  text",
        ">\n  text",
        "inf",
        "nan",
        "1979-05-27T07:32:00Z",
        "{a = 1}",
        "[1, 'a', 2.5]",
        "0o777",
        "1_000",
        "1e999",
        "9" * 5000,
        "x" * 5000,
        "\x00",
        "\ufeff",
        "\u2028",
        "%TAG",
        "---",
        "...",
        "!!!",
        "@",
        "`",
    ]
    kind = rng.randrange(5)
    if kind <= 1:
        lines[at] = f"{key}{mark}{rng.choice(values)}"
    elif kind == 2:
        lines.insert(rng.randrange(len(lines) + 1), lines[at])
    elif kind == 3:
        del lines[at]
    else:
        value = rng.choice(STRANGE)
        lines[at] = f"{key}{mark}{dumped(value)}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


_STRUCTURED: dict[str, Change] = {
    "safetensors": _safetensors,
    ".h5": _hdf5,
    ".weights.h5": _hdf5,
    ".keras": _zip(_keras_member),
    ".keras of layers": _zip(_keras_member),
    ".keras graph": _zip(_keras_member),
    ".h5 graph": _hdf5,
    ".pth": _torch,
    ".pth before 1.6": _legacy_pickle,
    ".pth with objects": _torch,
    ".pth of a model": _torch,
    ".pth of a model before 1.6": _legacy_pickle,
    ".pth of TorchScript": _torch,
    ".msgpack": _msgpack,
    ".npz": _zip(_npz_member),
    "Hugging Face": _json,
    "hub folder": _json,
    "Hugging Face shards": _json,
    "spec .json": _json,
    "spec .yaml": _spec_text,
    "spec .toml": _spec_text,
    "certificate": _json,
}

_HDF5 = (".h5", ".weights.h5", ".keras", ".keras of layers", ".keras graph", ".h5 graph")

__all__ = ["Member", "Pairs", "Raw", "damaged", "dumped", "members_of", "mutate", "zip_of"]
