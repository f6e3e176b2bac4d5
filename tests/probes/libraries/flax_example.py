"""The ResNets of Flax's imagenet example (Linen), with weights of ours."""

from __future__ import annotations

from typing import Any

import numpy as np

from shared_spec import Checkpoint, read_safetensors, write_safetensors
from tests.peers import fetched

KEYS = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
Shapes = dict[tuple[str, ...], tuple[int, ...]]


def shapes_of(model: Any) -> Shapes:
    """Shape of each variable by its path, without computing anything."""
    import jax
    from flax.traverse_util import flatten_dict

    image = np.zeros((1, 64, 64, 3), np.float32)
    tree = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))
    return {path: leaf.shape for path, leaf in flatten_dict(tree).items()}


def logits(
    resnet: Any, options: dict[str, Any], weights: str, images: str, output: str
) -> list[str]:
    """Logits for each array of images; returns the names of the weights that it used."""
    import jax
    from flax.traverse_util import unflatten_dict

    models = fetched("flax_imagenet.models")
    options = options | {"block_cls": getattr(models, options["block_cls"])}
    model = models.ResNet(**options, dtype=np.float64)
    state = dict(read_safetensors(weights).state)
    variables, used = {}, []
    for path, shape in shapes_of(model).items():
        name = canonical_name(path, options["stage_sizes"])
        array = state[name]
        array = array.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim, (0,)))
        assert array.shape == shape, name
        variables[path] = array
        used.append(name)
    apply = jax.jit(lambda x: model.apply(unflatten_dict(variables), x, train=False))
    batches = read_safetensors(images).state
    found = {key: np.asarray(apply(x.astype(np.float64))) for key, x in batches.items()}
    write_safetensors(output, Checkpoint(found))
    return used


def parameters(resnet: Any, name: str) -> int:
    """Parameters of the net that the example calls `name`, with 1000 classes."""
    model = getattr(fetched("flax_imagenet.models"), name)(num_classes=1000)
    return sum(int(np.prod(s)) for path, s in shapes_of(model).items() if path[0] == "params")


def names(resnet: Any) -> list[str]:
    """The nets that the example defines."""
    return [name for name in dir(fetched("flax_imagenet.models")) if name.startswith("ResNet")]


def canonical_name(path: tuple[str, ...], stage_sizes: list[int]) -> str:
    """`params/ResNetBlock_2/Conv_0/kernel` to `layer2.0.conv1.weight`, and so on."""
    _, *places, leaf = path
    key = KEYS.get(leaf, leaf)
    if len(places) == 1:
        layer = {"conv_init": "conv1", "bn_init": "bn1", "Dense_0": "fc"}[places[0]]
        return f"{layer}.{key}"
    block, layer = places
    stage, number = 0, int(block.rsplit("_", 1)[1])
    while number >= stage_sizes[stage]:
        number -= stage_sizes[stage]
        stage += 1
    where = f"layer{stage + 1}.{number}"
    if layer.endswith("_proj"):
        return f"{where}.downsample.{0 if layer == 'conv_proj' else 1}.{key}"
    kind, index = layer.split("_")
    return f"{where}.{ {'Conv': 'conv', 'BatchNorm': 'bn'}[kind] }{int(index) + 1}.{key}"
