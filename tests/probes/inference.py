"""The form for inference beside the trained one."""

from __future__ import annotations

from typing import Any

import numpy as np

from shared_spec import (
    Checkpoint,
    Inference,
    ResNetError,
    ResNetSpec,
    read_safetensors,
    write_safetensors,
)


def forms(
    resnet: Any,
    spec: dict[str, Any],
    weights: str,
    images: str,
    output: str,
) -> None:
    """Logits, or feature maps, of every form in float64: `<index>/<form>/<i>`."""
    state = read_safetensors(weights).state
    forms = {"plain": False, "folded": True, "blocks": Inference(space_to_depth=True)}
    models = {
        name: resnet.create_model(
            ResNetSpec.parse(spec), weights=state, dtype="float64", inference=form
        )
        for name, form in forms.items()
    }
    found = {}
    for index, batch in read_safetensors(images).state.items():
        for name, model in models.items():
            results = resnet.predict(model, batch)
            results = results if isinstance(results, list) else [results]
            found |= {f"{index}/{name}/{i}": a for i, a in enumerate(results)}
    write_safetensors(output, Checkpoint({k: np.ascontiguousarray(a) for k, a in found.items()}))


def compiled(resnet: Any, spec: dict[str, Any], weights: str, images: str, output: str) -> None:
    """Logits in float64 of the form for inference, `called` as compiled and `predicted`."""
    model = resnet.create_model(
        ResNetSpec.parse(spec),
        weights=read_safetensors(weights).state,
        dtype="float64",
        inference=True,
    )
    forward = resnet.compiled(model)
    found = {}
    for index, batch in read_safetensors(images).state.items():
        found[f"{index}/predicted"] = resnet.predict(model, batch)
        found[f"{index}/called"] = _natively(resnet, forward, batch.astype(np.float64))
    write_safetensors(output, Checkpoint({k: np.ascontiguousarray(a) for k, a in found.items()}))


def _natively(resnet: Any, forward: Any, images: np.ndarray) -> np.ndarray:
    """What a function of the framework's own arrays gives."""
    if resnet.__name__ == "resnet_torch":
        import torch

        y: np.ndarray = forward(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
        return y
    if resnet.__name__ == "resnet_keras":
        import keras

        tensor = keras.ops.convert_to_tensor(images)
        return np.asarray(keras.ops.convert_to_numpy(forward(tensor)))
    return np.asarray(forward(images))


def refusals(resnet: Any, spec: dict[str, Any], folder: str) -> dict[str, str]:
    """What a model in its form for inference refuses, and with which sentence."""
    from shared_spec import optimization

    model = resnet.create_model(ResNetSpec.parse(spec), inference=True)
    tried = {
        "export": lambda: resnet.export_weights(model),
        "save": lambda: resnet.save_weights(model, f"{folder}/a.safetensors"),
        "train": lambda: resnet.Trainer(model, optimization(learning_rate=0.1), 10),
        "form": lambda: resnet.create_model(ResNetSpec.parse(spec), inference="fast"),
    }
    found = {}
    for name, action in tried.items():
        try:
            action()
            found[name] = ""
        except ResNetError as error:
            found[name] = str(error)
    return found


def reloaded(resnet: Any, spec: dict[str, Any], first: str, second: str, output: str) -> None:
    """Logits after other weights were loaded into the form, and of a fresh form of those."""
    given = ResNetSpec.parse(spec)
    images = np.random.default_rng(0).standard_normal((2, 32, 32, given.in_channels))
    one, two = (read_safetensors(path).state for path in (first, second))
    model = resnet.create_model(given, weights=one, dtype="float64", inference=True)
    before = resnet.predict(model, images)
    resnet.load_weights(model, two)
    fresh = resnet.create_model(given, weights=two, dtype="float64", inference=True)
    arrays = {
        "before": before,
        "after": resnet.predict(model, images),
        "fresh": resnet.predict(fresh, images),
    }
    write_safetensors(output, Checkpoint({k: np.ascontiguousarray(a) for k, a in arrays.items()}))


def keras_file(resnet: Any, spec: dict[str, Any], folder: str) -> float:
    """How far a form's logits move when Keras itself saves and loads it."""
    import keras

    given = ResNetSpec.parse(spec)
    model = resnet.create_model(
        given, dtype="float64", inference=Inference(space_to_depth=True), seed=3
    )
    images = np.random.default_rng(0).standard_normal((2, 33, 32, given.in_channels))
    model.save(f"{folder}/form.keras")
    again = keras.models.load_model(f"{folder}/form.keras")
    return float(np.abs(resnet.predict(again, images) - resnet.predict(model, images)).max())
