"""Checkpoints of Hugging Face transformers: ResNet and BiT, as a directory with `config.json` and
weights of PyTorch or Flax, or as a file of PyTorch's weights. Read and written without transformers
and without a framework.

The rules from configuration to spec are the tables of `docs/sources.md`. A net can be written if
reading the configuration gives its plan again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeGuard

from pydantic import BaseModel, Field

from shared_spec.errors import SpecError, WeightsError
from shared_spec.formats.containers.safetensors import save_safetensors
from shared_spec.formats.containers.source import Source, mapping, read_json, write_json
from shared_spec.formats.dialects.dialect import (
    Dialect,
    Extras,
    Place,
    Rules,
    foreign_arrays,
    in_torch,
    rename,
    with_counters,
)
from shared_spec.formats.dialects.linen import collection
from shared_spec.formats.dialects.spec_from_shapes import (
    BlockShapes,
    block_shapes,
    consecutive_blocks,
)
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.equivalence import parting
from shared_spec.plan.layers import Parameter
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.spec.validation import foreign_configuration
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.layouts import FLAX, TORCH
from shared_spec.weights.lazy_array import LazyArrays
from shared_spec.weights.preprocessing import Preprocessing

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PROCESSOR = "preprocessor_config.json"
HUGGINGFACE_FILES = {CONFIG, WEIGHTS, PROCESSOR}
"""All that a directory in the layout of transformers holds that was written here."""

ACTIVATIONS = {
    "relu": "relu",
    "relu6": "relu6",
    "leaky_relu": "leaky_relu",
    "silu": "silu",
    "swish": "silu",
    "mish": "mish",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "hardswish": "hardswish",
}
"""transformers' `hidden_act` to `activation`."""

RESNET_NAMES: Rules = [
    (r"^conv1\.", "resnet.embedder.embedder.convolution."),
    (r"^bn1\.", "resnet.embedder.embedder.normalization."),
    (r"^fc\.", "classifier.1."),
    (r"^layer(\d)\.", lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers."),
    (r"\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.convolution."),
    (r"\.bn(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.normalization."),
    (r"\.downsample\.0\.", ".shortcut.convolution."),
    (r"\.downsample\.1\.", ".shortcut.normalization."),
]
BIT_NAMES: Rules = [
    (r"^(stem\.conv|conv1)\.", "bit.embedder.convolution."),
    (r"^bn1\.", "bit.embedder.norm."),
    (r"^norm\.", "bit.norm."),
    (r"^(head\.)?fc\.", "classifier.1."),
    (r"^layer(\d)\.", lambda m: f"bit.encoder.stages.{int(m[1]) - 1}.layers."),
    (r"^stages\.(\d)\.blocks\.", r"bit.encoder.stages.\1.layers."),
    (r"\.bn(\d)\.", r".norm\1."),
    (r"\.downsample\.0\.", ".downsample.conv."),
    (r"\.downsample\.1\.", ".downsample.norm."),
]
"""From canonical names to those of transformers, applied in this order."""


class _Config(BaseModel):
    """What both configurations have, with transformers' defaults; the rest is left out."""

    depths: list[Annotated[int, Field(ge=1, le=5_000)]] = Field(default=[3, 4, 6, 3], max_length=8)
    hidden_sizes: list[Annotated[int, Field(ge=1, le=10**6)]] = Field(
        default=[256, 512, 1024, 2048], max_length=8
    )
    embedding_size: int = 64
    num_channels: int = 3
    hidden_act: str = "relu"
    id2label: dict[int, str] | None = None
    architectures: list[str] | None = None

    @property
    def num_labels(self) -> int:
        """It gives two labels where a configuration names none."""
        headless = self.architectures is not None and not any(
            name.endswith("ForImageClassification") for name in self.architectures
        )
        return 0 if headless else 2 if self.id2label is None else len(self.id2label)

    def common(self, bottleneck: bool) -> dict[str, Any]:
        """Fields of a spec that both have."""
        if len(self.depths) != len(self.hidden_sizes):
            raise SpecError(
                f"depths and hidden_sizes have {len(self.depths)} and {len(self.hidden_sizes)} "
                f"entries; expected as many"
            )
        return {
            "block": "bottleneck" if bottleneck else "basic",
            "depths": self.depths,
            "widths": [n // 4 if bottleneck else n for n in self.hidden_sizes],
            "stem_width": self.embedding_size,
            "in_channels": self.num_channels,
            "num_classes": self.num_labels,
        }

    def rows(self, middle: Callable[[int], int]) -> list[tuple[int, int, int]]:
        """`block_widths`, given the width inside a bottleneck of n channels."""
        return [
            (middle(n), middle(n), n)
            for n, depth in zip(self.hidden_sizes, self.depths, strict=True)
            for _ in range(depth)
        ]


class _ResNetConfig(_Config):
    layer_type: str = "bottleneck"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False

    def fields(self) -> dict[str, Any]:
        """Those of the spec."""
        if self.layer_type not in ("basic", "bottleneck"):
            raise SpecError(f"layer_type {self.layer_type!r} is neither basic nor bottleneck")
        if self.hidden_act != "relu":
            raise SpecError(
                f"hidden_act {self.hidden_act!r}: transformers keeps ReLU inside the branches of "
                f"such a net, which no spec can express; expected 'relu'"
            )
        bottleneck = self.layer_type == "bottleneck"
        out = self.common(bottleneck)
        first = 2 if self.downsample_in_first_stage else 1
        out["strides"] = [first] + [2] * (len(self.depths) - 1)
        if bottleneck and self.downsample_in_bottleneck:
            out["stride_on"] = "1x1"
        if bottleneck and any(n % 4 for n in self.hidden_sizes):
            out["block_widths"] = self.rows(lambda n: n // 4)
        return out


class _BitConfig(_Config):
    layer_type: str = "preactivation"
    global_padding: str | None = None
    embedding_dynamic_padding: bool = False
    num_groups: int = 32
    output_stride: int = 32
    width_factor: int = 1
    drop_path_rate: float = 0.0

    def fields(self) -> dict[str, Any]:
        """Those of the spec."""
        preactivation = self.layer_type == "preactivation"
        padding = (self.global_padding or "none").lower()
        given = (self.layer_type, padding, self.embedding_dynamic_padding)
        known = {("preactivation", "none", False), ("bottleneck", "same", True)}
        if given not in known or self.width_factor != 1:
            raise SpecError(
                f"layer_type {given[0]!r} with global_padding {self.global_padding!r}, "
                f"embedding_dynamic_padding {given[2]} and width_factor {self.width_factor} has no "
                f"spec; see docs/sources.md for those that have"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise SpecError(
                f"hidden_act {self.hidden_act!r} is not one of {', '.join(ACTIVATIONS)}"
            )
        if not preactivation and self.hidden_act not in ("relu", "relu6"):
            raise SpecError(
                f"hidden_act {self.hidden_act!r}: the stem's pool pads zeros after it, which no "
                f"spec says; expected 'relu' or 'relu6'"
            )
        out = self.common(True) | {
            "shortcut": "projection_stage",
            "norm": "group",
            "norm_groups": self.num_groups,
            "standardize": 1e-8,
            "activation": ACTIVATIONS[self.hidden_act],
            "drop_path_rate": self.drop_path_rate,
        }
        if preactivation:
            out |= {"pre_activation": True, "stem_pool": "max_zero"}
        else:
            out["padding"] = "same"
        if any(n % 32 for n in self.hidden_sizes):
            out["block_widths"] = self.rows(lambda n: _rounded(n / 4))
        reached = [4 * 2**i for i in range(len(self.depths))]
        if reached and self.output_stride < reached[-1]:
            if preactivation:
                # Its layers take the stride away and do not dilate.
                out["strides"] = [1] + [2 if n <= self.output_stride else 1 for n in reached[1:]]
            else:
                out["output_stride"] = self.output_stride
        return out


def _rounded(n: float) -> int:
    """`n` to the nearest multiple of 8, but not below nine tenths of it."""
    near = max(8, int(n + 4) // 8 * 8)
    return near + 8 if near < 0.9 * n else near


_CONFIGS: dict[str, tuple[type[_ResNetConfig | _BitConfig], Rules]] = {
    "resnet": (_ResNetConfig, RESNET_NAMES),
    "bit": (_BitConfig, BIT_NAMES),
}


def spec_of(config: Mapping[str, Any], where: str = CONFIG) -> ResNetSpec:
    """The spec of a `ResNetConfig` or `BitConfig`, given as the dict of its JSON.

    Raises:
        SpecError: if it is neither, or says something that no spec does.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _CONFIGS:
        raise SpecError(f"{where}: model_type {kind!r} is not one of {', '.join(_CONFIGS)}")
    with foreign_configuration(where):
        return ResNetSpec.parse(_CONFIGS[kind][0].model_validate(config).fields(), where)


def transformers_name(name: str, kind: str) -> str:
    """What transformers calls a canonical parameter; `kind` is `resnet` or `bit`."""
    return rename(name, _CONFIGS[kind][1])


def _folder(source: Source) -> Path:
    """Where `config.json` is, or would be."""
    return source.path if source.kind.startswith("huggingface") else source.path.parent


def _config_of(source: Source) -> Mapping[str, Any] | None:
    """The configuration of a directory, or the one that lies beside a file of weights."""
    if source.kind.startswith("huggingface"):
        return source.metadata
    beside = _folder(source) / CONFIG
    # Without a suffix, it is what somebody has in memory.
    found = read_json(beside) if source.path.suffix and beside.is_file() else {}
    return found if found.get("model_type") in list(_CONFIGS) else None


def _dialect(kind: str, bare: bool) -> Dialect:
    """Of ResNet or BiT; `bare` names lack the prefix that a model with a classifier gives them."""
    prefix = "" if bare else f"{kind}."
    stem = prefix + transformers_name("conv1.weight", kind).removeprefix(f"{kind}.")

    def recognises(source: Source) -> bool:
        if source.kind == "huggingface":
            prefixed = any(name.startswith(f"{kind}.") for name in source.tensors)
            return source.metadata.get("model_type") == kind and prefixed != bare
        return in_torch(source) and stem in source.tensors

    def foreign_name(q: Parameter, spec: ResNetSpec) -> Place:
        name = transformers_name(q.name, kind)
        # transformers' classifiers are dense, a pre-activation net's is a 1x1 convolution here.
        return Place(
            name.removeprefix(f"{kind}.") if bare else name, TORCH[q.role], q.module == "head.fc"
        )

    def told(source: Source) -> ResNetSpec:
        config = _config_of(source)
        if config is not None:
            return spec_of(config, str(_folder(source) / CONFIG))
        return _inferred(source, kind, stem)

    return Dialect(
        "huggingface",
        "transformers",
        recognises,
        foreign_name,
        told,
        _extras,
        lambda spec: spec_of(_config(spec)),
        describes=True,
    )


def _inferred(source: Source, kind: str, stem: str) -> ResNetSpec:
    """The net of a file without its configuration, if its names and shapes leave nothing open but
    `hidden_act`, which has to be ReLU in any case.

    Raises:
        WeightsError: if it may be one of several, or none.
    """
    shapes = {name: entry.shape for name, entry in source.tensors.entries.items()}
    prefix = stem.partition("embedder.")[0]

    def block(stage: int, number: int) -> BlockShapes | None:
        at = f"{prefix}encoder.stages.{stage}.layers.{number}."
        convs = [f"{at}layer.{i}.convolution.weight" for i in range(3)]
        return block_shapes(shapes, convs, [f"{at}shortcut.convolution.weight"])

    stages: list[list[BlockShapes]] = []
    while blocks := consecutive_blocks(partial(block, len(stages))):
        stages.append(blocks)
    if kind == "bit":
        raise _unsaid(source, "how it pads, nor its groups, activation and output stride")
    blocks = [block for stage in stages for block in stage]
    kernels = [shapes[stem], *(kernel for block in blocks for kernel in block.convs)]
    head = shapes.get("classifier.1.weight", (0,))
    if not blocks or not head or any(len(kernel) != 4 for kernel in kernels):
        raise _unsaid(source, "which blocks it has")
    if any(len(block.convs) != 2 for block in blocks):
        raise _unsaid(source, "which convolutions have the strides (downsample_in_bottleneck)")
    sizes, width = [stage[0].convs[-1][0] for stage in stages], shapes[stem][0]
    projects = blocks[0].projection is not None
    if projects and sizes[0] != width:
        raise _unsaid(source, "whether the first stage has a stride (downsample_in_first_stage)")
    config = {
        "model_type": kind,
        "layer_type": "basic",
        "depths": [len(stage) for stage in stages],
        "hidden_sizes": sizes,
        "embedding_size": width,
        "num_channels": shapes[stem][1],
        "downsample_in_first_stage": projects,
    }
    return spec_of(config, str(source.path)).override(num_classes=head[0])


def _unsaid(source: Source, what: str) -> WeightsError:
    return WeightsError(
        f"{source.path}: weights of transformers without their configuration, whose names and "
        f"shapes do not say {what}; put its {CONFIG} beside it or name the model (`spec`)"
    )


def _extras(source: Source, spec: ResNetSpec) -> Extras:
    config = _config_of(source)
    if config is None:
        return None, None
    given = mapping(config.get("id2label"))
    labels = real_labels([given.get(str(i)) for i in range(len(given))])
    return _preprocessing(_folder(source) / PROCESSOR), labels


def real_labels(found: Sequence[object]) -> tuple[str, ...] | None:
    """Labels that are complete and not transformers' placeholders."""
    named = tuple(label for label in found if isinstance(label, str))
    placeholders = tuple(f"LABEL_{i}" for i in range(len(found)))
    return named if len(named) == len(found) and named != placeholders else None


_RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of filters."""


def _preprocessing(path: Path) -> Preprocessing | None:
    """What `ConvNextImageProcessor` and `BitImageProcessor` do, as far as ours says the same."""
    if not path.is_file():
        return None
    data = read_json(path)
    edge = mapping(data.get("size")).get("shortest_edge")
    if not _is_side(edge) or not data.get("do_normalize", True):
        return None
    share, resample = data.get("crop_pct"), data.get("resample", 3)
    height = mapping(data.get("crop_size")).get("height")
    if _is_side(height):
        edge, share = height, height / edge
    fields = {
        "image_size": edge,
        "crop": share or 0.875,
        "interpolation": _RESAMPLE.get(resample if type(resample) is int else 3, "bicubic"),
        "mean": data.get("image_mean"),
        "std": data.get("image_std"),
    }
    return Preprocessing.parse(fields, str(path))


def _is_side(found: object) -> TypeGuard[int]:
    """Whether it can be a side of an image, in pixels."""
    return type(found) is int and 1 <= found <= 65_536


def config_of(spec: ResNetSpec, labels: tuple[str, ...] | None = None) -> dict[str, Any]:
    """The configuration with which transformers builds a net of `spec`.

    Raises:
        SpecError: if it has none; it names the first layer that would be another.
    """
    config = _config(spec, labels)
    try:
        theirs = compile_plan(spec_of(config))
    except SpecError as error:
        raise SpecError(f"transformers has no such net ({error})") from None
    found = parting(compile_plan(spec), theirs)
    if found is not None:
        raise SpecError(f"transformers has no such net: {found}")
    return config


def _config(spec: ResNetSpec, labels: tuple[str, ...] | None = None) -> dict[str, Any]:
    """The configuration nearest to `spec`."""
    bit = spec.norm == "group"
    names = labels or tuple(f"LABEL_{i}" for i in range(spec.num_classes))
    ends = [sum(spec.depths[: i + 1]) - 1 for i in range(len(spec.depths))]
    widths = [spec.block_widths[i][-1] for i in ends] if spec.block_widths else spec.out_channels
    task = "ForImageClassification" if spec.num_classes else "Model"
    config: dict[str, Any] = {
        "model_type": "bit" if bit else "resnet",
        "architectures": [("Bit" if bit else "ResNet") + task],
        "depths": list(spec.depths),
        "hidden_sizes": list(widths),
        "embedding_size": spec.stem_width,
        "num_channels": spec.in_channels,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
    if bit:
        act = next((k for k, v in ACTIVATIONS.items() if v == spec.activation), spec.activation)
        config |= {
            "hidden_act": act,
            "layer_type": "preactivation" if spec.pre_activation else "bottleneck",
            "global_padding": "same" if spec.padding == "same" else None,
            "embedding_dynamic_padding": spec.padding == "same",
            "num_groups": spec.norm_groups,
            "output_stride": spec.output_stride or spec.stem_stride_total * math.prod(spec.strides),
            "drop_path_rate": spec.drop_path_rate,
        }
    else:
        config |= {
            "hidden_act": spec.activation,
            "layer_type": spec.blocks[0],
            "downsample_in_first_stage": spec.strides[0] == 2,
            "downsample_in_bottleneck": spec.stride_on == "1x1",
        }
    return config


def save_huggingface(folder: Path, checkpoint: Checkpoint) -> None:
    """Make `folder`, with what transformers' `from_pretrained` loads strictly.

    Raises:
        SpecError: if transformers has no such net.
    """
    spec = checkpoint.spec
    assert spec is not None
    config = config_of(spec, checkpoint.labels)
    kind, bare = config["model_type"], not spec.num_classes
    entries = foreign_arrays(_dialect(kind, bare), checkpoint.state, spec)
    dtype = next(iter(entries.values())).dtype.name
    folder.mkdir()
    save_safetensors(folder / WEIGHTS, LazyArrays(with_counters(entries)), {"format": "pt"})
    write_json(folder / CONFIG, config | {"dtype": dtype}, 2)
    prepare = checkpoint.preprocessing
    if prepare is not None and prepare.channel_order == "rgb":  # theirs has no other order
        write_json(folder / PROCESSOR, _processor(prepare), 2)


def _processor(prepare: Preprocessing) -> dict[str, Any]:
    """A `BitImageProcessor`: shorter side resized, centre cropped, normalised."""
    side = prepare.image_size
    return {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": prepare.shorter_side},
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "resample": next(k for k, v in _RESAMPLE.items() if v == prepare.interpolation),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(prepare.mean),
        "image_std": list(prepare.std),
    }


def _flax_dialect(bare: bool) -> Dialect:
    """Of `FlaxResNetForImageClassification`, or of `FlaxResNetModel` with `bare` names."""

    def recognises(source: Source) -> bool:
        prefixed = any(name.startswith("params/resnet/") for name in source.tensors)
        known = source.kind == "huggingface flax" and source.metadata.get("model_type") == "resnet"
        return known and prefixed != bare

    def foreign_name(q: Parameter, spec: ResNetSpec) -> Place:
        module = transformers_name(f"{q.module}.", "resnet").replace(".", "/")
        if spec.blocks[0] == "basic":  # these layers have the names that Flax gives
            module = re.sub(r"/layer/(\d)/", r"/layer/layer_\1/", module)
        if bare:
            module = module.removeprefix("resnet/")
        slot = FLAX[q.role]
        return Place(f"{collection(q)}/{module}{slot.leaf}", slot)

    def told(source: Source) -> ResNetSpec:
        where = str(source.path / CONFIG)
        spec = spec_of(source.metadata, where)
        if spec.stride_on == "1x1":
            raise SpecError(
                f"{where}: downsample_in_bottleneck, which transformers' Flax models leave out of "
                f"account, so that its PyTorch and its Flax models are two nets; expected false"
            )
        return spec

    return Dialect("huggingface-flax", "transformers", recognises, foreign_name, told, _extras)


HUGGINGFACE = [
    *(_dialect(kind, bare) for kind in _CONFIGS for bare in (False, True)),
    *(_flax_dialect(bare) for bare in (False, True)),
]
"""ResNet and BiT, with and without a classifier."""
