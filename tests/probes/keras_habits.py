"""What users of Keras do with a model, beside what keras.applications makes of the same code."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras.src.applications import resnet as applications

from shared_spec import (
    Checkpoint,
    Preprocessing,
    ResNetError,
    SpecError,
    WeightsError,
    WeightsWarning,
    resolve,
    write_safetensors,
)
from tests.probes.native import random_images

TINY = {"depths": [1, 1], "widths": [8, 16], "stem_width": 8}
FOUR = {"depths": [1] * 4, "widths": [8, 8, 16, 16], "stem_width": 8}
SIZE = 33


def tiny(resnet: Any, name: str = "resnet50", **options: Any) -> Any:
    """A small net with statistics that are not those of the start."""
    depth = FOUR if "strides" in resolve(name).model_fields_set else TINY
    return shaken(resnet.create_model(name, **{"num_classes": 5, **depth, **options}))


LABELS = ("ant", "bee", "cat", "dog", "eel")
PREPARE = Preprocessing(image_size=SIZE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def shaken(model: Any) -> Any:
    draw = np.random.default_rng(3)
    for w in model.weights:
        if "seed" not in w.path:
            spread = draw.random(w.shape) if "var" in w.path else draw.normal(size=w.shape)
            w.assign(keras.ops.convert_to_numpy(w.value) + 0.2 * spread)
    return model


def application(**options: Any) -> keras.Model:
    """A small net as keras.applications builds it."""

    def stacks(x: Any) -> Any:
        x = applications.stack_residual_blocks_v1(x, 2, 1, stride1=1, name="conv2")
        return applications.stack_residual_blocks_v1(x, 4, 1, name="conv3")

    given = {"weights": None, "name": "theirs", "weights_name": "theirs"}
    return applications.ResNet(stacks, False, True, **(given | options))


def answers(model: Any, size: int = SIZE) -> Any:
    return keras.tree.map_structure(np.asarray, model.predict(random_images((2, size, size, 3)), 2))


def reloaded(model: Any, path: str) -> Any:
    model.save(path)
    return keras.saving.load_model(path)


# What is set on layers.


def _set(layer: Any, key: str, value: Any) -> None:
    setattr(layer, key, value)


CHANGES: dict[str, Any] = {
    "trainable": False,
    "dtype": keras.DTypePolicy("mixed_bfloat16"),
    "activation": keras.activations.tanh,
    "momentum": 0.625,
    "epsilon": 0.25,
    "rate": 0.375,
    "unbiased": False,
    "eps": 0.125,
    "gamma_scale": 0.5,
    **dict.fromkeys(
        (
            "kernel_initializer",
            "bias_initializer",
            "beta_initializer",
            "gamma_initializer",
            "moving_mean_initializer",
            "moving_variance_initializer",
        ),
        keras.initializers.Constant(0.5),
    ),
    **dict.fromkeys(
        (
            "kernel_regularizer",
            "bias_regularizer",
            "activity_regularizer",
            "beta_regularizer",
            "gamma_regularizer",
        ),
        keras.regularizers.L2(0.125),
    ),
    **dict.fromkeys(
        ("kernel_constraint", "bias_constraint", "beta_constraint", "gamma_constraint"),
        keras.constraints.MaxNorm(3),
    ),
}
BUILT = {
    "name", "filters", "kernel_size", "strides", "padding", "dilation_rate", "groups", "use_bias",
    "units", "axis", "center", "scale", "pool_size", "data_format", "keepdims", "batch_shape",
    "sparse", "ragged", "optional", "target_shape", "stride", "noise_shape", "seed", "block_size",
    "synchronized", "renorm", "renorm_clipping", "renorm_momentum",
    "quantization_config",
    "before",
    "after",
    "activates",
}  # fmt: skip
"""Settings that weights and shapes follow from: Keras takes them when a layer is made."""


def every_setting_survives(resnet: Any, folder: str, name: str, options: dict[str, Any]) -> Any:
    """Everything that the layers have in their configuration is set, saved, and loaded again: the
    settings that were changed, and those of which nobody thought here.
    """
    model = tiny(resnet, name, **options)
    changed, unknown = set(), set()
    for layer in model.layers[1:]:
        for key in layer.get_config():
            if key in CHANGES and not isinstance(layer, keras.layers.Identity):
                target = "dtype_policy" if key == "dtype" else key
                setattr(layer, target, CHANGES[key])
                changed.add(key)
            elif key not in BUILT | CHANGES.keys():
                unknown.add(key)
    expected = answers(model)
    found = {}
    for suffix in ("keras", "h5"):
        loaded = reloaded(model, f"{folder}/{name}.{suffix}")
        for layer, twin in zip(model.layers, loaded.layers, strict=True):
            assert twin.get_config() == layer.get_config(), (layer.name, suffix)
        # In bfloat16, Keras's own layers round elsewhere.
        tolerance = 0.06 if suffix == "h5" else 1e-6
        np.testing.assert_allclose(
            answers(loaded).astype("float32"), expected.astype("float32"), atol=tolerance, rtol=0
        )
        found[suffix] = type(loaded) is type(model)
    return [sorted(changed), sorted(unknown), found]


def frozen_base_stays_frozen(resnet: Any, folder: str, suffix: str) -> Any:
    """Trainable variables of a model on a frozen base, before and after it is saved."""
    base = tiny(resnet, include_top=False, pooling="avg", num_classes=0)
    base.trainable = False
    images = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(images, keras.layers.Dense(3)(base(images, training=False)))
    before = answers(model)
    loaded = reloaded(model, f"{folder}/model.{suffix}")
    np.testing.assert_allclose(answers(loaded), before, rtol=1e-6)
    assert isinstance(loaded.layers[1], resnet.ResNet)
    return [len(m.trainable_variables) for m in (model, loaded)]


def training_goes_on(resnet: Any, folder: str) -> None:
    """A model that is saved in the middle of its training ends where the other one does."""
    images, labels = random_images((8, SIZE, SIZE, 3)), np.arange(8) % 5
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = tiny(resnet)
    model.get_layer("layer1_0_conv1").trainable = False
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    model.fit(images, labels, batch_size=8, epochs=2, verbose=0)
    twin = reloaded(model, f"{folder}/model.keras")
    assert len(twin.trainable_variables) == len(model.trainable_variables)
    for a, b in zip(model.optimizer.variables, twin.optimizer.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    histories = [
        m.fit(images, labels, batch_size=8, epochs=2, verbose=0).history["loss"]
        for m in (model, twin)
    ]
    np.testing.assert_allclose(*histories, rtol=1e-3)


# Files in a process that has not imported this package.

WITHOUT_US = """
import json, sys
import keras, numpy as np
found = {}
for path in sys.argv[2:]:
    try:
        model = keras.saving.load_model(path, compile=False)
        found[path] = np.asarray(model.predict(np.load(sys.argv[1]), verbose=0)).tolist()
    except Exception as error:
        found[path] = str(error)
assert not {"resnet_keras", "shared_spec"} & set(sys.modules)
print(json.dumps(found))
"""


def loaded_without_us(resnet: Any, folder: str, names: list[str]) -> Any:
    """For each file: how far the answers are from ours, or what Keras says of it."""
    images = Path(folder) / "images.npy"
    np.save(images, random_images((2, SIZE, SIZE, 3)))
    expected = {}
    for name in names:
        model = tiny(resnet, name)
        model.labels, model.preprocessing = LABELS, PREPARE
        whole = [(model, name)]
        if name in (names[0], names[-1]):
            nested = keras.Sequential([keras.Input((SIZE, SIZE, 3)), model])
            whole.append((nested, f"nested-{name}"))
        for outer, stem in whole:
            for suffix in ("keras", "h5"):
                path = f"{folder}/{stem}.{suffix}"
                outer.save(path)
                expected[path] = answers(outer)
                np.testing.assert_allclose(
                    answers(keras.saving.load_model(path)), expected[path], rtol=1e-4, atol=1e-5
                )
    command = [sys.executable, "-P", "-c", WITHOUT_US, str(images), *expected]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    found = json.loads(done.stdout.splitlines()[-1])
    return {
        Path(path).name: said
        if isinstance(said, str)
        else float(np.abs(np.array(said) - expected[path]).max() / np.abs(expected[path]).max())
        for path, said in found.items()
    }


def earlier_file(resnet: Any, folder: str, nested: bool) -> Any:
    """A `.keras` file as version 0.1.0 wrote it, with the spec in the place of layers."""
    model = shaken(resnet.create_model("resnet20", num_classes=4, seed=5))
    old = {
        "module": "resnet_keras.model",
        "class_name": "ResNet",
        "registered_name": "resnet_keras>ResNet",
        "config": {
            "spec": model.spec.to_dict(),
            "dtype": "float32",
            "name": "resnet",
            "trainable": True,
            "seed": 5,
            "inference": False,
        },
    }
    whole = keras.Sequential([keras.Input((SIZE, SIZE, 3)), model]) if nested else model
    new, path = Path(folder) / "new.keras", Path(folder) / "old.keras"
    whole.save(new)
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(path, "w") as target:
        for item in source.infolist():
            data = source.read(item)
            if item.filename == "config.json":
                config = json.loads(data)
                if nested:
                    config["config"]["layers"][1] = old
                else:
                    config = old
                data = json.dumps(config).encode()
            elif item.filename.endswith(".h5") and nested:
                data = _renamed_group(data, "layers/functional", "layers/res_net", Path(folder))
            target.writestr(item.filename, data)
    loaded = keras.saving.load_model(path)
    ours = loaded.layers[0] if nested else loaded
    assert isinstance(ours, resnet.ResNet)
    assert ours.spec == model.spec
    np.testing.assert_array_equal(answers(loaded), answers(whole))
    again = reloaded(loaded, f"{folder}/again.keras")
    np.testing.assert_array_equal(answers(again), answers(whole))
    return str(path)


def _renamed_group(data: bytes, old: str, new: str, folder: Path) -> bytes:
    import h5py

    path = folder / "weights.h5"
    path.write_bytes(data)
    with h5py.File(path, "r+") as file:
        file.move(old, new)
    return path.read_bytes()


def changed_files(resnet: Any, folder: str, suffix: str) -> list[list[str]]:
    """Files of ours in which a user changed something, and where Keras's answers to them are."""
    se = {"attention": "se", "layer_scale": 0.5}
    made: dict[str, tuple[dict[str, Any], Callable[[Any], None]]] = {
        "nothing": (se, lambda m: None),
        "frozen": (se, lambda m: _set(m, "trainable", False)),
        "regularised": (
            se,
            lambda m: _set(m.get_layer("conv1"), "kernel_regularizer", keras.regularizers.L2(1.0)),
        ),
        "softmax": (se, lambda m: _set(m.layers[-1], "activation", keras.activations.softmax)),
        "no activation": (
            {},
            lambda m: _set(m.get_layer("layer1_0_act1"), "activation", keras.activations.linear),
        ),
        "another activation": (
            se,
            lambda m: _set(m.get_layer("act1"), "activation", keras.activations.elu),
        ),
        "another eps": (se, lambda m: _set(m.get_layer("bn1"), "epsilon", 0.5)),
        "every eps": (
            {},
            lambda m: (
                [
                    _set(x, "epsilon", 0.5)
                    for x in m.layers
                    if isinstance(x, keras.layers.BatchNormalization)
                ]
                and None
            ),
        ),
        "tanh": (se, lambda m: _set(m.layers[-1], "activation", keras.activations.tanh)),
    }
    found = []
    for name, (options, change) in made.items():
        model = tiny(resnet, dtype="float64", **options)
        change(model)
        path = f"{folder}/{name}.{suffix}"
        model.save(path)
        loaded = keras.saving.load_model(path)
        if name == "softmax":
            loaded.layers[-1].activation = keras.activations.linear
        x = np.random.default_rng(0).random((2, SIZE, SIZE, 3))
        state = {"x": x, "y": np.asarray(loaded(x, training=False))}
        write_safetensors(f"{path}.answers", Checkpoint(state))
        found.append([name, path, f"{path}.answers"])
    return found


# What is known of images and classes.


def what_is_known(resnet: Any, folder: str) -> list[str]:
    """Labels and preprocessing come back with a model, by Keras, by pickle and by our verbs, within
    another model too; the files in which they are.
    """
    picture = str(Path(__file__).parents[2] / "resnet_parity" / "assets" / "china.jpg")
    files = []

    def known(model: Any) -> Any:
        return model.labels, model.preprocessing

    for number, function in enumerate((None, "softmax")):
        model = tiny(resnet, classifier_activation=function)
        model.labels, model.preprocessing = LABELS, PREPARE
        expected = resnet.classify(model, picture)
        assert {c.label for c in expected[0]} == {*LABELS}
        files += [f"{folder}/{number}.keras", f"{folder}/{number}.h5"]
        model.save(files[-1])
        loaded = reloaded(model, files[-2])
        for twin in (loaded, pickle.loads(pickle.dumps(model))):  # noqa: S301 ours
            assert known(twin) == (LABELS, PREPARE)
            assert resnet.classify(twin, picture) == expected
            np.testing.assert_array_equal(
                resnet.preprocess(twin, picture), resnet.preprocess(model, picture)
            )
        outer = keras.Sequential([keras.Input((SIZE, SIZE, 3)), model, keras.layers.Dense(2)])
        assert known(reloaded(outer, f"{folder}/outer.keras").layers[0]) == (LABELS, PREPARE)
    other = resnet.Preprocessing(image_size=7, mean=(0.5,) * 3, std=(0.5,) * 3)
    told = Checkpoint({}, None, other, tuple("abcde"))
    files.append(f"{folder}/told.keras")
    resnet.save_weights(tiny(resnet), files[-1], told)
    assert known(keras.saving.load_model(files[-1])) == (told.labels, other)
    bare = reloaded(tiny(resnet), f"{folder}/bare.keras")
    assert known(bare) == (None, None)
    for key, value in (("labels", ("cat",)), ("labels", [1] * 5), ("preprocessing", {})):
        setattr(bare, key, value)
        with pytest.raises(WeightsError, match=f"model.{key}: expected"):
            bare.save(f"{folder}/wrong.keras")
        setattr(bare, key, None)
    return files


def changed_knowledge(resnet: Any, folder: str) -> list[str]:
    """What Keras says of files in which somebody wrote what is not true of the net."""
    model = tiny(resnet)
    model.labels, model.preprocessing = LABELS, PREPARE
    path, said = Path(folder) / "known.keras", []
    model.save(path)
    for number, change in enumerate(LIES):
        with zipfile.ZipFile(path) as source:
            parts = {name: source.read(name) for name in source.namelist()}
        config = json.loads(parts["config.json"])
        config["config"] |= change
        parts["config.json"] = json.dumps(config).encode()
        with zipfile.ZipFile(Path(folder) / f"{number}.keras", "w") as target:
            for name, data in parts.items():
                target.writestr(name, data)
        with pytest.raises(SpecError) as caught:
            keras.saving.load_model(Path(folder) / f"{number}.keras")
        said.append(str(caught.value))
    assert not (Path(folder) / f"{len(LIES)}.keras").exists()
    return said


_WHAT: dict[str, Any] = PREPARE.model_dump(mode="json")
LIES: tuple[dict[str, Any], ...] = (
    {"labels": ["ant", "bee", "cat", "dog"]},
    {"labels": ["ant", "bee", "cat", "dog", 5]},
    {"labels": {"0": "ant"}},
    {"preprocessing": _WHAT | {"mean": [0.5], "std": [0.5]}},
    {"preprocessing": _WHAT | {"image_size": 10**9}},
    {"preprocessing": _WHAT | {"std": [0.2, 0.2, 0]}},
    {"preprocessing": _WHAT | {"function": "os.system"}},
    {"preprocessing": [1]},
)


# dtype policies, and what Keras is set to.


@contextmanager
def _policy(name: str) -> Iterator[None]:
    kept = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(kept)


def _dtypes(model: Any) -> Any:
    layers = {str(x.compute_dtype) for x in model.layers[1:]}
    weights = {str(keras.backend.standardize_dtype(w.dtype)) for w in model.weights}
    return [layers, weights, str(model.output.dtype)]


def policies(resnet: Any) -> None:
    """Global policies, and those of one model, are those of keras.applications."""
    plain = _dtypes(tiny(resnet))
    for name in ("mixed_bfloat16", "mixed_float16", "bfloat16", "float32"):
        with _policy(name):
            theirs = _dtypes(application(classes=5))
            assert _dtypes(tiny(resnet)) == theirs
            assert _dtypes(tiny(resnet, dtype="float32")) == plain
        for given in (name, keras.DTypePolicy(name)):
            model = tiny(resnet, dtype=given)
            assert _dtypes(model) == theirs
            assert resnet.dtype_name(model) == str(keras.DTypePolicy(name).variable_dtype)
    mixed, plain = (tiny(resnet, dtype=name) for name in ("mixed_bfloat16", "float32"))
    images = random_images((2, SIZE, SIZE, 3))
    a, b = (resnet.predict(m, images).astype("float32") for m in (mixed, plain))
    assert 0 < np.abs(a - b).max() < 0.1 * np.abs(b).max()


def refusals(resnet: Any) -> list[str]:
    """What is said of arguments and settings that this package does not take."""
    shape = keras.Input((SIZE, SIZE, 3))
    calls: list[dict[str, Any]] = [
        {"dtype": "mixed_float8"},
        {"dtype": keras.dtype_policies.get("int8_from_float32")},
        {"include_top": False, "pooling": "sum"},
        {"include_top": False, "num_classes": 3},
        {"classes": 4, "num_classes": 3},
        {"input_shape": (32, 32)},
        {"input_shape": (32, 32.0, 3)},
        {"input_tensor": np.zeros((1, 8, 8, 3))},
        {"input_tensor": shape, "input_shape": (8, 8, 3)},
        {"input_shape": (32, 32, 1), "in_channels": 3},
    ]
    found = []
    for options in calls:
        with pytest.raises(ResNetError) as caught:
            resnet.create_model("resnet50", **TINY, **options)
        found.append(str(caught.value))
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ResNetError) as caught:
            tiny(resnet)
    finally:
        keras.config.set_image_data_format("channels_last")
    return [*found, str(caught.value)]


def quantised(resnet: Any, folder: str) -> str:
    """`quantize` changes the layers that it changes in keras.applications; such a model is saved
    and loaded, and its numbers are not taken for weights.
    """
    changed, before = [], tiny(resnet)
    for model in (application(classes=5), before):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of each layer that cannot be quantised
            model.quantize("int8")
        kinds = {x.__class__.__name__ for x in model.layers if "int8" in x.dtype_policy.name}
        changed.append(kinds)
    assert changed == [{"Dense"}, {"Dense"}]
    expected, wide = answers(before), answers(tiny(resnet))
    assert 0 < np.abs(expected - wide).max() < 0.1 * np.abs(wide).max()
    loaded = reloaded(before, f"{folder}/int8.keras")
    np.testing.assert_array_equal(answers(loaded), expected)
    with pytest.raises(ResNetError, match="which no ResNet here does"):
        resnet.read_checkpoint(f"{folder}/int8.keras")
    with pytest.raises(WeightsError) as caught:
        resnet.export_weights(before)
    return str(caught.value)


# keras.applications' arguments.


def arguments(resnet: Any) -> None:
    """Shapes and names are those that keras.applications gives for the same call."""
    make = {"name": "mine", "classes": 7}
    for options in (
        {},
        {"include_top": False},
        {"include_top": False, "pooling": "avg"},
        {"include_top": False, "pooling": "max"},
        {"classifier_activation": "sigmoid"},
        {"classifier_activation": None},
    ):
        for shape in ((64, 48, 3), (None, None, 3)):
            if shape[0] is None and options.get("include_top", True):
                continue  # theirs wants a size there
            given: dict[str, Any] = {**make, **options, "input_shape": shape}
            ours = resnet.keras_resnet50(
                depths=[1, 1], widths=[2, 4], strides=[1, 2], stem_width=64, **given
            )
            theirs = application(**given)
            assert (ours.output_shape, ours.input_shape) == (
                theirs.output_shape,
                theirs.input_shape,
            ), given
            assert ours.name == theirs.name == "mine"
            if "classifier_activation" in given:
                assert ours.layers[-1].activation is theirs.layers[-1].activation
    assert resnet.resnet50(**TINY).input_shape == (None, None, None, 3)
    assert resnet.resnet50(**TINY).layers[-1].activation is keras.activations.linear


def bodies_and_heads(resnet: Any, folder: str, name: str) -> None:
    """What a net gives without its top, pooled, and with a softmax, follows from the whole net; and
    each comes back from a file.
    """
    whole = tiny(resnet, name)
    state = resnet.export_weights(whole)
    depth = FOUR if "strides" in resolve(name).model_fields_set else TINY
    images = random_images((2, SIZE, SIZE, 3))

    def made(**options: Any) -> Any:
        return resnet.create_model(name, weights=state, **depth, **options)

    maps = made(include_top=False, input_shape=(SIZE, SIZE, 3))
    logits = answers(whole)
    chances = made(classes=5, classifier_activation="softmax")
    np.testing.assert_allclose(
        answers(chances), np.asarray(keras.ops.softmax(logits)), rtol=1e-4, atol=1e-6
    )
    for pooling, pool in (("avg", np.mean), ("max", np.max)):
        pooled = made(include_top=False, pooling=pooling)
        np.testing.assert_allclose(
            answers(pooled), pool(answers(maps), axis=(1, 2)), rtol=1e-4, atol=1e-5
        )
    flat = keras.Sequential([maps, keras.layers.Flatten(), keras.layers.Dense(2)])
    assert flat.output_shape == (None, 2)
    assert answers(flat).shape == (2, 2)
    images = keras.Input((SIZE, SIZE, 3), name="photograph")
    scaled = keras.layers.Rescaling(0.5)(images)
    behind = made(input_tensor=scaled, include_top=False, pooling="avg", name="behind")
    assert behind.input is images
    half = made(include_top=False, pooling="avg").predict(
        random_images((2, SIZE, SIZE, 3)) / 2, verbose=0
    )
    np.testing.assert_allclose(answers(behind), half, rtol=1e-4, atol=1e-5)
    _exported_behind(resnet, behind, state, folder)
    both = keras.Model(images, [behind.output, whole(images)])
    for number, model in enumerate((maps, chances, behind, both)):
        loaded = reloaded(model, f"{folder}/{number}.keras")
        for a, b in zip(
            keras.tree.flatten(answers(loaded)), keras.tree.flatten(answers(model)), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        if model is not both:
            assert type(loaded) is type(model)
            assert loaded.spec == model.spec


def _exported_behind(resnet: Any, behind: Any, state: Any, folder: str) -> None:
    """The weights of a net behind layers of somebody's are its own, if its layers are."""
    loaded = reloaded(behind, f"{folder}/behind.keras")
    for model in (behind, loaded):
        exported = resnet.export_weights(model)
        assert len(exported) == len(state) - 2  # of the classifier
        for name, array in exported.items():
            np.testing.assert_array_equal(array, state[name])
        with pytest.raises(WeightsError, match="layers in front of this net"):
            resnet.save_weights(model, f"{folder}/behind.safetensors")
    norm = next(x for x in loaded.layers if isinstance(x, keras.layers.BatchNormalization))
    norm.epsilon *= 2
    with pytest.raises(WeightsError, match="a layer of this model has other settings"):
        resnet.export_weights(loaded)


# What else Keras's users do.


def copies(resnet: Any, folder: str) -> None:
    """Clones, pickles and cut models are what they are of keras.applications' models."""
    model, theirs = tiny(resnet), application(classes=5)
    expected = answers(model)
    clone = keras.models.clone_model(model)
    assert type(clone) is type(keras.models.clone_model(theirs))
    clone.set_weights(model.get_weights())
    np.testing.assert_allclose(answers(clone), expected, rtol=1e-5, atol=1e-6)

    def other(layer: Any) -> Any:
        kind = keras.layers.Activation
        made = kind("gelu", name=layer.name) if isinstance(layer, kind) else None
        return made or layer.__class__.from_config(layer.get_config())

    smooth = keras.models.clone_model(model, clone_function=other)
    assert smooth.get_layer("act1").activation is keras.activations.gelu
    pickled = pickle.loads(pickle.dumps(model))  # noqa: S301 ours
    assert type(pickled) is type(model)
    np.testing.assert_array_equal(answers(pickled), expected)
    # A layer's pickle has its configuration, if not its weights.
    for layer in (model.get_layer("conv1"), theirs.get_layer("conv1_conv")):
        assert pickle.loads(pickle.dumps(layer)).name == layer.name  # noqa: S301 ours
    cut = keras.Model(model.input, [model.get_layer("layer1_0_act3").output, model.output])
    for a, b in zip(answers(reloaded(cut, f"{folder}/cut.keras")), answers(cut), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * np.abs(b).max())
    model.layers[-1].activation = keras.activations.softmax
    np.testing.assert_allclose(
        answers(reloaded(model, f"{folder}/soft.keras")).sum(-1), 1, rtol=1e-5
    )


def callbacks(resnet: Any, folder: str) -> None:
    """A frozen base, then all of it, with checkpoints; the best one is the model."""
    images, labels = random_images((8, SIZE, SIZE, 3)), np.arange(8) % 3
    base = tiny(resnet, num_classes=0, include_top=False, pooling="avg")
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), base, keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    kept = f"{folder}/kept.keras"
    for trainable, count in ((False, 2), (True, 2 + len(base.trainable_variables))):
        base.trainable = trainable
        assert len(model.trainable_variables) == count
        before = [np.asarray(w) for w in base.weights]
        model.compile(keras.optimizers.SGD(1e-3), loss)
        calls = [
            keras.callbacks.ModelCheckpoint(kept),
            keras.callbacks.ModelCheckpoint(f"{folder}/kept.weights.h5", save_weights_only=True),
            keras.callbacks.BackupAndRestore(f"{folder}/backup{trainable}"),
        ]
        model.fit(images, labels, batch_size=8, epochs=1, verbose=0, callbacks=calls)
        moved = any((a != np.asarray(b)).any() for a, b in zip(before, base.weights, strict=True))
        assert moved == trainable
        loaded = keras.saving.load_model(kept)
        assert len(loaded.trainable_variables) == count
        np.testing.assert_allclose(answers(loaded), answers(model), rtol=1e-5, atol=1e-6)
        model.load_weights(f"{folder}/kept.weights.h5")


def _saved_model(path: str, x: np.ndarray) -> Any:
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    return loaded.serve(x)


def _onnx(path: str, x: np.ndarray) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def _openvino(path: str, x: np.ndarray) -> Any:
    import openvino

    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return next(iter(model(x).values()))


def _litert(path: str, x: np.ndarray) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def _torch(path: str, x: np.ndarray) -> Any:
    import torch

    program = torch.export.load(path)
    # litert-torch takes other constants for each other.
    assert all(x.is_contiguous() for x in program.constants.values() if torch.is_tensor(x))
    return program.module()(torch.from_numpy(x)).detach().numpy()


EXPORTS: dict[str, tuple[str, Callable[[str, np.ndarray], Any]]] = {
    "tf_saved_model": ("", _saved_model),
    "onnx": (".onnx", _onnx),
    "openvino": (".xml", _openvino),
    "litert": (".tflite", _litert),
    "torch": (".pt2", _torch),
}
"""Keras's formats: the suffix of each, and what runs its files."""


def _stock(side: int | None) -> keras.Model:
    """A net of Keras's own layers with a shortcut that strides."""
    layers = keras.layers
    images = keras.Input((side, side, 3))
    x = layers.ReLU()(layers.Conv2D(8, 3, padding="same")(images))
    y = layers.Conv2D(8, 3, 2)(layers.ZeroPadding2D(1)(layers.BatchNormalization()(x)))
    y = layers.Add()([y, layers.Conv2D(8, 1, 2)(x)])
    y = layers.Dense(5)(layers.GlobalAveragePooling2D()(y))
    return shaken(keras.Model(images, y, name="stock"))


def exports(resnet: Any, folder: str) -> dict[str, list[str]]:
    """What comes of `export` in each of Keras's formats, of a model of Keras's layers, of ours, and
    of one around ours: `right`, `wrong`, or the error.
    """

    def nested(side: int | None) -> keras.Model:
        # ONNX Runtime refuses the max pools that jax2onnx 0.17 writes, of any model.
        pool = {"stem_pool": "none"} if keras.backend.backend() == "jax" else {}
        inner = tiny(resnet, "resnet18", input_shape=(side, side, 3), **pool)
        return keras.Sequential([keras.Input((side, side, 3)), inner], name="nested")

    def ours(side: int | None) -> keras.Model:
        return tiny(resnet, "resnet20", input_shape=(side, side, 3))

    found: dict[str, list[str]] = {}
    images = random_images((1, 32, 32, 3))
    for side in (32, None):
        for make in (_stock, ours, nested):
            model = make(side)
            expected = keras.ops.convert_to_numpy(model(images, training=False))
            for kind, (suffix, run) in EXPORTS.items():
                if side is None and kind != "onnx":
                    continue
                path = f"{folder}/{model.name}{suffix}"
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        model.export(path, format=kind, verbose=False)
                        y = np.asarray(run(path, images))
                except Exception as error:  # whatever is not installed, or an engine cannot do
                    said = type(error).__name__
                else:
                    close = np.abs(y - expected).max() < 1e-4 * np.abs(expected).max()
                    said = "right" if close else "wrong"
                found.setdefault(kind if side else f"{kind}, any size", []).append(said)
    if keras.backend.backend() == "jax":
        found["symbols"] = [_with_symbols(make(None), images) for make in (_stock, ours, nested)]
    return found


def _with_symbols(model: keras.Model, images: np.ndarray) -> str:
    """What comes of `jax.export` for images of any number and size."""
    import jax
    from jax import export

    n, h, w = export.symbolic_shape("n, h, w")
    kinds = model.trainable_variables, model.non_trainable_variables
    values = [[v.value for v in kind] for kind in kinds]

    def forward(x: Any) -> Any:
        return model.stateless_call(*values, x, training=False)[0]

    exported = export.export(jax.jit(forward))(jax.ShapeDtypeStruct((n, h, w, 3), "float32"))
    y, expected = exported.call(images), np.asarray(model(images))
    return "right" if np.abs(y - expected).max() < 1e-4 * np.abs(expected).max() else "wrong"


def endings(resnet: Any, folder: str) -> None:
    """What stands behind the logits or in front of the pool is neither applied twice nor lost."""
    picture = str(Path(__file__).parents[2] / "resnet_parity" / "assets" / "china.jpg")
    prepare = resnet.Preprocessing(image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    found = []
    for function in (None, "softmax", "sigmoid"):
        model = tiny(resnet, classifier_activation=function)
        model.preprocessing = prepare
        if function == "sigmoid":
            with pytest.raises(WeightsError, match="ends in sigmoid, whose outputs are no prob"):
                resnet.classify(model, picture)
            continue
        found.append([c.probability for c in resnet.classify(model, picture)[0]])
        if function == "softmax":
            images = resnet.preprocess(model, picture)
            np.testing.assert_allclose(found[-1], -np.sort(-resnet.predict(model, images))[0], 1e-6)
            with pytest.warns(WeightsWarning, match="the softmax behind the logits is left out"):
                resnet.save_weights(model, f"{folder}/a.safetensors")
            with pytest.warns(WeightsWarning, match="the softmax"):
                resnet.save_pretrained(model, f"{folder}/a", certify=False)
    np.testing.assert_allclose(*found, rtol=1e-5)
    maps = tiny(resnet, include_top=False, num_classes=0)
    for save in (
        lambda: resnet.save_weights(maps, f"{folder}/b.safetensors"),
        lambda: resnet.save_pretrained(maps, f"{folder}/b", certify=False),
    ):
        with pytest.raises(WeightsError, match="ends in maps, which its spec does not say"):
            save()
    outer = keras.Sequential([maps, keras.layers.GlobalAveragePooling2D()])
    for verb in (resnet.export_weights, lambda m: resnet.predict(m, random_images((1, 32, 32, 3)))):
        with pytest.raises(WeightsError, match="expected a model that create_model made, got Seq"):
            verb(outer)


def rescaling(resnet: Any, dtype: str) -> None:
    """What stands in for Keras's layer computes what that does: whole numbers, offsets, and scales
    that differ from channel to channel.
    """
    from resnet_keras.layers import STAND_INS

    pixels = np.arange(24, dtype="uint8").reshape(1, 2, 4, 3)
    for options in (
        {"scale": 0.25},
        {"scale": 1 / 127.5, "offset": -1.0},
        {"scale": [0.5, 0.25, 2.0], "offset": [1.0, 2.0, 3.0]},
    ):
        given = pixels if dtype == "float32" else pixels.astype(dtype)
        ours, theirs = (
            np.asarray(keras.ops.convert_to_numpy(kind(**options, dtype=dtype)(given)))
            for kind in (STAND_INS["Rescaling"], keras.layers.Rescaling)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        assert ours.dtype == theirs.dtype
