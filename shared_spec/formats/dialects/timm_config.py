"""The `config.json` of timm's repositories on the Hugging Face Hub, and of transformers'
`TimmWrapper`: which net, which preprocessing, which classes. The rules are those of timm 1.0
(`timm.models._hub`, `timm.data.config`) and of transformers 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from shared_spec import plan
from shared_spec.catalogue import CATALOGUE
from shared_spec.catalogue.resolve import same_function
from shared_spec.errors import SpecError, did_you_mean
from shared_spec.formats.containers.source import mapping
from shared_spec.formats.dialects.huggingface import real_labels
from shared_spec.formats.dialects.renamed import timm_name
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.names import names_of
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.spec.validation import first_problem
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

FAMILIES = frozenset(
    {"torchvision", "timm", "timm_v2", "timm_regnet", "timm_nf", "timm_byob", "senet"}
)
"""Of the catalogue, where a name means the net that timm gives it."""

MODEL_ARGS = {
    "num_classes": "num_classes",
    "in_chans": "in_channels",
    "global_pool": "head_pool",
    "output_stride": "output_stride",
    "act_layer": "activation",
    "drop_rate": "drop_rate",
    "drop_path_rate": "drop_path_rate",
    "drop_block_rate": "drop_block_rate",
}
"""Arguments of timm's nets to fields of a spec; except for activations the values are the same."""

WITHOUT_EFFECT = frozenset({"zero_init_last"})
"""Arguments that say how weights start."""

WRAPPER = "timm_wrapper"
"""`model_type` of transformers' class around timm's nets."""
_PREPARED = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")

ACTIVATIONS = {"swish": "silu", "hard_swish": "hardswish", "prelu": "prelu of one slope"}
"""timm's names of activations where they are not ours; its PReLU has one slope for all channels."""


class _Pretrained(BaseModel):
    """What `pretrained_cfg` says, with timm's defaults; the rest of it is left out."""

    input_size: tuple[int, int, int] | None = None
    interpolation: str | None = "bicubic"
    crop_pct: float | None = 0.875
    crop_mode: str | None = "center"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    num_classes: int | None = None
    global_pool: str | None = None
    label_names: list[str] | dict[str, str] | None = None
    label_descriptions: dict[str, str] | None = None


class _Config(BaseModel):
    architecture: str
    num_classes: int | None = None
    label_names: list[str] | dict[str, str] | None = None
    label_descriptions: dict[str, str] | None = None
    model_args: dict[str, Any] | None = None
    pretrained_cfg: _Pretrained = Field(default_factory=_Pretrained)


def timm_net(spec: ResNetSpec) -> tuple[str, dict[str, Any]] | None:
    """The net of timm that computes what a spec says, and its arguments, if there is one."""
    name = same_function(spec, FAMILIES, MODEL_ARGS.values())
    if name is None:
        return None
    usual, arguments = CATALOGUE[name].spec, {}
    theirs = {ours: name for name, ours in ACTIVATIONS.items()}
    for argument, field in MODEL_ARGS.items():
        value = getattr(spec, field)
        if value != getattr(usual, field) and not field.startswith("drop_"):
            arguments[argument] = theirs.get(value, value) if argument == "act_layer" else value
    return name, arguments


def config_for_timm(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The `config.json` with which timm loads a net from the hub, as far as the checkpoint tells
    what is in it; None if timm has no such net or no such preprocessing.
    """
    spec, prepare = checkpoint.spec, checkpoint.preprocessing
    assert spec is not None
    # timm loads files of its own names alone.
    foreign = spec.features_only or spec.convolution == "hierarchical"
    found = None if foreign else timm_net(spec)
    if found is None or (prepare is not None and prepare.channel_order != "rgb"):
        return None
    name, arguments = found
    p = compile_plan(spec)
    side = spec.image_size if prepare is None else prepare.image_size
    first = next(layer.name for layer in p.stem if isinstance(layer, plan.Conv))
    pretrained: dict[str, Any] = {
        "input_size": [spec.in_channels, side, side],
        "num_classes": spec.num_classes,
        "first_conv": first,
        "classifier": timm_name(f"{names_of(spec).head}fc.", spec)[:-1],
    }
    if prepare is not None:
        pretrained |= {
            "interpolation": prepare.interpolation,
            "crop_pct": prepare.crop,
            "crop_mode": "center",
            "mean": list(prepare.mean),
            "std": list(prepare.std),
        }
    for key in ("num_classes", "in_chans"):  # timm takes them from elsewhere
        arguments.pop(key, None)
    config: dict[str, Any] = {"architecture": name, "num_classes": spec.num_classes}
    config |= {"global_pool": spec.head_pool, "pretrained_cfg": pretrained}
    if arguments:
        config["model_args"] = arguments
    if checkpoint.labels is not None:
        config["label_names"] = list(checkpoint.labels)
    return config


def is_timm_config(data: object) -> bool:
    """Whether a `config.json` is one of timm's: it names an architecture of timm's registry."""
    return (
        isinstance(data, Mapping)
        and isinstance(data.get("architecture"), str)
        and ("pretrained_cfg" in data or data.get("model_type", WRAPPER) == WRAPPER)
    )


def timm_config(
    data: Mapping[str, Any], where: str
) -> tuple[ResNetSpec, Preprocessing | None, tuple[str, ...] | None]:
    """Spec, preprocessing and class labels of a `config.json` of timm's.

    The preprocessing is None if it is one that `Preprocessing` cannot say: another crop mode or
    interpolation (timm's own ResNets have none), an input that is not square, or of neither one nor
    three channels. The labels are timm's descriptions where it has them, else its names.

    Args:
        data: the parsed file.
        where: its name, for messages.

    Raises:
        SpecError: if the architecture is not in the catalogue, if an argument changes it in a way
            that no spec says, or if the file is not of timm's form.
    """
    wrapped = data.get("model_type") == WRAPPER
    config = _parse(_as_timm_has_it(data, where) if wrapped else data, where)
    name, _, _ = config.architecture.partition(".")
    if name not in CATALOGUE or CATALOGUE[name].family not in FAMILIES:
        known = [x for x, entry in CATALOGUE.items() if entry.family in FAMILIES]
        near = did_you_mean(name, known) or "; expected one of timm's ResNets"
        raise SpecError(f"{where}: there is no ResNet for timm's architecture {name!r}{near}")
    given = config.pretrained_cfg
    fields = _fields(config, where)
    if given.input_size and given.input_size[1] == given.input_size[2]:
        fields["image_size"] = given.input_size[1]
    try:
        spec = CATALOGUE[name].spec.override(**fields)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None
    told = not wrapped or "pretrained_cfg" in data  # the wrapper reads it nowhere else
    return spec, _preprocessing(given, spec, where) if told else None, _labels(config, spec)


def _as_timm_has_it(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What `TimmWrapper` goes by. Its net takes classes from `num_classes` and all else from
    `model_args`; `pretrained_cfg` is for its image processor.

    Raises:
        SpecError: if the number of classes is missing, without which it builds no net.
    """
    classes, headless = data.get("num_classes"), data.get("architectures") == ["TimmWrapperModel"]
    if type(classes) is not int or classes < 0:
        raise SpecError(
            f"{where}: expected a number of classes as num_classes, got {classes!r:.80}"
        )
    told = mapping(data.get("pretrained_cfg"))
    given: dict[str, Any] = {key: told[key] for key in _PREPARED if key in told}
    if isinstance(size := given.get("input_size"), list):
        given["input_size"] = [mapping(data.get("model_args")).get("in_chans", 3), *size[1:]]
    names = data.get("label_names")
    labels = real_labels(names) if isinstance(names, list) and len(names) == classes else None
    return {
        "architecture": data["architecture"],
        "num_classes": 0 if headless else classes,
        "model_args": data.get("model_args"),
        "label_names": labels and list(labels),
        "pretrained_cfg": given,
    }


def _parse(data: Mapping[str, Any], where: str) -> _Config:
    if "pretrained_cfg" not in data:  # older files have everything at one level
        flat = {"label_names": data["labels"]} if "labels" in data else {}
        data = {**data, "pretrained_cfg": {**data, **flat}}
    try:
        return _Config.model_validate(dict(data))
    except ValidationError as error:
        raise SpecError(f"{where}: timm's {first_problem(error)}") from None


def _fields(config: _Config, where: str) -> dict[str, Any]:
    """What the file changes in the catalogue's net; an argument outweighs the rest, as in timm."""
    given = config.pretrained_cfg
    fields: dict[str, Any] = {}
    if given.input_size is not None:
        fields["in_channels"] = given.input_size[0]
    if given.global_pool:
        fields["head_pool"] = given.global_pool
    for classes in (given.num_classes, config.num_classes):
        if classes is not None and classes >= 0:  # timm leaves its default at -1
            fields["num_classes"] = classes
    for key, value in (config.model_args or {}).items():
        if value is None or key in WITHOUT_EFFECT:
            continue
        if key not in MODEL_ARGS:
            raise SpecError(
                f"{where}: timm's argument {key!r} has no counterpart here; expected some of "
                f"{', '.join(MODEL_ARGS)}"
            )
        named = key == "act_layer" and isinstance(value, str)
        fields[MODEL_ARGS[key]] = ACTIVATIONS.get(value, value) if named else value
    usual = CATALOGUE[config.architecture.partition(".")[0]].spec
    if "activation" in fields and usual.names == "regnet" and usual.attention == "se":
        fields["se_activation"] = fields["activation"]  # its nets have one for both
    return fields


def _preprocessing(given: _Pretrained, spec: ResNetSpec, where: str) -> Preprocessing | None:
    interpolation = given.interpolation or "bicubic"
    _, height, width = given.input_size or (0, spec.image_size, spec.image_size)
    if (
        height != width
        or (given.crop_mode or "center") != "center"
        or interpolation not in ("nearest", "bilinear", "bicubic")
        or spec.in_channels not in (1, 3)
    ):
        return None
    fields = {
        "image_size": height,
        "crop": given.crop_pct or 0.875,
        "interpolation": interpolation,
        "mean": _statistics(given.mean or IMAGENET_MEAN, spec.in_channels),
        "std": _statistics(given.std or IMAGENET_STD, spec.in_channels),
    }
    return Preprocessing.parse(fields, where)


def _statistics(told: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """As many as channels: else their average, as in timm."""
    return told if len(told) == channels else (sum(told) / len(told),) * channels


def _labels(config: _Config, spec: ResNetSpec) -> tuple[str, ...] | None:
    names = config.label_names or config.pretrained_cfg.label_names
    if not names:
        return None
    if isinstance(names, dict):  # from the number of a class; some may have no name
        names = [names.get(str(i), str(i)) for i in range(spec.num_classes)]
    told = config.label_descriptions or config.pretrained_cfg.label_descriptions or {}
    return tuple(told.get(name, name) for name in names)
