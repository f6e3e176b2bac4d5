"""Data sets in their published formats, and the batches made of them.

Files are written here as their publishers did, byte by byte, and read back; torchvision's readers
read the same files where it has some.
"""

from __future__ import annotations

import gc
import gzip
import io
import os
import pickle
import runpy
import struct
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_parity.datasets import InMemory, Loader, mean_std, open_dataset, pixel_mean
from resnet_parity.datasets.augment import augmented, draws, epoch_draws
from shared_spec import Preprocessing, ResNetError
from shared_spec.errors import DataError, FrameworkError, ImageError
from shared_spec.training.data_spec import Augmentation, Augmentations, DataSpec, Split
from shared_spec.training.optimization import Declared
from tests.conftest import ROOT
from tests.peers import torchvision_models

BATCH = 7
"""Images in each file of CIFAR that is written here."""
TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FINE = [f"fine_{i:02}" for i in range(100)]
COARSE = [f"coarse_{i:02}" for i in range(20)]


class _Listed(Declared):
    refusal = DataError
    augmentation: Augmentations = ()


def parse_augmentation(data: object) -> tuple[Augmentation, ...]:
    """As a recipe reads them."""
    return _Listed.parse({"augmentation": data}, "data").augmentation


# Writers ------------------------------------------------------------------------------------------


def _python2(value: object) -> bytes:
    """A value as Python 2's cPickle wrote it in protocol 2, without its memo."""
    if isinstance(value, bytes):
        head = b"U" + struct.pack("<B", len(value)) if len(value) < 256 else b""
        return (head or b"T" + struct.pack("<i", len(value))) + value
    if isinstance(value, str):
        return _python2(value.encode())
    if isinstance(value, int):
        if value < 256:
            return b"K" + struct.pack("<B", value)
        return b"M" + struct.pack("<H", value)
    if isinstance(value, list):
        return b"]q\x01(" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, dict):
        items = b"".join(_python2(k) + _python2(v) for k, v in value.items())
        return b"}q\x02(" + items + b"u"
    assert isinstance(value, np.ndarray)
    shape = _python2(value.shape[0]) + _python2(value.shape[1]) + b"\x86"
    dtype = b"cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01\x87Rq\x06(K\x03U\x01|NNN"
    dtype += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    head = b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87R"
    return head + b"(K\x01" + shape + dtype + b"\x89" + _python2(value.tobytes()) + b"tb"


def python2(value: object) -> bytes:
    return b"\x80\x02" + _python2(value) + b"."


def python3(value: object) -> bytes:
    return pickle.dumps(value, protocol=2)


def images(count: int, seed: int = 0, side: int = 32, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, side, side, channels), np.uint8)


class Cifar:
    """What one split holds, and its files."""

    def __init__(self, name: str, split: Split) -> None:
        parts = 5 if (name, split) == ("cifar10", "train") else 1
        rng = np.random.default_rng(parts)
        self.name = name
        self.pixels = images(parts * BATCH, seed=parts + (name == "cifar10"))
        self.fine = rng.integers(0, 10 if name == "cifar10" else 100, parts * BATCH)
        self.coarse = rng.integers(0, 20, parts * BATCH)
        if name == "cifar10":
            stems = [f"data_batch_{i}" for i in range(1, 6)] if parts == 5 else ["test_batch"]
        else:
            stems = ["train" if split == "train" else "test"]
        self.stems = stems

    def parts(self) -> Iterator[tuple[str, np.ndarray, list[int], list[int]]]:
        for i, stem in enumerate(self.stems):
            part = slice(i * BATCH, (i + 1) * BATCH)
            rows = self.pixels[part].transpose(0, 3, 1, 2).reshape(BATCH, -1)
            yield stem, rows, self.fine[part].tolist(), self.coarse[part].tolist()

    def binary(self) -> dict[str, bytes]:
        out = {}
        for stem, rows, fine, coarse in self.parts():
            heads = [
                [f] if self.name == "cifar10" else [c, f] for c, f in zip(coarse, fine, strict=True)
            ]
            out[f"{stem}.bin"] = b"".join(
                bytes(head) + row.tobytes() for head, row in zip(heads, rows, strict=True)
            )
        return out

    def python(self, dump: Callable[[object], bytes]) -> dict[str, bytes]:
        out = {}
        for stem, rows, fine, coarse in self.parts():
            labels: dict[str, object] = {"labels": fine}
            if self.name == "cifar100":
                labels = {"fine_labels": fine, "coarse_labels": coarse}
            names = [f"image_{i}.png" for i in range(len(rows))]
            batch = {"batch_label": "part of it", **labels, "data": rows, "filenames": names}
            out[stem] = dump(batch)
        return out


def cifar_files(name: str, version: str) -> tuple[str, dict[str, bytes]]:
    """The published folder's name and its files."""
    splits = Cifar(name, "train"), Cifar(name, "held_out")
    ten = name == "cifar10"
    if version == "binary":
        files = splits[0].binary() | splits[1].binary()
        listed = {"batches.meta.txt": TEN} if ten else {}
        if not ten:
            listed = {"fine_label_names.txt": FINE, "coarse_label_names.txt": COARSE}
        files |= {file: ("\n".join(names) + "\n\n").encode() for file, names in listed.items()}
        return ("cifar-10-batches-bin" if ten else "cifar-100-binary"), files
    dump = python2 if version == "python2" else python3
    files = splits[0].python(dump) | splits[1].python(dump)
    if ten:
        files["batches.meta"] = dump({"num_cases_per_batch": 10000, "label_names": TEN})
    else:
        files["meta"] = dump({"fine_label_names": FINE, "coarse_label_names": COARSE})
    return ("cifar-10-batches-py" if ten else "cifar-100-python"), files


def write_cifar(root: Path, name: str, version: str, container: str = "folder") -> Path:
    """Returns what `path` is to be."""
    folder, files = cifar_files(name, version)
    if container in ("folder", "parent"):
        (root / folder).mkdir(parents=True)
        for file, data in files.items():
            (root / folder / file).write_bytes(data)
        return root / folder if container == "folder" else root
    archive = root / f"{folder}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for file, data in {"readme.html": b"<html>", **files}.items():
            info = tarfile.TarInfo(f"{folder}/{file}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return archive


def idx(array: np.ndarray) -> bytes:
    head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


def write_idx(folder: Path, end: str = "", side: int = 28) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    out = {}
    for seed, (prefix, count) in enumerate((("train", 30), ("t10k", 11))):
        out[f"{prefix}-images-idx3-ubyte"] = images(count, seed, side, 1)[..., 0]
        out[f"{prefix}-labels-idx1-ubyte"] = np.arange(count, dtype=np.uint8) * 7 % 10
    for name, array in out.items():
        data = idx(array)
        (folder / (name + end)).write_bytes(gzip.compress(data) if end else data)
    return out


def write_folder(root: Path) -> dict[str, np.ndarray]:
    """A class of PNGs, one of JPEGs, one of all kinds; returns pixels by relative path."""
    out: dict[str, np.ndarray] = {}
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for name, end, mode in (
            ("n02", "png", "RGB"), ("n01", "JPEG", "RGB"), ("Zebra", "png", "L"), ("a", "bmp", "P"),
        ):  # fmt: skip
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                width, height = rng.integers(20, 60, 2)
                pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
                image = Image.fromarray(pixels).convert(mode)
                file = folder / f"{name}_{10 - i}.{end}"
                image.save(file)
                with Image.open(file) as saved:
                    out[str(file.relative_to(root))] = np.asarray(saved.convert("RGB"))
    (root / "train" / "n01" / "notes.txt").write_text("no image")
    (root / "train" / "README").write_text("no class")
    return out


def opened(split: Split = "train", **fields: object) -> Any:
    if "path" in fields:
        fields["path"] = str(fields["path"])
    return open_dataset(DataSpec.parse(fields), split)


def refused(match: str, kind: type[ResNetError] = DataError) -> Any:
    """One sentence: of one line, and without another error behind it."""
    return pytest.raises(kind, match=rf"\A[^\n]*{match}[^\n]*\Z")


# CIFAR --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["folder", "parent", "archive"])
@pytest.mark.parametrize("version", ["binary", "python2", "python3"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_as_it_was_written(
    tmp_path: Path, name: str, version: str, container: str
) -> None:
    path = write_cifar(tmp_path, name, version, container)
    for split in ("train", "held_out"):
        wanted = Cifar(name, split)
        data = opened(split, format=name, path=path)
        np.testing.assert_array_equal(data.pixels, wanted.pixels)
        np.testing.assert_array_equal(data.labels, wanted.fine)
        assert data.labels.dtype == np.int64
        assert data.pixels.flags.c_contiguous
        assert data.names == tuple(TEN if name == "cifar10" else FINE)
        assert (len(data), data.channels) == (len(wanted.pixels), 3)
        np.testing.assert_array_equal(data.image(3), wanted.pixels[3])
        if name == "cifar100":
            coarse = opened(split, format=name, path=path, labels="coarse")
            np.testing.assert_array_equal(coarse.labels, wanted.coarse)
            assert coarse.names == tuple(COARSE)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_as_torchvision_reads_it(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchvision_models()
    import torchvision.datasets as judge

    path = write_cifar(tmp_path, name, "python2", "parent")
    kind = judge.CIFAR10 if name == "cifar10" else judge.CIFAR100
    monkeypatch.setattr(judge.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    for split in ("train", "held_out"):
        theirs = kind(tmp_path, train=split == "train")
        ours = opened(split, format=name, path=path)
        np.testing.assert_array_equal(ours.pixels, theirs.data)
        assert ours.labels.tolist() == theirs.targets
        assert list(ours.names) == theirs.classes


CANARIES: dict[str, Callable[[str], bytes]] = {
    "os.system": lambda c: b"\x80\x02cos\nsystem\nU" + bytes([len(c)]) + c.encode() + b"\x85R.",
    "posix.system, old opcode": lambda c: b"(S'" + c.encode() + b"'\niposix\nsystem\n.",
    "builtins.exec, in a batch": lambda c: python3({"data": _Executes(c), "labels": [1]}),
    "protocol 4": lambda c: pickle.dumps(_Executes(c), protocol=4),
    "numpy's own": lambda c: (
        b"\x80\x02cnumpy.testing._private.utils\nrunstring\nU"
        + bytes([len(c)]) + c.encode() + b"}\x86R."
    ),
    "by attribute": lambda c: b"\x80\x04\x8c\x05numpy\x8c\x0btesting.sys\x93.",
}  # fmt: skip


class _Executes:
    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.code,)


@pytest.mark.parametrize("canary", CANARIES)
def test_a_pickle_runs_nothing(tmp_path: Path, canary: str) -> None:
    path = write_cifar(tmp_path, "cifar10", "python2")
    mark = tmp_path / "x"
    hostile = CANARIES[canary](f"touch {mark}")
    (path / "data_batch_2").write_bytes(hostile)
    with refused(r"data_batch_2: .*it asks for .*nothing is executed"):
        opened(format="cifar10", path=path)
    assert not mark.exists()
    if "os.system" in canary:  # the canary does sing where nothing holds it
        pickle.loads(hostile)  # noqa: S301
        assert mark.exists()


@pytest.mark.parametrize(
    "hostile",
    [
        b"\x80\x02}r\x00\x00\x00\x02.",  # the C unpickler takes 512 MiB for this number
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0f.",  # bytes of a length that is not there
        b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7ftR.",  # an array of 2 GiB
        b"\x80\x02cnumpy\nndarray\n}b.",  # attributes of numpy's type
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x02]q\x00.",
        b"\x80\x02N.",
        b"\x80\x02",
        b"",
        b"\x00" * 100,
        b"\x80\x09.",
    ],
    ids=range(11),
)
def test_a_damaged_pickle_is_refused_and_costs_nothing(tmp_path: Path, hostile: bytes) -> None:
    path = write_cifar(tmp_path, "cifar10", "python2")
    (path / "data_batch_1").write_bytes(hostile)
    tracemalloc.start()
    with refused("data_batch_1: "):
        opened(format="cifar10", path=path)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def _lies(**changes: object) -> bytes:
    """A batch whose array or labels are other than they should be."""
    rows = images(BATCH).reshape(BATCH, -1)
    return python2({"labels": [1] * BATCH, "data": rows} | changes)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (_lies(labels=[1] * (BATCH - 1)), "'labels' has to hold 7 labels"),
        (_lies(labels=["cat"] * BATCH), "has to hold 7 labels"),
        (_lies(labels=[1, 2, 3, 10, 1, 1, 1]), "image 3 has the label 10, and cifar10 has 0 to 9"),
        (_lies(data=images(7, side=16).reshape(7, -1)), r"'data' is \[7, 768\]"),
        (_lies(data=[1, 2]), "no array 'data'"),
        (python2([1]), "a batch is a dict"),
        (_lies().replace(b"K\x07M\x00\x0c\x86", b"K\x09M\x00\x0c\x86"), "not as long as it says"),
        (_lies().replace(b"U\x02u1", b"U\x02f8"), "not one of bytes"),
    ],
    ids=range(8),
)
def test_a_batch_that_is_none(tmp_path: Path, data: bytes, match: str) -> None:
    path = write_cifar(tmp_path, "cifar10", "python2")
    (path / "data_batch_3").write_bytes(data)
    with refused(f"data_batch_3: .*{match}"):
        opened(format="cifar10", path=path)


@pytest.mark.parametrize(
    ("size", "match"),
    [
        (-1, "not a whole number of records of 3,073"),
        (-3073, "it holds 6 images, and data_batch_1.bin 7"),
        (-7 * 3073, "not a whole number"),
    ],
)
def test_a_binary_batch_that_is_cut_off(tmp_path: Path, size: int, match: str) -> None:
    path = write_cifar(tmp_path, "cifar10", "binary")
    whole = (path / "data_batch_4.bin").read_bytes()
    (path / "data_batch_4.bin").write_bytes(whole[:size])
    with refused(f"data_batch_4.bin: .*{match}"):
        opened(format="cifar10", path=path)


def test_a_binary_label_out_of_range(tmp_path: Path) -> None:
    path = write_cifar(tmp_path, "cifar10", "binary")
    data = bytearray((path / "test_batch.bin").read_bytes())
    data[2 * 3073] = 200
    (path / "test_batch.bin").write_bytes(data)
    with refused("image 2 has the label 200"):
        opened("held_out", format="cifar10", path=path)


def test_missing_files_of_cifar(tmp_path: Path) -> None:
    with refused("absent: there is no such directory or archive"):
        opened(format="cifar10", path=tmp_path / "absent")
    with refused("no cifar10 in it; it should hold data_batch_1.bin or data_batch_1"):
        opened(format="cifar10", path=tmp_path)
    path = write_cifar(tmp_path, "cifar10", "binary")
    (path / "data_batch_5.bin").unlink()
    with refused("data_batch_5.bin: cannot be read"):
        opened(format="cifar10", path=path)
    (path / "batches.meta.txt").write_text("cat\ndog\n")
    with refused("batches.meta.txt should hold the names of 10 classes"):
        opened("held_out", format="cifar10", path=path)
    data = opened("held_out", format="cifar10", path=path, class_names=list("abcdefghij"))
    assert data.names == tuple("abcdefghij")
    with refused("class_names: 2 names are given for 10 classes"):
        opened("held_out", format="cifar10", path=path, class_names=["a", "b"])


def test_damaged_archives(tmp_path: Path) -> None:
    path = write_cifar(tmp_path, "cifar10", "binary", "archive")
    whole = path.read_bytes()
    for stop in (0, 1, 100, len(whole) // 2, len(whole) - 1000):
        path.write_bytes(whole[:stop])
        with refused(r"not a readable .tar.gz|cut off|no cifar10 in it|missing in the archive"):
            opened(format="cifar10", path=path)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(50) + whole[middle + 50 :])
    with refused(r"not a readable .tar.gz"):
        opened(format="cifar10", path=path)
    path.write_bytes(b"no archive at all" * 100)
    with refused(r"not a readable .tar.gz"):
        opened(format="cifar10", path=path)


def test_an_archive_that_lies_about_a_size_or_holds_other_things(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = cifar_files("cifar10", "binary")
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        info = tarfile.TarInfo(f"{folder}/data_batch_1.bin")
        info.size = 2**40
        raw.write(info.tobuf())
        raw.write(b"\0" * 5000)
        tar.offset = raw.tell()
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(raw.getvalue()))
    tracemalloc.start()
    with refused("x.tar.gz: "):
        opened(format="cifar10", path=path)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo(f"{folder}/test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with refused("no cifar10 in it"):
        opened("held_out", format="cifar10", path=path)
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        holes = tarfile.TarInfo(f"{folder}/test_batch.bin")
        holes.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(50 * 2**20)}
        tar.addfile(holes)
    with refused("test_batch.bin is larger than any file of CIFAR"):
        opened("held_out", format="cifar10", path=path)
    good = write_cifar(tmp_path, "cifar10", "binary", "archive")
    monkeypatch.setattr("resnet_parity.datasets.cifar._LARGEST", 100_000)
    with refused("unpacks to more than any archive of CIFAR"):
        opened(format="cifar10", path=good)


# IDX ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("folder", [".", "MNIST/raw"])
def test_idx_is_read_as_it_was_written(tmp_path: Path, end: str, folder: str) -> None:
    wanted = write_idx(tmp_path / folder, end)
    for split, prefix in (("train", "train"), ("held_out", "t10k")):
        data = opened(split, format="idx", path=tmp_path)
        np.testing.assert_array_equal(data.pixels[..., 0], wanted[f"{prefix}-images-idx3-ubyte"])
        np.testing.assert_array_equal(data.labels, wanted[f"{prefix}-labels-idx1-ubyte"])
        assert data.names == tuple("0123456789")
        assert data.channels == 1
    wide = opened(format="idx", path=tmp_path, image_size=33, channels=3)
    assert wide.pixels.shape == (30, 33, 33, 3)
    np.testing.assert_array_equal(wide.pixels[:, 2:30, 2:30, 1], opened(
        format="idx", path=tmp_path).pixels[..., 0])  # fmt: skip
    assert wide.pixels[:, :2].max() == wide.pixels[:, 30:].max() == 0
    with refused("image_size: images of 28 x 28 pixels cannot be padded to 20 x 20"):
        opened(format="idx", path=tmp_path, image_size=20)


def test_idx_as_torchvision_reads_it(tmp_path: Path) -> None:
    torchvision_models()
    import torchvision.datasets as judge

    write_idx(tmp_path / "FashionMNIST" / "raw")
    for split in ("train", "held_out"):
        theirs = judge.FashionMNIST(tmp_path, train=split == "train")
        ours = opened(split, format="idx", path=tmp_path, class_names=theirs.classes)
        np.testing.assert_array_equal(ours.pixels[..., 0], theirs.data.numpy())
        np.testing.assert_array_equal(ours.labels, theirs.targets.numpy())
        assert list(ours.names) == theirs.classes


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d[:-1], r"announces 23,520 bytes \[30, 28, 28\], and 23,519 follow"),
        (lambda d: d + b"\0", "and more follow"),
        (lambda d: d[:10], "not an IDX file"),
        (lambda d: b"", "not an IDX file .*begins with nothing"),
        (lambda d: b"\0\0\x0d\x03" + d[4:], "begins with 00 00 0d 03"),
        (lambda d: d[:4] + b"\xff" * 12 + d[16:], "announces 79,228,.* and 23,520 follow"),
        (lambda d: d[:4] + b"\0\0\0\x1d" + d[8:], "more follow"),
    ],
    ids=range(7),
)
def test_idx_files_that_lie(
    tmp_path: Path, end: str, change: Callable[[bytes], bytes], match: str
) -> None:
    write_idx(tmp_path, end)
    file = tmp_path / f"train-images-idx3-ubyte{end}"
    data = gzip.decompress(file.read_bytes()) if end else file.read_bytes()
    data = change(data)
    file.write_bytes(gzip.compress(data) if end else data)
    tracemalloc.start()
    with refused(f"train-images-idx3-ubyte{end}: .*{match}"):
        opened(format="idx", path=tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_other_problems_of_idx(tmp_path: Path) -> None:
    with refused("there is none"):
        opened(format="idx", path=tmp_path / "absent")
    with refused("no train-labels-idx1-ubyte or train-labels-idx1-ubyte.gz|no train-images"):
        opened(format="idx", path=tmp_path)
    write_idx(tmp_path, ".gz")
    file = tmp_path / "t10k-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with refused("t10k-images-idx3-ubyte.gz: cannot be read"):
        opened("held_out", format="idx", path=tmp_path)
    file.write_bytes(whole)
    labels = tmp_path / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx(np.zeros(12, np.uint8))))
    with refused("11 images, and 12 labels"):
        opened("held_out", format="idx", path=tmp_path)
    labels.write_bytes(gzip.compress(idx(np.full(11, 10, np.uint8))))
    with refused("image 0 has the label 10, and the 10 classes have 0 to 9"):
        opened("held_out", format="idx", path=tmp_path)


# Folders ------------------------------------------------------------------------------------------


def test_folders_as_torchvision_reads_them(tmp_path: Path) -> None:
    torchvision_models()
    from torchvision.datasets import ImageFolder

    written = write_folder(tmp_path)
    for name in "hbgdaecf":
        deeper = tmp_path / "train" / "a" / name
        deeper.mkdir()
        Image.fromarray(images(1)[0]).save(deeper / "0.png")
    for split, name in (("train", "train"), ("held_out", "val")):
        theirs = ImageFolder(str(tmp_path / name))
        ours = opened(split, format="folder", path=tmp_path)
        assert list(ours.names) == theirs.classes == ["Zebra", "a", "n01", "n02"]
        assert ours.labels.tolist() == theirs.targets
        assert [ours.where(i) for i in range(len(ours))] == [path for path, _ in theirs.samples]
        for i in range(len(ours)):
            np.testing.assert_array_equal(ours.image(i), np.asarray(theirs[i][0]))
            key = os.path.relpath(ours.where(i), tmp_path)
            if key in written:
                np.testing.assert_array_equal(ours.image(i), written[key])
    grey = opened(format="folder", path=tmp_path, channels=1)
    assert grey.image(0).shape[2] == grey.channels == 1


def test_folders_that_are_not_right(tmp_path: Path) -> None:
    root = tmp_path / "data"
    with refused("there is none"):
        opened(format="folder", path=root)
    write_folder(root)
    with refused("train2: there is none"):
        opened(format="folder", path=root, train_split="train2")
    bad = root / "train" / "a" / "a_1.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\nno more")
    data = opened(format="folder", path=root)
    index = next(i for i in range(len(data)) if data.where(i) == str(bad))
    with refused("a_1.png: ", ImageError):
        data.image(index)
    bad.unlink()
    (root / "val" / "zoo").mkdir()
    with refused("val/zoo: there is no such class in "):
        opened("held_out", format="folder", path=root)
    (root / "val" / "zoo").rmdir()
    (root / "train" / "Ape").mkdir()
    with refused("Ape: no image in it"):
        opened(format="folder", path=root)
    # A class of training that is not held out keeps its number.
    held_out = opened("held_out", format="folder", path=root)
    assert held_out.names == ("Ape", "Zebra", "a", "n01", "n02")
    assert set(held_out.labels) == {1, 2, 3, 4}


@pytest.mark.parametrize("what", ["image", "class", "split", "nested"])
def test_no_link_is_followed_out_of_a_folder(tmp_path: Path, what: str) -> None:
    root = tmp_path / "data"
    outside = tmp_path / "outside"
    write_folder(root)
    (outside / "c").mkdir(parents=True)
    Image.fromarray(images(1)[0]).save(outside / "c" / "secret.png")
    # A link within the data, and one to them, are followed.
    (root / "train" / "a" / "again.bmp").symlink_to(root / "train" / "a" / "a_10.bmp")
    (tmp_path / "alias").symlink_to(root)
    assert len(opened(format="folder", path=tmp_path / "alias")) == 13
    if what == "image":
        (root / "train" / "a" / "b.png").symlink_to(outside / "c" / "secret.png")
    elif what == "class":
        (root / "train" / "b").symlink_to(outside / "c")
    elif what == "nested":
        (root / "train" / "a" / "b").symlink_to(outside / "c")
    split = "train"
    if what == "split":
        (root / "other").symlink_to(outside)
        split = "other"
    with refused("is a link"):
        opened(format="folder", path=root, train_split=split)


# Hugging Face, digits -----------------------------------------------------------------------------


class _Feature:
    def __init__(self, names: list[str] | None = None) -> None:
        self.names = names


class _Image(_Feature):
    pass


class _ClassLabel(_Feature):
    pass


class _Rows:
    """As much of `datasets.Dataset` as is used."""

    def __init__(self, features: dict[str, Any], columns: dict[str, list[Any]]) -> None:
        self.features, self._columns = features, columns

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def with_format(self, kind: None) -> _Rows:
        return self

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, str):
            return self._columns[key]
        return {name: column[key] for name, column in self._columns.items()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, _Rows]:
    """A stand-in for the optional library, with a saved data set in tmp_path."""
    pixels = [Image.fromarray(p) for p in images(6)]
    features = {"img": _Image(), "label": _ClassLabel(["cat", "dog"]), "source": _Feature()}
    columns = {"img": pixels, "label": [0, 1, 0, 1, 1, 0], "source": ["x"] * 6}
    saved = {"train": _Rows(features, columns), "test": _Rows(features, columns)}
    module = types.ModuleType("datasets")
    module.__dict__.update(Image=_Image, ClassLabel=_ClassLabel, load_from_disk=lambda path: saved)
    monkeypatch.setitem(sys.modules, "datasets", module)
    (tmp_path / "dataset_dict.json").write_text("{}")
    return saved


def test_hugging_face_columns_are_found_or_told(tmp_path: Path, hub: dict[str, _Rows]) -> None:
    data = opened("held_out", format="huggingface", path=tmp_path)
    np.testing.assert_array_equal(np.stack([data.image(i) for i in range(6)]), images(6))
    assert data.labels.tolist() == [0, 1, 0, 1, 1, 0]
    assert data.names == ("cat", "dog")
    rows = hub["train"]
    rows.features = {"a": _Image(), "b": _Image(), "c": _Feature(), "n": _Feature()}
    rows._columns = {"a": list(images(6)), "b": [1] * 6, "c": [2, 0, 1, 2, 2, 2], "n": [-1] * 6}
    fields = {"format": "huggingface", "path": tmp_path}
    with refused("image_column: there is 2 columns of that kind; name one, it has a, b, c, n"):
        opened(**fields)
    with refused("label_column: there is no column of that kind"):
        opened(**fields, image_column="a")
    with refused("image_column: there is no column 'x'"):
        opened(**fields, image_column="x")
    with refused("image_column: 'c' holds no images"):
        opened(**fields, image_column="c", label_column="c")
    with refused("image 0 has the label -1"):
        opened(**fields, image_column="a", label_column="n", class_names=["one"])
    data = opened(**fields, image_column="a", label_column="c")
    assert data.names == ("0", "1", "2")
    with refused("'a' of row 0: the image cannot be decoded"):
        data.image(0)
    with refused("held_out_split: there is no split 'dev'; it has train, test"):
        opened("held_out", **fields, held_out_split="dev")


def test_hugging_face_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with refused(r"pip install 'resnet-parity\[data\]'", FrameworkError):
        opened(format="huggingface", path=tmp_path)


def test_digits_are_those_of_the_examples() -> None:
    example = runpy.run_path(str(ROOT / "examples" / "digits.py"))
    for split, theirs in zip(("train", "held_out"), example["load"](), strict=True):
        ours = opened(split, format="digits")
        np.testing.assert_array_equal(ours.pixels, theirs.pixels)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    mean, std = mean_std(opened(format="digits"))
    assert (round(mean[0], 3), round(std[0], 3)) == example["statistics"](example["load"]()[0])


# Declarations -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"format": "cifar"}, "format: input should be 'cifar10', "),
        ({"format": "cifar10"}, "path: the format 'cifar10' needs one"),
        ({"format": "digits", "path": "x"}, "path: digits come with scikit-learn"),
        ({"format": "idx", "path": "x", "labels": "coarse"}, "labels: the format 'idx' has none"),
        ({"format": "folder", "path": "x", "image_size": 3}, "image_size: the format 'folder'"),
        ({"format": "folder", "path": "x", "per_pixel_mean": True}, "per_pixel_mean: the format"),
        ({"format": "folder", "path": "x", "train_split": "val"}, "held_out_split: 'val' is used"),
        ({"format": "digits", "channels": 2}, "channels: input should be 1 or 3"),
        ({"format": "digits", "pathh": "x"}, "pathh: there is no such field; did you mean 'path'"),
        ({"format": "digits", "class_names": ["a", "a"]}, "class_names: two classes"),
        (["digits"], "expected a mapping"),
    ],
)
def test_declarations_that_are_refused(fields: object, match: str) -> None:
    with refused(f"data: {match}"):
        DataSpec.parse(fields)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (
            ["flop"],
            "augmentation.0: an augmentation needs a name, one of pad_crop, .*did you mean 'flip'",
        ),
        ([{"size": 3}], "augmentation.0: an augmentation needs a name"),
        (["flip", {"name": "pad_crop", "pading": 2}], "augmentation.1.pading: .*'padding'"),
        ([{"name": "flip", "probability": 2}], "augmentation.0.probability: .*got 2"),
        (["resize"], "augmentation.0.size: this field is required"),
        ([{"name": "scale_crop", "shorter_side": [100, 300]}], "shorter_side: 100 to 300"),
        ([{"name": "random_resized_crop", "scale": [0.5, 0.1]}], "scale: 0.5 to 0.1 has to"),
        ("flip", "augmentation: "),
    ],
)
def test_augmentations_that_are_refused(data: object, match: str) -> None:
    with refused(f"data: .*{match}"):
        parse_augmentation(data)


def test_a_declaration_survives_being_written() -> None:
    fields = {"format": "cifar100", "path": "x", "labels": "coarse", "per_pixel_mean": True}
    assert DataSpec.parse(fields).to_dict() == fields
    assert hash(DataSpec.parse(fields)) == hash(DataSpec.parse(fields))
    shuffled = parse_augmentation(["flip", {"name": "resize", "size": 8}])
    assert parse_augmentation([step.model_dump() for step in shuffled]) == shuffled


# Augmentation -------------------------------------------------------------------------------------


def many(augmentation: list[object], image: np.ndarray, count: int = 2_000) -> list[np.ndarray]:
    steps = parse_augmentation(augmentation)
    return [augmented(image, steps, u) for u in epoch_draws(steps, 5, 0, count)]


def test_an_images_numbers_are_its_own() -> None:
    steps = parse_augmentation(["random_resized_crop", "flip", "color_pca"])
    table = epoch_draws(steps, 7, 3, 50)
    for index in (0, 1, 2, 17, 49):
        np.testing.assert_array_equal(draws(steps, 7, 3, index), table[index])
    np.testing.assert_array_equal(epoch_draws(steps, 7, 3, 20), table[:20])
    flat = np.concatenate(
        [table.ravel(), epoch_draws(steps, 7, 4, 50).ravel(), epoch_draws(steps, 8, 3, 50).ravel()]
    )
    assert len(np.unique(flat)) == flat.size


def test_every_crop_is_reached_alike() -> None:
    # Each pixel tells its place, and the border is 0.
    image = np.arange(1, 65, dtype=np.uint8).reshape(8, 8, 1)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    places = {padded[y : y + 8, x : x + 8].tobytes(): (y, x) for y in range(9) for x in range(9)}
    counts = np.zeros((9, 9))
    for crop in many(["pad_crop"], image, 8_100):
        counts[places[crop.tobytes()]] += 1
    assert counts.min() > 60  # 100 each are expected, with a deviation of 10
    assert counts.max() < 140
    shifts = {crop.tobytes() for crop in many(["shift"], image, 500)}
    assert shifts == {padded[y : y + 8, x : x + 8].tobytes() for y in (3, 4, 5) for x in (3, 4, 5)}
    sized = many([{"name": "pad_crop", "padding": 1, "size": 10}], image, 3)
    assert all(np.array_equal(crop, padded[3:13, 3:13]) for crop in sized)


def test_half_are_flipped() -> None:
    image = images(1)[0]
    flips = [np.array_equal(out, image[:, ::-1]) for out in many(["flip"], image)]
    same = [np.array_equal(out, image) for out in many(["flip"], image)]
    assert 0.45 < np.mean(flips) < 0.55
    assert sum(flips) + sum(same) == len(flips)
    rare = many([{"name": "flip", "probability": 0.1}], image)
    assert 0.07 < np.mean([np.array_equal(out, image[:, ::-1]) for out in rare]) < 0.13


def test_draws_of_different_steps_are_not_correlated() -> None:
    u = epoch_draws(parse_augmentation(["pad_crop", "flip"]), 0, 0, 20_000)
    correlation = np.corrcoef(u[:, :3].T) - np.eye(3)
    assert np.abs(correlation).max() < 0.03


def test_scale_augmentation_reaches_every_side_and_place() -> None:
    steps = [{"name": "scale_crop", "size": 4, "shorter_side": [4, 6]}]
    image = images(1, side=12)[0, :, :8]
    places: dict[bytes, int] = {}
    for side in (4, 5, 6):
        size = (side, side * 12 // 8)
        small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        for y in range(size[1] - 3):
            places |= {small[y : y + 4, x : x + 4].tobytes(): side for x in range(side - 3)}
    crops = [out.tobytes() for out in many(steps, image, 3_000)]
    assert set(crops) == set(places)
    sides = [places[crop] for crop in crops]
    assert all(900 < sides.count(side) < 1_100 for side in (4, 5, 6))


def test_random_resized_crops_are_torchvisions() -> None:
    torchvision_models()
    import torch
    from torchvision.transforms import RandomResizedCrop
    from torchvision.transforms import functional as judge

    from resnet_parity.datasets.augment import _rectangle

    height, width = 60, 90
    blank = torch.zeros(3, height, width)
    torch.manual_seed(0)
    settings: list[dict[str, Any]] = [
        {"scale": [0.08, 1], "ratio": [3 / 4, 4 / 3]},
        {"scale": [0.05, 0.1], "ratio": [1 / 4, 4]},
    ]
    for setting in settings:
        (step,) = parse_augmentation([{"name": "random_resized_crop", **setting}])
        numbers = epoch_draws([step], 0, 0, 4_000)
        ours = np.array([_rectangle(step, height, width, u[:22]) for u in numbers])
        theirs = np.array([RandomResizedCrop.get_params(blank, **setting) for _ in range(4_000)])
        np.testing.assert_allclose(ours.mean(0), theirs.mean(0), rtol=0.05, atol=0.5)
        np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.06)
        assert (ours[:, 0] + ours[:, 2]).max() <= height
        assert (ours[:, 1] + ours[:, 3]).max() <= width
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    for u, (top, left, h, w) in zip(numbers[:10], ours[:10].tolist(), strict=True):
        wanted = judge.resized_crop(Image.fromarray(image), top, left, h, w, [224, 224])
        np.testing.assert_array_equal(augmented(image, [step], u), np.asarray(wanted))
    # Images that no rectangle fits into give their middle, as torchvision's do.
    for shape in ((2, 90), (90, 2)):
        theirs_too = RandomResizedCrop.get_params(torch.zeros(3, *shape), [0.9, 1], [3 / 4, 4 / 3])
        (big,) = parse_augmentation([{"name": "random_resized_crop", "scale": [0.9, 1]}])
        assert _rectangle(big, *shape, numbers[0][:22]) == theirs_too


def test_colours_vary_along_the_principal_components() -> None:
    image = np.full((2, 2, 3), 128, np.uint8)
    shifts = np.array([out[0, 0] - 128 / 255 for out in many(["color_pca"], image, 4_000)])
    vectors = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    wanted = vectors @ np.diag((0.1 * np.array([0.2175, 0.0188, 0.0045])) ** 2) @ vectors.T
    np.testing.assert_allclose(np.cov(shifts.T), wanted, rtol=0.1, atol=2e-6)
    np.testing.assert_allclose(shifts.mean(0), 0, atol=1e-3)
    out = augmented(image, parse_augmentation(["color_pca"]), np.zeros(4))
    assert np.isfinite(out).all()
    with refused("color_pca: a grey image"):
        many(["color_pca"], image[..., :1], 1)


def test_images_too_small_or_narrow_are_refused_by_name() -> None:
    data = InMemory(images(4, side=8), np.zeros(4, np.int64), ("a",), "there")
    for steps, match in (
        ([{"name": "center_crop", "size": 9}], "8 x 8 pixels is too small for a crop of 9 x 9"),
        ([{"name": "pad_crop", "size": 20}], "16 x 16 pixels is too small"),
    ):
        with refused(f"there: image 0: .*{match}"):
            loader(data, steps, 2).batches()
    thin = np.zeros((1, 101, 3), np.uint8)
    with refused("too narrow"):
        many([{"name": "resize", "size": 9}], thin, 1)


# Batches ------------------------------------------------------------------------------------------

STATISTICS: dict[str, Any] = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.243, 0.262)}


def preprocessing(size: int = 32, **fields: Any) -> Preprocessing:
    return Preprocessing(**({"image_size": size, "crop": 1.0} | STATISTICS | fields))


def in_memory(count: int = 50, side: int = 32) -> InMemory:
    return InMemory(images(count, side=side), np.arange(count) % 7, tuple("abcdefg"), "there")


class Lazy:
    """The same images, one by one."""

    def __init__(self, data: InMemory) -> None:
        self._data = data
        self.labels, self.names, self.channels = data.labels, data.names, data.channels
        self.asked: list[int] = []
        self.bad: set[int] = set()

    def __len__(self) -> int:
        return len(self._data)

    def image(self, index: int) -> np.ndarray:
        self.asked.append(index)
        if index in self.bad:
            raise DataError(f"image {index} is bad")
        return self._data.image(index)

    def where(self, index: int) -> str:
        return self._data.where(index)


CIFAR = [{"name": "pad_crop", "size": 32}, "flip"]


def loader(data: Any, steps: Any = CIFAR, batch_size: int = 8, **options: Any) -> Loader:
    given = options.pop("preprocessing", preprocessing())
    return Loader(data, parse_augmentation(steps), given, batch_size, **options)


def same(ours: Any, theirs: Any) -> None:
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs) > 0
    for (a, x), (b, y) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("channel_order", ["rgb", "bgr"])
@pytest.mark.parametrize("mean_image", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_at_once_and_one_by_one_are_the_same_numbers(
    channel_order: str, mean_image: bool, dtype: str
) -> None:
    data = in_memory()
    if dtype == "float32":
        data = InMemory((data.pixels / 255).astype(np.float32), data.labels, data.names)
    options: dict[str, Any] = {"preprocessing": preprocessing(channel_order=channel_order)}
    if mean_image:
        options["mean_image"] = pixel_mean(data)
    fast, slow = loader(data, **options), loader(Lazy(data), **options)
    same(fast.batches(0, 13), slow.batches(0, 13))
    same(fast.held_out_batches(), slow.held_out_batches())
    # Both are what a reader would write down.
    steps = parse_augmentation(CIFAR)
    images, labels = next(iter(fast.batches(9)))
    found = 0
    for index in range(len(data)):  # step 9 is in epoch 1
        pixels = augmented(data.image(index), steps, draws(steps, 0, 1, index))
        pixels = pixels / 255 if dtype == "uint8" else pixels
        if mean_image:
            wanted = pixels.astype(np.float64) - options["mean_image"]
            wanted = wanted[..., ::-1] if channel_order == "bgr" else wanted
            wanted = (wanted / STATISTICS["std"]).astype(np.float32)
        else:
            wanted = options["preprocessing"].normalise(pixels)
        match = [i for i in range(8) if np.array_equal(images[i], wanted)]
        found += len(match)
        assert all(labels[i] == data.labels[index] for i in match)
    assert found == 8
    assert images.dtype == np.float32
    assert labels.dtype == np.int64


def test_held_out_images_are_what_prediction_sees() -> None:
    views: list[tuple[int, dict[str, Any]]] = [
        (40, {"crop": 0.875}), (40, {"crop": 1.0}), (40, {"crop": 0.8, "interpolation": "bicubic"}),
        (24, {"crop": 0.875}), (24, {"crop": 1.0}), (27, {"crop": 0.875}),
    ]  # fmt: skip
    for side, fields in views:
        data = in_memory(9, side)
        how = preprocessing(24, **fields)
        pictures = [Image.fromarray(data.image(i)) for i in range(9)]
        for kind in (data, Lazy(data)):
            batches = list(loader(kind, preprocessing=how, batch_size=4).held_out_batches())
            assert [len(x) for x, _ in batches] == [4, 4, 1]
            np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), how(pictures))
            np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), data.labels)
        assert loader(data, preprocessing=how).held_out_shape == (24, 24, 3)


def test_digits_can_be_resized() -> None:
    data = opened("held_out", format="digits")
    how = Preprocessing(image_size=16, crop=1.0, mean=(0.0,), std=(1.0,))
    images, _ = next(loader(data, preprocessing=how, batch_size=3).held_out_batches())
    plane = Image.fromarray(data.image(1)[..., 0]).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(images[1, ..., 0], np.asarray(plane))


def test_epochs_are_shuffled_and_whole() -> None:
    data = InMemory(images(50), np.arange(50), tuple(map(str, range(50))))
    batches = list(loader(data, []).batches(0, 18))
    assert loader(data, []).steps_per_epoch == 6
    orders = [np.concatenate([y for _, y in batches[i : i + 6]]).tolist() for i in (0, 6, 12)]
    for order in orders:
        assert len(set(order)) == 48
    assert orders[0] != orders[1] != orders[2] != sorted(orders[2])
    other = np.concatenate([y for _, y in loader(data, [], seed=1).batches(0, 6)])
    assert other.tolist() != orders[0]
    wanted = preprocessing().normalise(data.pixels[orders[1][:8]] / 255)
    np.testing.assert_array_equal(batches[6][0], wanted)


SLOW = [{"name": "random_resized_crop", "size": 16}, "flip", "color_pca"]


@pytest.mark.parametrize("steps", [CIFAR, SLOW], ids=["fast", "slow"])
def test_threads_change_nothing(steps: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = list(loader(in_memory(), steps, threads=1).batches(0, 9))
    monkeypatch.setattr("resnet_parity.datasets.loader.PREFETCH", 4)
    for threads in (2, 5):
        same(loader(in_memory(), steps, threads=threads).batches(0, 9), one)


@pytest.mark.parametrize("steps", [CIFAR, SLOW], ids=["fast", "slow"])
def test_a_resumed_training_sees_the_same(steps: Any) -> None:
    whole = list(loader(in_memory(), steps).batches(0, 20))
    for start in (1, 6, 11, 13):
        same(loader(in_memory(), steps).batches(start, 20 - start), whole[start:])
    endless = loader(in_memory(), steps).batches(13)
    same([next(endless), next(endless)], whole[13:15])
    endless.close()
    # Epochs differ in what they do to an image, and not in the order alone.
    seen = {image.tobytes() for images, _ in whole[:12] for image in images}
    assert len(seen) == 96


@pytest.mark.parametrize("steps", [CIFAR, SLOW], ids=["fast", "slow"])
def test_shards_are_the_parts_of_a_batch(steps: Any) -> None:
    data = in_memory(53)
    whole = list(loader(data, steps, 12).batches(2, 6))
    held_out = list(loader(data, steps, 12).held_out_batches())
    for count in (2, 3, 12):
        lazy = [Lazy(data) for _ in range(count)]
        parts = [loader(lazy[r], steps, 12, shard=(r, count)) for r in range(count)]
        joined = zip(*(part.batches(2, 6) for part in parts), strict=True)
        same((map(np.concatenate, zip(*batch, strict=True)) for batch in joined), whole)
        joined = zip(*(part.held_out_batches() for part in parts), strict=True)
        same((map(np.concatenate, zip(*batch, strict=True)) for batch in joined), held_out)
        # A part decodes no more than itself, and the first image for its shape.
        for one in lazy:
            assert len(one.asked) == 2 + 6 * 12 // count + sum(
                len(y) * (lazy.index(one) + 1) // count - len(y) * lazy.index(one) // count
                for _, y in held_out
            )


def test_errors_are_raised_where_batches_are_taken() -> None:
    data = Lazy(in_memory())
    data.bad = set(range(1, 50))
    batches = loader(data).batches()
    with refused("is bad"):
        next(batches)
    assert not alive()
    with pytest.raises(StopIteration):
        next(batches)
    data.bad = {0}
    with refused("image 0 is bad"):  # before any training
        loader(data).batches()
    with refused("image 0 is bad"):
        loader(data).held_out_batches()


def alive() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("resnet-parity-data")]


def test_threads_end_with_the_iterator_and_make_no_more_than_was_asked() -> None:
    data = Lazy(in_memory())
    batches = loader(data, threads=3).batches()
    assert not alive()
    for taken in (1, 2, 3):
        next(batches)
        time.sleep(0.05)
        assert len(data.asked) == 1 + 8 * (taken + 2)
    assert alive()
    batches.close()
    assert not alive()
    abandoned = loader(data).batches()
    next(abandoned)
    del abandoned
    gc.collect()
    assert not alive()
    list(loader(data).batches(0, 3))
    assert not alive()


def test_batches_are_made_while_others_are_used() -> None:
    data = Lazy(in_memory())
    batches = loader(data, batch_size=8, threads=4).batches(0, 6)
    data.asked.clear()  # one image is looked at first of all
    next(batches)
    # Two more are made without being asked for, and no third.
    until = time.monotonic() + 60
    while len(data.asked) < 24 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(data.asked) == 24
    batches.close()


def test_what_does_not_fit_is_refused_before_training() -> None:
    data = in_memory()
    with refused("batch_size: 51 is more than the 50 images"):
        loader(data, batch_size=51).batches()
    with refused("batch_size: 8 does not divide into 3 equal parts"):
        loader(data, shard=(0, 3))
    with refused("shard: there is no part 2 of 2"):
        loader(data, shard=(2, 2))
    with refused("has 3 channels, and preprocessing.mean 1"):
        loader(data, preprocessing=Preprocessing(mean=(0.5,), std=(0.5,)))
    with refused("images vary in size; end it in a crop"):
        loader(Lazy(data), ["flip"]).batches()
    with refused(r"the mean image is \[32, 32, 3\], and images come out as \[16, 16, 3\]"):
        loader(data, SLOW, mean_image=pixel_mean(data)).batches()
    with refused("varies|vary in size"):
        pixel_mean(Lazy(data))
    for pixels, labels, match in (
        (images(3).astype(np.float64), [0, 0, 0], "pixels are float64"),
        (images(3)[..., :2], [0, 0, 0], "images of 2 channels"),
        (images(0), [], "there are no images"),
        (images(3), [0, 1, 2], "image 2 has the label 2"),
        (images(3), [0, 1], "3 images need int64"),
    ):
        with refused(f"here: {match}|here: .*{match}"):
            InMemory(pixels, np.array(labels, np.int64), ("a", "b"), "here")


def test_images_of_several_sizes_come_out_in_one() -> None:
    class Growing(Lazy):
        def image(self, index: int) -> np.ndarray:
            return np.zeros((32, 32 + index, 3), np.uint8)

    for steps in (
        [{"name": "center_crop", "size": 20}, "flip"],
        [{"name": "pad_crop", "size": 20}, {"name": "resize", "size": 8}],
        [{"name": "scale_crop", "size": 9, "shorter_side": [9, 12]}, "shift"],
    ):
        assert len(list(loader(Growing(in_memory()), steps).batches(0, 2))) == 2
    list(loader(Growing(in_memory())).held_out_batches())


@pytest.mark.parametrize(
    ("odd", "match"),
    [
        (np.zeros((32, 32), np.uint8), r"is uint8 \[32, 32\]; uint8 or float32 \[H, W, C\]"),
        (np.zeros((32, 32, 3), np.int64), r"is int64 \[32, 32, 3\]; uint8"),
        (np.zeros((32, 32, 1), np.uint8), r"comes out as \[32, 32, 1\], and the first image as"),
    ],
)
def test_an_image_that_is_none_is_named(odd: np.ndarray, match: str) -> None:
    class Odd(Lazy):
        def image(self, index: int) -> np.ndarray:
            return odd if index else super().image(index)

    with refused(rf"there: image \d+: {match}"):
        next(loader(Odd(in_memory())).batches())


def test_no_framework_is_imported() -> None:
    code = "import resnet_parity.datasets, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert not loaded & {"torch", "tensorflow", "jax", "keras", "sklearn", "datasets"}


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_statistics_are_numpys(dtype: str) -> None:
    data = in_memory(20)
    if dtype == "float32":
        data = InMemory((data.pixels / 255).astype(np.float32), data.labels, data.names)
    pixels = data.pixels.astype(np.float64) / (255 if dtype == "uint8" else 1)
    for kind in (data, Lazy(data)):
        mean, std = mean_std(kind)
        np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-12)
        np.testing.assert_allclose(std, pixels.std((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(pixel_mean(data), pixels.mean(0), rtol=1e-12)


def test_folders_make_batches(tmp_path: Path) -> None:
    write_folder(tmp_path)
    steps = [{"name": "scale_crop", "size": 16, "shorter_side": [18, 24]}, "flip", "color_pca"]
    data = opened(format="folder", path=tmp_path)
    taken = list(loader(data, steps, 4, threads=3).batches(0, 3))
    assert all(images.shape == (4, 16, 16, 3) for images, _ in taken)
    assert sorted(np.concatenate([y for _, y in taken])) == sorted(data.labels)
    held_out = opened("held_out", format="folder", path=tmp_path)
    how = preprocessing(16, crop=0.875)
    pictures = [Image.open(held_out.where(i)) for i in range(len(held_out))]
    wanted = how(pictures)
    for picture in pictures:
        picture.close()
    batches = loader(held_out, [], 4, preprocessing=how).held_out_batches()
    np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), wanted)
