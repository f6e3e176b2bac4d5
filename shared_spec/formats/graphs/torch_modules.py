"""The modules of a whole PyTorch model, held against a plan: their classes and settings. How a
class calls its modules is code, which a file does not hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args

from shared_spec import plan
from shared_spec.errors import SpecError, WeightsError, some
from shared_spec.formats.containers.source import Module, shown
from shared_spec.plan.compiler import compile_plan
from shared_spec.spec.resnet_spec import ResNetSpec

Modules = Mapping[str, Module]
"""By their names as seen from the net, under canonical ones."""

_BATCH_NORMS = {
    "torch.nn.modules.batchnorm.BatchNorm2d",
    "torch.nn.modules.batchnorm.SyncBatchNorm",
    "torchvision.ops.misc.FrozenBatchNorm2d",
    "timm.layers.norm_act.BatchNormAct2d",
}
_ACTIVATIONS = {
    "ReLU": "relu",
    "ReLU6": "relu6",
    "LeakyReLU": "leaky_relu",
    "PReLU": "prelu",
    "ELU": "elu",
    "SELU": "selu",
    "SiLU": "silu",
    "Mish": "mish",
    "GELU": "gelu",
    "Hardswish": "hardswish",
}
_USUAL = {"negative_slope": plan.LEAKY_SLOPE, "alpha": 1.0}
"""Settings of activations with which they are ours."""
_IDLE = {
    *("linear.Identity", "dropout.Dropout", "dropout.Dropout2d", "flatten.Flatten"),
    *("linear.Linear", "container.Sequential", "container.ModuleList", "container.ModuleDict"),
}
_KNOWN = (
    *("torchvision.models.resnet.", "timm.models.resnet.", "timm.models.resnetv2."),
    "timm.models.senet.",
    *("timm.layers.drop.", "timm.layers.adaptive_avgmax_pool.", "timm.layers.classifier."),
    "resnet_torch.",
)
"""Where classes are that call their layers in the order of a plan, or act in training alone."""
_COMPOSITE: dict[str, type[plan.Layer]] = {
    "timm.layers.squeeze_excite.SEModule": plan.SqueezeExcite,
    "resnet_torch.layers.SqueezeExcite": plan.SqueezeExcite,
    "timm.models.senet.SEModule": plan.SqueezeExcite,
    "timm.layers.eca.EcaModule": plan.ChannelAttention,
    "timm.layers.blur_pool.BlurPool2d": plan.BlurPool,
}
_BLUR = {"filt_size": 3, "pad_mode": "reflect"}
_STRIDES = (None, 16, 8)
"""`output_stride`, as arrays do not show it."""
_SOME = 3


def settled(
    modules: Modules, candidates: Sequence[ResNetSpec], vary: bool, where: object
) -> tuple[ResNetSpec, str]:
    """The candidate that a model's own modules make, with its eps, activation, head pool and output
    stride; and a note of what they do not say.

    Args:
        modules: of the model.
        candidates: nets whose names and shapes the model's are.
        vary: whether a candidate may differ from the model in what modules alone show.
        where: for messages.

    Raises:
        WeightsError: naming the first module in which the nearest candidate differs.
    """
    nearest: list[str] | None = None
    for candidate in candidates:
        for spec in _variants(candidate, modules) if vary else (candidate,):
            problems = list(_problems(modules, spec))
            if not problems:
                return spec, _unknown(modules)
            if nearest is None or len(problems) < len(nearest):
                nearest = problems
    if nearest is None:
        raise WeightsError(
            f"{where}: its arrays fit no model of the catalogue; name a spec file (`spec`)"
        )
    raise WeightsError(f"{where}: {nearest[0]}")


def _variants(spec: ResNetSpec, modules: Modules) -> Iterator[ResNetSpec]:
    """`spec` with what modules say that can be a field of it."""
    fields: dict[str, Any] = {}
    norms = [m for m in modules.values() if m.type in _BATCH_NORMS]
    if norms and isinstance(eps := norms[0].attributes.get("eps"), float):
        fields["norm_eps"] = eps
    if norms and isinstance(momentum := norms[0].attributes.get("momentum"), float):
        fields["norm_momentum"] = momentum
    functions = [f for name, m in modules.items() if "." not in name and (f := _function(m))]
    if functions:
        fields["activation"] = functions[0]
    heads = [n for n in modules if "." not in n or n in _HEAD_POOLS]
    kinds = [k for name in heads if (k := _head_pool(modules[name]))]
    if kinds and kinds[0] in get_args(ResNetSpec.model_fields["head_pool"].annotation):
        fields["head_pool"] = kinds[0]
    for stride in _STRIDES:
        try:
            yield spec.override(**fields, **({"output_stride": stride} if stride else {}))
        except SpecError:
            continue


def _problems(modules: Modules, spec: ResNetSpec) -> Iterator[str]:
    """The modules that are not those of a spec, and in what."""
    layers = {layer.name: layer for layer in compile_plan(spec).layers()}
    for name, layer in layers.items():
        if isinstance(layer, _CHECKED) and name not in modules:
            yield f"{name} is no module of the model"
    traced = not any("stride" in module.attributes for module in modules.values())
    for name, module in modules.items():
        if not traced and not _settings_of(module):  # as old norms of torchvision, without an eps
            yield f"{name} {_is(module)} without its settings"
        if problem := _problem(name, module, layers, spec, modules):
            yield f"{name or 'the model'} {problem}"


def _problem(
    name: str,
    module: Module,
    layers: Mapping[str, plan.Layer],
    spec: ResNetSpec,
    modules: Modules,
) -> str:
    """What makes a module another than the layer of its name; nothing if it is that layer."""
    layer, kind = layers.get(name), module.type.removeprefix("torch.nn.modules.")
    if isinstance(layer, _CHECKED):
        return _differs(kind, module, layer)
    if any(modules[above].type in _COMPOSITE for above in _above(name) if above in modules):
        return _differs_in_attention(name.rpartition(".")[2], module, spec)
    if module.type in _COMPOSITE:
        if not isinstance(layer, _COMPOSITE[module.type]):
            return f"{_is(module)}, {_NONE}"
        found = {k: module.attributes.get(k, v) for k, v in _BLUR.items()}
        return "" if found == _BLUR else f"{_is(module)} with other settings than {_BLUR}"
    if (function := _function(module)) is not None:
        if not isinstance(layer, plan.Activation) and (problem := _misplaced(name, modules)):
            return f"{_is(module)} {problem}"
        same = function == spec.activation
        return "" if same else f"is a {kind.rpartition('.')[2]}, and the net has {spec.activation}"
    if kind == "pooling.MaxPool2d" and not _STEM.match(name):
        return f"{_is(module)}, {_NONE}"
    if kind == "pooling.MaxPool2d":
        pools = [pool for pool in layers.values() if isinstance(pool, plan.MaxPool)]
        return _differs(kind, module, pools[0]) if pools else f"{_is(module)}, {_NONE}"
    inside = any(other.startswith(f"{name}." if name else "") for other in modules if other != name)
    if kind in _IDLE and not inside and _ACTS.search(name):
        return f"{_is(module)}, and the net has {spec.activation} there"
    if kind in _IDLE and not inside and _pools(name, layers):
        return f"{_is(module)}, and the net has a pool there"
    if (pool := _head_pool(module)) is not None:
        return "" if pool == spec.head_pool else f"pools by {pool}, and the net by {spec.head_pool}"
    if kind in _IDLE or inside or module.type.startswith(_KNOWN):
        return ""
    return f"{_is(module)}, which no spec can express"


def _differs_in_attention(name: str, module: Module, spec: ResNetSpec) -> str:
    """What makes a module inside of an attention another than the net's."""
    kind = module.type.rpartition(".")[2]
    if name == "gate":
        return "" if kind == "Sigmoid" else f"{_is(module)}, and no Sigmoid"
    if name != "act" or _function(module) == spec.se_activation:
        return ""
    wanted = next(
        k for k, v in _ACTIVATIONS.items() if spec.se_activation.removesuffix("_tanh") == v
    )
    return f"{_is(module)}, and no {wanted}"


_STEM = re.compile(r"(?:maxpool|stem\.pool|pool\d?|\d)(?:\.\d)?$")
"""Where a net's own max pool is."""
_ACTS = re.compile(r"^(?:(?!.*(?:downsample|shortcut)).*\.)?(?:relu|act(?:ivation)?)\d?$")
"""What activations are called, and `norm.act` of timm; a projection's norm there may have none."""


def _misplaced(name: str, modules: Modules) -> str:
    """Why a net has no activation at a place; nothing if it may have one."""
    above = name.rpartition(".")[0]
    row = above and modules[above].type.endswith("container.Sequential") if above in modules else ""
    last = above.rpartition(".")[2]
    own = last in ("conv1", "layer0", "stem", "maxpool", "residual_function")
    return f"in a Sequential, {_NONE}" if row and not own else ""


def _pools(name: str, layers: Mapping[str, plan.Layer]) -> bool:
    """Whether a pool of the net is at a place."""
    last = name.rpartition(".")[2]
    if name in ("avgpool", "global_pool", "avg_pool", *_HEAD_POOLS) or last == "global_pool":
        return True
    return any(
        isinstance(layer, plan.MaxPool | plan.AvgPool) and f"{layer.name}.".startswith(f"{name}.")
        for layer in layers.values()
    )


_NONE = "which the net does not have there"


def _is(module: Module) -> str:
    return f"is a {shown(module.type)}"


def _above(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


_CHECKED = (plan.Conv, plan.BatchNorm, plan.GroupNorm, plan.AvgPool)
"""Layers that are modules of their own in every model."""


def _differs(kind: str, module: Module, layer: plan.Layer) -> str:
    """What a module has that a layer has not."""
    expected, settings = _expected(layer)
    if kind not in expected and module.type not in expected:
        return f"{_is(module)}, and the net has a {type(layer).__name__} there"
    for setting, wanted in settings.items():
        found = module.attributes.get(setting, wanted)
        if isinstance(wanted, int) and not isinstance(wanted, bool) and isinstance(found, tuple):
            wanted = (wanted,) * len(found)
        if found != wanted:
            return f"has {setting} {found}, and the net {wanted}"
    return ""


def _expected(layer: plan.Layer) -> tuple[set[str], dict[str, Any]]:
    """The classes of a layer in PyTorch, and its settings there."""
    match layer:
        case plan.Conv():
            settings = {
                "stride": layer.stride,
                "padding": layer.padding,
                "dilation": layer.dilation,
                "groups": layer.groups,
                "padding_mode": "zeros",
                "transposed": False,
            }
            plain = layer.standardize_eps is None and layer.padding != "same"
            return {"conv.Conv2d"} if plain else set(), settings
        case plan.BatchNorm():
            return _SHORT_NORMS, {"eps": layer.eps, "track_running_stats": True}
        case plan.GroupNorm():
            return {"normalization.GroupNorm"}, {"eps": layer.eps, "num_groups": layer.groups}
        case plan.MaxPool():
            return {"pooling.MaxPool2d"}, {
                "kernel_size": layer.kernel_size,
                "stride": layer.stride,
                "padding": layer.padding,
                "dilation": 1,
                "ceil_mode": layer.ceil,
            }
        case plan.AvgPool():
            # Where windows do not overlap, TensorFlow's rule is that of a last one that is cut.
            cut = layer.padding == "same" and layer.kernel_size == layer.stride
            return {"pooling.AvgPool2d"}, {
                "kernel_size": layer.kernel_size,
                "stride": layer.stride,
                "padding": 0 if cut else layer.padding,
                "ceil_mode": cut,
                "count_include_pad": layer.count_padding,
                "divisor_override": None,
            }
    raise TypeError(layer)


_SHORT_NORMS = {name.removeprefix("torch.nn.modules.") for name in _BATCH_NORMS}


def _function(module: Module) -> str | None:
    """The activation that a module is, if it is one that a spec can have."""
    name = module.type.removeprefix("torch.nn.modules.activation.")
    if name not in _ACTIVATIONS:
        return None
    if any(module.attributes.get(k, v) != v for k, v in _USUAL.items()):
        return f"{name} with other settings"
    tanh = module.attributes.get("approximate") == "tanh"
    return "gelu_tanh" if tanh else _ACTIVATIONS[name]


_HEAD_POOLS = ("head.global_pool", "global_pool.pool", "head.global_pool.pool")
"""Where a pool over a whole map is, if it is no child of the net itself."""


def _head_pool(module: Module) -> str | None:
    """How a module pools a whole map, if it does."""
    kinds: dict[str, Callable[[Any], str]] = {
        "torch.nn.modules.pooling.AdaptiveAvgPool2d": lambda size: "avg",
        "torch.nn.modules.pooling.AdaptiveMaxPool2d": lambda size: "max",
        "resnet_torch.layers.MeanPool": lambda size: "avg",
    }
    if module.type == "timm.layers.adaptive_avgmax_pool.SelectAdaptivePool2d":
        return str(module.attributes.get("pool_type", "avg"))
    if module.type == "resnet_torch.layers.MaximumPool":
        return str(module.attributes.get("kind"))
    if module.type not in kinds:
        return None
    size = module.attributes.get("output_size", 1)
    whole = size in (1, (1, 1), [1, 1])
    return kinds[module.type](size) if whole else f"a map of {size}"


def _settings_of(module: Module) -> bool:
    """Whether a module has the settings that its class always has."""
    kind, held = module.type.rpartition(".")[2], module.attributes
    return (kind != "Conv2d" or "stride" in held) and ("BatchNorm" not in kind or "eps" in held)


def _unknown(modules: Modules) -> str:
    """What a model's modules do not say."""
    own = dict.fromkeys(
        m.type
        for m in modules.values()
        if not m.type.startswith(("torch.nn.", *_KNOWN))
        and m.type not in _BATCH_NORMS | _COMPOSITE.keys()
    )
    if not all(_settings_of(m) for m in modules.values()):
        return (
            "the file has the classes of its layers and not their settings, as a trace does; they "
            "are taken to be the net's"
        )
    if not own:
        return ""
    return (
        f"in which order {some(list(own), _SOME)} call their layers is code, which the "
        f"file does not hold; it is taken to be the order of the net"
    )
