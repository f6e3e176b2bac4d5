"""Libraries that run a source file by themselves, each loading it its own safe way in float64, to
judge a conversion, and the caller's own model. Which source is whose to judge:
`resnet_parity/convert/judges.py`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from resnet_parity.worker.contenders import import_peer
from resnet_parity.worker.reference_libraries import (
    float64_statistics,
    keras_dtype,
    timm_model,
    torchvision_models,
)
from resnet_parity.worker.session import Session, Written, one_line, writing
from resnet_parity.worker.user_model import made, tried
from shared_spec.errors import ResNetError, some
from shared_spec.formats.canonical_file import read_safetensors
from shared_spec.formats.containers.source import read_json
from shared_spec.formats.dialects.dialect import COUNTERS
from shared_spec.formats.dialects.keras_hub import HUB_MODELS
from shared_spec.formats.search import plain
from shared_spec.weights.checkpoint import METADATA_KEY

Verdict = tuple[str, Any]
"""Who computed, with which net, and what the images became."""


@writing
def judge(
    session: Session, by: str, library: str, source: str, images: str, facts: dict[str, Any]
) -> Written:
    """What a library makes of images with a file that it loads itself, `float64/0` and, of a model
    with several outputs, so on; the answer names the judge, `judged_by`, or says why there is none,
    `refused`.

    Args:
        session: of the engine that has the library's framework.
        by: which function of `JUDGES`.
        library: what it is called, for messages.
        source: the file or directory.
        images: a file of them, as they enter the model.
        facts: what the function takes beside.
    """
    path = Path(source)
    batch = read_safetensors(images).state["images"].astype(np.float64)
    try:
        with session.forward_only():
            judged_by, result = JUDGES[by](path, batch, **facts)
    except ResNetError as error:
        return {"refused": str(error).replace(source, path.name)}, {}
    # Libraries raise errors of all kinds for files that they do not take.
    except Exception as error:
        why = one_line(error).replace(source, path.name)
        return {"refused": f"{library} refuses the file ({why})"}, {}
    outputs = result if isinstance(result, list) else [result]
    found = {f"float64/{i}": np.asarray(x, np.float64) for i, x in enumerate(outputs)}
    return {"judged_by": judged_by}, found


# Libraries on PyTorch.


def _torch_result(net: Any, batch: np.ndarray) -> Any:
    """What a net computes in float64, its statistics too."""
    import torch

    net.double().eval()
    with float64_statistics(), torch.inference_mode():
        found = net(torch.from_numpy(batch).permute(0, 3, 1, 2))
    if not isinstance(found, torch.Tensor):
        raise TypeError(f"it returns a {type(found).__name__}, expected a tensor of logits")
    return found.numpy()


def _torch_arrays(path: Path) -> Any:
    """What torch or safetensors finds in a file; in a directory, in that of its weights."""
    import torch

    if path.is_dir():
        inside = path / "model.safetensors"
        path = inside if inside.is_file() else path / "pytorch_model.bin"
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"
    if is_safetensors:
        return importlib.import_module("safetensors.torch").load_file(path)
    try:
        # A record of a script's arguments holds data alone, and cannot do anything.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = named[1] if named else one_line(error)
        raise ResNetError(f"torch.load(weights_only=True) refuses the file ({why})") from None


def _at(found: Any, where: str) -> Any:
    """What is at a path of mappings and lists."""
    for key in where.split("/"):
        found = found[key if isinstance(found, dict) and key in found else int(key)]
    return found


def _strictly_loaded(net: Any, arrays: Mapping[str, Any], who: str) -> Any:
    """`net` with arrays that are all of its own, but for counters."""
    expected = {name for name in net.state_dict() if not COUNTERS.search(name)}
    absent = sorted(expected - arrays.keys())
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise ResNetError(f"{who} does not find {absent[0]}{more} in the file")
    net.double().load_state_dict(arrays, strict=False)  # shapes are compared all the same
    return net


def state_dict(
    path: Path,
    batch: np.ndarray,
    library: str,
    name: str,
    options: dict[str, Any],
    names: dict[str, str],
) -> Verdict:
    """A net of torchvision or timm with the arrays of a file.

    Args:
        path: a file of torch's or of safetensors.
        batch: images.
        library: torchvision or timm.
        name: of the net there.
        options: that it is made with.
        names: see `Checkpoint.renamed`.
    """
    found = _torch_arrays(path)
    arrays = {ours: _at(found, where) for where, ours in names.items()}
    models = torchvision_models()
    net = (
        getattr(models, name)(weights=None, **options)
        if library == "torchvision"
        else timm_model(name, **options)
    )
    net = _strictly_loaded(net, arrays, f"{library}'s {name}")
    version = importlib.import_module(library).__version__
    return f"{library} {version}, {name} with the file's arrays", _torch_result(net, batch)


def users_model(path: Path, batch: np.ndarray, factory: str, names: list[str] | None) -> Verdict:
    """A user's own model in PyTorch, with the file that it loads itself or with the file's arrays.

    Args:
        path: the file.
        batch: images.
        factory: `module:function`; a function with a parameter gets the path, and has to load it.
        names: of the net's arrays, as in `Checkpoint.renamed`; None if PyTorch cannot read them.
    """
    import torch

    net, loaded = made(factory, path)
    if not isinstance(net, torch.nn.Module):
        given = f"{type(net).__module__}.{type(net).__qualname__}"
        raise ResNetError(f"--against: {factory} returned {given}, expected a torch.nn.Module")
    if not loaded:
        try:
            net = _with_own_names(net, path, names, factory)
        # As torch does for names and shapes that do not fit, and files that it does not take.
        except Exception as error:
            why = str(error) if isinstance(error, ResNetError) else one_line(error)
            raise ResNetError(
                f"--against: {why}; with a parameter, which gets the file's path, {factory} may "
                f"load the file itself"
            ) from None
    found = tried(factory, lambda: _torch_result(net, batch))
    how = "from the file's path" if loaded else "with the file's arrays"
    return f"{factory}, given by the caller, {how}", found


def _with_own_names(net: Any, path: Path, names: list[str] | None, factory: str) -> Any:
    """A net with the arrays of a file by their names there, less those of modules around the net:
    all that are in the same module, and no others.
    """
    if names is None:
        raise ResNetError(f"{path.name} is no file of PyTorch's arrays")
    mapping, _, first = names[0].rpartition("/") if names else ("", "", "")
    found = _torch_arrays(path)
    arrays = {plain(n): x for n, x in (_at(found, mapping) if mapping else found).items()}
    words = plain(first).split(".")[:-1]
    places = ["".join(f"{word}." for word in words[:n]) for n in range(len(words) + 1)]
    expected = {name for name in net.state_dict() if not COUNTERS.search(name)}
    place = min(places, key=lambda above: sum(above + n not in arrays for n in expected))
    inside = {n.removeprefix(place): x for n, x in arrays.items() if n.startswith(place)}
    extra = sorted(n for n in inside.keys() - expected if not COUNTERS.search(n))
    if extra and expected <= inside.keys():
        raise ResNetError(f"{factory} has no {some(extra)}, which the file has")
    return _strictly_loaded(net, inside, factory)


_WRAPPER = "timm_wrapper"


def timm_folder(path: Path, batch: np.ndarray) -> Verdict:
    """A directory of timm's, whose `config.json` timm reads, or transformers around timm."""
    if read_json(path / "config.json").get("model_type") == _WRAPPER:
        return transformers_folder(path, batch)
    net = timm_model(f"local-dir:{path}")
    arrays = {k: v for k, v in _torch_arrays(path).items() if not COUNTERS.search(k)}
    extra = sorted(arrays.keys() - net.state_dict().keys())
    if extra:
        raise ResNetError(f"timm's net of config.json has no {extra[0]}")
    net = _strictly_loaded(net, arrays, "timm's net of config.json")
    version = importlib.import_module("timm").__version__
    architecture = read_json(path / "config.json")["architecture"]
    return f"timm {version}, {architecture} from config.json", _torch_result(net, batch)


def bit(path: Path, batch: np.ndarray, **options: Any) -> Verdict:
    """Big Transfer's `.npz`, which timm reads."""
    import torch

    torchvision_models()  # timm imports torchvision
    layers = importlib.import_module("timm.layers")
    models = importlib.import_module("timm.models.resnetv2")
    convolution = partial(layers.StdConv2d, eps=1e-8)
    net = models.ResNetV2(stem_type="fixed", conv_layer=convolution, **options)
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.fill_(torch.nan)  # what is not loaded shows
        net.load_pretrained(str(path))
    version = importlib.import_module("timm").__version__
    return f"timm {version}, ResNetV2 with the file's arrays", _torch_result(net, batch)


def transformers_folder(path: Path, batch: np.ndarray) -> Verdict:
    """A directory of transformers', whose `config.json` transformers reads."""
    import torch

    torchvision_models()  # transformers imports torchvision
    transformers = importlib.import_module("transformers")
    data = read_json(path / "config.json")
    kind = {"resnet": "ResNet", "bit": "Bit", _WRAPPER: "TimmWrapper"}[data["model_type"]]
    config = getattr(transformers, f"{kind}Config")
    # What describes the net: other keys may have it load code, or quantise.
    known = config().to_dict().keys() - {"dtype", "torch_dtype"}
    config = config.from_dict({k: v for k, v in data.items() if k in known})
    named = data.get("architectures")
    classifies = named is None or any(x.endswith("ForImageClassification") for x in named)
    name = f"{kind}{'ForImageClassification' if classifies else 'Model'}"
    net, loading = getattr(transformers, name).from_pretrained(
        str(path),
        config=config,
        local_files_only=True,
        trust_remote_code=False,
        dtype=torch.float64,
        output_loading_info=True,
    )
    for problem in ("missing", "mismatched", "unexpected"):
        keys = sorted(map(str, loading[f"{problem}_keys"]))
        if problem == "missing":
            keys = [key for key in keys if not COUNTERS.search(key)]
        if keys:
            raise ResNetError(f"transformers finds {problem} {keys[0]} for {name}")
    with torch.inference_mode():
        found = net.eval()(torch.from_numpy(batch).permute(0, 3, 1, 2))
    result = found.logits if classifies else found.pooler_output.flatten(1)
    return f"transformers {transformers.__version__}, {name} from config.json", result


# Libraries on Keras.


def _safe_keras() -> Any:
    """Keras, for files with a configuration. Its safe mode could be got round before 3.11
    (CVE-2025-9906), 3.12 (CVE-2025-12058) and 3.14 (CVE-2026-1462).
    """
    import keras

    if tuple(map(int, keras.__version__.split(".")[:2])) < (3, 14):
        raise ResNetError(f"keras {keras.__version__} loads configurations less safely than 3.14")
    return keras


def keras_graph(path: Path, batch: np.ndarray, logits: bool, library: str | None) -> Verdict:
    """The model that a `.keras` or `.h5` file describes.

    Args:
        path: the file, which Keras loads in its safe mode.
        batch: images, as they enter the model.
        logits: whether to leave out a softmax or sigmoid at its end.
        library: the package whose classes are in it beside Keras's own.
    """
    keras = _safe_keras()
    who, known = f"keras {keras.__version__}", {}
    if library == "keras_hub":
        import_peer("KerasHub")
        hub = importlib.import_module("keras_hub")
        who += f" with keras_hub {hub.__version__}"
        # Whole `.h5` files do not say that their class is registered.
        known = {name: getattr(hub.models, name) for name in HUB_MODELS}
    elif library is not None:
        who += f" with {library}"
    loaded = keras.saving.load_model(path, known, compile=False, safe_mode=True)
    config = json.loads(loaded.to_json())
    if logits:
        _without_probabilities(config)
    with keras_dtype("float64"):
        model = keras.models.model_from_json(json.dumps(_widened(config)))
    model.set_weights([np.asarray(w, np.float64) for w in loaded.get_weights()])
    found = keras.ops.convert_to_numpy(model(batch, training=False))
    return f"{who}, the file's own graph", found


def keras_applications(path: Path, batch: np.ndarray, name: str, classes: int) -> Verdict:
    """A net of keras.applications with a file of weights that Keras loads."""
    import keras

    top = {"classes": classes, "classifier_activation": None} if classes else {"pooling": "avg"}
    with keras_dtype("float64"):
        model = getattr(keras.applications, name)(
            weights=None, include_top=bool(classes), input_shape=batch.shape[1:], **top
        )
    model.load_weights(path)
    found = keras.ops.convert_to_numpy(model(batch, training=False))
    return f"keras {keras.__version__}, keras.applications.{name} with the file's arrays", found


def keras_hub(path: Path, batch: np.ndarray, classifies: bool) -> Verdict:
    """A preset's directory, or a `.keras` file of KerasHub's."""
    keras = _safe_keras()
    import_peer("KerasHub")
    hub = importlib.import_module("keras_hub")
    if path.is_dir():
        kind = hub.models.ImageClassifier if classifies else hub.models.Backbone
        with keras_dtype("float64"):  # or it would round images
            model = kind.from_preset(str(path), dtype="float64")
        what = "task.json" if classifies else "config.json"
    else:
        loaded = keras.saving.load_model(path, compile=False, safe_mode=True)
        with keras_dtype("float64"):
            model = type(loaded).from_config(_widened(loaded.get_config()))
        model.set_weights([np.asarray(w, np.float64) for w in loaded.get_weights()])
        what = "the file"
    if classifies:
        model.output_dense.activation = keras.activations.linear
    found = keras.ops.convert_to_numpy(model(batch, training=False))
    who = f"keras_hub {hub.__version__}, {type(model).__name__} from {what}"
    # A backbone gives maps, and ours their mean.
    return (who, found) if classifies else (f"{who}, its maps averaged", found.mean((1, 2)))


def _widened(config: Any) -> Any:
    """The configuration of a model that computes in float64 throughout."""
    if isinstance(config, list):
        return [_widened(item) for item in config]
    if not isinstance(config, dict) or config.get("class_name") in (
        "__tensor__",
        "__keras_tensor__",
    ):
        return config
    return {k: "float64" if k == "dtype" else _widened(v) for k, v in config.items()}


def _without_probabilities(model: dict[str, Any]) -> None:
    """Make the last layer of a model linear."""
    layers = model["config"].get("layers")
    if layers is None:  # it has what it is made with
        model["config"]["activation"] = "linear"
        return
    last = layers[-1]
    if model["class_name"] != "Sequential":
        ends = model["config"]["output_layers"]
        name = ends[0] if isinstance(ends[0], str) else ends[0][0]
        last = next(layer for layer in layers if layer["config"]["name"] == name)
    if "layers" in last["config"] or "backbone" in last["config"]:
        _without_probabilities(last)
    elif last["class_name"] in ("Dense", "Activation"):
        last["config"]["activation"] = "linear"
    else:
        last["class_name"] = "Activation"
        kept = {k: last["config"][k] for k in ("name", "trainable", "dtype")}
        last["config"] = kept | {"activation": "linear"}


# Libraries on Flax.


def _linen_variables(path: Path) -> dict[str, Any]:
    """The variables of a Linen model in float64, from a msgpack file or an orbax directory."""
    import jax

    if path.is_dir():
        orbax = importlib.import_module("orbax.checkpoint")
        with orbax.StandardCheckpointer() as checkpointer:
            shapes = dict(checkpointer.metadata(path).item_metadata)
            empty = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), shapes)
            tree = checkpointer.restore(path, empty)
    else:
        tree = importlib.import_module("flax.serialization").msgpack_restore(path.read_bytes())
    variables = {key: tree[key] for key in ("params", "batch_stats")}
    return dict(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables))


def linen(path: Path, batch: np.ndarray, block_cls: str, **options: Any) -> Verdict:
    """The model of Flax's ImageNet example with the variables that Flax restores."""
    import_peer("flax example")
    models = importlib.import_module("flax_imagenet.models")
    block = getattr(models, block_cls)
    model = models.ResNet(block_cls=block, dtype=np.float64, **options)
    found = model.apply(_linen_variables(path), batch, train=False)
    version = importlib.import_module("flax").__version__
    return f"flax {version}, ResNet of its ImageNet example with the file's arrays", found


def jax_resnet(
    path: Path, batch: np.ndarray, block: str, inner: dict[str, int], **options: Any
) -> Verdict:
    """A net of jax-resnet with the variables that Flax restores."""
    import_peer("jax-resnet")
    package = importlib.import_module("jax_resnet")
    nets = importlib.import_module("jax_resnet.resnet")
    stem = nets.ResNetDStem if block.startswith("ResNetD") else nets.ResNetStem
    model = nets.ResNet(partial(getattr(nets, block), **inner), stem_cls=stem, **options)
    found = model.apply(_linen_variables(path), batch)
    return f"jax-resnet {package.__version__}, its ResNet with the file's arrays", found


# ONNX's own evaluator.


def onnx_graph(path: Path, batch: np.ndarray, first: bool, logits: bool) -> Verdict:
    """The graph of an ONNX file, in float64.

    Args:
        path: the file.
        batch: images, [N, H, W, C], as they enter the model.
        first: whether it takes them, and gives maps, as [N, C, H, W].
        logits: whether to leave out a softmax or sigmoid at its end.
    """
    onnx = importlib.import_module("onnx")
    runtimes = importlib.import_module("resnet_onnx.runtimes")
    model = onnx.load(path)
    ours = any(entry.key == METADATA_KEY for entry in model.metadata_props)
    model = runtimes.widened(model, ours)
    if logits:
        made = {name: node for node in model.graph.node for name in node.output}
        end = model.graph.output[0].name
        while made[end].op_type not in ("Softmax", "Sigmoid"):
            end = made[end].input[0]
        model.graph.output[0].name = made[end].input[0]
    given = np.moveaxis(batch, -1, 1) if first else batch
    outputs = runtimes.run_model(model, "float64", given, "onnx:reference")
    found = [np.moveaxis(x, 1, -1) if first and x.ndim == 4 else x for x in outputs]
    return f"onnx {onnx.__version__} (onnx.reference), the file's own graph", found


JUDGES: dict[str, Callable[..., Verdict]] = {
    function.__name__: function
    for function in (
        state_dict,
        users_model,
        timm_folder,
        bit,
        transformers_folder,
        keras_graph,
        keras_applications,
        keras_hub,
        linen,
        jax_resnet,
        onnx_graph,
    )
}
