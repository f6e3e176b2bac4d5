"""timm's methods of a model, so that its tools and code written for its ResNets work."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, overload

from torch import Tensor, nn

from resnet_torch.layers import chain, run
from shared_spec import plan
from shared_spec.errors import FrameworkError
from shared_spec.plan.layers import Layers
from shared_spec.plan.network import Plan
from shared_spec.plan.summary import block_rows, layer_rows, output_shape
from shared_spec.spec.resnet_spec import ResNetSpec

_SIDE = 1024
"""Pixels of an image that every usual stride divides: what is left of them says the stride."""
_SAME_GROUP = (99999,)
"""timm's mark of what is in a group with what is before it."""


class FeatureInfo(list[dict[str, Any]]):
    """A dict for each level of features: `num_chs`, `reduction`, `module`."""

    def channels(self) -> list[int]:
        """Channels of each level."""
        return [level["num_chs"] for level in self]

    def reduction(self) -> list[int]:
        """Pixels of the image along one of the level's."""
        return [level["reduction"] for level in self]

    def module_name(self) -> list[str]:
        """The module that gives each level."""
        return [level["module"] for level in self]


class TimmNet(nn.Module):
    """What timm's `ResNet` and `ResNetV2` have beside their layers."""

    plan: Plan
    spec: ResNetSpec
    _steps: tuple[str, ...]
    """Layers of the stem, stages, and layers before the pool, which are paths of modules."""
    _taps: tuple[str, ...]
    """Those of them that give a level of features."""
    _body: tuple[str, ...]
    _norm: tuple[str, ...]
    _head: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Of the spec; 0 if the model gives features."""
        return self.spec.num_classes

    @property
    def num_features(self) -> int:
        """Channels of `forward_features`, or of the last level of a features-only model."""
        widened = [x for x in self.plan.before_pool if isinstance(x, plan.Conv)]
        channels: int = self._levels(_SIDE)[-1]["num_chs"]
        return widened[-1].out_channels if widened else channels

    @property
    def inplanes(self) -> int:
        """`num_features`, by torchvision's name."""
        return self.num_features

    @property
    def head_hidden_size(self) -> int:
        """Numbers that enter the classifier."""
        maps = (*self._levels(self.spec.image_size)[-1]["size"], self.num_features)
        pool = self.plan.head[len(self.plan.before_pool)]
        return output_shape(pool, maps)[-1]

    @property
    def feature_info(self) -> FeatureInfo:
        """What `forward_intermediates` can give: what a features-only model gives, or what enters
        its pyramid.
        """
        keys = ("num_chs", "reduction", "module")
        return FeatureInfo({key: level[key] for key in keys} for level in self._levels(_SIDE))

    def _levels(self, side: int) -> list[dict[str, Any]]:
        """The levels of features that an image of this side gives."""
        p, size = replace(self.plan, head=(), junctions=()), (side, side)
        shapes = {row.name: row.shape for row in (*layer_rows(p, size), *block_rows(p, size))}
        found = []
        for tap in self._taps:
            *size_there, channels = shapes[p.end(tap)]
            # timm's path of a stage, which holds nothing but its blocks.
            module = ".".join(tap.split(".")[:2])
            if tap == p.stem[-1].name and len(_roots(p.stem)) == 1:  # or of a whole stem
                (module,) = _roots(p.stem)
            level = {"num_chs": channels, "reduction": side // size_there[0], "module": module}
            found.append(level | {"size": tuple(size_there)})
        return found

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """What timm's `resolve_data_config` and its other tools ask of a model: from the spec, and
        from `preprocessing`, if the model has it.
        """
        convs = (layer.name for layer in self.plan.stem if isinstance(layer, plan.Conv))
        side = self.spec.image_size
        found = {
            "num_classes": self.num_classes,
            "input_size": (self.spec.in_channels, side, side),
            "pool_size": self._levels(side)[-1]["size"],
            "first_conv": next(convs),
            "classifier": self.get_classifier(name_only=True),
        }
        how = getattr(self, "preprocessing", None)
        if how is not None:
            found["input_size"] = (self.spec.in_channels, how.image_size, how.image_size)
            found |= {"crop_pct": how.crop, "interpolation": how.interpolation}
            found |= {"mean": how.mean, "std": how.std}
        return found

    @property
    def default_cfg(self) -> dict[str, Any]:
        """`pretrained_cfg`, by timm's older name."""
        return self.pretrained_cfg

    def forward_features(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the last stage's maps, normalised in pre-activation nets."""
        return chain(self, (*self._body, *self._norm), x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features [N, C, H, W] to logits, or with `pre_logits` to what enters the classifier."""
        if not pre_logits:
            return chain(self, self._head, x)
        classifier = self.get_classifier(name_only=True)
        for layer in self.plan.head[len(self.plan.before_pool) :]:
            if isinstance(layer, plan.BatchNorm) and layer.of_features:
                break  # of what the classifier gives
            if layer.name == classifier:
                continue
            x = run(self.get_submodule(layer.name), x)
        return x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The features, and those of the levels asked for.

        Examples:
            >>> features, (middle, last) = model.forward_intermediates(images, [2, 4])

        Args:
            x: images [N, C, H, W].
            indices: of `feature_info`; a number for the last so many, None for all.
            norm: give the last level as the head takes it, in nets that end in a norm.
            stop_early: compute nothing after the last level that is asked for.
            output_fmt: "NCHW".
            intermediates_only: leave out the features.

        Returns:
            The features and a list of levels, or that list.

        Raises:
            FrameworkError: if there is no such level or format.
        """
        if output_fmt != "NCHW":
            raise FrameworkError(f"output_fmt: {output_fmt!r} is not NCHW, which is all there is")
        wanted = _chosen(self._taps, indices)
        final = self.plan.before_pool
        normed = bool(final) and not isinstance(final[0], plan.Conv | plan.Activation)
        found = []
        for name in self._steps:
            x = run(self.get_submodule(name), x)
            if name in wanted:
                last = norm and normed and name == self._taps[-1]
                found.append(chain(self, self._norm, x) if last else x)
            if stop_early and len(found) == len(wanted):
                break
        return found if intermediates_only else (x, found)

    @overload
    def get_classifier(self, name_only: Literal[False] = False) -> nn.Module: ...
    @overload
    def get_classifier(self, name_only: Literal[True]) -> str: ...
    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        """The classifier, or its path; `nn.Identity`, or an empty path, if there is none."""
        classifier = self.plan.classifier
        name = "" if classifier is None else classifier.name
        if name_only:
            return name
        return self.get_submodule(name) if name else nn.Identity()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep no activations inside of blocks for the backward pass: compute them again.

        Examples:
            >>> model.set_grad_checkpointing()
        """
        for stage in self.plan.stages:
            self.get_submodule(stage.name).grad_checkpointing = enable  # type: ignore[assignment]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameters' names, from the stem to the last block, for rates that differ
        from layer to layer; `coarse` groups stages.

        Examples:
            >>> timm.optim.create_optimizer_v2(model, "adamw", lr=1e-3, layer_decay=0.7)
        """
        stem = "|".join(_roots(self.plan.stem))
        stage, block = (_numbered(name) for name in self._first_names())
        final = self.plan.before_pool  # with a convolution it is a group of its own
        final = () if any(isinstance(layer, plan.Conv) for layer in final) else final
        norms = [(rf"^{layer.name}\.", _SAME_GROUP) for layer in final]
        blocks = rf"^{stage}\." if coarse else [(rf"^{block}\.", None), *norms]
        return {"stem": rf"^(?:{stem})\.", "blocks": blocks}

    def _first_names(self) -> tuple[str, str]:
        """Of the first stage and its first block."""
        stage = next(iter(self.plan.stages), None)
        return ("", "") if stage is None else (stage.name, stage.blocks[0].name)


def _roots(layers: Layers) -> list[str]:
    """The children of the net that hold some layers."""
    return list(dict.fromkeys(layer.name.partition(".")[0] for layer in layers))


def _numbered(name: str) -> str:
    """A pattern for names that differ in numbers."""
    return re.sub(r"\d+", r"(\\d+)", re.escape(name))


def _chosen(taps: Sequence[str], indices: int | Sequence[int] | None) -> list[str]:
    """The levels that `indices` asks for.

    Raises:
        FrameworkError: if there is none of such a number.
    """
    if indices is None:
        return [*taps]
    last = isinstance(indices, int)
    numbers = range(-indices, 0) if isinstance(indices, int) else indices
    if (last and not numbers) or any(not -len(taps) <= i < len(taps) for i in numbers):
        raise FrameworkError(f"indices: {indices} is not of the {len(taps)} levels of features")
    return [*dict.fromkeys(taps[i] for i in numbers)]
