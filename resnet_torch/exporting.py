"""A model as a program of `torch.export`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from resnet_torch.model import ResNet
from resnet_torch.weights import WEIGHTS
from shared_spec.export_formats import TOLD, Form, converting, outer_dtype
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.preprocessing import Preprocessing

_EXAMPLE = 2, (192, 256)
"""Number and size of images, where any are taken: none of a net's maps has a side of 1, for which
a program would be another one.
"""


class Exported(nn.Module):
    """A model with what is around it in an exported program: images [N, C, H, W], or pixels
    [N, H, W, C], to logits or probabilities, of float32 where the model computes in less.
    """

    mean: torch.Tensor | None
    std: torch.Tensor | None

    def __init__(self, net: ResNet, form: Form, prepare: Preprocessing | None, dtype: str) -> None:
        super().__init__()
        self.net, self.softmax = net, form.head == "softmax"
        self.inner = getattr(torch, dtype)
        self.outer = getattr(torch, outer_dtype(dtype))
        self.bgr = prepare is not None and prepare.channel_order == "bgr"
        for name in ("mean", "std"):
            numbers = None if prepare is None else torch.tensor(getattr(prepare, name)).double()
            self.register_buffer(name, None if numbers is None else numbers.to(self.outer))

    def forward(self, x: torch.Tensor) -> Any:
        """What the program computes."""
        if self.mean is not None and self.std is not None:
            x = x.flip(-1) if self.bgr else x
            x = (x.to(self.outer) / 255 - self.mean) / self.std
            x = x.permute(0, 3, 1, 2)
        y = self.net(x.to(self.inner))
        return [self._given(level) for level in y] if isinstance(y, list) else self._given(y)

    def _given(self, y: torch.Tensor) -> torch.Tensor:
        return (y.softmax(-1) if self.softmax else y).to(self.outer)


def write_pt2(model: ResNet, path: Path, form: Form, known: Checkpoint) -> None:
    """Write a program that `torch.export.load` reads, with what is known of it in an extra file.

    Raises:
        SpecError: if PyTorch cannot export the net so.
    """
    dtype = WEIGHTS.dtype_name(model)
    own = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    whole = Exported(own, form, form.normalisation(known.preprocessing), dtype).eval()
    batch, size = form.batch or _EXAMPLE[0], form.size or _EXAMPLE[1]
    sides = (1, 2) if form.preprocessing else (2, 3)
    auto = {0: Dim.AUTO} if form.batch is None else {}
    if form.size is None:
        auto |= dict.fromkeys(sides, Dim.AUTO)
    channels = model.spec.in_channels
    if form.preprocessing:
        example = torch.zeros((batch, *size, channels), dtype=torch.uint8)
    else:
        example = torch.zeros((batch, channels, *size), dtype=whole.outer)
    with torch.no_grad(), converting("torch.export", form):
        program = torch.export.export(whole, (example,), dynamic_shapes=(auto,))
    # The source of every line, with its place on this machine, and a batch of zeros.
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    program.example_inputs = None
    torch.export.save(program, path, extra_files={TOLD: form.told(known, dtype)})
