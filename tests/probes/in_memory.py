"""Weights by hand, as each framework's users have them; run inside the engines' workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from shared_spec import ResNetSpec, WeightsError, digest, read_safetensors


def natives(resnet: Any, model: Any) -> dict[str, Any]:
    """What a user of this backend's framework has of a model."""
    if resnet.__name__ == "resnet_torch":
        return {"state_dict": model.state_dict(), "parameters": dict(model.named_parameters())}
    if resnet.__name__ == "resnet_flax":
        from flax import nnx

        state = nnx.state(model)
        flat = dict(nnx.to_flat_state(state))
        return {"state": state, "pure": nnx.to_pure_dict(state), "flat": flat}
    return {
        "variables": model.variables,
        "weights": model.weights,
        "paths": {v.path: v for v in model.variables},
    }


def taken(
    resnet: Any, spec: dict[str, Any], dtype: str, weights: str
) -> tuple[str, dict[str, list[str]]]:
    """What each form became: in this backend's model, and in one of PyTorch's."""
    import resnet_torch

    net = ResNetSpec.parse(spec)
    state = read_safetensors(weights).state
    source = resnet.create_model(net, weights=state, dtype=dtype)
    found = {}
    for form, given in natives(resnet, source).items():
        if form == "parameters":  # no running statistics
            given |= {k: v for k, v in state.items() if k not in given}
        models = [package.create_model(net, dtype=dtype) for package in (resnet, resnet_torch)]
        kinds = zip((resnet, resnet_torch), models, strict=True)
        found[form] = [digest(p.export_weights(p.load_weights(m, given))) for p, m in kinds]
        made = resnet.create_model(net, weights=given, dtype=dtype)
        found[form].append(digest(resnet.export_weights(made)))
    return digest(state), found


def placed(resnet: Any, spec: dict[str, Any], weights: str, part: str | None, names: Any) -> str:
    """What is loaded of a file in which a net has other names, or is one of several; or of its body
    alone, with a classifier that is drawn.
    """
    net = ResNetSpec.parse(spec)
    if net.num_classes:
        model = resnet.create_model(net)
        assert resnet.load_weights(model, weights, part=part, names=names) is model
    else:
        model = resnet.create_model(net, weights=weights, num_classes=7, seed=5)
    return digest(resnet.export_weights(model))


def mixed(resnet: Any, spec: dict[str, Any], dtype: str, weights: str) -> tuple[str, str]:
    """Canonical names, with each array in turn of another framework, in its own class."""
    import torch

    state = read_safetensors(weights).state
    kinds = [lambda a: a, _tensor, lambda a: torch.nn.Parameter(_tensor(a))]
    if resnet.__name__ == "resnet_flax":
        import jax.numpy as jnp
        from flax import nnx

        kinds += [jnp.asarray, lambda a: nnx.Param(jnp.asarray(a))]
    if resnet.__name__ == "resnet_keras":
        import keras

        kinds += [keras.ops.convert_to_tensor, lambda a: keras.Variable(a, dtype=dtype)]
    given = {name: kinds[i % len(kinds)](a) for i, (name, a) in enumerate(state.items())}
    assert len({type(value) for value in given.values()}) >= min(len(kinds), 3)
    model = resnet.create_model(ResNetSpec.parse(spec), dtype=dtype)
    return digest(state), digest(resnet.export_weights(resnet.load_weights(model, given)))


def _tensor(array: np.ndarray) -> Any:
    """A tensor that is not contiguous, and of which gradients are wanted."""
    import torch

    wide = torch.from_numpy(array.astype(np.float64)).to(getattr(torch, array.dtype.name))
    return torch.stack([wide, wide + 1], -1)[..., 0].requires_grad_()


def refused(resnet: Any, given: Mapping[str, Any], model: Any) -> str:
    before = digest(resnet.export_weights(model))
    try:
        resnet.load_weights(model, given)
    except WeightsError as error:
        assert digest(resnet.export_weights(model)) == before
        return str(error)
    raise AssertionError("the load did not fail")
