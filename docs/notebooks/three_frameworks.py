# %% [markdown]
# # Five minutes in three frameworks
#
# One definition of a ResNet, built as a native model of PyTorch, Keras and Flax. The three packages
# have the same verbs; what they return is what users of each framework expect.

# %%
import os

os.environ["KERAS_BACKEND"] = "jax"  # or tensorflow, or torch

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)  # float64 in JAX, to see that the nets are one function

import resnet_flax
import resnet_keras
import resnet_torch
from shared_spec import ResNetError

PACKAGES = (resnet_torch, resnet_keras, resnet_flax)

# %% [markdown]
# ## The catalogue and a spec
#
# A name stands for a spec, and any of its fields can be set.

# %%
print(resnet_torch.list_models("resnet18*"))
print(resnet_torch.create_model("resnet18", num_classes=10).spec.to_dict())

# %% [markdown]
# ## The same call, three native models
#
# The first convolution of the first block is an `nn.Conv2d`, a layer of a functional `keras.Model`,
# and an `nnx.Conv`.

# %%
models = {}
for package in PACKAGES:
    models[package] = package.create_model("resnet18", num_classes=10, seed=0, dtype="float64")

print(models[resnet_torch].layer1[0].conv1)
print(models[resnet_keras].get_layer("layer1_0_conv1"))
print(type(models[resnet_flax].layer1[0].conv1))

# %% [markdown]
# ## The same seed gives the same weights, bit for bit
#
# `export_weights` gives numpy arrays under PyTorch's names and in its layouts, whatever the
# framework.

# %%
states = {package: package.export_weights(model) for package, model in models.items()}
first = states[resnet_torch]
for package, state in states.items():
    assert state.keys() == first.keys()
    assert all(np.array_equal(state[name], first[name]) for name in first)
    print(
        f"{package.__name__}: {len(state)} arrays, {sum(a.size for a in state.values()):,} numbers"
    )

# %% [markdown]
# ## And the same function
#
# Images are numpy arrays [N, H, W, C], logits come back as numpy, in evaluation. In float64 only
# the order of summation differs.

# %%
images = np.random.default_rng(0).standard_normal((2, 96, 64, 3))
logits = {package: package.predict(model, images) for package, model in models.items()}
reference = logits[resnet_torch]
for package, found in logits.items():
    apart = np.abs(found - reference).max() / np.abs(reference).max()
    assert apart <= 1e-12
    print(f"{package.__name__}: {apart:.1e} from PyTorch")

# %% [markdown]
# ## Weights move as arrays
#
# Change the PyTorch model, as you would any, and take its weights to Flax. Loading is strict:
# whatever is missing or does not fit is listed in one error, and the model stays as it was.

# %%
import torch

with torch.no_grad():
    models[resnet_torch].fc.bias += 1.0
resnet_flax.load_weights(models[resnet_flax], resnet_torch.export_weights(models[resnet_torch]))
moved = resnet_flax.predict(models[resnet_flax], images)
print(np.abs(moved - resnet_torch.predict(models[resnet_torch], images)).max() < 1e-12)

try:
    resnet_keras.load_weights(models[resnet_keras], {"fc.bias": np.zeros(10)})
except ResNetError as error:
    print(f"{str(error)[:150]} ...")
