# %% [markdown]
# # Find the bug in a port with `trace`
#
# Somebody has written a ResNet by hand and loaded weights into it. No shape is wrong and no name is
# missing, and yet the classes are not what they should be. Where is it?

# %%
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
# ## The net, as a spec and as a port

# %%
Path("net.yaml").write_text("""
block: basic
depths: [2, 2]
widths: [16, 32]
stem: conv3x3
stem_width: 16
stem_stride: 1
stem_pool: none
num_classes: 10
image_size: 32
""")

PORT = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(o)
        self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(o, eps=1e-3)
        if stride != 1 or i != o:
            self.downsample = nn.Sequential(
                nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o)
            )

    def forward(self, x):
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + shortcut)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1))
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        x = self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x)))))
        return self.fc(x.mean((2, 3)))
"""
_ = Path("my_net.py").write_text(PORT)

# %% [markdown]
# ## Which layer is it?
#
# The port gets the spec's weights by name. Every layer is compared twice: as both sides compute it,
# and on the input that it has in the reference. Only the second tells a layer that is wrong from
# one that receives something wrong.

# %%
assert run("resnet-parity trace net.yaml --engines torch --against my_net:Net") == 1

# %% [markdown]
# `bn2` of the first block is at fault, and of every other block too: there the port has another
# `eps` than the norm before it, a number of Keras's that is easy to take along. All else is off
# because of what enters it. With the default of PyTorch the port is right:

# %%
Path("my_net.py").write_text(PORT.replace(", eps=1e-3", ""))
assert run("resnet-parity trace net.yaml --engines torch --against my_net:Net") == 0

# %% [markdown]
# ## Another one
#
# Of an even map, TensorFlow's `same` pads one row and column behind it and none before it, where
# PyTorch pads both sides. All shapes are the same.

# %%
Path("my_net.py").write_text(
    PORT.replace(", eps=1e-3", "")
    .replace("nn.Conv2d(i, o, 3, stride, 1,", "nn.Conv2d(i, o, 3, stride, 2 - stride,")
    .replace("self.conv1(x)))))", "self.conv1(same(x) if self.conv1.stride == (2, 2) else x)))))")
    + "\n\ndef same(x):\n    return nn.functional.pad(x, (0, 1, 0, 1))\n"
)
assert run("resnet-parity trace net.yaml --engines torch --against my_net:Net") == 1

# %% [markdown]
# From `layer2.0.conv1` on the two differ, and on the reference's input only the block `layer2.0`
# does: the padding is outside of the convolution, in the block's own `forward`. So no layer is at
# fault, and the block with the mistake is.
