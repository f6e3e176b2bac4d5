"""Which library judges which source: it loads the file by itself, in a worker's process.

`resnet_parity/worker/judges.py` has the functions that load and run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from resnet_parity.engines.reference_libraries import names_there, peer_missing
from resnet_parity.engines.registry import ENGINES, RUNTIMES, Engine
from shared_spec.catalogue.resolve import same_function
from shared_spec.errors import FrameworkError, ResNetError
from shared_spec.formats.dialects.linen import BLOCKS
from shared_spec.formats.dialects.timm_config import timm_net
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import Checkpoint

Facts = dict[str, Any]
"""What a judge's function takes beside the file and the images."""


@dataclass(frozen=True)
class Judge:
    """A library that runs the sources that it claims."""

    function: str
    """Of the worker's `JUDGES`."""
    library: str
    """For messages."""
    needs: str | None
    """As `peer_missing` takes it, beside the engine; None if `facts` sees to that."""
    engine: Engine
    """In whose process it runs."""
    claims: Callable[[Checkpoint], bool]
    facts: Callable[[Checkpoint, ResNetSpec], Facts | str] = lambda checkpoint, spec: {}
    """Or why it cannot judge this source, in words."""

    def missing(self) -> bool:
        """Whether something that it needs is not installed."""
        absent = None if self.needs is None else peer_missing(self.needs)
        return self.engine.missing() is not None or absent is not None


def judge_of(checkpoint: Checkpoint, against: str | None = None) -> tuple[Judge, Facts] | str:
    """Who judges a source, and with which facts; or why nobody does, in words.

    Args:
        checkpoint: what the source holds.
        against: the user's own model in PyTorch, `module:function`, which then judges.

    Raises:
        ResNetError: if the user's model cannot judge the source, or PyTorch is not installed.
    """
    spec, origin = checkpoint.spec, checkpoint.origin
    assert spec is not None
    if against is not None:
        return _USERS, _of_user(checkpoint, spec, against)
    if checkpoint.library in _OURS or (checkpoint.library == "resnet_keras" and checkpoint.assumed):
        return f"{origin}; resnet-parity itself is the library that writes such files"
    judge = next((judge for judge in JUDGES if judge.claims(checkpoint)), None)
    if judge is None:
        return f"{origin}, which no library that is known here loads"
    if judge.missing():
        return f"{judge.library} is not installed"
    if spec.gives_maps and checkpoint.own_graph is None:
        return f"{judge.library} is not asked for the maps of features"
    facts = judge.facts(checkpoint, spec)
    return facts if isinstance(facts, str) else (judge, facts)


_OURS = ("resnet-parity", "resnet_flax")


def _of_user(checkpoint: Checkpoint, spec: ResNetSpec, against: str) -> Facts:
    """What the user's own model is told."""
    if (absent := _USERS.engine.missing()) is not None:
        raise FrameworkError(f"--against: {_USERS.engine.name}: {absent}")
    if checkpoint.own_graph is not None:
        raise ResNetError("--against: not for a file with a graph of its own, which itself is run")
    if spec.gives_maps:
        raise ResNetError("--against: not for the maps of features; convert the net with its pool")
    names = list(checkpoint.renamed) if checkpoint.kind in _IN_TORCH else None
    return {"factory": against, "names": names}


def _torch_net(checkpoint: Checkpoint, spec: ResNetSpec) -> Facts | str:
    """The net of torchvision, or else of timm, that computes what the spec says."""
    absent = None
    for library, find in (("torchvision", _torchvision_net), ("timm", timm_net)):
        if (found := find(spec)) is not None:
            if peer_missing(library) is None:
                there = names_there(library, spec, checkpoint.renamed.values())
                names = {told: there[ours] for told, ours in checkpoint.renamed.items()}
                facts = {"library": library, "name": found[0], "options": found[1]}
                return facts | {"names": names}
            absent = absent or library
    return f"{absent} is not installed" if absent else "neither torchvision nor timm has this net"


def _torchvision_net(spec: ResNetSpec) -> tuple[str, Facts] | None:
    fields = ("num_classes", "output_stride")
    name = same_function(spec, frozenset({"torchvision", "torchvision_regnet"}), fields)
    if name is None or not spec.num_classes:
        return None
    options: Facts = {"num_classes": spec.num_classes}
    if spec.output_stride in (8, 16) and spec.names is not None:
        return None  # its RegNets do not dilate
    if spec.output_stride in (8, 16):
        options["replace_stride_with_dilation"] = [False, spec.output_stride == 8, True]
    return name, options


def _application(checkpoint: Checkpoint, spec: ResNetSpec) -> Facts | str:
    fields = ("in_channels", "num_classes")
    name = same_function(spec, frozenset({"keras"}), fields)
    if name is None:
        return "keras.applications has no such net"
    name = name.removeprefix("keras_").replace("resnet", "ResNet").replace("v2", "V2")
    return {"name": name, "classes": spec.num_classes}


def _bit(checkpoint: Checkpoint, spec: ResNetSpec) -> Facts:
    return {
        "layers": list(spec.depths),
        "channels": [4 * width for width in spec.widths],
        "stem_chs": spec.stem_width,
        "num_classes": spec.num_classes,
        "in_chans": spec.in_channels,
    }


def _linen(checkpoint: Checkpoint, spec: ResNetSpec) -> Facts:
    return {
        "block_cls": BLOCKS[spec.blocks[0]],
        "stage_sizes": list(spec.depths),
        "num_filters": spec.stem_width,
        "num_classes": spec.num_classes,
    }


def _jax_resnet(checkpoint: Checkpoint, spec: ResNetSpec) -> Facts:
    bottleneck = spec.blocks[0] == "bottleneck"
    d = "D" if spec.shortcut_pool == "avg" else ""
    return {
        "block": f"ResNet{d}{'Bottleneck' if bottleneck else ''}Block",
        "inner": {"groups": spec.groups, "base_width": spec.base_width} if bottleneck else {},
        "stage_sizes": list(spec.depths),
        "hidden_sizes": list(spec.widths),
        "n_classes": spec.num_classes,
    }


def _graph(checkpoint: Checkpoint, spec: ResNetSpec) -> Facts | str:
    own = checkpoint.own_graph
    if own is None:  # a model of ours, which claims that its layers are those of its spec
        return {"logits": False, "library": "resnet_keras"}
    here = own.library in (None, "resnet_keras") or (
        own.library == "keras_hub" and peer_missing("KerasHub") is None
    )
    if not here:
        return f"{own.library} is not installed"
    return {"logits": own.probabilities, "library": own.library}


def _onnx(checkpoint: Checkpoint, spec: ResNetSpec) -> Facts:
    own = checkpoint.own_graph
    assert own is not None
    return {"first": own.channels_first, "logits": own.probabilities}


def _hub(checkpoint: Checkpoint, spec: ResNetSpec) -> Facts:
    return {"classifies": spec.num_classes > 0}


def _names_of(library: str) -> Callable[[Checkpoint], bool]:
    return lambda checkpoint: checkpoint.library == library


def _in_torch(checkpoint: Checkpoint) -> bool:
    """Whether a file holds arrays of torchvision's and timm's names, or such that lead to them."""
    named = bool(checkpoint.renamed)
    return checkpoint.kind in _IN_TORCH and named


_IN_TORCH = ("pytorch", "safetensors")
"""Kinds of files that hold arrays of PyTorch's modules."""


_TORCH, _FLAX = ENGINES["torch"], ENGINES["flax"]
# On Keras's TensorFlow engine its own layers compute in float64 throughout.
_KERAS = ENGINES["keras:tensorflow"]

_USERS = Judge("users_model", "the caller's model", None, _TORCH, lambda checkpoint: False)
"""It claims nothing: whoever calls has to ask for it."""

JUDGES = (
    Judge(
        "onnx_graph", "onnx", None, RUNTIMES["onnx:reference"], lambda c: c.kind == "onnx", _onnx
    ),
    Judge(
        "keras_graph",
        "keras with TensorFlow",
        None,
        _KERAS,
        lambda c: c.own_graph is not None or (c.library == "resnet_keras" and not c.assumed),
        _graph,
    ),
    Judge("transformers_folder", "transformers", "transformers", _TORCH, _names_of("transformers")),
    Judge("timm_folder", "timm", "timm", _TORCH, _names_of("timm")),
    Judge("state_dict", "torchvision", None, _TORCH, _in_torch, _torch_net),
    Judge("bit", "timm", "timm", _TORCH, _names_of("BiT"), _bit),
    Judge(
        "keras_applications",
        "keras with TensorFlow",
        None,
        _KERAS,
        _names_of("keras.applications"),
        _application,
    ),
    Judge("keras_hub", "KerasHub", "KerasHub", _KERAS, _names_of("KerasHub"), _hub),
    Judge(
        "linen",
        "Flax's ImageNet example",
        "flax example",
        _FLAX,
        _names_of("Flax's imagenet example"),
        _linen,
    ),
    Judge("jax_resnet", "jax-resnet", "jax-resnet", _FLAX, _names_of("jax-resnet"), _jax_resnet),
)
"""The first one that claims a source judges it."""
