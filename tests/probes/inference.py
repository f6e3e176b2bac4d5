"""The form for inference beside the trained one."""

from __future__ import annotations

from typing import Any

import numpy as np

from shared_spec import (
    Checkpoint,
    Inference,
    ResNetError,
    ResNetSpec,
    cast_weights,
    compile_plan,
    random_weights,
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


def compiled(
    resnet: Any, spec: dict[str, Any], images: str, output: str, dtype: str, **_: Any
) -> None:
    """Logits of the form for inference, `called` as compiled and `predicted`, of two
    models that differ in their weights alone: `<seed>/called`.
    """
    found = {}
    (batch,) = read_safetensors(images).state.values()
    net = ResNetSpec.parse(spec)
    for seed in (1, 2):
        state = cast_weights(random_weights(compile_plan(net), seed), dtype)
        model = resnet.create_model(net, weights=state, dtype=dtype, inference=True)
        forward = resnet.compiled(model)
        # More than one call: what is kept of the first must do for the others.
        calls = [_natively(resnet, forward, x.astype(dtype)) for x in (batch[::-1], batch)]
        found[f"{seed}/called"] = calls[1]
        found[f"{seed}/predicted"] = resnet.predict(model, batch)
    write_safetensors(output, Checkpoint({k: np.ascontiguousarray(a) for k, a in found.items()}))


def _natively(resnet: Any, forward: Any, images: np.ndarray) -> np.ndarray:
    """What a function of the framework's own arrays gives."""
    images = np.ascontiguousarray(images)
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


def constants(resnet: Any) -> list[bool]:
    """On PyTorch: whether the compiler took a weight for a constant, and whether it compiles more
    functions of one code than it counts by default.
    """
    import torch

    from shared_spec.kernels.torch_compile import frozen

    layer = torch.nn.Linear(8, 8)
    forward = frozen(lambda x: layer(x), "float32")
    x = torch.ones(2, 8)
    before = forward(x)
    layer.weight.data.zero_()
    kept = bool((forward(x) == before).all())

    def scaled(n: int) -> Any:
        return frozen(lambda x: x * n, "float32", backend="eager", fullgraph=True)

    many = [scaled(n) for n in range(20)]
    return [kept, [float(f(torch.ones(1))) for f in many] == list(range(20))]
