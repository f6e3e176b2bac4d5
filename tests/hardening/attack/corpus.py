"""One file for each known way to attack a reader of checkpoints, by name."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from shared_spec.formats.write import write_checkpoint
from tests.hardening.attack.cases import (
    OUR_CONFIG,
    RUN,
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
    valid,
)
from tests.hardening.attack.mutate import members_of, zip_of
from tests.hardening.attack.onnx_cases import ATTACKS
from tests.hardening.attack.samples import TINY, checkpoint

REFUSED = "nothing is executed"
OPCODE = "which torch.save does not write"
SYSTEM = b"cos\nsystem\n"

PICKLES: dict[str, tuple[bytes, str]] = {
    "os.system": (b"\x80\x02" + SYSTEM + RUN + b"\x85R.", REFUSED),
    "posix.system as a value": (state_dict(value=b"cposix\nsystem\n" + RUN + b"\x85R"), REFUSED),
    "builtins.eval": (state_dict(value=b"cbuiltins\neval\n" + RUN + b"\x85R"), REFUSED),
    "__builtin__.exec of Python 2": (
        state_dict(value=b"c__builtin__\nexec\n" + RUN + b"\x85R"),
        REFUSED,
    ),
    "subprocess.Popen": (state_dict(value=b"csubprocess\nPopen\n" + RUN + b"\x85R"), REFUSED),
    "a nested call": (
        b"\x80\x02cbuiltins\ngetattr\n(cbuiltins\n__import__\n"
        + unicode("os")
        + b"\x85R"
        + unicode("system")
        + b"tR"
        + RUN
        + b"\x85R.",
        REFUSED,
    ),
    "what a call gives, called": (
        state_dict(value=b"ccollections\nOrderedDict\n)R)R"),
        "not a function",
    ),
    "torch.load": (state_dict(value=b"ctorch\nload\n" + unicode("../canary") + b"\x85R"), REFUSED),
    "torch.storage._load_from_bytes": (
        state_dict(value=b"ctorch.storage\n_load_from_bytes\nU\x02\x80\x02\x85R"),
        REFUSED,
    ),
    "torch.hub.load": (state_dict(value=b"ctorch.hub\nload\n" + RUN + b"\x85R"), REFUSED),
    "numpy's _reconstruct": (
        state_dict(value=b"cnumpy.core.multiarray\n_reconstruct\n" + RUN + b"\x85R"),
        REFUSED,
    ),
    "functools.partial": (
        state_dict(value=b"cfunctools\npartial\n" + SYSTEM + RUN + b"\x86R"),
        REFUSED,
    ),
    "STACK_GLOBAL": (
        b"\x80\x04" + unicode("os") + unicode("system") + b"\x93" + RUN + b"\x85R.",
        REFUSED,
    ),
    "STACK_GLOBAL of a function": (b"\x80\x04" + SYSTEM + unicode("x") + b"\x93.", "not text"),
    "a dotted name": (b"\x80\x04" + unicode("torch") + unicode("os.system") + b"\x93)R.", REFUSED),
    "BUILD on a function": (b"\x80\x02" + SYSTEM + b"}b.", "sets attributes"),
    "BUILD with __setstate__": (
        state_dict(
            value=b"ccollections\nOrderedDict\n)R}" + unicode("__setstate__") + SYSTEM + b"sb"
        ),
        "holds no tensors",
    ),
    "INST": (b"(" + RUN + b"ios\nsystem\n.", REFUSED),
    "OBJ": (b"(" + SYSTEM + RUN + b"o.", REFUSED),
    "NEWOBJ": (b"\x80\x02" + SYSTEM + RUN + b"\x85\x81.", REFUSED),
    "NEWOBJ_EX": (b"\x80\x04" + SYSTEM + RUN + b"\x85}\x92.", REFUSED),
    "EXT1": (b"\x80\x02\x82\x01.", OPCODE),
    "EXT2": (b"\x80\x02\x83\x01\x00.", OPCODE),
    "EXT4": (b"\x80\x02\x84\x01\x00\x00\x00.", OPCODE),
    "PERSID": (b"Ptouch owned\n.", OPCODE),
    "a persistent id of a module": (
        state_dict(
            value=b"(" + unicode("module") + SYSTEM + unicode("x") + unicode("y") + b"K\x01tQ"
        ),
        "other than a storage",
    ),
    "a storage of no type": (state_dict(value=tensor(storage(kind=RUN))), "a storage of no type"),
    "a storage of a function": (
        state_dict(value=tensor(storage(kind=SYSTEM))),
        "holds a os.system",
    ),
    "a tensor of no storage": (
        state_dict(value=tensor(unicode("../canary"))),
        "other than a storage",
    ),
    "a tensor beyond its storage": (
        state_dict(value=tensor(storage(), b"M\xff\xff\x85")),
        "lies outside the data|are missing",
    ),
    "a tensor of negative stride": (
        state_dict(value=tensor(storage(), stride=b"J\xff\xff\xff\xff\x85")),
        "in a form",
    ),
    "NEXT_BUFFER": (b"\x80\x05\x97.", OPCODE),
    "nothing but STOP": (b".", "not a readable PyTorch file"),
    "no STOP": (b"\x80\x02}", "not a readable PyTorch file"),
    "a name twice": (
        b"\x80\x02}" + unicode("a") + b"Ns" + unicode("a") + b"Ns.",
        "appears twice",
    ),
}

BESIDE: dict[str, bytes] = {
    "a call": SYSTEM + RUN + b"\x85R",
    "a call of what a call gives": SYSTEM + RUN + b"\x85R" + RUN + b"\x85R",
    "STACK_GLOBAL": unicode("os") + unicode("system") + b"\x93" + RUN + b"\x85R",
    "INST": b"(" + RUN + b"ios\nsystem\n",
    "OBJ": b"(" + SYSTEM + RUN + b"o",
    "NEWOBJ": SYSTEM + RUN + b"\x85\x81",
    "NEWOBJ_EX": SYSTEM + RUN + b"\x85}\x92",
    "NEWOBJ and BUILD": b"csubprocess\nPopen\n)\x81}" + unicode("args") + RUN + b"sb",
    "_reconstructor": b"ccopyreg\n_reconstructor\n(" + SYSTEM + SYSTEM + RUN + b"tR",
    "functools.partial": b"cfunctools\npartial\n" + SYSTEM + RUN + b"\x86R)R",
    "the class of a tensor": (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(" + SYSTEM + SYSTEM + RUN + b"\x85}tR"
    ),
    "a factory of a defaultdict": (
        b"ccollections\ndefaultdict\n" + SYSTEM + b"\x85R" + RUN + b"Ns"
    ),
    "items of a class": SYSTEM + b")\x81" + RUN + RUN + b"s",
    "a module": (
        b"cos\nsystem\n)\x81}("
        + b"".join(unicode(f"_{name}") + b"}" for name in ("parameters", "buffers", "modules"))
        + unicode("x")
        + RUN
        + b"ub"
    ),
    "a script": b"c__torch__.os\nsystem\n)\x81}" + unicode("training") + SYSTEM + b"sb",
}
"""What may be in a file beside its weights; the file is read, and this stays as it is."""


def _beside(value: bytes) -> Callable[[Path], str]:
    """A maker of a good file with one entry more, given as opcodes."""

    def change(path: Path) -> None:
        members = []
        for name, data, kind in members_of(path.read_bytes()):
            if name.endswith("data.pkl"):
                assert data.endswith(b"u.")
                data = data[:-2] + unicode("it") + value + data[-2:]
            members.append((name, data, kind))
        path.write_bytes(zip_of(members))

    return _damaged("a.pth", None, change)


def _directory(weights: str, content: bytes | str) -> Callable[[Path], str]:
    """A directory of transformers with other weights."""

    def make(folder: Path) -> str:
        name = huggingface()(folder)
        (folder / name / "model.safetensors").unlink()
        text(weights, content)(folder / name)
        return name

    return make


def _path(make: Callable[[Path], object], name: str) -> Callable[[Path], str]:
    """A maker of something that is no file."""

    def made(folder: Path) -> str:
        make(folder / name)
        return name

    return made


def _damaged(name: str, to: str | None, change: Callable[[Path], None]) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        valid(name, to)(folder)
        change(folder / name)
        return name

    return make


def _as_in_the_hub(folder: Path) -> str:
    """Files that are links to blobs elsewhere, as in the hub's own cache."""
    name = huggingface()(folder)
    blobs = folder / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted((folder / name).iterdir())):
        file.rename(blobs / str(number))
        file.symlink_to(Path("..") / "blobs" / str(number))
    return name


def _config_is(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "config.json").unlink()
        make(folder / "config.json")

    return change


def _linked_member(folder: Path) -> str:
    """A `.keras` whose config.json is a symbolic link, as `zip -y` would keep it."""
    keras("a.keras", OUR_CONFIG)(folder)
    with zipfile.ZipFile(folder / "a.keras") as old:
        members = [(i, old.read(i)) for i in old.infolist()]
    with zipfile.ZipFile(folder / "a.keras", "w") as new:
        for info, data in members:
            if info.filename == "config.json":
                info.external_attr = 0o120777 << 16
                data = b"../canary"
            new.writestr(info, data)
    return "a.keras"


def _lambda_config() -> str:
    """A layer whose function is marshalled code that would touch `owned`."""
    layer = {
        "module": "keras.layers",
        "class_name": "Lambda",
        "config": {
            "name": "conv1",
            "function": {
                "class_name": "__lambda__",
                "config": {"code": "4wEAAAAAAAAAAAAAAAEAAAADAAAA8w==", "defaults": None},
            },
        },
    }
    functional = {"name": "f", "layers": [layer]}
    return json.dumps({"class_name": "Functional", "config": functional})


def _user_block(folder: Path) -> str:
    from tests.hardening.attack.samples import FORMATS

    FORMATS[".weights.h5"].write(folder / "b.h5")
    target = h5py.File(folder / "a.weights.h5", "w", userblock_size=512)
    with target as out, h5py.File(folder / "b.h5") as given:
        for name in given:
            given.copy(name, out)
    (folder / "b.h5").unlink()
    return "a.weights.h5"


def _virtual(group: Any) -> None:
    layout = h5py.VirtualLayout((3,), "f4")
    layout[...] = h5py.VirtualSource("../canary.h5", "x", (3,))
    group.create_virtual_dataset("kernel:0", layout)


def _itself(group: Any) -> None:
    group["again"] = group
    group["kernel:0"] = np.zeros(3, "f4")


def _keras3_itself(file: Any) -> None:
    group = file.create_group("layers/conv2d")
    group["vars"] = group


def _named(name: str) -> dict[str, Any]:
    return {name: entry(0, 4, [1])}


def _spec_in(spec: Any) -> dict[str, Any]:
    """A header of ours that tells this net."""
    ours = json.dumps({"version": 1, "spec": spec})
    return {"__metadata__": {"resnet_parity": ours}, "conv1.weight": entry(0, 4, [1])}


_EXTERNAL = [("../canary", 0, 12)]
_SCALAR = b"\xc7\x0a\x01\x93\x90\xa4bool\xc4\x01\x00"
_SAFE = "not a readable safetensors file"
_NO_FILE = "is neither a file nor a directory|is not a file"
_PRINT = "is not printable text"
_YAML = "not valid YAML"
_DIGEST = "not the file of its certificate|not a certificate"

CASES = [
    *(Case(f"pth: {k}", torch_zip("a.pth", p), e) for k, (p, e) in PICKLES.items()),
    *(Case(f"pth: {k} beside the weights", _beside(value), "") for k, value in BESIDE.items()),
    *(
        Case(
            f"pth of before 1.6: {k}",
            text("a.pth", PICKLES[k][0]),
            "torch.save did not write|" + PICKLES[k][1],
        )
        for k in ("os.system", "a nested call", "INST", "OBJ", "NEWOBJ", "EXT1", "PERSID")
    ),
    Case("pth named .pt", torch_zip("a.pt", PICKLES["os.system"][0]), REFUSED),
    Case("pth named .bin", torch_zip("a.bin", PICKLES["os.system"][0]), REFUSED),
    Case("pth named .safetensors", torch_zip("a.safetensors", PICKLES["os.system"][0]), REFUSED),
    Case("pth named .onnx", torch_zip("a.onnx", PICKLES["os.system"][0]), REFUSED),
    Case("pth named .keras", torch_zip("a.keras", PICKLES["os.system"][0]), REFUSED),
    Case(
        "pickle as pytorch_model.bin",
        _directory("pytorch_model.bin", PICKLES["os.system"][0]),
        "not a readable PyTorch file",
    ),
    Case(
        "pickle as model.safetensors",
        _directory("model.safetensors", PICKLES["os.system"][0]),
        _SAFE,
    ),
    Case(
        "index of shards: a path out of the directory",
        _directory(
            "model.safetensors.index.json", '{"weight_map": {"a": "../canary.safetensors"}}'
        ),
        "is in '../canary.safetensors'; expected the name of a .safetensors file beside it",
    ),
    Case(
        "index of shards: itself",
        _directory(
            "pytorch_model.bin.index.json", '{"weight_map": {"a": "pytorch_model.bin.index.json"}}'
        ),
        "expected the name of a .bin file beside it",
    ),
    Case(
        "pth: code in constants.pkl and code/",
        torch_zip(
            "a.pth",
            state_dict(value=tensor(storage())),
            ("archive/constants.pkl", PICKLES["os.system"][0], 0),
            ("archive/code/__torch__.py", b"import os", 0),
        ),
        "are missing",
    ),
    Case(
        "pth: ../ as the key of a storage",
        torch_zip(
            "a.pth",
            state_dict(
                value=tensor(
                    b"("
                    + unicode("storage")
                    + b"ctorch\nFloatStorage\n"
                    + unicode("../../../canary")
                    + unicode("cpu")
                    + b"K\x02t"
                )
            ),
        ),
        "are missing",
    ),
    Case(
        "pth: two descriptions",
        torch_zip("a.pth", b"}.", ("other/data.pkl", PICKLES["os.system"][0], 0)),
        "no state dict of torch.save",
    ),
    Case(
        "pth: one member twice",
        torch_zip("a.pth", b"}.", ("archive/data.pkl", b"}.", 0)),
        "one name",
    ),
    Case(
        "pth: big-endian",
        text("a.pth", zip_of([("a/data.pkl", b"}.", 0), ("a/byteorder", b"big", 0)])),
        "big-endian",
    ),
    # Keras
    Case(
        "keras: a Lambda layer",
        keras("a.keras", _lambda_config()),
        "not one that Keras writes",
        model=TINY,
    ),
    Case(
        "keras: a Lambda layer, no model named",
        keras("a.keras", _lambda_config()),
        "not one that Keras writes",
        model=None,
    ),
    Case(
        "keras: a class to import",
        keras(
            "a.keras",
            json.dumps(
                {
                    "module": "os",
                    "class_name": "system",
                    "registered_name": "x",
                    "config": ["touch owned"],
                }
            ),
        ),
        "whose layers the file does not list",
        model=None,
    ),
    Case("keras: ../ as a member", keras("a.keras", OUR_CONFIG, ("../owned", b"x", 0)), ""),
    Case("keras: an absolute member", keras("a.keras", OUR_CONFIG, ("/tmp/owned", b"x", 0)), ""),  # noqa: S108
    Case("keras: a member that is a link", _linked_member, "not readable as JSON"),
    Case(
        "keras: config.json twice", keras("a.keras", OUR_CONFIG, ("config.json", b"{}", 0)), "twice"
    ),
    Case("keras: no config.json", keras("a.keras", None), "has no config.json"),
    Case("keras: config.json is a list", keras("a.keras", "[]"), "holds no mapping"),
    Case(
        "h5: an external link",
        hdf5(
            "a.h5",
            legacy(lambda g: g.__setitem__("kernel:0", h5py.ExternalLink("../canary.h5", "/x"))),
        ),
        "not followed",
    ),
    Case(
        "h5: an external link to a layer",
        hdf5(
            "a.h5",
            lambda f: (
                f.attrs.__setitem__("layer_names", np.array([b"a"])),
                f.__setitem__("a", h5py.ExternalLink("../canary.h5", "/")),
            ),
        ),
        "not followed",
    ),
    Case(
        "h5: a soft link",
        hdf5("a.h5", legacy(lambda g: g.__setitem__("kernel:0", h5py.SoftLink("/conv1_conv")))),
        "not followed",
    ),
    Case(
        "h5: external storage",
        hdf5(
            "a.h5", legacy(lambda g: g.create_dataset("kernel:0", (3,), "f4", external=_EXTERNAL))
        ),
        "no array in the file itself",
    ),
    Case("h5: a virtual dataset", hdf5("a.h5", legacy(_virtual)), "no array in the file itself"),
    Case("h5: a group that holds itself", hdf5("a.h5", legacy(_itself)), "two arrays|more groups"),
    Case(
        "h5: a list of names twice the same",
        hdf5("a.h5", legacy(lambda g: None, ["conv1_conv", "conv1_conv"])),
        "no arrays|of one dtype",
    ),
    Case(
        "h5: .. in the list of names",
        hdf5("a.h5", legacy(lambda g: None, ["../canary.h5"])),
        "no arrays|of one dtype",
    ),
    Case(
        "h5: an object in the place of numbers",
        hdf5("a.h5", legacy(lambda g: g.create_dataset("kernel:0", (3,), h5py.string_dtype()))),
        "no array of numbers",
    ),
    Case(
        "h5: a shape of 10^12",
        hdf5("a.h5", legacy(lambda g: g.create_dataset("kernel:0", (10**12,), "f4", chunks=(8,)))),
        "less data than its shape",
    ),
    Case(
        "h5: compressed",
        hdf5(
            "a.h5",
            legacy(lambda g: g.create_dataset("kernel:0", data=np.zeros(9), compression="gzip")),
        ),
        "is compressed",
    ),
    Case(
        "weights.h5: an external link",
        hdf5(
            "a.weights.h5",
            lambda f: f.__setitem__("layers", h5py.ExternalLink("../canary.h5", "/")),
        ),
        "not followed",
    ),
    Case(
        "weights.h5: a soft link",
        hdf5(
            "a.weights.h5",
            lambda f: (
                f.create_group("layers/conv2d"),
                f.__setitem__("layers/conv2d/vars", h5py.SoftLink("/")),
            ),
        ),
        "not followed",
    ),
    Case(
        "weights.h5: a group that holds itself", hdf5("a.weights.h5", _keras3_itself), "more groups"
    ),
    Case("weights.h5: a user block", _user_block, ""),
    Case(
        "weights.h5: not Keras's",
        hdf5("a.weights.h5", lambda f: f.__setitem__("x", 1)),
        "Keras did not write it",
    ),
    # safetensors
    Case(
        "safetensors: one key twice",
        safetensors(
            "a.safetensors", '{"a":%s,"a":%s}' % ((json.dumps(entry(0, 4, [1])),) * 2), bytes(4)
        ),
        "appears twice",
    ),
    Case(
        "safetensors: a key of the metadata twice",
        safetensors("a.safetensors", '{"__metadata__":{"a":"1","a":"2"}}'),
        "appears twice",
    ),
    Case(
        "safetensors: a shape of [0, 10^12]",
        safetensors("a.safetensors", {"conv1.weight": entry(0, 0, [0, 10**12])}),
        r"do not fit",
    ),
    Case(
        "safetensors: a path as a key",
        safetensors("a.safetensors", _named("../../etc/x"), bytes(4)),
        "no ResNet under names that are known",
    ),
    Case(
        "safetensors: overlapping",
        safetensors("a.safetensors", {"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)),
        _SAFE,
    ),
    Case(
        "safetensors: a hole",
        safetensors("a.safetensors", {"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, bytes(12)),
        _SAFE,
    ),
    Case(
        "safetensors: more data than told",
        safetensors("a.safetensors", _named("a"), bytes(99)),
        _SAFE,
    ),
    Case(
        "safetensors: a shape that overflows",
        safetensors("a.safetensors", {"a": entry(0, 4, [2**63, 4])}, bytes(4)),
        _SAFE,
    ),
    Case(
        "safetensors: a header longer than the file",
        text("a.safetensors", (10**6).to_bytes(8, "little") + b"{}"),
        _SAFE,
    ),
    Case(
        "safetensors: a header of 2^39 bytes",
        text("a.safetensors", (2**39).to_bytes(8, "little") + b"{}"),
        "its header would have",
    ),
    Case(
        "safetensors: a header of 2^63 bytes",
        text("a.safetensors", (2**63).to_bytes(8, "little") + b"{}"),
        _SAFE,
    ),
    Case(
        "safetensors: a dtype that no model has",
        safetensors("a.safetensors", {"conv1.weight": entry(0, 4, [4], "F8_E8M0")}, bytes(4)),
        "dtype",
    ),
    Case(
        "safetensors: 8-bit floats",
        safetensors(
            "a.safetensors",
            {"conv1.weight": entry(0, 432, [4, 3, 3, 12], "F8_E5M2")},
            bytes(432 * 3),
        ),
        _SAFE,
    ),
    Case(
        "safetensors: control characters in a name",
        safetensors("a.safetensors", _named("a\x1b]0;owned\x07\x1b[2Jb"), bytes(4)),
        _PRINT,
    ),
    Case(
        "safetensors: a line break in a name",
        safetensors("a.safetensors", _named("a\nerror: all is well"), bytes(4)),
        _PRINT,
    ),
    Case(
        "safetensors: text from right to left in a name",
        safetensors("a.safetensors", _named("conv1\u202ethgiew"), bytes(4)),
        _PRINT,
    ),
    Case(
        "safetensors: markup in a name",
        safetensors("a.safetensors", _named("[bold red link=file:///x]a[/]"), bytes(4)),
        r"\[bold red",
    ),
    Case(
        "safetensors: HTML in a name",
        safetensors("a.safetensors", _named("<script>alert(1)</script>"), bytes(4)),
        "<script>",
    ),
    Case(
        "safetensors: a name of 1 MB",
        safetensors("a.safetensors", _named("x" * 10**6), bytes(4)),
        "has 1,000,000 characters",
    ),
    Case(
        "safetensors: metadata of no version",
        safetensors("a.safetensors", {"__metadata__": {"resnet_parity": "[]"}}),
        "not of version 1",
    ),
    Case(
        "safetensors: metadata nested deep",
        safetensors("a.safetensors", {"__metadata__": {"resnet_parity": "[" * 10**5}}),
        "nested too deep",
    ),
    Case(
        "safetensors: metadata with a strange spec",
        safetensors(
            "a.safetensors", _spec_in({"depths": "../canary", "block": {"$ref": "x"}}), bytes(4)
        ),
        "depths",
    ),
    Case(
        "safetensors: a code point without a character",
        safetensors("a.safetensors", '{"\\ud800":' + json.dumps(entry(0, 4, [1])) + "}", bytes(4)),
        _SAFE,
    ),
    Case(
        "pth: half a code point in a name",
        torch_zip(
            "a.pth",
            state_dict(unicode("a\ud800"), tensor(storage())),
            ("archive/data/0", bytes(8), 0),
        ),
        _PRINT,
    ),
    Case(
        "pth: ANSI codes in a name",
        torch_zip(
            "a.pth",
            state_dict(unicode("a\x1b[31mb"), tensor(storage())),
            ("archive/data/0", bytes(8), 0),
        ),
        _PRINT,
    ),
    Case(
        "msgpack: ANSI codes in a name", text("a.msgpack", b"\x81\xa7a\x1b[31mb" + _SCALAR), _PRINT
    ),
    Case(
        "msgpack: a path in a name",
        text("a.msgpack", b"\x81\xa8../../ow\xc0"),
        "not one of a model's",
    ),
    Case(
        "msgpack: a chunked array",
        text("a.msgpack", b"\x81\xd9\x19__msgpack_chunked_array__\xc3"),
        "not one of a model's",
    ),
    Case(
        "npz: an array of objects",
        lambda folder: _npz(folder, np.array([{}], object)),
        "not of floats",
    ),
    Case(
        "npz: a header that is code",
        text(
            "a.npz",
            zip_of(
                [
                    (
                        "a.npy",
                        b"\x93NUMPY\1\0"
                        + struct.pack("<H", 43)
                        + b"{'descr': __import__('os').system('touch')}",
                        0,
                    )
                ]
            ),
        ),
        "not of floats",
    ),
    # Specs
    Case(
        "yaml: a tag that calls",
        text("a.yaml", "!!python/object/apply:os.system ['touch owned']"),
        _YAML,
        "show",
    ),
    Case("yaml: a tag of a name", text("a.yaml", "depths: !!python/name:os.system"), _YAML, "show"),
    Case("yaml: a tag of a module", text("a.yaml", "depths: !!python/module:os"), _YAML, "check"),
    Case(
        "yaml: an alias", text("a.yaml", "a: &a [1]\nb: *a\n"), "aliases are not accepted", "show"
    ),
    Case("yaml: a merge", text("a.yaml", "depths: [1]\n<<: {block: basic}\n"), "<<", "show"),
    Case("yaml: two documents", text("a.yaml", "depths: [1]\n---\nblock: basic\n"), _YAML, "show"),
    Case("yaml: a null byte", text("a.yaml", b"depths: [1]\0"), _YAML, "show"),
    Case("yaml: UTF-16", text("a.yaml", "depths: [1]".encode("utf-16")), _YAML, "show"),
    Case(
        "yaml: control characters as a field",
        text("a.yaml", '"a\\e[31mb": 1'),
        "no such field",
        "show",
    ),
    Case(
        "json: NaN",
        text("a.json", '{"depths":[1],"block":"basic","layer_scale":NaN}'),
        "layer_scale",
        "show",
    ),
    Case(
        "json: 5,000 digits",
        text("a.json", '{"depths":[' + "9" * 5000 + "]}"),
        "not valid JSON",
        "show",
    ),
    Case("toml: a date", text("a.toml", "depths = 1979-05-27"), "depths", "show"),
    Case("spec: as --model", text("a.safetensors", b""), "safetensors", "convert"),
    # What is no file
    *(
        Case(f"a pipe named {name}", _path(os.mkfifo, name), _NO_FILE, command)
        for name, command in (
            ("a.safetensors", "convert"),
            ("a.pth", "convert"),
            ("a.h5", "convert"),
            ("a.keras", "convert"),
            ("a.onnx", "convert"),
            ("a.yaml", "show"),
            ("a.json", "check"),
        )
    ),
    *(
        Case(
            f"/dev/zero named {name}",
            _path(lambda p: p.symlink_to("/dev/zero"), name),
            _NO_FILE,
            command,
        )
        for name, command in (
            ("a.safetensors", "convert"),
            ("a.msgpack", "convert"),
            ("a.onnx", "convert"),
            ("a.yaml", "show"),
        )
    ),
    *(
        Case(
            f"a directory named {name}",
            _path(Path.mkdir, name),
            "holds neither|is not a file|directory",
            command,
        )
        for name, command in (("a.safetensors", "convert"), ("a.h5", "convert"), ("a.yaml", "show"))
    ),
    *(
        Case(f"an empty {name}", text(name, b""), name.replace(".", r"\."))
        for name in (
            "a.safetensors",
            "a.pth",
            "a.h5",
            "a.weights.h5",
            "a.keras",
            "a.npz",
            "a.msgpack",
            "a.onnx",
        )
    ),
    Case("a link to nothing", _path(lambda p: p.symlink_to("nothing"), "a.pth"), "no such file"),
    Case("a link to itself", _path(lambda p: p.symlink_to(p.name), "a.pth"), "a.pth"),
    Case("an unknown kind", text("a.pth", b"#!/bin/sh\ntouch owned\n"), "not a readable PyTorch"),
    Case("a directory: as in the hub's cache", _as_in_the_hub, ""),
    Case(
        "a directory: config.json is a link to a stranger's file",
        _damaged("a", "huggingface", _config_is(lambda p: p.symlink_to("../../in/secret"))),
        "holds neither",
    ),
    Case(
        "a directory: config.json is a pipe",
        _damaged("a", "huggingface", _config_is(os.mkfifo)),
        "holds neither",
    ),
    Case(
        "a directory: config.json is a link to /dev/zero",
        _damaged("a", "huggingface", _config_is(lambda p: p.symlink_to("/dev/zero"))),
        "holds neither",
    ),
    Case(
        "a directory: preprocessor_config.json is a list",
        _damaged(
            "a", "huggingface", lambda p: (p / "preprocessor_config.json").write_text("[]") and None
        ),
        "expected a mapping",
    ),
    Case("config.json: model_type is a list", huggingface(model_type=["resnet"]), "model_type"),
    Case(
        "config.json: code to import",
        huggingface(auto_map={"AutoModel": "owned.py"}, trust_remote_code=True),
        "",
    ),
    *ATTACKS,
    # Certificates
    Case(
        "certificate: another file's", certificate(target={"sha256": "0" * 64}), _DIGEST, "verify"
    ),
    Case(
        "certificate: a target that is a list", certificate(target=["a"]), "certificate", "verify"
    ),
    Case(
        "certificate: a target that is a number", certificate(target=1.5), "certificate", "verify"
    ),
    Case("certificate: a source that is text", certificate(source="x"), "certificate", "verify"),
    Case(
        "certificate: a rounding of 10^400", certificate(rounding=10**400), "certificate", "verify"
    ),
    Case(
        "certificate: an infinite rounding",
        certificate(rounding=float("inf")),
        "certificate",
        "verify",
    ),
    Case(
        "certificate: an engine that is a list",
        certificate(
            checks=[
                {
                    "engine": ["torch"],
                    "dtype": "float64",
                    "device": "cpu",
                    "error": 0,
                    "bound": 1,
                    "holds": True,
                }
            ]
        ),
        "certificate",
        "verify",
    ),
    Case("certificate: no checks, no engine", certificate(checks="x"), "certificate", "verify"),
    Case(
        "certificate: an engine to import",
        certificate(checks=[{"engine": "os"}]),
        "certificate",
        "verify",
    ),
    Case(
        "certificate: a pipe", lambda folder: _certificate_pipe(folder), "is not a file", "verify"
    ),
]


def _npz(folder: Path, array: np.ndarray) -> str:
    np.savez(folder / "a.npz", a=array)
    return "a.npz"


def _certificate_pipe(folder: Path) -> str:
    write_checkpoint(folder / "a.safetensors", checkpoint(TINY))
    os.mkfifo(folder / "a.safetensors.parity.json")
    return "a.safetensors"


__all__ = ["CASES", "PICKLES"]
