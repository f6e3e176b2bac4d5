"""What users of NNX do with models, done with ours and with one that is written by hand of stock
layers, under the same names and with the same weights.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from shared_spec import random_images, random_weights, resolve
from shared_spec.errors import ResNetError, WeightsError

FIELDS = {
    "depths": [1],
    "widths": [8],
    "stem_width": 8,
    "num_classes": 4,
    # nnx.BatchNorm's own rule
    "norm_variance": "biased",
}


class StockBlock(nnx.Module):
    def __init__(self, conv: Any, norm: Any) -> None:
        self.conv1, self.bn1, self.conv2, self.bn2 = conv(8, 8), norm(8), conv(8, 8), norm(8)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.bn2(self.conv2(nnx.relu(self.bn1(self.conv1(x)))))
        return nnx.relu(x + y)


class Stock(nnx.Module):
    """The net of `FIELDS`, as somebody would write it."""

    def __init__(self, *, rngs: nnx.Rngs, axis_name: Any = None, drop: float = 0, **dtypes: Any):
        conv = partial(
            nnx.Conv,
            kernel_size=(3, 3),
            padding=((1, 1), (1, 1)),
            use_bias=False,
            rngs=rngs,
            **dtypes,
        )
        norm = partial(
            nnx.BatchNorm,
            momentum=0.9,
            axis_name=axis_name,
            use_fast_variance=False,
            rngs=rngs,
            **dtypes,
        )
        self.conv1, self.bn1 = conv(3, 8), norm(8)
        self.layer1 = nnx.List([StockBlock(conv, norm)])
        self.dropout = nnx.Dropout(drop, rngs=rngs) if drop else None
        self.fc = nnx.Linear(8, 4, rngs=rngs, **dtypes)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.bn1(self.conv1(x)))
        x = self.layer1[0](x).mean((1, 2))
        return self.fc(x if self.dropout is None else self.dropout(x))


def ours(resnet: Any, **options: Any) -> Any:
    return resnet.create_model("resnet20", **(FIELDS | options))


def pair(resnet: Any, **options: Any) -> tuple[Any, Any]:
    """Our model and the stock one, with the same random weights."""
    stock = Stock(rngs=nnx.Rngs(0), **options)
    model = ours(resnet, **options)
    weights = random_weights(model.plan, 3)
    resnet.load_weights(model, {k: v.astype(resnet.dtype_name(model)) for k, v in weights.items()})
    give(stock, values(model))
    return model, stock


def values(model: Any) -> dict[Any, np.ndarray]:
    """All variables, by their paths."""
    flat = nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    return {path: np.asarray(v[...]) for path, v in flat}


def give(model: Any, arrays: dict[Any, np.ndarray]) -> None:
    flat = dict(nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))))
    assert flat.keys() == arrays.keys()
    for path, variable in flat.items():
        variable.set_value(jnp.asarray(arrays[path], variable.dtype))


def images(*shape: int) -> jax.Array:
    return jnp.asarray(random_images((*shape, 3)))


def same(a: Any, b: Any, tolerance: float = 0) -> None:
    """Two trees of arrays, relative to the largest number of each."""
    left, right = jax.tree.leaves(a), jax.tree.leaves(b)
    assert len(left) == len(right) > 0
    for x, y in zip(left, right, strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        assert x.shape == y.shape
        assert np.abs(x - y).max(initial=0) <= tolerance * np.abs(y).max(initial=0)


def refusal(call: Callable[[], Any]) -> str:
    try:
        call()
    except ResNetError as error:
        return str(error)
    raise AssertionError("was not refused")


# rngs


def rngs(resnet: Any) -> None:
    """Which weights and which dropout are equal: as of a net of stock layers."""
    x = images(8, 8, 8)

    def found(make: Callable[[nnx.Rngs], Any]) -> list[bool]:
        nets = [
            make(nnx.Rngs(0)),
            make(nnx.Rngs(0)),
            make(nnx.Rngs(1)),
            make(nnx.Rngs(params=0, dropout=1)),
            make(nnx.Rngs(params=0, dropout=2)),
            make(nnx.Rngs(params=2, dropout=1)),
            make(nnx.Rngs(jax.random.key(0))),
            *(make(stream) for stream in [nnx.Rngs(0)] * 2),  # its streams go on
        ]
        weights = [values(net)["conv1", "kernel"] for net in nets]
        for net in nets:
            give(net, values(nets[0]))
        logits = [net(x) for net in nets]
        return [
            bool(jnp.array_equal(of[i], of[j]))
            for of in (weights, logits)
            for i in range(len(nets))
            for j in range(i)
        ]

    expected = found(lambda rngs: Stock(rngs=rngs, drop=0.5))
    assert 0 < sum(expected) < len(expected)
    assert found(lambda rngs: ours(resnet, drop_rate=0.5, rngs=rngs)) == expected

    # What the streams do not say, the seed does.
    plain = ours(resnet, drop_rate=0.5, seed=5)
    dropping = ours(resnet, drop_rate=0.5, seed=5, rngs=nnx.Rngs(dropout=1))
    same(values(dropping), values(plain))
    assert not jnp.array_equal(dropping(x), plain(x))
    named = resnet.resnet20(**FIELDS, rngs=nnx.Rngs(3))
    same(values(named), values(ours(resnet, rngs=nnx.Rngs(3))))


def refusals(resnet: Any) -> dict[str, str]:
    weights = resnet.export_weights(ours(resnet))

    def adapt(seed: Any) -> Any:
        resnet.create_model(resolve("resnet20", FIELDS), weights=weights, num_classes=3, seed=seed)
        return seed

    def made(seeds: Any) -> Any:
        return nnx.state(ours(resnet, seed=seeds))

    with jax.enable_x64(False):
        wide = refusal(lambda: ours(resnet, dtype=jnp.float64, param_dtype=jnp.float32))
    return {
        "float64": wide,
        "traced floats": refusal(lambda: jax.vmap(made)(jnp.ones(2))),
        "traced keys": refusal(lambda: jax.vmap(made)(jax.random.split(jax.random.key(0)))),
        "several": refusal(lambda: jax.jit(made)(jnp.arange(2))),
        "list": refusal(lambda: ours(resnet, seed=[1, 2])),
        "rngs": refusal(lambda: ours(resnet, rngs=0)),
        "seed": refusal(lambda: ours(resnet, seed="a")),
        "float": refusal(lambda: ours(resnet, seed=0.5)),
        "adapted": refusal(lambda: jax.vmap(adapt)(jnp.arange(2))),
        "param_dtype": refusal(lambda: ours(resnet, param_dtype="float31")),
        "dtype": refusal(lambda: ours(resnet, dtype=jnp.int8, param_dtype=jnp.float32)),
        "object": refusal(lambda: ours(resnet, dtype=object())),
    }


# Models that are made while JAX traces


def ensemble(resnet: Any, how: str) -> None:
    """Members of an ensemble are what they would be alone, dropout included."""

    def make(**options: Any) -> Any:
        return ours(resnet, drop_rate=0.5, **options)

    split = nnx.Rngs(7).split(3)
    keys = [nnx.Rngs(key) for key in split.default.key[...]]
    if how == "seed":
        nets = nnx.vmap(lambda seed: make(seed=seed))(jnp.arange(3))
        alone = [make(seed=i) for i in range(3)]
    elif how == "key":
        nets = nnx.vmap(lambda rngs: make(rngs=rngs))(split)
        alone = [make(rngs=key) for key in keys]
    elif how == "split_rngs":
        make_all = nnx.split_rngs(splits=3)(nnx.vmap(lambda rngs: make(rngs=rngs)))
        nets = make_all(nnx.Rngs(7))
        alone = [make(rngs=key) for key in keys]
    else:
        nets = nnx.jit(nnx.vmap(lambda seed: make(seed=seed, inference=True)))(jnp.arange(3))
        alone = [make(seed=i, inference=True) for i in range(3)]
    for i, net in enumerate(alone):
        for path, array in values(net).items():
            np.testing.assert_array_equal(values(nets)[path][i], array)
    x = images(4, 8, 8)
    together = nnx.vmap(lambda net, x: net(x), in_axes=(0, None))(nets, x)
    for y, net in zip(together, alone, strict=True):
        same(y, net(x), 1e-5)
    assert not np.array_equal(together[0], together[1])


def abstract(resnet: Any) -> None:
    """`nnx.eval_shape` draws nothing, and what it gives can be filled."""
    with mock.patch("numpy.random.Philox", side_effect=AssertionError("drawn")):
        model = nnx.eval_shape(lambda: ours(resnet, seed=4, drop_rate=0.5))
    real = ours(resnet, seed=4, drop_rate=0.5)
    assert nnx.graphdef(model) == nnx.graphdef(real)
    shapes = jax.tree.map(lambda v: (v.shape, v.dtype), nnx.state(model))
    assert shapes == jax.tree.map(lambda v: (v.shape, v.dtype), nnx.state(real))
    x = np.asarray(images(2, 8, 8))
    for verb in (
        resnet.export_weights,
        resnet.compiled,
        lambda m: resnet.predict(m, x),
        lambda m: resnet.activations(m, x),
        lambda m: resnet.run_parts(m, {"conv1": x}),
    ):
        with pytest.raises(WeightsError, match="model: it has shapes and no values"):
            verb(model)
    resnet.load_weights(model, resnet.export_weights(real))
    same(values(model), values(real))
    same(resnet.predict(model, x), resnet.predict(real, x))


def compiled_creation(resnet: Any) -> None:
    """Under `nnx.jit`, weights are those of the seed, and no constants of the program."""
    real = ours(resnet, seed=4)
    same(values(nnx.jit(lambda: ours(resnet, seed=4))()), values(real))
    program = jax.make_jaxpr(lambda: nnx.state(ours(resnet, seed=4)))()
    constants = sum(np.size(value) for value in program.consts)
    assert constants < sum(array.size for array in values(real).values()) / 10


def sharded_creation(resnet: Any) -> None:
    """The idiom of NNX's guide: each device gets its part."""
    mesh = Mesh(np.array(jax.devices()), ("model",))

    def make(net: Callable[[], Any]) -> Any:
        @nnx.jit
        def create() -> Any:
            model = net()
            state = nnx.state(model)
            placed = jax.tree.map(
                lambda v: NamedSharding(mesh, P("model") if v.shape[0] % 8 == 0 else P()), state
            )
            nnx.update(model, jax.lax.with_sharding_constraint(state, placed))
            return model

        return create()

    model, stock = make(lambda: ours(resnet, seed=4)), make(lambda: Stock(rngs=nnx.Rngs(0)))
    found = jax.tree.map(lambda v: v.sharding, nnx.to_pure_dict(nnx.state(model)))
    assert found == jax.tree.map(lambda v: v.sharding, nnx.to_pure_dict(nnx.state(stock)))
    assert len(model.bn1.scale[...].addressable_shards) == 8
    same(values(model), values(ours(resnet, seed=4)))


def divided(resnet: Any) -> None:
    """Images spread over devices in each manner, through a net with convolutions in groups."""
    changes = {"depths": [1, 1], "widths": [16, 32], "strides": [2, 2], "num_classes": 5}
    model = resnet.create_model(resolve("regnetx_002", changes), dtype="float64", seed=0)
    x = jnp.asarray(random_images((16, 32, 32, 3), 0), "float64")
    forward = resnet.compiled(model)
    alone = forward(x)
    axes = {"one": ((8,), ("a",)), "two": ((4, 2), ("a", "b"))}
    for kind in (AxisType.Auto, AxisType.Explicit):
        meshes = {k: jax.make_mesh(*v, axis_types=(kind,) * len(v[1])) for k, v in axes.items()}
        for name, over in (("one", "a"), ("two", "a"), ("two", ("a", "b"))):
            spread = forward(jax.device_put(x, NamedSharding(meshes[name], P(over))))
            assert spread.sharding.spec[0] == over
            same(np.asarray(spread), np.asarray(alone), 1e-14)
    # What is a part of its user's own functions has all of JAX's transformations.
    model.eval()
    for function in (model, forward):
        _, tangent = jax.jvp(function, (x,), (x,))
        assert tangent.shape == alone.shape
        same(np.asarray(jax.vmap(function)(x[None])[0]), np.asarray(alone), 1e-14)
    mesh = jax.make_mesh(*axes["one"], axis_types=(AxisType.Auto,))
    part = jax.shard_map(forward, mesh=mesh, in_specs=P("a"), out_specs=P("a"))
    same(np.asarray(part(x)), np.asarray(alone), 1e-14)


# dtypes


def dtypes(resnet: Any, dtype: str | None, param_dtype: str | None) -> None:
    """Those of variables and results, and the results, are those of stock layers."""
    x = images(4, 8, 8)
    given = {"dtype": dtype, "param_dtype": param_dtype}
    options = {k: jnp.dtype(v) for k, v in given.items() if v is not None}
    model, stock = pair(resnet, **options)
    assert {str(v.dtype) for v in values(model).values()} == {param_dtype or "float32"}
    for x in (images(4, 8, 8), images(4, 8, 8).astype(jnp.bfloat16)):
        for mode in ("train", "eval"):
            getattr(model, mode)()
            getattr(stock, mode)()
            y, expected = model(x), stock(x)
            assert y.dtype == expected.dtype
            np.testing.assert_array_equal(np.asarray(y), np.asarray(expected))
    same(values(model), values(stock))
    assert {str(v.dtype) for v in values(model).values()} == {param_dtype or "float32"}
    x = images(4, 8, 8)
    logits = resnet.predict(model, np.asarray(x))
    assert logits.dtype == model(x).dtype == resnet.compiled(model)(x).dtype
    same(logits, model(x), 0.02)


def names_of_dtypes(resnet: Any) -> None:
    for given in (jnp.bfloat16, jnp.dtype("bfloat16"), "bfloat16"):
        assert resnet.dtype_name(ours(resnet, dtype=given)) == "bfloat16"
        assert resnet.dtype_name(ours(resnet, param_dtype=given)) == "bfloat16"
        model = ours(resnet, dtype=given, param_dtype=np.float32)
        assert (resnet.dtype_name(model), model.conv1.dtype) == ("float32", jnp.bfloat16)


def every_layer_computes_narrowly(resnet: Any, spec: dict[str, Any]) -> None:
    """With weights in float32, what each layer gives is bfloat16, and near to float64's."""
    from shared_spec import ResNetSpec

    net = ResNetSpec.parse(spec)
    weights = random_weights(resnet.create_model(net).plan, 3)
    x = random_images((2, 32, 32, net.in_channels))
    model = resnet.create_model(net, weights=weights, dtype=jnp.bfloat16, param_dtype=jnp.float32)
    wide = resnet.create_model(net, weights=weights, dtype="float64")
    assert {str(v.dtype) for v in values(model).values()} == {"float32"}
    # Layers, not blocks alone: one that widens is undone by the next convolution.
    names = [layer.name for layer in model.plan.layers()]
    found = resnet.activations(model, x, names)
    assert {name: str(a.dtype) for name, a in found.items()} == dict.fromkeys(names, "bfloat16")
    same(resnet.predict(model, x), resnet.predict(wide, x), 0.05)


def standardized(resnet: Any) -> None:
    """A standardised convolution is `nnx.Conv` of filters that are standardised in their dtype."""
    model = resnet.create_model(
        "resnetv2_50x1_bit",
        depths=[1],
        widths=[32],
        num_classes=4,
        dtype=jnp.bfloat16,
        param_dtype=jnp.float32,
    )
    conv, eps = model.stem.conv, next(iter(model.plan.layers())).standardize_eps
    kernel = conv.kernel[...]
    variance = kernel.var((0, 1, 2), keepdims=True)
    standard = (kernel - kernel.mean((0, 1, 2), keepdims=True)) * jax.lax.rsqrt(variance + eps)
    for dtype, x in (
        (jnp.bfloat16, images(2, 16, 16)),
        (None, images(2, 16, 16).astype(jnp.bfloat16)),
        (None, images(2, 16, 16).astype(jnp.float64)),
        (None, images(2, 16, 16).astype(jnp.uint8)),
    ):
        stock = nnx.Conv(
            3,
            conv.out_features,
            conv.kernel_size,
            strides=conv.strides,
            padding=conv.padding,
            use_bias=False,
            dtype=dtype,
            rngs=nnx.Rngs(0),
        )
        stock.kernel.set_value(standard)
        conv.dtype = dtype
        assert conv(x).dtype == stock(x).dtype
        np.testing.assert_array_equal(np.asarray(conv(x)), np.asarray(stock(x)))


# Batch norms over devices


def running_variance(resnet: Any, how: str, variance: str) -> None:
    """Over an axis, logits and statistics are those of the whole batch on one device."""
    spec = resolve("resnet20", FIELDS | {"norm_variance": variance})
    whole = resnet.create_model(spec, dtype="float64", seed=3)
    parts = resnet.create_model(spec, dtype="float64", seed=3, axis_name="devices")
    # Eight local numbers a channel.
    x = images(16, 2, 2).astype(jnp.float64)
    norm = values(whole)
    maps = np.asarray(whole.conv1(x)).reshape(-1, 8)
    expected = whole(x)
    after = maps.var(0, ddof=variance == "unbiased")
    same(values(whole)["bn1", "var"], 0.9 * norm["bn1", "var"] + 0.1 * after, 1e-12)

    graph, state = nnx.split(parts)

    def step(state: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        model = nnx.merge(graph, state)
        return model(x), nnx.state(model)

    if how == "shard_map":
        mesh = Mesh(np.array(jax.devices()), ("devices",))
        run = jax.shard_map(
            step, mesh=mesh, in_specs=(P(), P("devices")), out_specs=(P("devices"), P())
        )
        logits, state = jax.jit(run)(state, x)
    else:
        over = {"vmap": jax.vmap, "pmap": jax.pmap}[how]
        run = over(step, axis_name="devices", in_axes=(None, 0))
        logits, state = run(state, x.reshape(8, 2, 2, 2, 3))
        logits, state = logits.reshape(16, 4), jax.tree.map(lambda a: a[0], state)
    same(logits, expected, 1e-12)
    same(values(nnx.merge(graph, state)), values(whole), 1e-12)


def trainer(resnet: Any) -> dict[str, Any]:
    """A recipe's precision and its whole batch count, whatever the model was made for."""
    from shared_spec import optimization

    x, labels = np.asarray(images(8, 8, 8)), np.arange(8) % 4
    losses: dict[str, Any] = {}
    for precision in ("float32", "bfloat16"):
        how = optimization(learning_rate=0.1, precision=precision)
        made = (ours(resnet), ours(resnet, dtype=jnp.bfloat16, param_dtype=jnp.float32))
        for model in (*made, ours(resnet, axis_name="devices")):
            trained = resnet.Trainer(model, how, 4)
            losses.setdefault(precision, []).append(
                [float(trained.step(x, labels).loss) for _ in range(2)]
            )
    return losses


# Devices


def places(resnet: Any) -> None:
    """`load_weights` leaves each array where it lay, and as bound to it as it was."""
    devices = jax.devices()
    assert len(devices) == 8
    mesh = Mesh(np.array(devices).reshape(4, 2), ("a", "b"))
    weights = resnet.export_weights(ours(resnet, seed=9))

    for sharding in (
        SingleDeviceSharding(devices[3]),
        NamedSharding(mesh, P()),
        NamedSharding(mesh, P("b")),
        NamedSharding(mesh, P(("a", "b"))),
    ):
        model = ours(resnet)
        graph, state = nnx.split(model)
        fits = jax.tree.map(
            lambda v, s=sharding: s if v.shape[0] % 8 == 0 else NamedSharding(mesh, P()), state
        )
        model = nnx.merge(graph, jax.device_put(state, fits))
        before = jax.tree.map(lambda v: v.sharding, nnx.state(model))
        resnet.load_weights(model, weights)
        assert jax.tree.map(lambda v: v.sharding, nnx.state(model)) == before
        assert model.bn1.scale[...].sharding == sharding
        same(resnet.export_weights(model), weights)

    with jax.default_device(devices[5]):
        model = ours(resnet)
    resnet.load_weights(model, weights)
    for array in jax.tree.leaves(nnx.state(model)):
        assert array.devices() == {devices[5]}
        assert not array.committed
    same(resnet.export_weights(model), weights)


# Export


def exported(resnet: Any, spec: dict[str, Any], shape: str) -> list[float]:
    """How far a program of symbolic sizes is from the model, at several sizes."""
    from jax import export

    from shared_spec import ResNetSpec

    net = ResNetSpec.parse(spec)
    model = resnet.create_model(net, weights=random_weights(resnet.create_model(net).plan, 3))
    model.eval()
    graph, state = nnx.split(model)
    multiples = "*" in shape
    symbols = export.symbolic_shape(shape, constraints=() if multiples else ("h >= 33", "w >= 33"))
    program = export.export(jax.jit(lambda x: nnx.merge(graph, state)(x)))(
        jax.ShapeDtypeStruct(symbols, jnp.float32)
    )
    program = export.deserialize(program.serialize())
    sizes = [(1, 64, 64), (2, 32, 96)] if multiples else [(1, 64, 64), (2, 33, 48)]
    found = []
    for size in sizes:
        x = jnp.asarray(random_images((*size, net.in_channels)))
        y, expected = program.call(x), model(x)
        found.append(float(jnp.abs(y - expected).max() / jnp.abs(expected).max()))
    return found


# What is printed


def printed(resnet: Any) -> dict[str, Any]:
    """Characters of our model and of the stock one, and of their longest lines, as text and as
    notebooks show them; and tables of both.
    """
    import treescope

    model, stock = pair(resnet)
    found = {}
    for name, net in (("ours", model), ("stock", stock)):
        views = {"text": repr(net), "notebook": treescope.render_to_text(net)}
        found[name] = {
            "size": {view: len(text) for view, text in views.items()},
            "width": {view: max(map(len, text.splitlines())) for view, text in views.items()},
            "table": nnx.tabulate(
                net, images(1, 8, 8), console_kwargs={"force_terminal": False, "width": 200}
            ),
        }
    assert (model.plan.in_channels, model.spec.depths) == (3, (1,))
    nnx.display(model, nnx.state(model))
    return found


# Other habits


def linen(resnet: Any) -> None:
    """In a Linen module, as JAX is by default, collections are those of a stock net."""
    with jax.enable_x64(False):
        found = []
        for net in (partial(ours, resnet), Stock):
            module = nnx.bridge.ToLinen(net)
            variables = module.init(jax.random.key(0), images(4, 8, 8))
            logits, changed = module.apply(variables, images(4, 8, 8), mutable=["batch_stats"])
            found.append((sorted(variables), sorted(changed), logits.shape))
        assert found[0] == found[1]


def _gradients(model: Any) -> Any:
    grads = nnx.grad(lambda m: (m(images(4, 8, 8)) ** 2).sum())(model)
    return nnx.to_pure_dict(grads)


def _value_and_gradients_in_jit(model: Any) -> Any:
    run = nnx.jit(nnx.value_and_grad(lambda m, x: (m(x) ** 2).sum()))
    loss, grads = run(model, images(4, 8, 8))
    return loss, nnx.to_pure_dict(grads), values(model)


def _rematerialised(model: Any) -> Any:
    def loss(m: Any, x: jax.Array) -> jax.Array:
        y = nnx.remat(lambda block, x: block(x))(m.layer1[0], nnx.relu(m.conv1(x)))
        return (y**2).sum()

    return nnx.to_pure_dict(nnx.grad(loss)(model, images(4, 8, 8)))


def _scanned(model: Any) -> Any:
    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    def run(m: Any, x: jax.Array) -> Any:
        return m, m(x)

    model, logits = run(model, images(3, 4, 8, 8))
    return logits, values(model)


def _trained(model: Any, wrt: Any = nnx.Param) -> Any:
    optimizer = nnx.Optimizer(model, optax.adam(0.01), wrt=wrt)

    @nnx.jit
    def step(model: Any, optimizer: Any, x: jax.Array) -> Any:
        of = nnx.DiffState(0, wrt)
        loss, grads = nnx.value_and_grad(lambda m: (m(x) ** 2).mean(), argnums=of)(model)
        optimizer.update(model, grads)
        return loss

    losses = [step(model, optimizer, images(4, 8, 8)) for _ in range(2)]
    return losses, values(model)


def _replaced(model: Any) -> Any:
    model.fc = nnx.Linear(8, 2, rngs=nnx.Rngs(1))
    model.bn1 = nnx.LayerNorm(8, rngs=nnx.Rngs(1))
    model.layer1[0].conv1 = nnx.Conv(8, 8, (5, 5), rngs=nnx.Rngs(1))
    return model(images(4, 8, 8)), values(model)


def _lora(model: Any) -> Any:
    model.fc = nnx.LoRALinear(8, 2, lora_rank=2, rngs=nnx.Rngs(1))
    return model(images(4, 8, 8)), nnx.to_pure_dict(nnx.state(model, nnx.LoRAParam))


def _viewed(model: Any) -> Any:
    view = nnx.view(model, use_running_average=True)
    return view(images(4, 8, 8)), model(images(4, 8, 8)), values(view)


def _frozen_norms(model: Any) -> Any:
    model.set_attributes(nnx.BatchNorm, use_running_average=True)
    return model(images(4, 8, 8)), values(model)


def _copied(model: Any) -> Any:
    copies = [copy.deepcopy(model), nnx.clone(model)]
    before = values(model)
    logits = [net(images(4, 8, 8)) for net in copies]
    same(values(model), before)
    return logits, [values(net) for net in copies]


def _as_a_pytree(model: Any) -> Any:
    narrow = jax.tree.map(lambda a: a.astype(jnp.bfloat16), model)
    y = jax.jit(lambda m, x: nnx.view(m, use_running_average=True)(x))(model, images(4, 8, 8))
    return y, narrow(images(4, 8, 8).astype(jnp.bfloat16))


def _updated(model: Any) -> Any:
    params, rest = nnx.state(model, nnx.Param, ...)
    nnx.update(model, jax.tree.map(lambda a: 0.5 * a, params), rest)
    halves = nnx.to_pure_dict(nnx.state(model))
    state = nnx.state(model)
    nnx.replace_by_pure_dict(state, jax.tree.map(lambda a: 2 * a, halves))
    nnx.update(model, state)
    return halves, values(model)


def _walked(model: Any) -> Any:
    kinds = nnx.Conv | nnx.BatchNorm | nnx.Linear | nnx.Variable
    places = [path for path, node in nnx.iter_graph(model) if isinstance(node, kinds)]
    modules = [path for path, module in nnx.iter_modules(model) if isinstance(module, kinds)]
    found = [str(path) for path in sorted(places + modules, key=str)]
    return [np.frombuffer(path.encode(), np.uint8) for path in found]


def _partitioned(model: Any) -> Any:
    model.fc.kernel.set_metadata(out_sharding=("in", "out"))
    specs = nnx.get_partition_spec(nnx.state(model))
    found = str(jax.tree.leaves(nnx.to_pure_dict(specs)["fc"], is_leaf=lambda x: x is not None))
    return np.frombuffer(found.encode(), np.uint8)


def _restored(model: Any) -> Any:
    """Orbax, into an abstract model, as NNX's guide has it."""
    import orbax.checkpoint as ocp

    with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as checkpointer:
        path = Path(folder) / "state"
        checkpointer.save(path, nnx.state(model))
        checkpointer.wait_until_finished()
        graph, target = nnx.split(nnx.eval_shape(lambda: nnx.clone(model)))
        restored = nnx.merge(graph, checkpointer.restore(path, target))
    return restored(images(4, 8, 8)), values(restored)


def _single_image(model: Any) -> Any:
    model.eval()
    many = jax.vmap(lambda x: model(x[None])[0])(images(4, 8, 8))
    model.train()
    return many, model(images(4, 8, 8))


HABITS: dict[str, Callable[[Any], Any]] = {
    "gradients": _gradients,
    "jit(value_and_grad)": _value_and_gradients_in_jit,
    "remat": _rematerialised,
    "scan": _scanned,
    "Optimizer": _trained,
    "Optimizer of the classifier": partial(
        _trained, wrt=nnx.All(nnx.Param, nnx.PathContains("fc"))
    ),
    "replaced layers": _replaced,
    "LoRA": _lora,
    "view": _viewed,
    "set_attributes": _frozen_norms,
    "copies": _copied,
    "a pytree": _as_a_pytree,
    "update": _updated,
    "iter_graph": _walked,
    "metadata": _partitioned,
    "orbax": _restored,
    "vmap of an image": _single_image,
}


def habit(resnet: Any, name: str) -> None:
    model, stock = pair(resnet)
    same(HABITS[name](model), HABITS[name](stock), 1e-5)


def an_edited_model_is_not_saved(resnet: Any) -> None:
    class Other(nnx.Conv):
        pass

    def other(net: Any) -> None:
        net.layer1[0].conv1 = Other(8, 8, (3, 3), use_bias=False, rngs=nnx.Rngs(0))

    edits: dict[str, Callable[[Any], Any]] = {
        "layer1.0.conv1": other,
        "layer1.1": lambda net: net.layer1.append(resnet.create_model(net.spec).layer1[0]),
    }
    for layer, change in edits.items():
        net = resnet.create_model("resnet18", depths=[1, 1], widths=[8, 8], stem_width=8)
        resnet.export_weights(net)
        change(net)
        with pytest.raises(WeightsError, match=f"{layer} was replaced"):
            resnet.export_weights(net)
