"""A process of its own for the Python blocks of a page: `python -m tests.docs.run_blocks PAGE`.

What a block would download is a file of random weights of that net.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from shared_spec import Checkpoint, compile_plan, origin, random_weights, resolve, write_safetensors
from shared_spec.catalogue.pretrained import published, published_at
from tests.command import command
from tests.docs.blocks import BEFORE, LEFT_OUT, ROOT, blocks


def fetched_here(reference: str, *_: Any, **__: Any) -> Path:
    """Random weights of the net that the published ones are of."""
    found = published_at(reference)
    name = reference.rpartition("/")[2] if found is None else found.name
    one = published()[name]
    path = Path(tempfile.mkdtemp(dir=".")) / f"{one.model}.safetensors"
    spec = resolve(one.model)
    write_safetensors(path, Checkpoint(random_weights(compile_plan(spec), 0), spec))
    return path


def run(arguments: list[str]) -> None:
    """One of our commands."""
    done = command(*arguments)
    assert done.code == 0, done


def main() -> None:
    page = sys.argv[1]
    for name, photograph in (("cat.jpg", "china.jpg"), ("dog.jpg", "flower.jpg")):
        shutil.copy(ROOT / "resnet_parity" / "assets" / photograph, name)
    origin.download = fetched_here  # type: ignore[assignment]
    images = np.random.default_rng(0).random((2, 224, 224, 3), np.float32)
    found = blocks(page)
    place: dict[str, Any] = {"np": np, "images": images, "run": run}
    place["specs"] = [block.text for block in found if block.language == "yaml"]
    exec("import resnet_torch as resnet\n" + BEFORE[page], place)  # noqa: S102
    for block in found:
        if block.language != "python":
            continue
        lines = block.text.splitlines()
        kept = ["" if line.startswith(tuple(LEFT_OUT)) else line for line in lines]
        code = compile("\n" * (block.line - 1) + "\n".join(kept), page, "exec")
        exec(code, place)  # noqa: S102
        print(f"ran {page}:{block.line}", flush=True)


if __name__ == "__main__":
    main()
