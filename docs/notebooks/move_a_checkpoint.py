# %% [markdown]
# # Move a checkpoint, and read the certificate
#
# A checkpoint of torchvision becomes a file of Keras. What proves that it is the same net is
# written beside it.

# %%
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

os.environ["COLUMNS"] = "110"


def run(line):
    """A command, what it prints, and how it ends."""
    words = shlex.split(line)
    assert words[0] == "resnet-parity"
    done = subprocess.run(
        [sys.executable, "-m", "resnet_parity", *words[1:]],
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stderr if done.returncode == 2 else ""
    print(f"$ {line}\n{done.stdout}{said}exit code {done.returncode}")
    return done.returncode


# %% [markdown]
# The checkpoint here is torchvision's `resnet18` with the weights that it draws, since nothing is
# downloaded; `torch.save` writes it as it would a trained one.

# %%
import torch

from resnet_parity.worker.reference_libraries import torchvision_models

torchvision_models()  # imports torchvision, also where its compiled operators do not load
from torchvision.models import resnet18

torch.manual_seed(0)
torch.save(resnet18(weights=None).state_dict(), "theirs.pth")

# %% [markdown]
# ## What is in the file?
#
# `inspect` imports no framework and executes nothing of the file. Names and shapes fit three nets
# which compute different functions (a blur before strides, another padding, have no weights), so it
# asks which one it is.

# %%
assert run("resnet-parity inspect theirs.pth") == 0

# %% [markdown]
# ## Convert
#
# The new file is read back and compared bit for bit, then run by Keras in float64 and float32. The
# results are compared with those of torchvision itself, which loads the source in its own safe way.
# Only then does the file take its place.

# %%
assert run("resnet-parity convert theirs.pth ours.keras --model resnet18") == 0

# %% [markdown]
# ## The certificate
#
# It says whose results are the reference, what ran, how far it was off, and what was allowed.

# %%
certificate = json.loads(Path("ours.keras.parity.json").read_text())
print(sorted(certificate))
print({key: certificate["source"][key] for key in certificate["source"] if key != "sha256"})
print({key: value for key, value in certificate["reference"].items() if key != "outputs"})
for check in certificate["checks"]:
    print({key: check[key] for key in ("engine", "dtype", "error", "bound", "holds")})

# %% [markdown]
# ## Verify it elsewhere
#
# The certificate has the inputs and the source's float64 logits in it, so that `verify` needs
# neither the source nor PyTorch, and can ask another engine.

# %%
assert run("resnet-parity verify ours.keras --engines flax") == 0

# %% [markdown]
# ## A file that is no longer the one that was certified
#
# One bit of one weight is enough.

# %%
data = bytearray(Path("ours.keras").read_bytes())
data[len(data) // 2] ^= 1
Path("ours.keras").write_bytes(data)
assert run("resnet-parity verify ours.keras") != 0
