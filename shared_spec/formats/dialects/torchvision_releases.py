"""torchvision's published ResNet weights: where they are, for which net, with which preprocessing.

The facts are those of `torchvision.models.resnet` 0.21 and newer.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared_spec.errors import WeightsError, did_you_mean
from shared_spec.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

_CROP = 224
_RELEASES: dict[str, tuple[str, dict[str, tuple[str, int]]]] = {
    "resnet18": ("ResNet18", {"V1": ("f37072fd", 256)}),
    "resnet34": ("ResNet34", {"V1": ("b627a593", 256)}),
    "resnet50": ("ResNet50", {"V1": ("0676ba61", 256), "V2": ("11ad3fa6", 232)}),
    "resnet101": ("ResNet101", {"V1": ("63fe2227", 256), "V2": ("cd907fc2", 232)}),
    "resnet152": ("ResNet152", {"V1": ("394f9c45", 256), "V2": ("f82ba261", 232)}),
    "resnext50_32x4d": ("ResNeXt50_32X4D", {"V1": ("7cdf4587", 256), "V2": ("1a0047aa", 232)}),
    "resnext101_32x8d": ("ResNeXt101_32X8D", {"V1": ("8ba56ff5", 256), "V2": ("110c445d", 232)}),
    "resnext101_64x4d": ("ResNeXt101_64X4D", {"V1": ("173b62eb", 232)}),
    "wide_resnet50_2": ("Wide_ResNet50_2", {"V1": ("95faca4d", 256), "V2": ("9ba9bcbe", 232)}),
    "wide_resnet101_2": ("Wide_ResNet101_2", {"V1": ("32ee1156", 256), "V2": ("d733dc28", 232)}),
}
"""Of each net: its name in torchvision's enums, and of each version, the last being the default,
the start of the file's SHA-256 and the shorter side that images are resized to.
"""


@dataclass(frozen=True)
class TorchvisionWeights:
    """One set of weights: its name in torchvision, its file, the net and the preprocessing."""

    name: str
    url: str
    model: str
    preprocessing: Preprocessing


def _weights() -> dict[str, TorchvisionWeights]:
    """Every set of weights by each of its names; the net's own name stands for the default."""
    found: dict[str, TorchvisionWeights] = {}
    for model, (enum, versions) in _RELEASES.items():
        for version, (start, side) in versions.items():
            name = f"{enum}_Weights.IMAGENET1K_{version}"
            url = f"https://download.pytorch.org/models/{model}-{start}.pth"
            prepare = Preprocessing(
                image_size=_CROP, crop=_CROP / side, mean=IMAGENET_MEAN, std=IMAGENET_STD
            )
            weights = TorchvisionWeights(name, url, model, prepare)
            found |= {name: weights, model: weights, f"{enum}_Weights.DEFAULT": weights}
    return found


_BY_NAME = _weights()
_BY_URL = {weights.url: weights for weights in _BY_NAME.values()}


def torchvision_weights(name: str) -> TorchvisionWeights:
    """The weights that torchvision calls `name`: `ResNet50_Weights.IMAGENET1K_V1`,
    `ResNet50_Weights.DEFAULT`, or `resnet50` for the default; `torchvision:` may stand before it.

    Raises:
        WeightsError: naming the nearest.
    """
    bare = name.removeprefix("torchvision:")
    if bare not in _BY_NAME:
        near = did_you_mean(bare, _BY_NAME) or "; expected a name such as 'resnet50'"
        raise WeightsError(f"torchvision has no ResNet weights named {bare!r}{near}")
    return _BY_NAME[bare]


def torchvision_weights_at(url: str) -> TorchvisionWeights | None:
    """The weights that torchvision publishes under `url`, if any."""
    return _BY_URL.get(url)
