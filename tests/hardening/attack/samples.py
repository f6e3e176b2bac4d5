"""A small valid file of every format, for the tests to damage."""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import shutil
import warnings
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from resnet_parity.convert.certificate import (
    Certificate,
    Check,
    Inputs,
    file_digest,
    write_certificate,
)
from shared_spec import (
    Checkpoint,
    Preprocessing,
    ResNetSpec,
    compile_plan,
    random_weights,
    resolve,
    save_spec,
)
from shared_spec.formats.containers.hdf5 import KerasLayer, save_keras3, save_legacy
from shared_spec.formats.containers.safetensors import save_safetensors
from shared_spec.formats.detect import open_source
from shared_spec.formats.dialects.bit import BIT
from shared_spec.formats.dialects.canonical import KERAS_MODEL
from shared_spec.formats.dialects.dialect import Dialect, foreign_arrays
from shared_spec.formats.dialects.keras_applications import APPLICATIONS_H5
from shared_spec.formats.keras_config import KERAS_CLASS
from shared_spec.formats.write import write_checkpoint
from shared_spec.weights.lazy_array import LazyArray

KEPT = Path(__file__).parents[2] / "kept"
TINY = resolve("resnet18", {"depths": [1, 1], "widths": [4, 8], "stem_width": 4, "num_classes": 3})
SPEC_FILE = TINY.override(
    drop_rate=0.25, layer_scale=0.1, attention="se", stem="deep", stem_width=8
)
_APPLICATIONS = resolve(
    "keras_resnet50",
    {"depths": [1] * 4, "widths": [4] * 4, "stem_width": 4, "num_classes": 3},
)
_BIT = resolve(
    "resnetv2_50x1_bit",
    {"depths": [1] * 4, "widths": [32] * 4, "stem_width": 32, "num_classes": 3},
)
_PREPARE = Preprocessing(image_size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
_LABELS = ("cat", "dog", "emu")


def checkpoint(spec: ResNetSpec) -> Checkpoint:
    return Checkpoint(random_weights(compile_plan(spec), 5), spec, _PREPARE, _LABELS)


def _with_suffix(path: Path) -> None:
    write_checkpoint(path, checkpoint(TINY))


def _torch(path: Path, zipped: bool) -> None:
    import torch

    tensors = {name: torch.from_numpy(a) for name, a in checkpoint(TINY).state.items()}
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)


def _torch_objects(path: Path) -> None:
    """Weights with what scripts leave beside them."""
    import torch

    tensors = {name: torch.from_numpy(a) for name, a in checkpoint(TINY).state.items()}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], 0.1)
    beside = {
        "args": argparse.Namespace(lr=0.1, out=Path("runs"), seen={"a"}),
        "epoch": np.int64(3),
        "milestones": Counter([3, 3]),
        "history": defaultdict(list, loss=[0.5]),
        "optimizer": optimizer,
        "mean": np.array(["none"], dtype=object),
        "keys": {-1: torch.device("cpu"), 0.5: torch.Size([2]), (1, "a"): torch.float32},
    }
    torch.save({**beside, **tensors}, path)


def _torch_model(path: Path, how: str) -> None:
    """A whole model."""
    import torch

    import resnet_torch

    model = resnet_torch.create_model(TINY, seed=5).eval()
    if how == "script":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated, and files of it are there
            torch.jit.trace(model, torch.zeros(1, 3, 32, 32)).save(str(path))
    else:
        torch.save(model, path, _use_new_zipfile_serialization=how == "zip")


def _keras_layers(dialect: Dialect, spec: ResNetSpec) -> list[KerasLayer]:
    arrays: dict[str, dict[str, LazyArray]] = {}
    for name, array in foreign_arrays(dialect, checkpoint(spec).state, spec).items():
        layer, _, leaf = name.partition("/")
        arrays.setdefault(layer, {})[leaf] = array
    return [KerasLayer(name, "conv2d", leaves) for name, leaves in arrays.items()]


def _keras_model(path: Path) -> None:
    weights = path.with_name("inner.h5")
    save_keras3(weights, _keras_layers(KERAS_MODEL, TINY))
    config = {
        "module": "resnet_keras.model",
        "class_name": "ResNet",
        "config": {"name": "res_net", "spec": TINY.to_dict(), "dtype": "float32"},
        "registered_name": KERAS_CLASS,
        "build_config": {"input_shape": [None, None, None, 3]},
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.10.0"}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights.read_bytes())
    weights.unlink()


def _kept(name: str, path: Path) -> None:
    """A small net that Keras 3.15 or an exporter saved."""
    shutil.copy(KEPT / name, path)


def _bit(path: Path) -> None:
    arrays = foreign_arrays(BIT, checkpoint(_BIT).state, _BIT)
    out = io.BytesIO()
    np.savez(out, **{name: array.array() for name, array in arrays.items()})
    path.write_bytes(out.getvalue())


def _huggingface(path: Path) -> None:
    write_checkpoint(path, checkpoint(TINY), "huggingface")


def _hub_folder(path: Path) -> None:
    write_checkpoint(path, checkpoint(TINY), "hub")


def _shards(path: Path) -> None:
    """As transformers saves what is too large for one file."""
    _huggingface(path)
    whole = path / "model.safetensors"
    arrays = {name: entry.array() for name, entry in open_source(whole).tensors.entries.items()}
    parts: list[dict[str, np.ndarray]] = [{}, {}, {}]
    for number, (name, array) in enumerate(arrays.items()):
        parts[number % 3][name] = array
    places = {}
    for number, part in enumerate(parts):
        file = f"model-{number + 1:05}-of-00003.safetensors"
        save_safetensors(path / file, part, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    whole.unlink()
    text = json.dumps({"weight_map": places}, indent=2, sort_keys=True)
    (path / "model.safetensors.index.json").write_text(text)


def _certificate(path: Path) -> None:
    target = path.with_name(path.name.removesuffix(".parity.json"))
    write_checkpoint(target, checkpoint(TINY))
    made = Certificate(
        {"name": "a.pth", "format": "pytorch", "sha256": "0" * 64},
        {"name": target.name, "sha256": file_digest(target)},
        TINY,
        permutation=True,
        exact=True,
        inputs=Inputs(
            np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(4, 8, 8, 3), *[(0.5,) * 3] * 2
        ),
        reference=[np.linspace(-1, 1, 12).reshape(4, 3)],
        reference_engine="torch",
        judged_by="keras 3, the file's own graph",
        assumed="names and shapes; the file has no graph",
        notes=("left out, beside the net: queue",),
        rounding=1e-7,
        checks=[Check("torch", "float64", "cpu", 1e-16, 1e-12, True, {"torch": "2"})],
        versions={"python": "3"},
    )
    write_certificate(made, target)


@dataclass(frozen=True)
class Format:
    """A format, and what to do with a file of it."""

    path: str
    """Of the file or directory that is read."""
    write: Callable[[Path], None]
    reader: str = "weights"
    """`weights`, `spec` or `certificate`."""
    spec: ResNetSpec | None = None
    """The net, where the file does not tell it."""
    damaged: tuple[str, ...] = ()
    """Files of a directory that are changed; empty: the one at `path`."""


FORMATS = {
    "safetensors": Format("a.safetensors", _with_suffix),
    ".h5": Format(
        "a.h5",
        lambda path: save_legacy(path, _keras_layers(APPLICATIONS_H5, _APPLICATIONS)),
        spec=_APPLICATIONS,
    ),
    ".weights.h5": Format(
        "a.weights.h5", lambda path: save_keras3(path, _keras_layers(KERAS_MODEL, TINY)), spec=TINY
    ),
    ".keras": Format("a.keras", _keras_model),
    ".keras of layers": Format("a.keras", partial(_kept, "functional.keras")),
    ".keras graph": Format("a.keras", partial(_kept, "graph.keras")),
    ".h5 graph": Format("a.h5", partial(_kept, "graph.h5")),
    ".onnx": Format("a.onnx", partial(_kept, "dynamo_plain.onnx")),
    ".onnx of tf2onnx": Format("a.onnx", partial(_kept, "keras_tensorflow_same.onnx")),
    ".pth": Format("a.pth", lambda path: _torch(path, zipped=True), spec=TINY),
    ".pth before 1.6": Format("a.pth", lambda path: _torch(path, zipped=False), spec=TINY),
    ".pth with objects": Format("a.pth", _torch_objects, spec=TINY),
    ".pth of a model": Format("a.pth", partial(_torch_model, how="zip"), spec=TINY),
    ".pth of a model before 1.6": Format("a.pth", partial(_torch_model, how="old"), spec=TINY),
    ".pth of TorchScript": Format("a.pth", partial(_torch_model, how="script"), spec=TINY),
    ".msgpack": Format("a.msgpack", _with_suffix, spec=TINY),
    ".npz": Format("a.npz", _bit),
    "Hugging Face": Format("a", _huggingface, damaged=("config.json", "preprocessor_config.json")),
    "hub folder": Format("a", _hub_folder, damaged=("config.json",)),
    "Hugging Face shards": Format("a", _shards, damaged=("model.safetensors.index.json",)),
    "spec .json": Format("a.json", lambda path: save_spec(path, SPEC_FILE), "spec"),
    "spec .yaml": Format("a.yaml", lambda path: save_spec(path, SPEC_FILE), "spec"),
    "spec .toml": Format("a.toml", lambda path: save_spec(path, SPEC_FILE), "spec"),
    "certificate": Format(
        "a.safetensors.parity.json",
        _certificate,
        "certificate",
        damaged=("a.safetensors.parity.json",),
    ),
}
Files = dict[str, bytes]
"""Path below a folder to content."""


@dataclass(frozen=True)
class Sample:
    """A valid file, or the files of a directory."""

    format: Format
    files: Files
    spans: Mapping[str, list[tuple[int, int]]]
    """File to the parts of it that are not the data of arrays."""

    def targets(self) -> list[str]:
        """Files that are to be damaged."""
        return [name for name in self.files if name.rpartition("/")[2] in self._names()]

    def _names(self) -> tuple[str, ...]:
        return self.format.damaged or (self.format.path,)


def make_samples(folder: Path) -> None:
    """Write one file of each format, each in a folder of its own, named by its number."""
    for number, (name, form) in enumerate(FORMATS.items()):
        if name.startswith(".pth") and importlib.util.find_spec("torch") is None:
            continue  # it alone writes these
        place = folder / str(number)
        place.mkdir()
        form.write(place / form.path)


def load_sample(folder: Path, name: str) -> Sample:
    """One of the files that `make_samples` wrote."""
    form = FORMATS[name]
    place = folder / str(list(FORMATS).index(name))
    files = {
        str(file.relative_to(place)): file.read_bytes()
        for file in sorted(place.rglob("*"))
        if file.is_file()
    }
    data: list[bytes] = []
    if form.reader == "weights":
        source = open_source(place / form.path)
        data = [entry.array().tobytes() for entry in source.tensors.entries.values()]
    return Sample(form, files, {file: _spans(content, data) for file, content in files.items()})


def _spans(content: bytes, data: list[bytes]) -> list[tuple[int, int]]:
    """The parts of a file outside all arrays."""
    inside = bytearray(len(content))
    for part in data:
        begin = content.find(part) if len(part) > 8 else -1
        while begin >= 0:
            inside[begin : begin + len(part)] = b"\1" * len(part)
            begin = content.find(part, begin + len(part))
    found, start = [], None
    for position, byte in enumerate([*inside, 1]):
        if not byte and start is None:
            start = position
        elif byte and start is not None:
            found.append((start, position))
            start = None
    return found


def write_files(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


__all__ = [
    "FORMATS",
    "TINY",
    "Files",
    "Format",
    "Sample",
    "checkpoint",
    "load_sample",
    "make_samples",
    "write_files",
]
