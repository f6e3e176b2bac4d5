"""Fetch the judges that cannot be installed beside the rest: `python -m tests.fetch_peers`.

KerasHub requires tokenisers and a TensorFlow of another name, which none of its ResNets needs, so
it comes without what it requires; jax-resnet too, so that it takes no other JAX along. Flax's
imagenet example is in its source distribution alone.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tests.peers import PEERS

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
EXAMPLE = "/examples/imagenet/models.py"


def pip(verb: str, *arguments: str) -> None:
    """Run this interpreter's pip on the pinned version, without requirements."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", verb]
    command += ["--no-deps", "--constraint", str(CONSTRAINTS), *arguments]
    subprocess.run(command, check=True)


def fetch() -> None:
    """Fill `PEERS` anew."""
    shutil.rmtree(PEERS, ignore_errors=True)
    example = PEERS / "flax_imagenet" / "models.py"
    example.parent.mkdir(parents=True)
    pip("install", "--no-compile", "--target", str(PEERS), "keras-hub", "jax-resnet")
    with tempfile.TemporaryDirectory() as folder:
        pip("download", "--no-binary", "flax", "--dest", folder, "flax")
        (archive,) = Path(folder).glob("flax-*.tar.gz")
        with tarfile.open(archive) as tar:
            (name,) = (n for n in tar.getnames() if n.endswith(EXAMPLE))
            content = tar.extractfile(name)
            assert content is not None, f"{name} is not a file"
            example.write_bytes(content.read())


if __name__ == "__main__":
    fetch()
