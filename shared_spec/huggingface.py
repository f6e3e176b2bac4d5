"""Checkpoints of Hugging Face transformers: ResNet and BiT, as a directory with `config.json` and
`model.safetensors`. Read and written without transformers and without a framework.

The rules from configuration to spec are the tables of `docs/sources.md`. A net can be written if
reading the configuration gives its plan again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared_spec.compiler import compile_plan
from shared_spec.equivalence import parting
from shared_spec.errors import SpecError, WeightsError
from shared_spec.preprocessing import Preprocessing
from shared_spec.renaming import Rules, rename
from shared_spec.spec import ResNetSpec
from shared_spec.weights import Checkpoint, State, read_safetensors, without_counters

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PROCESSOR = "preprocessor_config.json"
_SIZE_LIMIT = 16 * 2**20
"""No configuration is larger; a thousand labels take 60 kB."""

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
    """What both configurations have, with transformers' defaults."""

    model_config = ConfigDict(extra="ignore")

    depths: list[int] = Field(default=[3, 4, 6, 3], max_length=8)
    hidden_sizes: list[int] = Field(default=[256, 512, 1024, 2048], max_length=8)
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
                f"such a net, which no spec says; expected 'relu'"
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


def is_huggingface(path: Path) -> bool:
    """Whether a directory has the shape of a transformers checkpoint."""
    return path.is_dir() and (path / CONFIG).is_file()


def spec_of(config: Mapping[str, Any], where: str = CONFIG) -> ResNetSpec:
    """The spec of a `ResNetConfig` or `BitConfig`, given as the dict of its JSON.

    Raises:
        SpecError: if it is neither, or says something that no spec does.
    """
    kind = config.get("model_type")
    if kind not in _CONFIGS:
        raise SpecError(f"{where}: model_type {kind!r} is not one of {', '.join(_CONFIGS)}")
    try:
        return ResNetSpec.parse(_CONFIGS[kind][0].model_validate(config).fields(), where)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(map(str, first["loc"]))
        raise SpecError(f"{where}: {path}: {first['msg'].lower()}") from None
    except SpecError as error:
        text = str(error)
        raise SpecError(text if text.startswith(where) else f"{where}: {text}") from None


def foreign_name(name: str, kind: str) -> str:
    """What transformers calls a canonical parameter; `kind` is `resnet` or `bit`."""
    return rename(name, _CONFIGS[kind][1])


def read_huggingface(folder: Path) -> Checkpoint:
    """A checkpoint that transformers' `save_pretrained` wrote, with or without a classifier.

    Raises:
        WeightsError: if a file is missing or damaged.
        SpecError: if the configuration has no spec.
    """
    config = _json(folder / CONFIG)
    spec = spec_of(config, str(folder / CONFIG))
    kind = config["model_type"]
    file = folder / WEIGHTS
    if not file.is_file():
        others = [p.name for p in sorted(folder.iterdir()) if p.suffix in (".bin", ".h5")]
        found = f"; {others[0]} is not read" if others else ""
        raise WeightsError(f"{file}: there is no such file of weights{found}")
    foreign = without_counters(read_safetensors(file).state)
    # A model without a classifier has no prefix.
    bare = not any(name.startswith(f"{kind}.") for name in foreign)
    state: State = {}
    for q in compile_plan(spec).parameters():
        name = foreign_name(q.name, kind)
        array = foreign.pop(name.removeprefix(f"{kind}.") if bare else name, None)
        if array is not None:
            # transformers' classifiers are dense, a pre-activation net's is a 1x1 convolution.
            dense = len(q.shape) == 4 and array.ndim == 2
            state[q.name] = array[:, :, None, None] if dense else array
    labels = _labels(config.get("id2label"))
    return Checkpoint(state | foreign, spec, _preprocessing(folder / PROCESSOR), labels)


def _labels(found: object) -> tuple[str, ...] | None:
    """Labels that are complete and not transformers' placeholders."""
    if not isinstance(found, dict):
        return None
    labels = [found.get(str(i)) for i in range(len(found))]
    named = tuple(label for label in labels if isinstance(label, str))
    placeholders = tuple(f"LABEL_{i}" for i in range(len(found)))
    return named if len(named) == len(found) and named != placeholders else None


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _SIZE_LIMIT:
            raise WeightsError(f"{path}: is larger than any configuration")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: not a readable JSON file ({type(error).__name__})") from None
    if not isinstance(data, dict):
        raise WeightsError(f"{path}: expected a mapping, got {type(data).__name__}")
    return data


_RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of filters."""


def _preprocessing(path: Path) -> Preprocessing | None:
    """What `ConvNextImageProcessor` and `BitImageProcessor` do, as far as ours says the same."""
    if not path.is_file():
        return None
    data = _json(path)
    size, crop = data.get("size"), data.get("crop_size")
    edge = size.get("shortest_edge") if isinstance(size, dict) else None
    if not isinstance(edge, int) or not data.get("do_normalize", True):
        return None
    share = data.get("crop_pct")
    if isinstance(crop, dict) and isinstance(crop.get("height"), int):
        edge, share = crop["height"], crop["height"] / edge
    fields = {
        "image_size": edge,
        "crop": share or 0.875,
        "interpolation": _RESAMPLE.get(data.get("resample", 3), "bicubic"),
        "mean": data.get("image_mean"),
        "std": data.get("image_std"),
    }
    return Preprocessing.parse(fields, str(path))


def config_of(spec: ResNetSpec, labels: tuple[str, ...] | None = None) -> dict[str, Any]:
    """The configuration with which transformers builds a net of `spec`.

    Raises:
        SpecError: if it has none; it names the first layer that would be another.
    """
    bit = spec.norm == "group"
    names = labels or tuple(f"LABEL_{i}" for i in range(spec.num_classes))
    ends = [sum(spec.depths[: i + 1]) - 1 for i in range(len(spec.depths))]
    widths = [spec.block_widths[i][-1] for i in ends] if spec.block_widths else spec.out_channels
    config: dict[str, Any] = {
        "model_type": "bit" if bit else "resnet",
        "architectures": [_architecture(bit, spec.num_classes)],
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
            "output_stride": _total_stride(spec),
            "drop_path_rate": spec.drop_path_rate,
        }
    else:
        config |= {
            "hidden_act": spec.activation,
            "layer_type": spec.blocks[0],
            "downsample_in_first_stage": spec.strides[0] == 2,
            "downsample_in_bottleneck": spec.stride_on == "1x1",
        }
    try:
        theirs = compile_plan(spec_of(config))
    except SpecError as error:
        raise SpecError(f"transformers has no such net ({error})") from None
    found = parting(compile_plan(spec), theirs)
    if found is not None:
        raise SpecError(f"transformers has no such net: {found}")
    return config


def _architecture(bit: bool, classes: int) -> str:
    return ("Bit" if bit else "ResNet") + ("ForImageClassification" if classes else "Model")


def _total_stride(spec: ResNetSpec) -> int:
    total = spec.stem_stride_total
    for stride in spec.strides:
        total *= stride
    return spec.output_stride or total


def write_huggingface(folder: Path, checkpoint: Checkpoint) -> None:
    """Make `folder`, with what transformers' `from_pretrained` loads strictly.

    Raises:
        SpecError: if transformers has no such net.
    """
    from safetensors.numpy import save_file

    assert checkpoint.spec is not None
    config = config_of(checkpoint.spec, checkpoint.labels)
    kind, headless = config["model_type"], not checkpoint.spec.num_classes
    state: State = {}
    for name, array in checkpoint.state.items():
        foreign = foreign_name(name, kind)
        foreign = foreign.removeprefix(f"{kind}.") if headless else foreign
        flat = foreign == "classifier.1.weight" and array.ndim == 4
        state[foreign] = np.ascontiguousarray(array[:, :, 0, 0] if flat else array)
        if name.endswith(".running_var"):
            counter = foreign.removesuffix("running_var") + "num_batches_tracked"
            state[counter] = np.zeros((), np.int64)
    dtype = next(iter(checkpoint.state.values())).dtype.name
    folder.mkdir()
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    _dump(folder / CONFIG, config | {"dtype": dtype})
    prepare = checkpoint.preprocessing
    if prepare is not None and prepare.channel_order == "rgb":  # theirs has no other order
        _dump(folder / PROCESSOR, _processor(prepare))


def _processor(prepare: Preprocessing) -> dict[str, Any]:
    """A `BitImageProcessor`: shorter side resized, centre cropped, normalised."""
    side = prepare.image_size
    return {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": round(side / prepare.crop)},
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "resample": next(k for k, v in _RESAMPLE.items() if v == prepare.interpolation),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(prepare.mean),
        "image_std": list(prepare.std),
    }


def _dump(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


__all__ = [
    "ACTIVATIONS",
    "BIT_NAMES",
    "RESNET_NAMES",
    "config_of",
    "foreign_name",
    "is_huggingface",
    "read_huggingface",
    "spec_of",
    "write_huggingface",
]
