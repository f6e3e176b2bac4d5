"""KerasHub's ResNets with weights of ours."""

from __future__ import annotations

from typing import Any

from resnet_parity.worker.reference_libraries import load_keras
from shared_spec import Checkpoint, read_safetensors, write_safetensors
from tests.peers import fetched


def classifier(config: dict[str, Any], num_classes: int = 1000) -> Any:
    """A `ResNetImageClassifier` in float64 that ends in logits."""
    models = fetched("keras_hub").models
    backbone = models.ResNetBackbone(**config, dtype="float64")
    return models.ResNetImageClassifier(backbone, num_classes, compile=False)


def logits(
    resnet: Any, config: dict[str, Any], num_classes: int, weights: str, images: str, output: str
) -> list[str]:
    """Logits for each array of images; returns the names of the weights that it used."""
    import keras

    model = classifier(config, num_classes)
    layers = [*model.backbone.layers, model.output_dense]
    named = {canonical_name(layer.name, config): layer for layer in layers if layer.weights}
    state = dict(read_safetensors(weights).state)
    load_keras("KerasHub", named, state)
    assert len(state) == len(model.weights)
    batches = read_safetensors(images).state
    found = {k: keras.ops.convert_to_numpy(model(x, training=False)) for k, x in batches.items()}
    write_safetensors(output, Checkpoint(found))
    return list(state)


def parameters(resnet: Any, config: dict[str, Any]) -> tuple[int, int]:
    """Parameters of the net with 1000 classes: trainable ones, and with norm statistics."""
    model = classifier(config)
    return sum(v.value.shape.num_elements() for v in model.trainable_weights), model.count_params()


def published(resnet: Any) -> dict[str, int]:
    """Parameters of each preset, as the library states them."""
    presets = fetched("keras_hub").models.ResNetBackbone.presets
    return {name: preset["metadata"]["params"] for name, preset in presets.items()}


def canonical_name(layer: str, config: dict[str, Any]) -> str:
    """`stack0_block1_2_conv` to `layer1.1.conv2` or `stages.0.blocks.1.conv2`, and so on."""
    v2, vd = config["use_pre_activation"], config["block_type"].endswith("_vd")
    if layer in ("predictions", "post_bn"):
        return {"predictions": "head.fc" if v2 else "fc", "post_bn": "norm"}[layer]
    place, kind = layer.rsplit("_", 1)
    if place.startswith("conv"):
        return stem_name(int(place[4:]), kind, v2, vd)
    stack, block, part = place.split("_", 2)
    stage, number = int(stack[5:]), int(block[5:])
    where = f"stages.{stage}.blocks.{number}" if v2 else f"layer{stage + 1}.{number}"
    if part == "0":
        # A vd shortcut begins with a pool, or with its place.
        return f"{where}.downsample." + ("conv" if v2 else str((kind == "bn") + vd))
    if kind == "bn" and v2:
        return f"{where}.norm{1 if part == 'pre_activation' else int(part) + 1}"
    return f"{where}.{kind}{part}"


def stem_name(number: int, kind: str, v2: bool, vd: bool) -> str:
    """`conv1_conv` to `conv1`, `stem.conv` or, in a deep stem, `conv1.0`."""
    if v2:
        return "stem.conv"
    if not vd or (number, kind) == (3, "bn"):
        return {"conv": "conv1", "bn": "bn1"}[kind]
    return f"conv1.{3 * (number - 1) + (kind == 'bn')}"
