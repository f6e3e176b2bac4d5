"""The ResNets of timm's module `nfnet`, which have no norms."""

from __future__ import annotations

from shared_spec.catalogue.entry import Entry
from shared_spec.catalogue.families.timm_resnet import ECA, SE, Fields, net

SOURCE = "Brock et al. 2021, arXiv:2101.08692; timm.models.nfnet"
NF: Fields = {
    "pre_activation": True,
    "norm": "none",
    "standardize": 1e-5,
    "conv_bias": True,
    "shortcut_pool": "avg",
}
SIZES = {"nf_resnet50": 256}

ENTRIES = tuple(
    Entry(name, "timm_nf", net(depth, NF, attention, size=SIZES.get(name, 224)), SOURCE)
    for prefix, attention in (("nf_resnet", {}), ("nf_seresnet", SE), ("nf_ecaresnet", ECA))
    for depth in (26, 50, 101)
    for name in (f"{prefix}{depth}",)
)
