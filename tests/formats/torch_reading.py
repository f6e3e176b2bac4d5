"""What reading a PyTorch file gives, PyTorch being the judge.

    python -m tests.formats.torch_reading 320 [first]

reads so many drawn files and prints what was found, for docs/results/files.md.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

import resnet_torch
from shared_spec.errors import ResNetError
from shared_spec.formats.inspection import inspect
from shared_spec.formats.read import Asked, read_checkpoint
from tests.probes.torch_trees import Answer, Query, Tree, drawn

TOLERANCE = 1e-9
"""Both sides compute in float64."""


def verdict(tree: Tree) -> list[str]:
    """Of each way to read the file: `right`, `refused: ...` or `wrong: ...`."""
    inspect(tree.path)
    return [_verdict(tree, query) for query in tree.queries]


def _verdict(tree: Tree, query: Query) -> str:
    path = tree.path
    try:
        read = read_checkpoint(path, query.spec, resize=True, asked=Asked(query.part))
        assert read.spec is not None
        model = resnet_torch.create_model(read.spec, weights=dict(read.state), dtype="float64")
    except ResNetError as error:
        text = str(error)
        assert "\n" not in text
        return f"refused: {text.removeprefix(f'{path}: ')}"
    if not query.answers:
        return f"wrong: read as {read.part}, though it is not clear"
    if not read.assumed:
        return "wrong: nothing is assumed"
    given = resnet_torch.predict(model, tree.images)
    notes = "; ".join(read.notes)
    whys = [_why(given, read.spec.num_classes > 0, notes, answer) for answer in query.answers]
    return "right" if "" in whys else f"wrong: {whys[0]} ({notes})"


def _why(given: np.ndarray, classifies: bool, notes: str, answer: Answer) -> str:
    """Why it is not an answer; empty if it is."""
    expected = answer.logits if classifies else answer.features
    if expected is None:
        return "has logits, though the file has none that are of the features"
    if given.shape != expected.shape:
        return f"shape {given.shape}, expected {expected.shape}"
    error = np.abs(given - expected).max() / np.abs(expected).max()
    if not error <= TOLERANCE:
        return f"{error:.1e}"
    if not classifies and answer.logits is not None and "left out: the head" not in notes:
        return "the classifier is left out without a word"
    if classifies and not all(word in notes for word in answer.told):
        return f"not told: {answer.told}"
    return ""


def main(count: int, first: int) -> None:
    found: Counter[tuple[str, str]] = Counter()
    number, done = first, 0
    with tempfile.TemporaryDirectory() as folder:
        while done < count:
            tree = drawn(number, Path(folder))
            number += 1
            if tree is None:
                continue
            done += 1
            said = verdict(tree)
            kinds = [text.partition(":")[0] for text in said]
            worst = next(k for k in ("wrong", "right", "refused") if k in kinds)
            found[tree.kind.partition(":")[0], worst] += 1
            shown = " / ".join(dict.fromkeys(text[:230] for text in said))
            print(number - 1, tree.kind, tree.what, shown, sep=" | ", flush=True)
            tree.path.unlink()
    for key in sorted(found):
        print(*key, found[key])
    print(f"{done} files, seeds {first} to {number - 1}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
