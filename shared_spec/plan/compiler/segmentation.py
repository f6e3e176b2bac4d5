"""Classes for each pixel: what is behind the stages of torchvision's segmentation nets, under its
names.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared_spec import plan
from shared_spec.plan.compiler.pieces import norm_layer
from shared_spec.plan.layers import Layers
from shared_spec.plan.network import Junction
from shared_spec.spec.resnet_spec import ResNetSpec

_RATES = (12, 24, 36)
_WIDTH = 256
"""Of DeepLab's head."""


def outputs_of(spec: ResNetSpec) -> tuple[str, ...]:
    """The layers that give the model's maps."""
    return ("out", "aux") if spec.auxiliary else ("out",)


def segmenter(spec: ResNetSpec, stages: Sequence[tuple[str, int]]) -> tuple[Junction, ...]:
    """The junctions behind stages, given with their channels."""
    (last, channels) = stages[-1]
    if spec.segmentation == "fcn":
        made = [Junction((last,), _convolutions(spec, "classifier", channels))]
    else:
        made = _deeplab(spec, last, channels)
    heads = [("out", made)]
    if spec.auxiliary:
        (before, width) = stages[-2]
        heads.append(("aux", [Junction((before,), _convolutions(spec, "aux_classifier", width))]))
    enlarged = [
        Junction((junctions[-1].name, ""), (plan.Enlarge(name, "bilinear"),))
        for name, junctions in heads
    ]
    return (*(j for _, junctions in heads for j in junctions), *enlarged)


def _convolutions(spec: ResNetSpec, name: str, channels: int) -> Layers:
    width = channels // 4
    return (
        *_normed(spec, name, 0, (channels, width), 3),
        plan.Dropout(f"{name}.3", 0.1),
        plan.Conv(f"{name}.4", width, spec.num_classes, 1, bias=True),
    )


def _normed(
    spec: ResNetSpec, name: str, first: int, shape: tuple[int, int], kernel_size: int, rate: int = 1
) -> Layers:
    """A convolution of stride 1 that keeps the size, its norm and a ReLU, numbered."""
    padding = rate * (kernel_size // 2)
    return (
        plan.Conv(f"{name}.{first}", *shape, kernel_size, padding=padding, dilation=rate),
        norm_layer(spec, f"{name}.{first + 1}", shape[1]),
        plan.Activation(f"{name}.{first + 2}", "relu"),
    )


def _deeplab(spec: ResNetSpec, last: str, channels: int) -> list[Junction]:
    """Dilated convolutions and the mean of the map side by side, then two convolutions."""
    at, shape = "classifier.0", (channels, _WIDTH)
    paths = [Junction((last,), _normed(spec, f"{at}.convs.0", 0, shape, 1))]
    for i, rate in enumerate(_RATES, start=1):
        paths.append(Junction((last,), _normed(spec, f"{at}.convs.{i}", 0, shape, 3, rate)))
    pool = plan.GlobalPool(f"{at}.convs.4.0", keep_axes=True)
    mean = Junction((last,), (pool, *_normed(spec, f"{at}.convs.4", 1, shape, 1)))
    enlarged = Junction((mean.name, last), (plan.Enlarge(f"{at}.enlarged", "bilinear"),))
    joined = (
        plan.Concat(f"{at}.joined"),
        *_normed(spec, f"{at}.project", 0, (5 * _WIDTH, _WIDTH), 1),
        plan.Dropout(f"{at}.project.3", 0.5),
        *_normed(spec, "classifier", 1, (_WIDTH, _WIDTH), 3),
        plan.Conv("classifier.4", _WIDTH, spec.num_classes, 1, bias=True),
    )
    sources = (*(path.name for path in paths), enlarged.name)
    return [*paths, mean, enlarged, Junction(sources, joined)]
