"""The declarative spec: what a ResNet is, in the field's own words, validated and hashable."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared_spec.errors import SpecError, did_you_mean

Depth = Annotated[int, Field(ge=1, le=10_000)]
Channels = Annotated[int, Field(ge=1, le=65_536)]
Stride = Annotated[int, Field(ge=1, le=8)]

EXPANSION = {"basic": 1, "bottleneck": 4}
"""Channels after a block in units of its planes."""


class ResNetSpec(BaseModel):
    """A residual network. The defaults are torchvision's ResNet (stride on the 3×3, "v1.5").

    Sources: He et al. 2015, arXiv:1512.03385 (blocks, shortcuts A, B, C, plain nets); Xie et al.
    2016, arXiv:1611.05431 (`groups`, `base_width`); Zagoruyko and Komodakis 2016, arXiv:1605.07146
    (wide bottlenecks, through `base_width`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    depths: Annotated[tuple[Depth, ...], Field(min_length=1, max_length=8)] = Field(
        description="Blocks in each stage, for example [3, 4, 6, 3]."
    )
    block: Literal["basic", "bottleneck"] = Field(
        description="basic: two 3x3 convolutions. bottleneck: 1x1, 3x3, 1x1 with expansion 4."
    )
    widths: Annotated[tuple[Channels, ...], Field(max_length=8)] = Field(
        default=(),
        description="Planes of each stage before expansion; left out: 64, doubled every stage.",
        validate_default=True,
    )
    strides: Annotated[tuple[Stride, ...], Field(max_length=8)] = Field(
        default=(),
        description="Stride of each stage's first block; left out: 1, then 2 for every other.",
    )
    groups: Channels = Field(default=1, description="Groups of the bottleneck's 3x3 convolution.")
    base_width: Channels = Field(
        default=64,
        description="Bottleneck width at 64 planes, for each group: int(planes * base_width / 64) "
        "* groups.",
    )
    stride_on: Literal["3x3", "1x1"] = Field(
        default="3x3",
        description="Which convolution of a bottleneck has the stride: the 3x3 (v1.5) or the "
        "first 1x1 (the paper's v1).",
    )
    shortcut: Literal["projection", "zero_pad", "projection_all", "none"] = Field(
        default="projection",
        description="Where shapes differ, project with a 1x1 convolution (the paper's option B) or "
        "subsample and pad channels with zeros (A); projection_all projects in every block (C); "
        "none is the plain net.",
    )
    shortcut_norm: bool = Field(
        default=True, description="Normalise after the projection of a shortcut."
    )
    stem: Literal["conv7x7", "conv3x3"] = Field(
        default="conv7x7", description="The first convolution: 7x7 (ImageNet) or 3x3 (CIFAR)."
    )
    stem_width: Channels = Field(default=64, description="Channels after the stem.")
    stem_stride: Stride = Field(default=2, description="Stride of the stem's convolution.")
    stem_pool: Literal["max", "none"] = Field(
        default="max", description="3x3 max pool of stride 2 after the stem, or none."
    )
    conv_bias: bool = Field(default=False, description="Give every convolution a bias.")
    padding: Literal["symmetric", "same"] = Field(
        default="symmetric",
        description="symmetric: the same number on all sides. same: TensorFlow's rule, which at "
        "stride 2 depends on the input size.",
    )
    norm_eps: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1e-5, description="Added to the variance."
    )
    norm_momentum: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.1,
        description="Share of the new batch in the running statistics (PyTorch's sense; Keras and "
        "Flax call one minus this momentum).",
    )
    norm_variance: Literal["unbiased", "biased"] = Field(
        default="unbiased",
        description="Estimate that enters the running variance: unbiased (n - 1, PyTorch's) or "
        "biased (n, Keras's and Flax's). It holds in every framework.",
    )
    activation: Literal["relu"] = Field(default="relu", description="The nonlinearity.")
    zero_init_last: bool = Field(
        default=False,
        description="Start the last norm's scale of each branch at 0 (Goyal et al. 2017).",
    )
    in_channels: Channels = Field(default=3, description="Channels of the input image.")
    num_classes: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=1000, description="Number of logits."
    )
    image_size: Annotated[int, Field(ge=1, le=65_536)] = Field(
        default=224, description="Nominal height and width in pixels; any other size works too."
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_per_stage(cls, data: Any) -> Any:
        """Give `widths` and `strides` one entry a stage where they were left out."""
        if isinstance(data, dict) and isinstance(data.get("depths"), list | tuple):
            count = len(data["depths"])
            data = dict(data)
            data["widths"] = data.get("widths") or tuple(64 * 2**i for i in range(count))
            data["strides"] = data.get("strides") or (1,) + (2,) * (count - 1)
        return data

    @model_validator(mode="after")
    def _check_combination(self) -> ResNetSpec:
        for field in ("widths", "strides"):
            given = len(getattr(self, field))
            if given != len(self.depths):
                raise ValueError(
                    f"{field}: {given} entries for {len(self.depths)} stages; give one a stage"
                )
        if self.block == "basic":
            for field, plain in (("groups", 1), ("base_width", 64), ("stride_on", "3x3")):
                if getattr(self, field) != plain:
                    raise ValueError(
                        f"{field}: {getattr(self, field)!r} needs block 'bottleneck'; a basic "
                        f"block takes {plain!r} alone"
                    )
        if self.shortcut == "zero_pad":
            expansion = EXPANSION[self.block]
            channels = [self.stem_width, *(width * expansion for width in self.widths)]
            for stage, (before, after) in enumerate(itertools.pairwise(channels), start=1):
                if after < before:
                    raise ValueError(
                        f"shortcut: 'zero_pad' can only add channels, and stage {stage} goes from "
                        f"{before} to {after}"
                    )
        if self.block == "bottleneck":
            for planes in self.widths:
                if planes * self.base_width < 64:
                    raise ValueError(
                        f"base_width: {self.base_width} at {planes} planes leaves a bottleneck of "
                        f"width 0; widths * base_width / 64 must be at least 1"
                    )
        return self

    @classmethod
    def parse(cls, data: object, where: str = "spec") -> ResNetSpec:
        """Validate `data` (a mapping of fields). `where` names the origin in errors.

        Raises:
            SpecError: naming every bad field, what was given, and what would be accepted.
        """
        if not isinstance(data, dict):
            raise SpecError(
                f"{where}: expected a mapping of spec fields, got {type(data).__name__}"
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise SpecError(f"{where}: " + "; ".join(_sentences(cls, error))) from None

    def override(self, **fields: Any) -> ResNetSpec:
        """The same spec with `fields` replaced. Widths and strides that merely followed from the
        old `depths` follow from the new ones.

        Raises:
            SpecError: as `parse`.
        """
        if not fields:
            return self
        data = self.to_dict() | fields
        return type(self).parse(data, where="spec override")

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from the defaults, as plain JSON data; `parse` takes it back."""
        data = self.model_dump(mode="json", exclude_defaults=True)
        derived = type(self).model_validate({"depths": self.depths, "block": self.block})
        for field in ("widths", "strides"):
            if getattr(self, field) == getattr(derived, field):
                data.pop(field, None)
        return data

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON Schema of a spec file, for editors."""
        schema = cls.model_json_schema()
        schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        schema["title"] = "ResNet spec"
        schema["description"] = "A residual network for resnet-parity: a YAML, TOML or JSON file."
        return schema


def _sentences(model: type[BaseModel], error: ValidationError) -> list[str]:
    """One clause a problem: the field, what was given, what would be accepted."""
    out = []
    for problem in error.errors(include_url=False):
        path = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            near = did_you_mean(path, model.model_fields)
            known = "" if near else "; known fields are " + ", ".join(model.model_fields)
            out.append(f"{path}: there is no such field{near}{known}")
        elif problem["type"] == "missing":
            out.append(f"{path}: this field is required")
        elif path:
            message = message[0].lower() + message[1:]
            out.append(f"{path}: {message} (got {_short(problem['input'])})")
        else:
            out.append(message)
    return out


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
