"""The certificate of a conversion: what was compared, and everything needed to compare it again.

It carries its inputs and the float64 logits of the source, so that another machine, with another
framework or device, can compare the converted file with them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import platform
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import metadata, resources
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import Field

from resnet_parity.numerics.difference import FLOAT64_TOLERANCE, ROUNDING_FACTOR
from resnet_parity.numerics.record import JsonRecord, Measured
from shared_spec.atomic_write import durable
from shared_spec.errors import ResNetError, WeightsError
from shared_spec.formats.certified import certificate_path
from shared_spec.formats.containers.source import read_json, reason, require_file
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.initialize import generator
from shared_spec.weights.preprocessing import Preprocessing
from shared_spec.weights.state import DTYPES

RECONSTRUCTED = "reconstructed: "
"""How `judged_by` begins where no other library ran the source."""
FULL = ("float64", "float32")
"""The dtypes in which frameworks run a file of weights."""
_SIDE = 128
"""Largest height and width of the inputs."""
_SEED = 2026
_OUTPUTS = 9
_ARRAY_LIMIT = 2**25
"""Bytes of an array; features of 64 channels on images of 64 take 8 million."""
_NOTES = 100
_PACKAGES = ("resnet-parity", "numpy", "torch", "keras", "tensorflow", "jax", "flax")

OnProgress = Callable[[str], None]

Share = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(max_length=1_000)]


@dataclass(frozen=True)
class Check:
    """One engine's logits in one dtype, compared with the reference."""

    engine: str
    dtype: str
    device: str
    error: float | None
    """max|a - b| / max|reference|; None if a logit is not a finite number."""
    bound: float
    holds: bool
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HeldOut:
    """What one engine made of labelled images, beside the float32 net on the same ones.

    Intervals are of 95 %: see `resnet_parity.numerics.intervals`.
    """

    engine: Text
    images: Annotated[int, Field(ge=1)]
    float_engine: Text
    """Which computed the float32 net."""
    float_top1: Share
    """Share of images whose class that finds the likeliest."""
    top1: Share
    loss: Measured
    """`float_top1` less `top1`."""
    loss_interval: tuple[Measured, Measured]
    agreement: Share
    """Share of images for which both find the same class the likeliest."""
    agreement_interval: tuple[Share, Share]


@dataclass(frozen=True)
class Quantized(JsonRecord):
    """From which images the ranges of tensors are, and what became of the accuracy on others."""

    calibration: Text
    images: Annotated[int, Field(ge=1)]
    evaluation: Text | None = None
    """Which data were held out; None if none were given."""
    held_out: Annotated[tuple[HeldOut, ...], Field(max_length=10)] = ()


@dataclass(frozen=True)
class Inputs:
    """Images as bytes, and what makes inputs of them: (byte / 255 - mean) / std per channel."""

    pixels: np.ndarray
    """[N, H, W, C], uint8: the first half random, the rest photographs where there are 1 or 3
    channels.
    """
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def array(self) -> np.ndarray:
        """[N, H, W, C] in float64."""
        scaled: np.ndarray = self.pixels.astype(np.float64) / 255
        scaled -= np.asarray(self.mean)
        scaled /= np.asarray(self.std)
        return scaled

    @classmethod
    def of(
        cls,
        spec: ResNetSpec,
        prepare: Preprocessing | None,
        size: tuple[int, int] | None = None,
    ) -> Inputs:
        """Two random images and, if the net takes pictures, two photographs; of a `size`, if the
        source takes no other.
        """
        # Maps are large where logits are not.
        side = min(spec.image_size, _SIDE // 2 if spec.gives_maps else _SIDE)
        side = spec.image_size if spec.one_size else side
        size, channels = size or (side, side), spec.in_channels
        shape = (2, *size, channels)
        noise = generator(_SEED, "certificate").integers(0, 256, shape, np.uint8)
        pictures = _photographs(size, channels)
        if prepare is not None and prepare.channel_order == "bgr":
            pictures = [picture[..., ::-1] for picture in pictures]
        mean: tuple[float, ...] = (0.5,) * channels
        std: tuple[float, ...] = (0.25,) * channels
        if prepare is not None and len(prepare.mean) == channels:
            mean, std = prepare.mean, prepare.std
        return cls(np.stack([*noise, *pictures]), mean, std)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {
            "shape": list(self.pixels.shape),
            "mean": list(self.mean),
            "std": list(self.std),
            "pixels": _packed(self.pixels),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Inputs:
        """The inverse of `to_dict`."""
        pixels = _unpacked(data["pixels"], data["shape"], np.dtype(np.uint8))
        mean, std = (tuple(float(x) for x in data[key]) for key in ("mean", "std"))
        if len(mean) != pixels.shape[-1] or len(std) != len(mean) or not all(std):
            raise ValueError("mean and std need a number for each channel")
        return cls(pixels, mean, std)


@dataclass(frozen=True)
class Certificate:
    """What `convert` proved of a file; see `to_dict` for the form it is kept in."""

    source: dict[str, Any]
    target: dict[str, Any]
    spec: ResNetSpec
    """Of the target; its function is the source's."""
    permutation: bool
    """Whether the target holds the source's numbers, bit for bit."""
    exact: bool
    """Whether the target's function is the source's to the last digits of float64: not if its
    weights are others for the same function, rounded to less than float64.
    """
    inputs: Inputs
    reference: list[np.ndarray]
    """Float64 outputs of the source: logits, or the maps of a features-only net."""
    reference_engine: str
    judged_by: str
    """Who computed the reference with the source: the library that loaded it by itself, or, after
    `reconstructed: `, this project with what it read of the file, and why.
    """
    assumed: str
    """What says which net it is where the file itself does not; empty if it does."""
    notes: tuple[str, ...]
    """What of the source was left out, assumed, or expressed in another way, a sentence each."""
    rounding: float
    """How far rounding to float32, or the target's own dtype, is measured to move the outputs."""
    checks: list[Check]
    versions: dict[str, str]
    quantized: Quantized | None = None
    """How a file of int8 came about, and what became of the accuracy."""

    @property
    def holds(self) -> bool:
        """Whether something was checked, and all of it agrees."""
        return bool(self.checks) and all(check.holds for check in self.checks)

    def bound(self, dtype: str) -> float:
        """How far other outputs may be from the reference."""
        rounded = dtype != "float64" or not self.exact
        return ROUNDING_FACTOR * self.rounding if rounded else FLOAT64_TOLERANCE

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data: arrays are compressed with zlib, then base64."""
        return {
            "resnet_parity": 2,
            "holds": self.holds,
            "source": self.source,
            "target": self.target,
            "spec": self.spec.to_dict(),
            "permutation": self.permutation,
            "exact": self.exact,
            "inputs": self.inputs.to_dict(),
            "reference": {
                "engine": self.reference_engine,
                "judged_by": self.judged_by,
                "assumed": self.assumed,
                "notes": list(self.notes),
                "outputs": [
                    {"shape": list(a.shape), "float64": _packed(a)} for a in self.reference
                ],
            },
            "rounding": self.rounding,
            "checks": [asdict(check) for check in self.checks],
            "versions": self.versions,
            **({} if self.quantized is None else {"quantized": self.quantized.to_dict()}),
        }


def read_certificate(path: Path) -> Certificate:
    """The certificate in a file.

    Raises:
        WeightsError: if the file is missing, or holds something else.
    """
    require_file(path, "a certificate")
    data = read_json(path)
    try:
        if data["resnet_parity"] not in (1, 2):
            raise ValueError("it is of another version")
        items = data["reference"]["outputs"]
        if not 1 <= len(items) <= _OUTPUTS:
            raise ValueError(f"it has {len(items):,} outputs")
        outputs = [_unpacked(x["float64"], x["shape"], np.dtype("<f8")) for x in items]
        rounding = float(data["rounding"])
        if not 0 <= rounding < math.inf:
            raise ValueError("its rounding is not a valid error")
        return Certificate(
            _file_record(data["source"]),
            _file_record(data["target"]),
            ResNetSpec.parse(data["spec"], str(path)),
            bool(data["permutation"]),
            bool(data["exact"]),
            Inputs.from_dict(data["inputs"]),
            outputs,
            str(data["reference"]["engine"]),
            *_judge_of(data),
            rounding,
            [_check_of(item) for item in data["checks"]],
            {str(k): str(v) for k, v in data["versions"].items()},
            Quantized.from_dict(data["quantized"]) if "quantized" in data else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, zlib.error) as error:
        if isinstance(error, ResNetError):
            raise
        raise WeightsError(
            f"{path}: not a certificate of resnet-parity convert "
            f"({type(error).__name__}: {reason(error)})"
        ) from None


def _file_record(data: Any) -> dict[str, str]:
    """Name, SHA-256 and format of a file."""
    if not isinstance(data, dict) or not re.fullmatch("[0-9a-f]{64}", str(data.get("sha256"))):
        raise ValueError("it does not give the SHA-256 of a file")
    return {str(key): str(value)[:500] for key, value in data.items()}


def _judge_of(data: Any) -> tuple[str, str, tuple[str, ...]]:
    """Who judged, what was assumed, and notes; certificates of version 1 do not say, as nobody else
    ever judged.
    """
    if data["resnet_parity"] == 1:
        first = "a certificate of version 1"
        return f"{RECONSTRUCTED}{first}, judged by no other library", f"{first} does not say", ()
    judged_by, assumed, notes = (
        data["reference"][key] for key in ("judged_by", "assumed", "notes")
    )
    if not isinstance(notes, list) or len(notes) > _NOTES:
        raise ValueError(f"its notes are not a list of at most {_NOTES} sentences")
    return _line(judged_by), _line(assumed), tuple(_line(note) for note in notes)


def _line(text: object) -> str:
    """A sentence of limited length."""
    return " ".join(str(text)[:2_000].split())


def _check_of(data: Any) -> Check:
    if not isinstance(data["engine"], str) or data["dtype"] not in (*DTYPES, "int8"):
        raise ValueError("a check in it names no engine or dtype")
    return Check(**data)


def files_of(path: Path) -> list[Path]:
    """Itself, with what OpenVINO has beside it, or an ONNX file of ours above 2 GB; or those
    in it.
    """
    if path.is_dir():
        return sorted(f for f in path.rglob("*") if f.is_file())
    beside: list[Path] = []
    if path.suffix == ".xml" and (weights := path.with_suffix(".bin")).is_file():
        beside = [weights]
    elif path.suffix == ".onnx":
        pattern = re.compile(rf"{re.escape(path.name)}\.[0-9a-f]{{12}}\.data")
        beside = sorted(f for f in path.parent.iterdir() if pattern.fullmatch(f.name))
    return [path, *beside]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a directory's files. OpenVINO's weights
    count as one in the directory of their file.
    """
    sha = hashlib.sha256()
    folder = path if path.is_dir() else path.parent
    for file in files_of(path):
        if file != path:
            sha.update(f"{file.relative_to(folder).as_posix()}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                sha.update(chunk)
    return sha.hexdigest()


def _photographs(size: tuple[int, int], channels: int) -> list[np.ndarray]:
    if channels not in (1, 3):
        return []
    found = []
    for name in ("china.jpg", "flower.jpg"):
        with resources.files("resnet_parity").joinpath(f"assets/{name}").open("rb") as file:
            picture = Image.open(file).convert("L" if channels == 1 else "RGB")
            small = picture.resize(size[::-1], Image.Resampling.BILINEAR)
        found.append(np.asarray(small, np.uint8).reshape(*size, channels))
    return found


def _packed(array: np.ndarray) -> str:
    data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return base64.b64encode(zlib.compress(data.tobytes(), 9)).decode()


def _unpacked(text: str, shape: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    if not 1 <= len(shape) <= 4 or not 0 < size <= _ARRAY_LIMIT:
        raise ValueError(f"an array of shape {list(shape)} does not belong in a certificate")
    unpack = zlib.decompressobj()
    data = unpack.decompress(base64.b64decode(text, validate=True), size)
    if len(data) != size or not unpack.eof:
        raise ValueError("an array does not have the size of its shape")
    return np.frombuffer(data, dtype).reshape(shape)


def installed_versions() -> dict[str, str]:
    """Of Python and the packages that compute."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def write_certificate(certificate: Certificate, target: str | os.PathLike[str]) -> Path:
    """Write it beside the file that it is about."""
    path = certificate_path(Path(target))
    with durable(path) as draft:
        draft.write_text(json.dumps(certificate.to_dict(), indent=1) + "\n", encoding="utf-8")
    return path


def remove_stale(target: Path) -> str | None:
    """Remove the certificate beside a file if it is of another one; where it was, or None. What is
    no certificate is left alone.
    """
    path = certificate_path(target)
    try:
        if read_certificate(path).target.get("sha256") == file_digest(target):
            return None
        path.unlink()
    except (ResNetError, OSError):
        return None
    return str(path)
