"""How right a classifier is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Scores:
    """Shares of images, 0..1, whose class is the likeliest one or among the five likeliest, the
    mean cross-entropy, and the number of images.
    """

    top1: float
    top5: float
    loss: float
    images: int

    def to_dict(self) -> dict[str, float]:
        """As plain JSON data."""
        return asdict(self)


def ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes are ahead of the right one, [N], from logits [N, classes] and labels [N]:
    those of a larger logit and, of equal ones, with a smaller number. A NaN is ahead of all.
    """
    right = np.take_along_axis(logits, labels[:, None], 1)
    classes = np.arange(logits.shape[1])
    ahead = ~(logits <= right) | ((logits == right) & (classes < labels[:, None]))
    ahead[np.arange(len(labels)), labels] = np.isnan(right[:, 0])
    found: np.ndarray = ahead.sum(1)
    return found


def losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of every image, float64 [N], from logits [N, classes] and labels [N]."""
    right = np.take_along_axis(log_softmax(logits), labels[:, None], 1)[:, 0]
    found: np.ndarray = np.abs(right)  # logarithms of probabilities are never above 0
    return found


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities [..., classes], from logits of that shape; in float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    found: np.ndarray = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    return found


def score(
    predict: Callable[[np.ndarray], np.ndarray], batches: Iterable[tuple[np.ndarray, np.ndarray]]
) -> Scores:
    """Scores of the logits [N, classes] that `predict` gives for batches of images [N, H, W, C],
    with labels [N].
    """
    placed, lost = [], []
    for images, labels in batches:
        logits = predict(images)
        placed.append(ranks(logits, labels))
        lost.append(losses(logits, labels))
    return summed(np.concatenate(placed), np.concatenate(lost))


def summed(placed: np.ndarray, lost: np.ndarray) -> Scores:
    """Scores from the ranks [N] and losses [N] of all images."""
    return Scores(
        float((placed < 1).mean()), float((placed < 5).mean()), float(lost.mean()), len(placed)
    )
