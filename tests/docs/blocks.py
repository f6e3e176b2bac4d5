"""The code blocks of README and docs, and what each page takes for granted.

A page's blocks run one after another in one process, as a reader would type them. `BEFORE` is what
the page's reader has already: models of an earlier chapter, files. Lines in `LEFT_OUT` cannot run
in a test; each says why.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md")))


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line where it starts, its language, its text."""

    page: str
    line: int
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    """Of one page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    fenced = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(page, text.count("\n", 0, m.start()) + 2, m[1], m[2]) for m in fenced]


def commands(page: str) -> list[tuple[int, list[str]]]:
    """The lines of a page that call `resnet-parity`, with their number: the words behind it."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for m in re.finditer(r"^(?:    )?(?:\$ )?resnet-parity ((?:.*\\\n)*.*)$", text, re.MULTILINE):
        words = shlex.split(m[1].replace("\\\n", " "), comments=True)
        found.append((text.count("\n", 0, m.start()) + 1, words))
    return found


NOT_RUN = {
    "aot": "needs libtpu, and minutes; tests/bench/test_aot.py runs it where it is",
    "bench": "measures for minutes; tests/bench runs it on narrow nets",
    "check": "full nets in five engines; README's runs in tier `all`",
    "convert": "files that readers have; README's runs in tier `all`",
    "curves": "runs that readers have",
    "download": "needs the network",
    "evaluate": "needs the data",
    "export": "full nets; tests/onnx exports narrow ones",
    "inspect": "files that readers have",
    "predict": "weights that readers have",
    "report": "checks and traces full nets",
    "trace": "full nets, and models that readers have",
    "train": "trains for minutes, or needs the data",
    "verify": "files that readers have",
}
"""Commands that are looked at and not run, with the reason; all others are run."""

BACKENDS = {"docs/distributed.md": "tensorflow", "docs/export.md": "tensorflow"}
"""Of Keras, where it is not PyTorch, which starts first."""

LEFT_OUT = {
    "resnet.push_to_hub(": "needs an account; tests/checkpoints/test_hub.py has a hub of its own",
    'resnet_flax.create_model("hf-hub:me/': "the folder that the line before would have uploaded",
}
"""Beginnings of lines that no test can run, with the reason."""

BEFORE = {
    "README.md": "",
    "docs/bench.md": "resnet.save_weights(resnet.create_model('resnet50'), 'resnet50.pth')",
    "docs/comparison.md": "",
    "docs/distributed.md": """
import tensorflow as tf
import resnet_keras
from shared_spec import optimization
how, steps = optimization(learning_rate=0.1), 10
""",
    "docs/export.md": """
images = images[:, :64, :64]
import resnet_torch, resnet_keras, resnet_flax
torch_model = resnet_torch.create_model("resnet18")
keras_model = resnet_keras.create_model("resnet18")
flax_model = resnet_flax.create_model("resnet18")
""",
    "docs/models.md": """
import torch, keras, resnet_torch, resnet_keras, resnet_flax
import jax.numpy as jnp
from flax import nnx
images = torch.zeros(1, 3, 64, 64)
""",
    "docs/papers.md": "",
    "docs/pretrained.md": """
import resnet_flax
from tests.peers import torchvision_models
torchvision_models()
resnet.save_weights(resnet.create_model("resnet20"), "mine.safetensors")
run(["train", "digits", "--engine", "torch", "--output", "runs/digits-torch", "--set", "steps=1"])
run(["convert", "mine.safetensors", "converted.pth"])
""",
    "docs/specs.md": """
resnet.save_weights(resnet.create_model('resnet50'), 'resnet50.pth')
from pathlib import Path
Path("mine.yaml").write_text(specs[0])
""",
    "docs/training.md": """
import resnet_flax
images, labels = images[:, :32, :32], np.array([3, 7])
batches = [(images, labels)]
from shared_spec import optimization
state = resnet_flax.Trainer(
    resnet_flax.create_model("resnet18", num_classes=10),
    optimization(learning_rate=0.1, schedule="cosine", weight_decay=1e-4, ema_decay=0.999),
    steps=1000,
).state()
""",
    "docs/weights.md": """
import torch, keras, resnet_torch, resnet_keras, resnet_flax
from flax import nnx
torch_model = resnet_torch.create_model("resnet50")
flax_model = resnet_flax.create_model("resnet50")
keras_model = resnet_keras.create_model("resnet50")
torch.save(torch_model.state_dict(), "resnet50.pth")
body_without_classifier = {
    k: v for k, v in torch_model.state_dict().items() if not k.startswith("fc.")
}
state = torch_model.state_dict()
dino = {f"{who}.{k}": v for who in ("teacher", "student") for k, v in state.items()}
torch.save(dino, "dino.pth")
theirs = {k.replace("layer1", "body"): v for k, v in state.items()}
torch.save({**theirs, "ema_decay": torch.tensor(0.5)}, "theirs.pth")
""",
}
"""Of each page with Python: code that runs first."""
