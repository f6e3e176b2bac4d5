"""Files that runtimes run: what a graph takes and gives, and what each format can say of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import Literal

import numpy as np

from shared_spec.errors import ResNetError, SpecError, WeightsError, did_you_mean
from shared_spec.plan.layers import AttentionPool
from shared_spec.plan.network import Plan
from shared_spec.plan.open_sizes import told_apart
from shared_spec.plan.summary import layer_rows
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import METADATA_KEY, Checkpoint
from shared_spec.weights.preprocessing import Preprocessing

IMAGES = "images"
"""The input: normalised images."""
PIXELS = "pixels"
"""The input of a graph that normalises by itself."""
TOLD = f"{METADATA_KEY}.json"
"""The file in an export that tells what it is, where a format has a place for files."""


@dataclass(frozen=True)
class Form:
    """What an exported graph takes and gives.

    Attributes:
        opset: version of ONNX's operators, at least 17; None for 17, or with bfloat16 22 and with
            int8 19, which these need.
        batch: number of images; None for any.
        size: height and width of images; None for any.
        preprocessing: whether the graph takes pixels, [N, H, W, C] of 8 bits in the order RGB, of
            images that are resized and cropped already, and normalises them itself.
        head: `softmax` for probabilities in the place of logits.
    """

    opset: int | None = None
    batch: int | None = None
    size: tuple[int, int] | None = None
    preprocessing: bool = False
    head: Literal["logits", "softmax"] = "logits"

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise SpecError(f"batch: {self.batch} is not a number of images; give at least 1")
        if self.head not in ("logits", "softmax"):
            raise SpecError(f"head: {self.head!r} is not one of logits, softmax")

    @property
    def entry(self) -> str:
        """The name of the input."""
        return PIXELS if self.preprocessing else IMAGES

    def normalisation(self, prepare: Preprocessing | None) -> Preprocessing | None:
        """What the graph does with its input.

        Raises:
            SpecError: if it should do what nobody knows.
        """
        if self.preprocessing and prepare is None:
            raise SpecError("preprocessing: the weights have none that a graph could do")
        return prepare if self.preprocessing else None

    def sized(self, spec: ResNetSpec) -> Form:
        """The same, with the size of images where the net takes no other.

        Raises:
            SpecError: if this has another one.
        """
        side = (spec.image_size, spec.image_size)
        if not spec.one_size:
            return self
        if self.size not in (None, side):
            raise SpecError(f"size: {self.size}; the net takes images of {side} pixels alone")
        return replace(self, size=side)

    def check(self, p: Plan) -> None:
        """Refuse what the net has not.

        Raises:
            SpecError: if that is such a head, or a map of images of such a size.
        """
        if self.size is not None:
            layer_rows(p, self.size)
        if self.head == "softmax" and p.classifier is None:
            raise SpecError("head: the net has no logits for a softmax")

    def told(self, known: Checkpoint, dtype: str) -> str:
        """What a file tells of itself, as JSON: spec, preprocessing, labels, and this."""
        return json.dumps({**known.metadata(), "graph": {"dtype": dtype, **asdict(self)}})


ANY_SIZE = Form()
"""Normalised images of any number and size."""


def require_logits(spec: ResNetSpec | None) -> None:
    """Refuse nets that do not classify.

    Raises:
        SpecError: if it gives no logits, of which alone one can tell how good they still are.
    """
    if spec is not None and (spec.gives_maps or not spec.num_classes):
        raise SpecError("dtype: int8 is for nets that give logits; this one gives features")


@contextmanager
def converting(title: str, form: Form) -> Iterator[None]:
    """Tell what a framework's own exporter raises in one sentence.

    Raises:
        SpecError: for any error of its own.
    """
    try:
        yield
    except (ResNetError, OSError, MemoryError):
        raise
    except Exception as error:  # of any kind, as each library likes
        said = " ".join(str(error).split())
        more = "" if form.batch and form.size else " a fixed batch and size may do, and"
        raise SpecError(
            f"{title}: what writes it failed on this net ({type(error).__name__}: {said[:200]});"
            f"{more} ONNX has every net (.onnx)"
        ) from None


def outer_dtype(dtype: str) -> str:
    """Of what goes in and out of a graph that computes in `dtype`."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def in_batches(
    run: Callable[[np.ndarray], Sequence[np.ndarray]], array: np.ndarray, size: int | None
) -> list[np.ndarray]:
    """The outputs for a batch of a graph that takes `size` images, or any number. One that takes
    more than are there gets the first ones again.
    """
    size = size or len(array)
    filled = array[np.arange(-(-len(array) // size) * size) % len(array)]
    chunks = [run(filled[i : i + size]) for i in range(0, len(filled), size)]
    return [np.concatenate(parts)[: len(array)] for parts in zip(*chunks, strict=True)]


@dataclass(frozen=True)
class ExportFormat:
    """A kind of file that a runtime runs."""

    name: str
    title: str
    suffix: str
    """Empty for a folder."""
    engines: tuple[str, ...]
    """Those that run it; of formats that a framework writes, the first writes it."""
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    any_batch: bool = True
    any_size: bool = True
    keeps_weights: bool = True
    """Whether a file has a net's arrays as they are; some converters fold norms by themselves."""
    from_plan: bool = False
    """Whether `resnet_onnx` writes it, and no framework."""
    symbols: bool = False
    """Whether sizes that are open are compared as they are written."""

    def replaceable(self, files: Set[str]) -> bool:
        """Whether a folder with files of these names may be replaced."""
        return not files or (not self.suffix and "saved_model.pb" in files)

    def check_place(self, path: Path) -> None:
        """Refuse a place where a file that is none of ours would be replaced.

        Raises:
            WeightsError: naming it.
        """
        beside = path.with_suffix(".bin")
        if self.name == "openvino" and beside.exists() and not path.exists():
            raise WeightsError(
                f"{path}: {self.title} would put its weights into {beside.name}, which is there "
                f"already; choose another name"
            )

    def check(self, form: Form, dtype: str) -> None:
        """Say what the format has no way to say.

        Raises:
            SpecError: with what would be accepted.
        """
        if dtype not in self.dtypes:
            raise SpecError(
                f"dtype: {self.title} has no {dtype} here; choose among {', '.join(self.dtypes)}"
            )
        if form.batch is None and not self.any_batch:
            raise SpecError(f"batch: {self.title} has a fixed number of images; give 1, or so")
        if form.size is None and not self.any_size:
            raise SpecError(f"size: {self.title} has a fixed size of images; give 224, or so")
        if form.opset is not None and self.name != "onnx":
            raise SpecError(f"opset: {self.title} has no versions of operators; leave it out")

    def check_net(self, form: Form, p: Plan) -> None:
        """Say what the net has not, or what the format cannot say of it.

        Raises:
            SpecError: with what would be accepted.
        """
        form.check(p)
        if form.size is not None or not self.symbols:
            return
        if any(isinstance(layer, AttentionPool) for layer in p.layers()):
            raise SpecError(
                f"size: {self.title} has no attention pool for maps of any size; give one, such "
                f"as 224"
            )
        if (place := told_apart(p)) is not None:
            raise SpecError(
                f"size: {self.title} cannot tell that the maps which meet in {place} are equally "
                f"large at every size; give one, such as 224"
            )


EXPORT_FORMATS: dict[str, ExportFormat] = {
    found.name: found
    for found in (
        ExportFormat(
            "onnx",
            "ONNX",
            ".onnx",
            ("onnxruntime", "openvino", "onnx:reference"),
            ("float64", "float32", "float16", "bfloat16", "int8"),
            from_plan=True,
        ),
        ExportFormat(
            "openvino",
            "OpenVINO IR",
            ".xml",
            ("openvino",),
            ("float32",),
            keeps_weights=False,
            from_plan=True,
        ),
        ExportFormat(
            "pt2", "torch.export", ".pt2", ("torch",), ("float64", "float32", "float16", "bfloat16")
        ),
        ExportFormat(
            "stablehlo",
            "StableHLO",
            ".stablehlo",
            ("flax",),
            ("float64", "float32", "float16", "bfloat16"),
            symbols=True,
        ),
        ExportFormat(
            "savedmodel",
            "SavedModel",
            "",
            ("keras:tensorflow",),
            ("float64", "float32", "float16", "bfloat16"),
        ),
        ExportFormat(
            "litert",
            "LiteRT",
            ".tflite",
            ("litert",),
            ("float32",),
            any_batch=False,
            any_size=False,
            keeps_weights=False,
        ),
    )
}
"""The formats by name. docs/export.md has the table for people."""


def export_format(path: PurePath, name: str | None = None) -> ExportFormat:
    """The format called `name`, or else that of a path's suffix.

    Raises:
        WeightsError: if there is none, or the suffix is another's.
    """
    suffixes = {found.suffix: found for found in EXPORT_FORMATS.values()}
    if name is None:
        if path.suffix not in suffixes:
            known = ", ".join(f"{s or 'none'} for {f.title}" for s, f in suffixes.items())
            raise WeightsError(f"{path}: unknown suffix {path.suffix!r}; known: {known}")
        return suffixes[path.suffix]
    found = EXPORT_FORMATS.get(name)
    if found is None:
        near = did_you_mean(name, EXPORT_FORMATS) or f"; known: {', '.join(EXPORT_FORMATS)}"
        raise WeightsError(f"format: there is no format {name!r}{near}")
    if found.suffix and path.suffix != found.suffix:
        raise WeightsError(f"{path}: a file of {found.title} ends in {found.suffix}")
    if not found.suffix and path.suffix in suffixes and path.suffix:
        raise WeightsError(f"{path}: ends as a file of {suffixes[path.suffix].title} does")
    return found
