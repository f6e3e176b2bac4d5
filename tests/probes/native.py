"""What users of each framework do with a model; run inside the engines' workers."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared_spec import Checkpoint, ResNetSpec, WeightsError, digest, random_images, resolve
from tests.specs import SMALL


def initial_digest(resnet: Any, dtype: str = "float32", seed: int = 3) -> str:
    model = resnet.create_model(SMALL, seed=seed, dtype=dtype)
    return digest(resnet.export_weights(model))


def round_trip(resnet: Any, dtype: str) -> None:
    """Export of what was loaded is what was loaded, down to NaN, infinity, -0 and subnormals."""
    from shared_spec import cast_weights, compile_plan, random_weights

    state = cast_weights(random_weights(compile_plan(SMALL), 5), dtype)
    odd = np.array([np.nan, np.inf, -np.inf, -0.0, np.finfo(np.float32).tiny / 4, 1, 2])
    state["fc.bias"] = odd.astype(state["fc.bias"].dtype)
    model = resnet.create_model(SMALL, weights=state, dtype=dtype)
    assert resnet.dtype_name(model) == dtype
    found = resnet.export_weights(model)
    assert list(found) == list(state)
    for name in state:
        assert found[name].dtype == state[name].dtype
        if dtype == "bfloat16":
            # Keras's PyTorch engine takes bfloat16 through float32, which keeps every number but
            # not the bits of a NaN.
            assert (np.isnan(found[name]) == np.isnan(state[name])).all()
            found[name][np.isnan(found[name])] = state[name][np.isnan(state[name])] = 0
        assert found[name].tobytes() == state[name].tobytes(), name
    # What was exported is a copy, and so is what was loaded.
    kept = digest(found)
    for name in state:
        state[name][...] = 7
    again = resnet.export_weights(model)
    for name in again:
        again[name][np.isnan(again[name])] = found[name][np.isnan(again[name])]
    assert digest(again) == kept
    for name in found:
        found[name][...] = 7
    assert (resnet.export_weights(model)["fc.weight"] != 7).any()


def failed_load_changes_nothing(resnet: Any) -> str:
    model = resnet.create_model(SMALL, seed=1)
    before = digest(resnet.export_weights(model))
    state = {k: v + 1 for k, v in resnet.export_weights(model).items()}
    state["fc.weight"] = state["fc.weight"].T
    state["layer2.0.conv1.wieght"] = state.pop("layer2.0.conv1.weight")
    state["bn1.bias"] = state["bn1.bias"].astype(np.float64)
    state["bn1.weight"] = state["bn1.weight"].astype(np.int32)
    state["fc.bias"] = state["fc.bias"].tolist()  # type: ignore[assignment]
    try:
        resnet.load_weights(model, state)
    except WeightsError as error:
        assert digest(resnet.export_weights(model)) == before
        return str(error)
    raise AssertionError("the load did not fail")


def changed_setting(resnet: Any) -> str:
    """What is said of an export under a spec that says something else."""
    model = resnet.create_model(SMALL, seed=1)
    norm = model.get_layer("bn1") if hasattr(model, "get_layer") else model.bn1
    norm.momentum = 0.5  # in training alone
    resnet.export_weights(model)
    leaf = "eps" if hasattr(norm, "eps") else "epsilon"
    setattr(norm, leaf, 0.25)
    try:
        resnet.export_weights(model)
    except WeightsError as error:
        return str(error)
    raise AssertionError("it was exported")


def verbs(resnet: Any) -> None:
    """The verbs of the design, in one script that is the same for every framework."""
    assert "resnet50" in resnet.list_models("resnet*50*")
    model = resnet.create_model("resnet20", num_classes=5, in_channels=1, seed=0)
    assert isinstance(model.spec, ResNetSpec)
    assert model.spec == resolve("resnet20", {"num_classes": 5, "in_channels": 1})
    assert model.plan.parameter_count() == resnet.parameter_count(model)
    images = random_images((3, 17, 20, 1))
    logits = resnet.predict(model, images)
    assert logits.shape == (3, 5)
    assert logits.dtype == np.float32
    parts = resnet.predict(model, images, batch_size=2)
    np.testing.assert_allclose(parts, logits, rtol=1e-4, atol=1e-5)
    twin = resnet.resnet20(num_classes=5, in_channels=1, seed=9)
    resnet.load_weights(twin, resnet.export_weights(model))
    np.testing.assert_array_equal(resnet.predict(twin, images), logits)
    assert resnet.resnet20.__name__ == "resnet20"


def named_models(resnet: Any) -> None:
    """Every catalogue name is a function of the package, and no other name is."""
    names = resnet.list_models()
    assert set(names) <= set(dir(resnet))
    for name in names:
        function = getattr(resnet, name)
        assert function is getattr(resnet, name)
        assert (function.__name__, function.__module__) == (name, resnet.__name__)
    message = f"module '{resnet.__name__}' has no attribute 'resnet51'"
    with pytest.raises(AttributeError, match=message):
        resnet.resnet51  # noqa: B018


def narrow_training_mode(resnet: Any) -> dict[str, list[str]]:
    """Dtypes that a bfloat16 model has before and after a call in training mode. Warnings are
    errors here: JAX warns where a wider array is put into a narrower one.
    """
    model = resnet.create_model("resnet20", dtype="bfloat16")
    before = {name: array.dtype.name for name, array in resnet.export_weights(model).items()}
    images = random_images((2, 16, 16, 3)).astype(before["conv1.weight"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if resnet.__name__ == "resnet_torch":
            from resnet_torch.weights import from_numpy

            model(from_numpy(images).permute(0, 3, 1, 2))
        elif resnet.__name__ == "resnet_flax":
            model(images)
        else:
            model(images, training=True)
    weights = resnet.export_weights(model)
    assert weights["bn1.running_mean"].any()
    after = {array.dtype.name for array in weights.values()}
    return {"before": sorted(set(before.values())), "after": sorted(after)}


def activation_shapes(resnet: Any) -> dict[str, list[int]]:
    model = resnet.create_model(SMALL)
    names = [layer.name for layer in model.plan.layers()]
    names += [block.name for block in model.plan.blocks()]
    found = resnet.activations(model, random_images((2, 33, 40, 3)), names)
    assert set(found) == set(names)
    return {name: list(array.shape) for name, array in found.items()}


def last_activation_is_prediction(resnet: Any) -> None:
    model = resnet.create_model(SMALL)
    images = random_images((2, 32, 32, 3))
    found = resnet.activations(model, images, ["fc", "layer1.0", "layer1.0.bn3"])
    np.testing.assert_allclose(found["fc"], resnet.predict(model, images), rtol=1e-5, atol=1e-6)
    # A norm's output has negative values; the activation after the sum has none.
    assert found["layer1.0.bn3"].min() < 0 <= found["layer1.0"].min()


def train_step(resnet: Any, model: Any, images: np.ndarray) -> None:
    """One forward pass in training mode, natively."""
    if resnet.__name__ == "resnet_torch":
        import torch

        model.train()
        model(torch.from_numpy(images).permute(0, 3, 1, 2))
    elif resnet.__name__ == "resnet_keras":
        model(images, training=True)
    else:
        import jax.numpy as jnp

        model.train()
        model(jnp.asarray(images))


def running_statistics(resnet: Any, variance: str, dtype: str) -> None:
    """One step moves the statistics by the plan's law, n / (n - 1) included."""
    spec = SMALL.override(norm_variance=variance, norm_momentum=0.3)
    from shared_spec import cast_weights, compile_plan, random_weights

    state = cast_weights(random_weights(compile_plan(spec), 1), dtype)
    model = resnet.create_model(spec, weights=state, dtype=dtype)
    images = random_images((2, 8, 6, 3)).astype(dtype)
    # The stem's convolution is the one whose input is known: 4 x 3 outputs of 2 images.
    conv = resnet.activations(model, images, ["conv1"])["conv1"].reshape(-1, 16)
    n = len(conv)
    assert n == 24
    train_step(resnet, model, images)
    after = resnet.export_weights(model)
    batch = conv.var(0) * (n / (n - 1) if variance == "unbiased" else 1)
    rtol = {"float64": 1e-13, "float32": 3e-6}[dtype]
    expected = 0.7 * state["bn1.running_var"] + 0.3 * batch
    np.testing.assert_allclose(after["bn1.running_var"], expected, rtol=rtol)
    expected = 0.7 * state["bn1.running_mean"] + 0.3 * conv.mean(0)
    np.testing.assert_allclose(after["bn1.running_mean"], expected, rtol=rtol, atol=rtol / 100)
    for name, array in after.items():
        moved = "running" in name
        assert (array != state[name]).any() == moved, name


def predict_keeps_state(resnet: Any) -> None:
    """predict and activations change neither weights nor statistics nor mode."""
    model = resnet.create_model(SMALL)
    before = digest(resnet.export_weights(model))
    images = random_images((2, 16, 16, 3))
    resnet.predict(model, images)
    resnet.activations(model, images)
    assert digest(resnet.export_weights(model)) == before
    train_step(resnet, model, images)
    assert digest(resnet.export_weights(model)) != before


def refusals(resnet: Any, calls: list[list[Any]]) -> list[str]:
    """The messages of create_model for bad arguments."""
    from shared_spec import ResNetError

    out = []
    for name, options in calls:
        try:
            resnet.create_model(name, **options)
        except ResNetError as error:
            out.append(str(error))
        else:
            out.append("accepted")
    return out


def image_refusals(resnet: Any) -> list[str]:
    from shared_spec import ImageError

    model = resnet.create_model(SMALL)
    out = []
    for batch_size in (0, -3):
        try:
            resnet.predict(model, random_images((1, 16, 16, 3)), batch_size=batch_size)
        except ImageError as error:
            out.append(str(error))
    for images in (
        np.zeros((2, 3, 32, 32), np.float32),
        np.zeros((32, 32, 3), np.float32),
        np.zeros((0, 32, 32, 3), np.float32),
        np.array([["a"]]),
    ):
        try:
            resnet.predict(model, images)
        except ImageError as error:
            out.append(str(error))
        else:
            out.append("accepted")
    return out


def replaced_layers(resnet: Any) -> list[str]:
    """Messages of load and export for a model whose classifier the user replaced."""
    model = resnet.create_model(SMALL)
    state = {name: array + 1 for name, array in resnet.export_weights(model).items()}
    out = []
    if resnet.__name__ == "resnet_torch":
        from torch import nn

        heads = [nn.Linear(128, 3), nn.Identity()]
    else:
        from flax import nnx

        heads = [nnx.Linear(128, 3, rngs=nnx.Rngs(0)), nnx.List([])]
    for head in heads:
        before = resnet.export_weights(resnet.create_model(SMALL))["conv1.weight"]
        model.fc = head
        for verb in (lambda m: resnet.load_weights(m, state), resnet.export_weights):
            try:
                verb(model)
            except WeightsError as error:
                out.append(str(error))
        if head is heads[0]:  # a classifier of another width is one that a spec can say
            assert model.spec.num_classes == 3
            assert resnet.export_weights(model)["fc.weight"].shape == (3, 128)
        model.fc = resnet.create_model(SMALL).fc
        assert (resnet.export_weights(model)["conv1.weight"] == before).all()
    return out


def one_number_has_no_unbiased_variance(resnet: Any) -> list[str]:
    """Arrays that are not finite after a step in which some norm sees one number a channel."""
    model = resnet.create_model(SMALL)
    train_step(resnet, model, random_images((1, 8, 8, 3)))
    return [n for n, a in resnet.export_weights(model).items() if not np.isfinite(a).all()]


def every_parameter_gets_a_gradient(resnet: Any, variance: str) -> list[str]:
    """Names of the parameters whose gradient is zero everywhere."""
    spec = resolve("resnet20_b", {"depths": [1, 1, 2], "norm_variance": variance})
    model = resnet.create_model(spec)
    images = random_images((4, 16, 16, 3))
    return [n for n, g in _gradients(resnet, model, images).items() if not np.any(g)]


def _gradients(resnet: Any, model: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    if resnet.__name__ == "resnet_torch":
        import torch

        loss = (model(torch.from_numpy(images).permute(0, 3, 1, 2)) ** 2).sum()
        loss.backward()
        return {n: p.grad.numpy() for n, p in model.named_parameters()}
    if resnet.__name__ == "resnet_flax":
        import jax.numpy as jnp
        from flax import nnx

        def loss_of(m: Any) -> Any:
            return (m(jnp.asarray(images)) ** 2).sum()

        flat = nnx.to_flat_state(nnx.grad(loss_of)(model))
        return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in flat}
    return _keras_gradients(model, images)


def _keras_gradients(model: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    import keras

    variables = model.trainable_variables
    engine = keras.backend.backend()
    if engine == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(images, training=True) ** 2)
        found = tape.gradient(loss, [v.value for v in variables])
        values = [g.numpy() for g in found]
    elif engine == "torch":
        (model(images, training=True) ** 2).sum().backward()
        values = [v.value.grad.cpu().numpy() for v in variables]
    else:
        import jax

        def loss_of(trainable: Any) -> Any:
            others = [v.value for v in model.non_trainable_variables]
            outputs, _ = model.stateless_call(trainable, others, images, training=True)
            return (outputs**2).sum()

        values = [np.asarray(g) for g in jax.grad(loss_of)([v.value for v in variables])]
    return {v.path: g for v, g in zip(variables, values, strict=True)}


# One framework each.


def torch_habits(resnet: Any) -> None:
    import copy
    import io

    import torch
    from torch import nn

    model = resnet.create_model("resnet18", num_classes=10)
    block = model.layer1[0]
    assert type(block.conv1) is nn.Conv2d
    assert type(model.bn1) is nn.BatchNorm2d
    assert len(model.layer2) == 2
    assert isinstance(model.layer2[0].downsample, nn.Sequential)
    assert type(model.layer2[0].downsample[1]) is nn.BatchNorm2d
    assert model.training
    x = torch.randn(2, 3, 32, 40)
    model.eval()
    reference = model(x)
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin(x), reference, rtol=0, atol=0)
    twin.fc = nn.Linear(512, 3)
    assert twin(x).shape == (2, 3)
    assert resnet.export_weights(twin)["fc.weight"].shape == (3, 512)
    assert twin.spec.num_classes == 3
    twin.layer4 = nn.Identity()
    twin.fc = nn.Linear(256, 3)
    assert twin(x).shape == (2, 3)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    torch.testing.assert_close(torch.load(file, weights_only=False)(x), reference, rtol=0, atol=0)
    last = x.to(memory_format=torch.channels_last)
    moved = copy.deepcopy(model).to(memory_format=torch.channels_last)
    assert moved.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(moved(last), reference)
    assert all(p.requires_grad for p in model.parameters())


def torch_compilers(resnet: Any) -> None:
    import torch

    small = {"depths": [1, 1], "widths": [16, 16]}
    for spec in (
        SMALL,
        resolve("d2l_resnet18_same", {"depths": [1, 1], "in_channels": 3}),
        resolve("resnetblur50d", {**small, "attention": "se"}),
        resolve("ecaresnet26t", {**small, "stem_pool": "conv"}),
        resolve("resnet20", small),
    ):
        model = resnet.create_model(spec).eval()
        x = torch.randn(2, 3, 32, 40)
        reference = model(x)
        # The eager backend traces the whole graph and leaves out a C++ compiler's minutes.
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), reference)
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x), reference)


def keras_habits(resnet: Any, folder: str) -> None:
    import keras

    model = resnet.create_model("resnet20", num_classes=4)
    assert isinstance(model, keras.Model)
    assert isinstance(model.get_layer("layer1_0_conv1"), keras.layers.Conv2D)
    assert isinstance(model.get_layer("bn1"), keras.layers.BatchNormalization)
    lines: list[str] = []
    model.summary(print_fn=lambda text, **_: lines.append(text))
    assert "layer3_2_conv2" in "\n".join(lines)
    images = random_images((8, 16, 16, 3))
    labels = np.arange(8) % 4
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(images, labels, batch_size=8, epochs=6, verbose=0).history["loss"]
    assert history[-1] < history[0]
    logits = resnet.predict(model, images)
    path = f"{folder}/model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    assert type(loaded) is type(model)
    assert loaded.spec == model.spec
    np.testing.assert_array_equal(resnet.predict(loaded, images), logits)
    model.save_weights(f"{folder}/model.weights.h5")
    twin = resnet.create_model("resnet20", num_classes=4, seed=7)
    twin.load_weights(f"{folder}/model.weights.h5")
    np.testing.assert_array_equal(resnet.predict(twin, images), logits)
    # Cutting at a layer, as for feature extraction.
    features = keras.Model(model.input, model.get_layer("global_pool").output)
    assert features(images).shape == (8, 64)


def keras_files_of_every_layer(resnet: Any, folder: str) -> None:
    """Each layer of ours comes back from a `.keras` file, and computes the same."""
    import keras

    small = {"depths": [1, 1], "widths": [32, 32], "image_size": 32}
    for name, options in (
        ("resnetblur50d", {"attention": "se", "norm": "group"}),
        ("ecaresnet26t", {"anti_alias": "avg", "stem_pool": "conv"}),
        ("resnet20", {"widths": [16, 32], "padding": "same"}),
    ):
        spec = resolve(name, {**small, **options})
        model = resnet.create_model(spec, seed=2)
        path = f"{folder}/{name}.keras"
        model.save(path)
        loaded = keras.saving.load_model(path)
        images = random_images((2, 32, 32, 3))
        np.testing.assert_array_equal(resnet.predict(loaded, images), resnet.predict(model, images))
        by_layers = keras.models.clone_model(model)
        assert [x.name for x in by_layers.layers] == [x.name for x in model.layers]
        for layer in model.layers:
            twin = type(layer).from_config(layer.get_config())
            assert twin.get_config() == layer.get_config()


def flax_habits(resnet: Any) -> None:
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    model = resnet.create_model("resnet20", num_classes=4)
    assert isinstance(model.layer1[0].conv1, nnx.Conv)
    assert isinstance(model.bn1, nnx.BatchNorm)
    paths = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model))}
    assert "layer1.0.conv1.kernel" in paths
    assert {p.rpartition(".")[0] for p in paths} == {q.module for q in model.plan.parameters()}
    x = jnp.asarray(random_images((8, 16, 16, 3)))
    model.eval()
    reference = nnx.jit(lambda m, x: m(x))(model, x)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    merged = nnx.merge(graph, params, rest)
    np.testing.assert_array_equal(nnx.jit(lambda m, x: m(x))(merged, x), reference)
    plain = jax.jit(lambda params, rest, x: nnx.merge(graph, params, rest)(x))
    np.testing.assert_array_equal(plain(params, rest, x), reference)
    model.fc = nnx.Linear(64, 2, rngs=nnx.Rngs(0))
    assert model(x).shape == (8, 2)

    for name in ("resnet20", "resnetv2_50x1_bit"):
        model = resnet.create_model(name, depths=[1], widths=[32], num_classes=4)
        model.eval()
        assert jnp.array_equal(pickle.loads(pickle.dumps(model))(x), model(x))  # noqa: S301 ours

    model = resnet.create_model("resnet20", num_classes=4)
    optimizer = nnx.Optimizer(model, optax.sgd(0.05, momentum=0.9), wrt=nnx.Param)
    labels = jnp.arange(8) % 4

    @nnx.jit
    def step(model: Any, optimizer: Any) -> Any:
        def loss_of(m: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(m(x), labels).mean()

        loss, grads = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, grads)
        return loss

    before = np.asarray(model.bn1.mean[...])
    losses = [float(step(model, optimizer)) for _ in range(6)]
    assert losses[-1] < losses[0]
    assert (np.asarray(model.bn1.mean[...]) != before).any()


def adapted(
    resnet: Any, spec: dict[str, Any], overrides: dict[str, Any], weights: str, output: str
) -> None:
    """The weights of a model that was made with overrides from another's."""
    from shared_spec import Checkpoint, ResNetSpec, write_safetensors

    model = resnet.create_model(ResNetSpec.parse(spec), weights=weights, seed=5, **overrides)
    write_safetensors(output, Checkpoint(resnet.export_weights(model)))


def saves(resnet: Any, folder: str, files: list[list[str | None]]) -> list[str]:
    """Models and bare weights in every format that this backend writes: digests of what is read."""
    from shared_spec import digest

    model = resnet.create_model(SMALL, seed=5)
    state = resnet.export_weights(model)
    found = []
    for number, (name, format) in enumerate(files):
        for what, given in (("model", model), ("state", state)):
            path = Path(folder) / f"{what}{number}-{name}"
            extra = None if what == "model" else Checkpoint({}, SMALL)
            resnet.save_weights(given, path, extra, format=format)
            other = resnet.load_weights(resnet.create_model(SMALL, seed=6), path)
            found.append(digest(resnet.export_weights(other)))
    return found
