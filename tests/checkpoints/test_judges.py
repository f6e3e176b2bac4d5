"""Each library loads a source of its own and judges the conversion."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from resnet_parity.convert import certificate as module
from resnet_parity.convert.conversion import Converted, Proof, convert
from resnet_parity.convert.judges import JUDGES
from resnet_parity.convert.verify import verify
from resnet_parity.engines import job
from resnet_parity.engines.registry import ENGINES
from shared_spec import (
    Checkpoint,
    read_safetensors,
    resolve,
    write_safetensors,
)
from tests.conftest import Pool
from tests.formats.test_bit import SPEC as BIT
from tests.formats.test_bit import arrays as bit_arrays
from tests.peers import timm_model, torchvision_models, transformers_model

SIDE = 64
"""That of the probes' nets of keras.applications."""
NO_GRAPH = "; the file has no graph"
TARGET = "out.safetensors"


@pytest.fixture(autouse=True)
def reuse_workers(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "Worker", pool.start)
    monkeypatch.setattr(module, "_SIDE", SIDE)


@dataclass(frozen=True)
class Written:
    """A source that its own library wrote, and what the library makes of images with it."""

    path: Path
    logits: Callable[[np.ndarray], np.ndarray]
    judge: str
    """How `judged_by` begins, less the version."""
    net: str
    """How it ends."""
    assumed: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    """Of `convert`."""


def randomised(net: Any) -> Any:
    """A net of PyTorch's with random norms and statistics."""
    made = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.ndim == 1:
                low = 0.5 if name.endswith(("running_var", ".weight")) else -0.2
                tensor.uniform_(low, low + 0.9 if low > 0 else 0.2, generator=made)
    return net.eval()


def torch_logits(net: Any, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        found = net.double()(torch.from_numpy(images).permute(0, 3, 1, 2))
    for name in ("logits", "pooler_output"):
        found = getattr(found, name, found)
    return np.asarray(found.flatten(1))


def probed(
    pool: Pool, folder: Path, engine: str, images: np.ndarray, function: str, **more: Any
) -> np.ndarray:
    """What a probe writes for images."""
    paths = {"images": str(folder / "given"), more.pop("to", "logits"): str(folder / "found")}
    key = "x" if engine == "flax" else "images"
    write_safetensors(paths["images"], Checkpoint({key: images}))
    pool[engine].call("probe", function=function, **paths, **more)
    (found,) = read_safetensors(folder / "found").state.values()
    return found


def transformers_folder(kind: str, body: bool, binary: bool, **options: Any) -> Any:
    def write(pool: Pool, folder: Path) -> Written:
        small = {"depths": [1, 2], "hidden_sizes": [32, 64], "embedding_size": 16}
        net = randomised(transformers_model(kind, **small, num_labels=3, **options))
        net = net.base_model if body else net
        net.save_pretrained(folder / "a")
        if binary:
            torch.save(net.state_dict(), folder / "a" / "pytorch_model.bin")
            (folder / "a" / "model.safetensors").unlink()
        name = f"{type(net).__name__} from config.json"
        return Written(folder / "a", partial(torch_logits, net), "transformers ", name)

    return write


def timm_folder(pool: Pool, folder: Path, **options: Any) -> Written:
    """As timm saves one for the hub."""
    from timm.models import save_for_hf

    arguments = {"num_classes": 3, "act_layer": "silu", "global_pool": "max"} | options
    net = randomised(timm_model("resnet10t", **arguments))
    save_for_hf(net, folder / "a", model_args=arguments, safe_serialization=True)
    return Written(folder / "a", partial(torch_logits, net), "timm ", "resnet10t from config.json")


def torchvision_file(pool: Pool, folder: Path) -> Written:
    net = randomised(torchvision_models().resnet18(num_classes=3))
    torch.save(net.state_dict(), folder / "a.pth")
    named = "the model that was named, with names of torchvision's resnet18"
    return Written(
        folder / "a.pth",
        partial(torch_logits, net),
        "torchvision ",
        "resnet18 with the file's arrays",
        named + NO_GRAPH,
        {"spec": resolve("resnet18"), "resize": True},
    )


def dilated_file(pool: Pool, folder: Path) -> Written:
    net = randomised(
        torchvision_models().resnet50(
            num_classes=3, replace_stride_with_dilation=[False, False, True]
        )
    )
    safetensors.torch.save_file(net.state_dict(), folder / "a.safetensors")
    return Written(
        folder / "a.safetensors",
        partial(torch_logits, net),
        "torchvision ",
        "resnet50 with the file's arrays",
        "the model that was named, with names of torchvision and timm" + NO_GRAPH,
        {"spec": resolve("resnet50", {"num_classes": 3, "output_stride": 16})},
    )


def timm_file(pool: Pool, folder: Path) -> Written:
    net = randomised(timm_model("resnet14t", num_classes=3, in_chans=1))
    safetensors.torch.save_file(net.state_dict(), folder / "a.safetensors")
    return Written(
        folder / "a.safetensors",
        partial(torch_logits, net),
        "timm ",
        "resnet14t with the file's arrays",
        "names and shapes of timm's resnet14t" + NO_GRAPH,
    )


def bit_file(pool: Pool, folder: Path) -> Written:
    torchvision_models()
    from timm.layers import StdConv2d
    from timm.models.resnetv2 import ResNetV2

    path = folder / "a.npz"
    np.savez(path, **{k: np.ascontiguousarray(v) for k, v in bit_arrays(BIT).items()})
    net = ResNetV2(
        layers=BIT.depths,
        channels=[4 * n for n in BIT.widths],
        stem_chs=32,
        num_classes=6,
        stem_type="fixed",
        conv_layer=partial(StdConv2d, eps=1e-8),
    )
    with torch.no_grad():
        net.load_pretrained(str(path))
    return Written(
        path,
        partial(torch_logits, net.eval()),
        "timm ",
        "ResNetV2 with the file's arrays",
        "names and shapes of BiT" + NO_GRAPH,
    )


def applications_file(name: str, suffix: str, classes: int) -> Any:
    def write(pool: Pool, folder: Path) -> Written:
        path = str(folder / f"a{suffix}")
        run = partial(probed, pool, folder, "keras:tensorflow", name=name, file=path)
        images = np.zeros((1, SIDE, SIDE, 3))
        if suffix == ".h5":
            run(images, "applications_files:write", whole=False)
        else:
            run(images, "keras3_files:write", num_classes=classes)
        theirs = name.removeprefix("keras_").replace("resnet", "ResNet").replace("v2", "V2")
        return Written(
            Path(path),
            partial(run, function="keras3_files:load", num_classes=classes),
            "keras ",
            f"keras.applications.{theirs} with the file's arrays",
            f"names and shapes of keras.applications ({name} here)" + NO_GRAPH,
        )

    return write


def hub_source(whole: bool, head: dict[str, Any] | None) -> Any:
    def write(pool: Pool, folder: Path) -> Written:
        config = {
            "input_conv_filters": [64],
            "input_conv_kernel_sizes": [7],
            "stackwise_num_filters": [64, 96],
            "stackwise_num_blocks": [1, 1],
            "stackwise_num_strides": [1, 2],
            "block_type": "basic_block",
        }
        preset = folder / "a.whole"
        run = partial(probed, pool, folder, "keras:tensorflow")
        images = np.zeros((1, SIDE, SIDE, 3))
        run(images, "keras_hub_files:write", config=config, head=head, folder=str(preset))
        load = partial(
            run, function="keras_hub_files:load", folder=str(preset), classifier=head is not None
        )
        if head is None:
            name = "ResNetBackbone from config.json, its maps averaged"
        else:
            name = f"ResNetImageClassifier from {'the file' if whole else 'task.json'}"
        path = folder / "a.whole.keras" if whole else preset
        return Written(path, load, "keras_hub ", name)

    return write


def flax_source(library: str, source: str) -> Any:
    def write(pool: Pool, folder: Path) -> Written:
        theirs = folder / "theirs"
        theirs.mkdir()
        run = partial(probed, pool, folder, "flax", to="output", channels=3)
        images = np.zeros((1, SIDE, SIDE, 3))
        path = str(theirs / source)
        if library == "linen":
            options = {"stage_sizes": [1, 1], "block_cls": "BottleneckResNetBlock"}
            options |= {"num_classes": 3, "num_filters": 8}
            run(images, "libraries.linen:save", options=options, folder=str(theirs))
            load = partial(run, function="libraries.linen:restore", options=options, source=path)
            who = "ResNet of its ImageNet example with the file's arrays"
            assumed = "names and shapes of Flax's imagenet example" + NO_GRAPH
            return Written(Path(path), load, "flax ", who, assumed)
        options = {"stage_sizes": [1, 1, 1, 1], "hidden_sizes": [8, 16, 32, 64], "n_classes": 3}
        net = {"name": "ResNetD50", "options": options}
        run(images, "libraries.jax_resnet:save", **net, block={}, folder=str(theirs))
        load = partial(run, function="libraries.jax_resnet:restore", **net, source=path)
        return Written(
            Path(path),
            load,
            "jax-resnet ",
            "its ResNet with the file's arrays",
            "names and shapes of jax-resnet" + NO_GRAPH,
        )

    return write


SOURCES: dict[str, Callable[[Pool, Path], Written]] = {
    "transformers": transformers_folder("ResNet", False, False, downsample_in_bottleneck=True),
    "transformers, a body": transformers_folder("ResNet", True, True, layer_type="basic"),
    "transformers, BiT": transformers_folder("Bit", False, True, num_groups=8, hidden_act="gelu"),
    "timm": timm_folder,
    "torchvision's file": torchvision_file,
    "a dilated file": dilated_file,
    "timm's file": timm_file,
    "BiT": bit_file,
    "keras.applications": applications_file("keras_resnet50v2", ".h5", 7),
    "keras.applications, a body": applications_file("keras_resnet50", ".weights.h5", 0),
    "KerasHub": hub_source(False, {"num_classes": 3, "pooling": "max", "activation": "softmax"}),
    "KerasHub, a body": hub_source(False, None),
    "KerasHub, whole": hub_source(True, {"num_classes": 3, "activation": "softmax"}),
    "Flax's example": flax_source("linen", "state.msgpack"),
    "Flax's example, orbax": flax_source("linen", "variables"),
    "jax-resnet": flax_source("jax_resnet", "a.msgpack"),
}


def converted(written: Written, folder: Path, **options: Any) -> Converted:
    proof = Proof((ENGINES["torch"],), judge_required=True)
    return convert(written.path, folder / TARGET, proof=proof, **(written.options | options))


@pytest.mark.parametrize("kind", SOURCES)
def test_the_library_judges_its_own_file(pool: Pool, tmp_path: Path, kind: str) -> None:
    written = SOURCES[kind](pool, tmp_path)
    done = converted(written, tmp_path)
    assert done.judged_by is not None
    assert done.judged_by.startswith(written.judge)
    assert done.judged_by.endswith(f", {written.net}")
    assert done.assumed == written.assumed
    found, checks = verify(tmp_path / TARGET, dtypes=("float64",))
    assert (found.judged_by, found.assumed) == (done.judged_by, written.assumed)
    assert checks
    assert all(check.holds for check in checks)
    (reference,) = found.reference
    expected = written.logits(found.inputs.array())
    if expected.ndim == 4:  # a backbone's maps
        expected = expected.mean((1, 2))
    if "softmax" in json.dumps(_probabilities(written)):
        reference = np.exp(reference) / np.exp(reference).sum(1, keepdims=True)
    assert np.abs(expected - reference).max() <= 1e-11 * np.abs(expected).max()


def _probabilities(written: Written) -> Any:
    """What a preset beside the file says of its classifier."""
    task = written.path.parent / "a.whole" / "task.json"
    return json.loads(task.read_text()) if task.exists() else None


def test_every_judge_is_tried() -> None:
    kinds = {"keras_graph", *(judge.function for judge in JUDGES)}
    assert len(kinds) == 9
