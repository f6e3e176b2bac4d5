"""Libraries whose names follow from canonical ones by rules: one table a library."""

from __future__ import annotations

from shared_spec.catalogue import CATALOGUE
from shared_spec.errors import SpecError
from shared_spec.formats.containers.source import Source
from shared_spec.formats.dialects.dialect import Dialect, Place, Rules, in_torch, rename
from shared_spec.plan.layers import Parameter
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.layouts import TORCH

TORCHVISION_REGNET: Rules = (
    (r"^stem\.conv\.", "stem.0."),
    (r"^stem\.bn\.", "stem.1."),
    (
        r"^s(\d)\.b(\d+)\.",
        lambda m: f"trunk_output.block{m[1]}.block{m[1]}-{int(m[2]) - 1}.",
    ),
    (r"\.conv(\d)\.conv\.", lambda m: f".f.{'abc'[int(m[1]) - 1]}.0."),
    (r"\.conv(\d)\.bn\.", lambda m: f".f.{'abc'[int(m[1]) - 1]}.1."),
    (r"\.se\.", ".f.se."),
    (r"\.downsample\.conv\.", ".proj.0."),
    (r"\.downsample\.bn\.", ".proj.1."),
    (r"^head\.fc\.", "fc."),
)


def torchvision_name(name: str, spec: ResNetSpec) -> str:
    """What torchvision calls an array that has this canonical name."""
    if spec.names is not None:
        return rename(name, TORCHVISION_REGNET)
    if spec.segmentation != "none":
        return name if "classifier." in name else f"backbone.{name}"
    # A detector's net is the `body` beside its pyramid.
    return f"body.{name}" if spec.pyramid is not None and not name.startswith("fpn.") else name


RES2NET: Rules = ((r"conv2\.paths\.(\d+)\.(conv|bn)\.", r"\2s.\1."),)
ATTENTION_POOL: Rules = (
    (r"^head\.pool\.(tokens\.)?", "head."),
    (r"^head\.fc\.", "head.proj."),
)


def timm_name(name: str, spec: ResNetSpec) -> str:
    """What timm calls an array that has this canonical name: in Res2Net, the paths are beside the
    block's other layers, an attention pool is the head, and a block's own gain is no layer's.
    """
    if spec.head_pool == "attention":
        return rename(name, ATTENTION_POOL)
    if spec.convolution == "hierarchical":
        return rename(name, RES2NET)
    return name.removesuffix(".gain") if spec.skip_gain and "skipinit" in name else name


def _place(q: Parameter, spec: ResNetSpec) -> Place:
    return Place(torchvision_name(q.name, spec), TORCH[q.role])


def _torchvision_net(spec: ResNetSpec) -> ResNetSpec:
    """The net that torchvision's classes build with the numbers of a spec.

    Raises:
        SpecError: if their images have other channels, or there is no classifier.
    """
    if spec.in_channels != 3 or not spec.num_classes:
        raise SpecError("in_channels is 3 there, and num_classes at least 1")
    fields = ["depths", "num_classes", "image_size"]
    if spec.names == "regnet":
        base = "regnet_x_400mf" if spec.attention == "none" else "regnet_y_400mf"
        fields += ["widths", "strides", "bottleneck_ratio", "group_width", "se_ratio", "stem_width"]
        fields += ["norm_eps", "activation", "se_activation"]
    else:
        base = "resnet50"
        fields += ["block", "groups", "base_width"]
    if spec.pyramid is not None:
        fields += ["features_only", "out_indices", "pyramid", "pyramid_norm", "pyramid_extra"]
    if spec.segmentation != "none":
        fields += ["segmentation", "auxiliary", "output_stride"]
    if spec.attention == "none":
        fields = [field for field in fields if not field.startswith("se_")]
    return CATALOGUE[base].spec.override(**{field: getattr(spec, field) for field in fields})


def _has_regnet(source: Source) -> bool:
    return in_torch(source) and "trunk_output.block1.block1-0.f.a.0.weight" in source.tensors


TORCHVISION_NAMES = Dialect(
    "torchvision",
    "torchvision",
    _has_regnet,
    _place,
    nearest_library_spec=_torchvision_net,
    families=frozenset({"torchvision_regnet"}),
)
"""Of its RegNets and ResNets; the names of the latter are canonical, and read as such."""
_TIMMS = {"layer1.0.convs.0.weight", "head.pos_embed"}
TIMM_NAMES = Dialect(
    "timm",
    "timm",
    lambda source: in_torch(source) and not _TIMMS.isdisjoint(source.tensors),
    lambda q, spec: Place(timm_name(q.name, spec), TORCH[q.role]),
)
"""Of Res2Nets (their authors' too) and of attention pools; others' names are canonical."""

OPENAI: Rules = (
    (r"^stem\.conv(\d)\.conv\.", r"conv\1."),
    (r"^stem\.conv(\d)\.bn\.", r"bn\1."),
    (r"^stages\.(\d)\.", lambda m: f"layer{int(m[1]) + 1}."),
    (r"\.conv(\d)_(?:1x1|kxk)\.(conv|bn)\.", r".\2\1."),
    (r"\.shortcut\.conv\.conv\.", ".downsample.0."),
    (r"\.shortcut\.conv\.bn\.", ".downsample.1."),
    (r"^head\.pool\.tokens\.pos_embed$", "attnpool.positional_embedding"),
    (r"^head\.pool\.([qkv])\.", r"attnpool.\1_proj."),
    (r"^head\.fc\.", "attnpool.c_proj."),
)
OPENAI_CLIP = Dialect(
    "clip",
    "CLIP",
    lambda source: in_torch(source) and "attnpool.positional_embedding" in source.tensors,
    lambda q, spec: Place(rename(q.name, OPENAI), TORCH[q.role]),
)
"""Of the net for images in OpenAI's and open_clip's files."""
