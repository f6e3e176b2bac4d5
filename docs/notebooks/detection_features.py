# %% [markdown]
# # Features for detection
#
# Detectors and segmentation nets take maps of features instead of logits. Here they come from a
# spec, in every framework, with torchvision's names for a feature pyramid.

# %%
import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import numpy as np
import torch

jax.config.update("jax_enable_x64", True)

import resnet_flax
import resnet_keras
import resnet_torch

images = np.random.default_rng(0).standard_normal((1, 128, 160, 3))

# %% [markdown]
# ## The stages as they are
#
# `features_only` leaves the classifier out, and `out_indices` says which maps are wanted: 0 is the
# stem's, at stride 2, then come the stages. `output_stride` keeps the last ones fine, by dilation.

# %%
for fields in (
    {"features_only": True},
    {"features_only": True, "out_indices": [2]},
    {"features_only": True, "output_stride": 8},
):
    model = resnet_torch.create_model("resnet18", **fields)
    found = resnet_torch.predict(model, images.astype("float32"))
    maps = found if isinstance(found, list | tuple) else [found]
    print(fields, [f"{m.shape[1]} x {m.shape[2]} x {m.shape[3]}" for m in maps])

# %% [markdown]
# ## A pyramid with torchvision's weights
#
# torchvision builds a ResNet-18 with a feature pyramid, with the weights that it draws; the frozen
# norms get statistics that are not trivial. Ours has the same names behind its two prefixes.

# %%
from resnet_parity.worker.reference_libraries import torchvision_models

torchvision_models()  # imports torchvision, also where its compiled operators do not load
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

torch.manual_seed(0)
theirs = resnet_fpn_backbone(backbone_name="resnet18", weights=None).double().eval()
for name, value in theirs.named_buffers():
    scale = name.endswith(("weight", "running_var"))
    value.uniform_(0.5, 1.5) if scale else value.normal_(0, 0.1)
torch.save(theirs.state_dict(), "fpn.pth")

FIELDS = {
    "features_only": True,
    "out_indices": [1, 2, 3, 4],
    "pyramid": 256,
    "pyramid_extra": "pool",
    "norm": "frozen_batch",
    "dtype": "float64",
}

# %%
with torch.no_grad():
    levels = theirs(torch.tensor(images).permute(0, 3, 1, 2)).values()
expected = [level.permute(0, 2, 3, 1).numpy() for level in levels]
for package in (resnet_torch, resnet_keras, resnet_flax):
    model = package.create_model("resnet18", weights="fpn.pth", **FIELDS)
    found = package.predict(model, images)
    apart = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found, expected, strict=True)]
    assert max(apart) <= 1e-12
    print(f"{package.__name__}: {[m.shape[1:3] for m in found]}, {max(apart):.1e} from torchvision")

# %% [markdown]
# So a detector's body that was trained in PyTorch goes on in Keras or Flax. `examples/detector.py`
# trains torchvision's RetinaNet on such a body and moves it.
