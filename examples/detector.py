"""A detector's head on a ResNet-FPN of ours: trained in PyTorch, its body moved to Keras and Flax.

    python examples/detector.py

torchvision's RetinaNet, anchors, matching and losses included, takes a pyramid that `resnet_torch`
built from a spec, and learns for some steps to find bright rectangles in noise. Then the body's
weights go into `resnet_keras` and `resnet_flax`, and the three are compared map by map in float64.
Exits with 1 if the loss does not fall or a map differs.
Needs `pip install 'resnet-parity[torch,keras,flax]' torchvision`.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import numpy as np
import torch
from torch import Tensor, nn

import resnet_flax
import resnet_keras
import resnet_torch
from resnet_parity.worker.reference_libraries import torchvision_models
from shared_spec import cast_weights, random_images, resolve

SIDE = 64
FIELDS: dict[str, Any] = {
    "depths": [1, 1, 1, 1],
    "widths": [16, 32, 32, 64],
    "stem_width": 16,
    "features_only": True,
    "out_indices": [2, 3, 4],
    "pyramid": 32,
    "pyramid_extra": "p6p7",
}
"""What makes a small ResNet-FPN of a resnet18, with RetinaNet's levels. The norms are not frozen:
nothing has trained them yet.
"""


class Body(nn.Module):
    """A pyramid as torchvision's detectors take it: a dict of maps, and their channels."""

    def __init__(self, pyramid: resnet_torch.ResNet, channels: int) -> None:
        super().__init__()
        self.pyramid, self.out_channels = pyramid, channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[N, C, H, W] to a map for each level."""
        return {str(i): level for i, level in enumerate(self.pyramid(x))}


def rectangles(
    count: int, rng: np.random.Generator
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images [3, H, W] of noise with one bright rectangle each, and where it is."""
    images, targets = [], []
    for _ in range(count):
        image = rng.uniform(0, 0.3, (3, SIDE, SIDE)).astype(np.float32)
        (x, y), (w, h) = rng.integers(0, SIDE // 2, 2), rng.integers(16, SIDE // 2, 2)
        image[:, y : y + h, x : x + w] += 0.7
        box = torch.tensor([[x, y, x + w, y + h]], dtype=torch.float32)
        images.append(torch.from_numpy(image))
        targets.append({"boxes": box, "labels": torch.tensor([0])})
    return images, targets


def train(pyramid: resnet_torch.ResNet, steps: int) -> list[float]:
    """Train a detector on the pyramid; the loss at each step."""
    torchvision_models()
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    sizes = tuple((4 * 2**i,) for i in range(1, 6))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    detector = RetinaNet(
        Body(pyramid, FIELDS["pyramid"]),
        num_classes=1,
        anchor_generator=anchors,
        min_size=SIDE,
        max_size=SIDE,
    ).train()
    optimizer = torch.optim.Adam(detector.parameters(), lr=1e-3)
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(steps):
        loss = sum(detector(*rectangles(4, rng)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=20, help="of training (20)")
    steps: int = parser.parse_args().steps
    jax.config.update("jax_enable_x64", True)
    torch.manual_seed(0)
    spec = resolve("resnet18", FIELDS)
    pyramid = resnet_torch.create_model(spec)
    losses = train(pyramid, steps)
    first, last = (float(np.mean(part)) for part in (losses[:5], losses[-5:]))
    print(f"loss of RetinaNet in PyTorch: {first:.3f} at first, {last:.3f} after {steps} steps")

    weights = cast_weights(resnet_torch.export_weights(pyramid), "float64")
    images = random_images((2, SIDE, SIDE + 33, 3))
    maps = {
        package.__name__: package.predict(
            package.create_model(spec, weights=weights, dtype="float64"), images
        )
        for package in (resnet_torch, resnet_keras, resnet_flax)
    }
    reference = maps.pop("resnet_torch")
    worst = 0.0
    for name, found in maps.items():
        for a, b in zip(reference, found, strict=True):
            apart = float(np.abs(a - b).max() / np.abs(a).max())
            worst = max(worst, apart)
            print(f"{name}: {a.shape[1]} x {a.shape[2]} x {a.shape[3]}, {apart:.1e} from PyTorch")
    alike = worst <= 1e-12
    print("the maps are the same" if alike else "THE MAPS DIFFER")
    return 0 if alike and last < first else 1


if __name__ == "__main__":
    sys.exit(main())
