# %% [markdown]
# # Degradation: what shortcuts are for
#
# He et al. 2015 find that a plain net of 56 layers has a higher *training* loss than one of 20, so
# that it is not overfitting, and that shortcuts without parameters take this away. Here the same
# four nets train on scikit-learn's 8x8 digits, a few channels wide and for few steps, with one
# seed. docs/degradation.md has three seeds and 3,000 steps of the same.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits

import resnet_torch

digits = load_digits()
images = torch.tensor(digits.images[:1198, None] / 16 - 0.3, dtype=torch.float32)
labels = torch.tensor(digits.target[:1198])
STEPS, BATCH = 400, 64
FIELDS = {"widths": [4, 8, 16], "stem_width": 4, "in_channels": 1, "num_classes": 10}


# %% [markdown]
# A plain net and a residual one of the same depth have the same parameters and the same initial
# weights (the shortcut is option A), and all nets see the same batches.


# %%
def train(name):
    """The loss at each step."""
    torch.set_num_threads(1)  # of narrow maps, more threads are no faster
    model = resnet_torch.create_model(name, seed=0, **FIELDS).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    batches = np.random.default_rng(0)
    losses = []
    for _ in range(STEPS):
        chosen = torch.tensor(batches.integers(0, len(images), BATCH))
        loss = torch.nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


NETS = ("plain20", "plain56", "resnet20", "resnet56")
curves = {name: train(name) for name in NETS}
last = {name: float(np.mean(losses[-STEPS // 10 :])) for name, losses in curves.items()}
for name, loss in last.items():
    count = resnet_torch.parameter_count(resnet_torch.create_model(name, **FIELDS))
    print(
        f"{name}: {count:,} parameters, training loss {loss:.3f} in the last tenth of {STEPS} steps"
    )

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True, dpi=80)
for axis, family in zip(axes, ("plain", "resnet"), strict=True):
    for depth, style in ((20, "-"), (56, "--")):
        losses = curves[f"{family}{depth}"]
        axis.plot(np.convolve(losses, np.ones(20) / 20, "valid"), style, label=f"{family}{depth}")
    axis.set(xlabel="step", yscale="log")
    axis.legend()
axes[0].set_ylabel("training loss, mean of 20 steps")
figure.tight_layout()
plt.show()

# %% [markdown]
# The deep plain net ends far above the shallow one, near guessing (2.3). The deep residual net does
# not: after so few steps it is still above the shallow residual one, and it is far below both plain
# nets. One seed and 1,198 images say no more than that: by how much nets differ in general, or why,
# is not shown here.

# %%
assert last["plain56"] > 2 * last["plain20"]
assert last["resnet56"] < last["plain20"] / 2
