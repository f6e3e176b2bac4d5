"""Big Transfer as Google published it (`BiT-M-R50x1.npz`): Kolesnikov et al. 2019,
arXiv:1912.11370.
"""

from __future__ import annotations

import re

from shared_spec.catalogue import CATALOGUE
from shared_spec.errors import WeightsError
from shared_spec.formats.containers.source import Source
from shared_spec.formats.dialects.dialect import Dialect, Extras, Place, Rules, rename
from shared_spec.plan.layers import Parameter
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.layouts import KERAS, TORCH
from shared_spec.weights.preprocessing import Preprocessing

NAMES: Rules = [
    (r"^stem\.conv\.", "root_block/standardized_conv2d/"),
    (r"^norm\.", "group_norm/"),
    (r"^head\.fc\.", "head/conv2d/"),
    (
        r"^stages\.(\d)\.blocks\.(\d+)\.",
        lambda m: f"block{int(m[1]) + 1}/unit{int(m[2]) + 1:02d}/",
    ),
    (r"conv(\d)\.", lambda m: f"{'abc'[int(m[1]) - 1]}/standardized_conv2d/"),
    (r"norm(\d)\.", lambda m: f"{'abc'[int(m[1]) - 1]}/group_norm/"),
    (r"downsample\.conv\.", "a/proj/standardized_conv2d/"),
    (r"group_norm/weight$", "group_norm/gamma"),
    (r"group_norm/bias$", "group_norm/beta"),
    (r"/weight$", "/kernel"),
]
"""From canonical names to those in the file, after its prefix `resnet/`; applied in this order."""

PREFIX = "resnet/"


def _foreign_name(q: Parameter, spec: ResNetSpec) -> Place:
    slot = KERAS["conv_kernel"] if len(q.shape) == 4 else TORCH[q.role]
    return Place(PREFIX + rename(q.name, NAMES), slot)


def _spec_of(source: Source) -> ResNetSpec:
    """Depths, widths and classes follow from the shapes.

    Raises:
        WeightsError: if they are not a BiT net's.
    """
    entries = source.tensors.entries
    shapes = {name.removeprefix(PREFIX): entry.shape for name, entry in entries.items()}
    stem, head = (shapes.get(rename(f"{x}.weight", NAMES), ()) for x in ("stem.conv", "head.fc"))
    units = {match[0] for name in shapes if (match := re.match(r"block\d/unit\d+/", name))}
    depths = [sum(u.startswith(f"block{i}/") for u in units) for i in (1, 2, 3, 4)]
    widths = [shapes.get(f"block{i}/unit01/a/standardized_conv2d/kernel", ()) for i in (1, 2, 3, 4)]
    if len(stem) != 4 or 0 in depths or any(len(shape) != 4 for shape in widths):
        raise WeightsError(f"{source.path}: not the weights of a BiT ResNet")
    return CATALOGUE["resnetv2_50x1_bit"].spec.override(
        depths=depths,
        widths=[int(shape[3]) for shape in widths],
        stem_width=int(stem[3]),
        in_channels=int(stem[2]),
        num_classes=int(head[3]) if len(head) == 4 else 0,
    )


def _extras(source: Source, spec: ResNetSpec) -> Extras:
    if spec.in_channels not in (1, 3):
        return None, None
    half = (0.5,) * spec.in_channels
    return Preprocessing(image_size=spec.image_size, mean=half, std=half), None


BIT = Dialect("bit", "BiT", lambda source: source.kind == "npz", _foreign_name, _spec_of, _extras)
