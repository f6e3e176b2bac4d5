"""Each library loads a source of its own and judges the conversion."""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import resnet_torch
from resnet_parity.convert import certificate as module
from resnet_parity.convert import judges
from resnet_parity.convert.certificate import read_certificate
from resnet_parity.convert.conversion import Converted, convert
from resnet_parity.convert.verify import Proof, verify
from resnet_parity.engines import job
from resnet_parity.engines.registry import ENGINES
from shared_spec import (
    Checkpoint,
    ParityError,
    ResNetError,
    WeightsError,
    compile_plan,
    random_weights,
    read_safetensors,
    resolve,
    write_safetensors,
)
from shared_spec.formats.certified import certificate_path
from shared_spec.formats.containers.pytorch import save_pytorch
from shared_spec.formats.dialects.detectron2 import NAMES
from shared_spec.formats.dialects.dialect import Rules, rename
from shared_spec.formats.keras_config import structure, without_activation
from shared_spec.formats.read import Asked
from tests.command import command
from tests.conftest import ROOT, Pool
from tests.formats.test_bit import SPEC as BIT
from tests.formats.test_bit import arrays as bit_arrays
from tests.peers import timm_model, torchvision_models, transformers_model
from tests.probes.misreading import misread
from tests.specs import SMALL
from tests.tiers import selected

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
    tolerance: float = 1e-11
    probabilities: bool = False
    """Whether the library gives these, and the file converted logits."""


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
    pool: Pool, at: Path, engine: str, images: np.ndarray, function: str, **more: Any
) -> np.ndarray:
    """What a probe writes for images."""
    paths = {"images": str(at / "given"), more.pop("to", "logits"): str(at / "found")}
    key = "x" if engine == "flax" else "images"
    write_safetensors(paths["images"], Checkpoint({key: images}))
    pool[engine].call("probe", function=function, **paths, **more)
    (found,) = read_safetensors(at / "found").state.values()
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


def timm_folder(pool: Pool, folder: Path, name: str = "resnet10t", **options: Any) -> Written:
    """As timm saves one for the hub."""
    arguments = {"num_classes": 3, "act_layer": "silu", "global_pool": "max"} | options
    net = randomised(timm_model(name, **arguments))
    from timm.models import save_for_hf

    save_for_hf(net, folder / "a", model_args=arguments, safe_serialization=True)
    return Written(folder / "a", partial(torch_logits, net), "timm ", f"{name} from config.json")


def wrapper_folder(pool: Pool, folder: Path) -> Written:
    """A net of timm's as transformers saves it, in several files."""
    torchvision_models()
    import transformers

    config = {"architecture": "resnet10t", "model_args": {"act_layer": "silu"}, "num_labels": 3}
    made = transformers.TimmWrapperForImageClassification(transformers.TimmWrapperConfig(**config))
    net = randomised(made)
    net.save_pretrained(folder / "a", max_shard_size="5MB")
    assert (folder / "a" / "model.safetensors.index.json").is_file()
    name = "TimmWrapperForImageClassification from config.json"
    return Written(folder / "a", partial(torch_logits, net), "transformers ", name)


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


def torchvision_regnet(pool: Pool, folder: Path) -> Written:
    net = randomised(torchvision_models().regnet_y_400mf(num_classes=3))
    torch.save(net.state_dict(), folder / "a.pth")
    return Written(
        folder / "a.pth",
        partial(torch_logits, net),
        "torchvision ",
        "regnet_y_400mf with the file's arrays",
        "names and shapes of torchvision's regnet_y_400mf" + NO_GRAPH,
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
            tolerance=1e-5,  # the probe's net rounds images to float32
        )

    return write


def keras_model(kind: str) -> Any:
    def write(pool: Pool, folder: Path) -> Written:
        path = str(folder / "a.keras")
        pool["keras:tensorflow"].call("probe", function="keras_models:saved", kind=kind, path=path)
        load = partial(
            probed,
            pool,
            folder,
            "keras:tensorflow",
            function="keras3_files:load",
            name="",
            num_classes=0,
            file=path,
        )
        return Written(
            Path(path),
            load,
            "keras ",
            "the file's own graph",
            tolerance=1e-5,  # Keras rounds images to float32
            probabilities=kind == "a softmax",
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
            name = "ResNetImageClassifier from task.json"
        judge, path = "keras_hub ", preset
        if whole:
            judge, name, path = "keras ", "the file's own graph", folder / "a.whole.keras"
        # The probe's net rounds images to float32.
        softmax = head is not None and "activation" in head
        return Written(path, load, judge, name, tolerance=1e-5, probabilities=softmax)

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
    "timm, a RegNet": partial(timm_folder, name="regnety_002", act_layer="gelu"),
    "timm in transformers": wrapper_folder,
    "torchvision's file": torchvision_file,
    "torchvision's RegNet": torchvision_regnet,
    "a dilated file": dilated_file,
    "timm's file": timm_file,
    "BiT": bit_file,
    "keras.applications": applications_file("keras_resnet50v2", ".h5", 7),
    "keras.applications, a body": applications_file("keras_resnet50", ".weights.h5", 0),
    "a Keras model": keras_model("a maximum pool"),
    "a Keras model, a softmax": keras_model("a softmax"),
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


LARGE = {"a dilated file", "keras.applications, a body", "Flax's example, orbax"}
"""Whose judges are those of others."""


@pytest.mark.parametrize("kind", selected([k for k in SOURCES if k not in LARGE], SOURCES))
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
    if written.probabilities:
        reference = np.exp(reference) / np.exp(reference).sum(1, keepdims=True)
    assert np.abs(expected - reference).max() <= written.tolerance * np.abs(expected).max()


# What names and shapes do not show, and the file says.


def _edited(name: str, **changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / name
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | changes))

    return edit


SAYS_MORE: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "transformers, the stride": (
        "transformers",
        _edited("config.json", downsample_in_bottleneck=False),
        "",
    ),
    "transformers, an activation": (
        "transformers",
        _edited("config.json", hidden_act="gelu"),
        "hidden_act 'gelu'",
    ),
    "transformers, an activation of BiT": (
        "transformers, BiT",
        _edited("config.json", hidden_act="silu"),
        "",
    ),
    "timm, an activation": (
        "timm",
        _edited("config.json", model_args={"num_classes": 3, "act_layer": "gelu"}),
        "",
    ),
    "timm, a pool": (
        "timm",
        _edited("config.json", model_args={"num_classes": 3, "global_pool": "avg"}),
        "",
    ),
    "timm, an argument": (
        "timm",
        _edited("config.json", model_args={"num_classes": 3, "attn_layer": "se"}),
        "argument 'attn_layer'",
    ),
    "timm, the rows of other classes": (
        "timm",
        _edited("config.json", model_args={}, num_classes=5),
        "has shape|shape",
    ),
}
"""A source, what its configuration says beside, and how it is refused, or nothing."""


@pytest.mark.parametrize("kind", SAYS_MORE)
def test_what_a_configuration_says_counts(pool: Pool, tmp_path: Path, kind: str) -> None:
    source, edit, refused = SAYS_MORE[kind]
    written = SOURCES[source](pool, tmp_path)
    images = np.random.default_rng(0).uniform(-1, 1, (2, SIDE, SIDE, 3))
    before = written.logits(images)
    edit(written.path)
    if refused:
        with pytest.raises(ResNetError, match=refused):
            converted(written, tmp_path)
        assert not (tmp_path / TARGET).exists()
        return
    done = converted(written, tmp_path)
    assert done.judged_by is not None
    assert done.judged_by.endswith(written.net)
    found = read_safetensors(tmp_path / TARGET)
    model = resnet_torch.create_model(found.spec, weights=found.state, dtype="float64")
    after = resnet_torch.predict(model, images)
    assert np.abs(after - before).max() > 1e-3 * np.abs(before).max()


def test_only_what_describes_the_net_reaches_transformers(pool: Pool, tmp_path: Path) -> None:
    written = SOURCES["transformers, a body"](pool, tmp_path)
    _edited(
        "config.json",
        auto_map={"AutoModel": "code--ResNetModel"},
        quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True},
        attn_implementation="somebody/kernel",
        dtype="float16",
    )(written.path)
    (written.path / "code.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    done = converted(written, tmp_path)
    assert done.judged_by is not None
    assert done.judged_by.endswith(written.net)
    assert not (tmp_path / "canary").exists()


# Faults of ours, which only another reader of the file notices.


@contextmanager
def misreading(pool: Pool, engine: str) -> Iterator[None]:
    """All that reads files here swaps two arrays of a norm; the judges' own reading is theirs."""

    def everywhere(wrong: bool) -> None:
        misread(None, wrong)
        for name in {engine, "torch"}:
            pool[name].call("probe", function="misreading:misread", wrong=wrong)

    everywhere(True)
    try:
        yield
    finally:
        everywhere(False)


FAULTS = {
    "transformers": "torch",
    "transformers, BiT": "torch",
    "timm": "torch",
    "torchvision's file": "torch",
    "timm's file": "torch",
    "BiT": "torch",
    "keras.applications": "keras:tensorflow",
    "KerasHub": "keras:tensorflow",
    "Flax's example": "flax",
    "jax-resnet": "flax",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_is_misread_is_not_kept(pool: Pool, tmp_path: Path, kind: str) -> None:
    written = SOURCES[kind](pool, tmp_path)
    (tmp_path / TARGET).write_text("old")
    with misreading(pool, FAULTS[kind]), pytest.raises(ParityError) as caught:
        converted(written, tmp_path)
    assert f"{written.net}, computes something else than what was read of it" in str(caught.value)
    assert (tmp_path / TARGET).read_text() == "old"
    assert not certificate_path(tmp_path / TARGET).exists()


def test_it_is_told(pool: Pool, tmp_path: Path) -> None:
    written = timm_file(pool, tmp_path)
    arrays = safetensors.torch.load_file(written.path) | {"queue": torch.zeros(2)}
    safetensors.torch.save_file(arrays, written.path)
    target = tmp_path / TARGET
    said = command("convert", written.path, target, "--engines", "torch", "--judge", "required")
    assert said.code == 0, said.err
    told = ["Judged by: timm ", written.net, f"Assumed: {written.assumed}"]
    told.append("Note: left out, beside the net: queue")
    again = command("verify", target, "--dtype", "float64")
    for line in told:
        assert line in " ".join(said.out.split())
        assert line.replace("Judged", "judged") in " ".join(again.out.split())
    data = json.loads(command("verify", target, "--dtype", "float64", "--json").out)
    assert (data["assumed"], data["judged_by"][:5]) == (written.assumed, "timm ")
    certificate = json.loads(certificate_path(target).read_text())
    assert certificate["reference"]["assumed"] == written.assumed
    assert certificate["reference"]["notes"] == ["left out, beside the net: queue"] == data["notes"]


KEPT = ROOT / "tests" / "kept"


def claiming(folder: Path, layer: str, **settings: Any) -> Path:
    """A Keras model of ours with other settings, whose record says that they are its spec's."""
    with zipfile.ZipFile(KEPT / "functional.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    model = json.loads(members["config.json"])
    (found,) = (x for x in model["config"]["layers"] if x["config"]["name"] == layer)
    found["config"] |= settings
    model["config"]["structure"] = structure(without_activation(model["config"]))
    members["config.json"] = json.dumps(model).encode()
    with zipfile.ZipFile(folder / "a.keras", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return folder / "a.keras"


@pytest.mark.parametrize(
    ("layer", "settings"),
    [("act1", {"activation": "tanh"}), ("bn1", {"epsilon": 0.5}), ("act1", {})],
)
def test_keras_judges_a_model_of_ours_by_its_layers(
    tmp_path: Path, layer: str, settings: dict[str, Any]
) -> None:
    path, target = claiming(tmp_path, layer, **settings), tmp_path / TARGET
    if not settings:
        done = convert(path, target, proof=Proof((ENGINES["torch"],)))
        assert done.judged_by is not None
        assert done.judged_by.startswith("keras ")
        assert done.judged_by.endswith("with resnet_keras, the file's own graph")
        return
    with pytest.raises(ParityError, match="computes something else than what was read of it"):
        convert(path, target, proof=Proof((ENGINES["torch"],)))
    assert not target.exists()
    assert not certificate_path(target).exists()


# Nobody to judge.


def _ours(folder: Path) -> tuple[Path, dict[str, Any]]:
    path = folder / "a.safetensors"
    write_safetensors(path, Checkpoint(random_weights(compile_plan(SMALL)), SMALL))
    return path, {}


def _nobodys(folder: Path) -> tuple[Path, dict[str, Any]]:
    save_pytorch(folder / "a.pth", random_weights(compile_plan(SMALL)))
    return folder / "a.pth", {"spec": SMALL}


def _maps(folder: Path) -> tuple[Path, dict[str, Any]]:
    net = randomised(torchvision_models().resnet18(num_classes=3))
    arrays = {k: v for k, v in net.state_dict().items() if not k.startswith("fc.")}
    torch.save(arrays, folder / "a.pth")
    return folder / "a.pth", {"spec": resolve("resnet18", {"features_only": True})}


OURS = "resnet-parity itself is the library that writes such files"
UNJUDGED: dict[str, tuple[Callable[[Path], tuple[Path, dict[str, Any]]], str]] = {
    "our canonical file": (_ours, OURS),
    "a net of no library": (_nobodys, "neither torchvision nor timm has this net"),
    "maps": (_maps, "torchvision is not asked for the maps of features"),
}


@pytest.mark.parametrize("kind", UNJUDGED)
def test_what_nobody_judges_is_reconstructed(tmp_path: Path, kind: str) -> None:
    make, why = UNJUDGED[kind]
    path, options = make(tmp_path)
    target = tmp_path / TARGET
    done = convert(path, target, proof=Proof((ENGINES["torch"],)), **options)
    assert done.judged_by is not None
    assert done.judged_by.startswith("reconstructed: ")
    assert why in done.judged_by
    target.unlink()
    certificate_path(target).unlink()
    with pytest.raises(ParityError, match="no other library can judge it") as caught:
        convert(path, target, proof=Proof((ENGINES["torch"],), judge_required=True), **options)
    assert why in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize("kind", ["timm's file", "transformers"])
def test_a_library_that_is_not_installed_is_told(
    pool: Pool, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = SOURCES[kind](pool, tmp_path)
    monkeypatch.setattr(judges, "peer_missing", lambda peer: "not installed")
    with pytest.raises(ParityError, match=f"{written.judge}is not installed"):
        converted(written, tmp_path)


# Where in a file the arrays are.


Tree = tuple[Any, dict[str, Any]]
"""What `torch.save` gets, and what `convert` is told."""


def _in_company(state: dict[str, Any], folder: Path) -> Tree:
    theirs = {f"fc.{leaf}": f"fc.1.{leaf}" for leaf in ("weight", "bias")}
    tree = {f"module.encoder_q.{theirs.get(k, k)}": v for k, v in state.items()}
    tree |= {f"module.encoder_k.{k}": v + 1 for k, v in state.items()}
    tree |= {"module.encoder_q.mlp.weight": torch.zeros(3), "module.queue": torch.zeros(2)}
    args = argparse.Namespace(lr=1)
    file = {"models": [{3: {"state_dict": tree}}], "epoch": 3, "args": args}
    return file, {"asked": Asked("models/0/3/state_dict/encoder_q.")}


def _mapped(state: dict[str, Any], folder: Path) -> Tree:
    names = {"layer1": "stage_1.blocks", "layer2": "stage_2.blocks", "conv1": "first"}
    tree = {rename(k, [(f"^{n}", names[n]) for n in names]): v for k, v in state.items()}
    return {"model": tree}, {"asked": Asked(names={v: k for k, v in names.items()})}


def _port(state: dict[str, Any], folder: Path) -> Tree:
    words: Rules = [("downsample", "shortcut"), ("^fc", "linear")]
    return {rename(k, words): v for k, v in state.items()}, {}


def _detectron2(state: dict[str, Any], folder: Path) -> Tree:
    tree = {f"backbone.bottom_up.{rename(k, NAMES)}": v for k, v in state.items() if "fc" not in k}
    return {"model": tree}, {}


def _numbered(state: dict[str, Any], folder: Path) -> Tree:
    net = torchvision_models().resnet18(num_classes=3)
    net.load_state_dict(state)
    body = torch.nn.Sequential(*list(net.children())[:-1])
    return {f"encoder.{k}": v for k, v in body.state_dict().items()}, {}


PLACES: dict[str, tuple[Callable[[dict[str, Any], Path], Tree], str]] = {
    "a part, in company": (_in_company, "torchvision "),
    "the user's names": (_mapped, "torchvision "),
    "a port's names": (_port, "torchvision "),
    "detectron2's names": (_detectron2, "timm "),
    "children of a Sequential": (_numbered, "timm "),
}
"""Where the arrays of torchvision's resnet18 are in a file, and who judges."""


@pytest.mark.parametrize("kind", PLACES)
def test_arrays_are_judged_wherever_they_are(pool: Pool, tmp_path: Path, kind: str) -> None:
    tree, judge = PLACES[kind]
    written = torchvision_file(pool, tmp_path)
    file, options = tree(torch.load(written.path, weights_only=True), tmp_path)
    torch.save(file, tmp_path / "b.pth")
    proof = Proof((ENGINES["torch"],), judge_required=True)
    done = convert(
        tmp_path / "b.pth",
        tmp_path / TARGET,
        resolve("resnet18"),
        proof=proof,
        resize=True,
        **options,
    )
    assert done.judged_by is not None
    assert done.judged_by.startswith(judge)
    assert done.judged_by.endswith("resnet18 with the file's arrays")
    found = read_certificate(certificate_path(tmp_path / TARGET))
    assert found.notes == done.notes
    assert any("queue" in note for note in found.notes) == ("company" in kind)
    expected = written.logits(found.inputs.array())
    if judge == "timm ":  # of what comes before the classifier
        weight, bias = (
            torch.load(written.path)[f"fc.{leaf}"].numpy() for leaf in ("weight", "bias")
        )
        found.reference[0] = found.reference[0] @ weight.T.astype(np.float64) + bias
    np.testing.assert_allclose(found.reference[0], expected, rtol=0, atol=1e-11)


def _whole(folder: Path) -> Any:
    return randomised(torchvision_models().resnet18(num_classes=3))


def _with_a_path(folder: Path) -> Any:
    return {"state_dict": _whole(folder).state_dict(), "output": Path("runs")}


def _scripted(folder: Path) -> Any:
    return torch.jit.script(_whole(folder))


UNSAFE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "an object": (_with_a_path, "pathlib.PosixPath"),
    "a whole model": (_whole, "torchvision.models.resnet.ResNet"),
    "TorchScript": (_scripted, "TorchScript"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", UNSAFE)
def test_what_torch_does_not_load_safely_is_told(pool: Pool, tmp_path: Path, kind: str) -> None:
    make, why = UNSAFE[kind]
    made = make(tmp_path)
    (torch.jit.save if kind == "TorchScript" else torch.save)(made, tmp_path / "b.pth")
    done = convert(
        tmp_path / "b.pth",
        tmp_path / TARGET,
        resolve("resnet18"),
        proof=Proof((ENGINES["torch"],)),
        resize=True,
    )
    assert done.judged_by is not None
    assert done.judged_by.startswith("reconstructed: torch.load(weights_only=True) refuses the")
    assert why in done.judged_by


@pytest.mark.parametrize("names", [{"conv1.weight": "conv1.weight"}, None])
def test_what_a_library_does_not_take_is_told(
    pool: Pool, tmp_path: Path, names: dict[str, str] | None
) -> None:
    """Arrays that are missing, or of another shape."""
    written = torchvision_file(pool, tmp_path)
    state = torch.load(written.path, weights_only=True)
    torch.save(state | {"fc.bias": torch.zeros(5)}, tmp_path / "b.pth")
    whole = {name: name for name in state if not name.endswith("num_batches_tracked")}
    write_safetensors(tmp_path / "images", Checkpoint({"images": np.zeros((1, SIDE, SIDE, 3))}))
    said = pool["torch"].call(
        "judge",
        by="state_dict",
        library="torchvision",
        source=str(tmp_path / "b.pth"),
        images=str(tmp_path / "images"),
        outputs=str(tmp_path / "outputs"),
        facts={
            "library": "torchvision",
            "name": "resnet18",
            "options": {"num_classes": 3},
            "names": names or whole,
        },
    )["refused"]
    if names is None:
        assert said.startswith("torchvision refuses the file (RuntimeError")
        assert "size mismatch for fc.bias" in said
    else:
        assert said == "torchvision's resnet18 does not find bn1.bias and 100 more in the file"


def test_an_adapter_beside_the_weights_is_not_applied(pool: Pool, tmp_path: Path) -> None:
    written = SOURCES["transformers"](pool, tmp_path)
    (written.path / "adapter_config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"adapter_config\.json beside the weights") as caught:
        converted(written, tmp_path)
    assert "merge" in str(caught.value)
    assert not (tmp_path / TARGET).exists()
