"""What `bench` times: ours and each peer, as callables that do so many passes, or steps of
training, and wait for the device.

Both sides of a ratio are treated alike: the module or compiled function itself is called on a
tensor that lies on the device, as the best usual route of each library has it. Training is
`Trainer.step` on a batch that lies there too, beside the usual loop of the peer; Keras's `fit`
places batches itself, so that under Keras both sides get it in numpy.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from resnet_parity.engines.bench_job import BenchJob, distinct_images
from resnet_parity.engines.reference_libraries import PEER_FOLDERS, PEERS, names_there
from resnet_parity.worker.reference_libraries import (
    KEYS,
    keras_dtype,
    keras_net,
    load_keras,
    load_torch,
    torch_net,
    torchvision_models,
)
from resnet_parity.worker.session import LITERT, Session, Side
from shared_spec.formats.canonical_file import read_safetensors
from shared_spec.formats.dialects.dialect import foreign_arrays
from shared_spec.formats.dialects.linen import BLOCKS, LINEN
from shared_spec.kernels.torch_compile import frozen
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.folding import inference_form
from shared_spec.plan.network import Plan
from shared_spec.training.optimization import Optimization, optimization
from shared_spec.weights.folding import weight_entries
from shared_spec.weights.state import State

RATE, MOMENTUM = 1e-3, 0.9


def watched(p: Plan) -> list[str]:
    """The parameters whose first update is compared: the last bias hangs on the logits alone, and
    the first kernel on the whole way back.
    """
    names = [q.name for q in p.parameters() if q.trainable]
    return [names[0], names[-1]]


def bench_optimization(precision: str, form: str = "plain") -> Optimization:
    """Training as it is timed, of ours and of all peers."""
    return optimization(
        learning_rate=RATE,
        optimizer={"name": "sgd", "momentum": MOMENTUM, "nesterov": True},
        precision=precision,
        remat=form == "remat",
    )


# Libraries.


def import_peer(peer: str | None) -> list[str]:
    """Import a library; returns the modules whose versions belong into the report."""
    if peer is None:
        return []
    if peer in PEER_FOLDERS and PEERS.is_dir() and str(PEERS) not in sys.path:
        sys.path.append(str(PEERS))
    if peer in ("timm", "torchvision"):
        torchvision_models()
        importlib.import_module(peer)
        return [peer]
    if peer == "KerasHub":
        importlib.import_module("keras_hub")
        return ["keras_hub"]
    if peer == "flax example":
        importlib.import_module("flax_imagenet.models")
    return []


Times = dict[str, float]
"""Seconds, of what is called `imported`, `build`, `load` and `first_call`."""


@contextmanager
def counted(times: Times, name: str) -> Iterator[None]:
    """Add the seconds of what is done inside."""
    start = time.perf_counter()
    yield
    times[name] = times.get(name, 0.0) + time.perf_counter() - start


def make_side(session: Session, job: BenchJob, times: Times) -> Side:
    """A side, ready to run, in the process of an engine that has its framework; with the seconds
    that building it and loading the weights took.
    """
    if session.package == "resnet_torch":
        return _torch_side(session, job, times)
    if session.package == "resnet_keras":
        return _keras_side(session, job, times)
    if session.package == "resnet_onnx":
        return _onnx_side(session, job, times)
    if session.package == LITERT:
        forward = session.resnet.compiled(_own(session, job, times))
        return _passes(forward, job.images.astype(np.float32), lambda y: y)
    return _linen_side(job, times) if job.peer else _flax_side(session, job, times)


def _own(session: Session, job: BenchJob, times: Times) -> Any:
    """Our model. For the inference form the file is read first: folding is part of building."""
    net, dtype = job.net, "float32" if job.mode == "train" else job.dtype
    if job.form == "inference":
        with counted(times, "load"):
            state = dict(read_safetensors(job.weights).state)
        with counted(times, "build"):
            model = session.resnet.create_model(net, weights=state, dtype=dtype, inference=True)
    else:
        with counted(times, "build"):
            model = session.resnet.create_model(net, dtype=dtype)
        with counted(times, "load"):
            session.resnet.load_weights(model, job.weights)
    return session.moved(model)


def _own_trainer(session: Session, job: BenchJob, model: Any) -> Side:
    trainer = session.resnet.Trainer(model, bench_optimization(job.dtype, job.form), 10**6)
    arrays = job.images, job.labels
    # Its peers under Keras place each batch in `fit`.
    fits = session.resnet.__name__ == "resnet_keras"
    batch = arrays if fits else (trainer.place(*arrays),)

    def run(steps: int) -> np.ndarray:
        for _ in range(steps):
            progress = trainer.step(*batch)
        return np.array(float(progress.loss))  # waits

    def parameters(names: Sequence[str]) -> State:
        state = session.resnet.export_weights(trainer.model)
        return {name: state[name] for name in names}

    return Side(run, parameters)


def _passes(forward: Callable[[Any], Any], x: Any, wait: Callable[[Any], Any]) -> Side:
    def run(passes: int) -> Any:
        for _ in range(passes):
            y = forward(x)
        return wait(y)

    return Side(run)


# PyTorch.


def _torch_side(session: Session, job: BenchJob, times: Times) -> Side:
    import torch

    model = (_torch_peer if job.peer else _own)(session, job, times)
    if job.layout == "channels_last":
        model = model.to(memory_format=torch.channels_last)
    compiled = job.compile != "none"
    if job.mode == "train":
        if compiled:
            model.compile()
        return _torch_loop(job, model) if job.peer else _own_trainer(session, job, model)
    model.eval()
    x = _torch_images(job, next(model.parameters()))
    forward: Callable[[Any], Any] = model
    if compiled:
        forward = (
            frozen(lambda x: model(x), job.dtype) if job.peer else session.resnet.compiled(model)
        )

    @torch.inference_mode()
    def passing(x: Any) -> Any:
        y = forward(x)
        # Torchvision's nets for pixels name their maps.
        return list(y.values()) if isinstance(y, Mapping) else y

    return _passes(passing, x, _torch_ready)


def _torch_ready(y: Any) -> Any:
    import torch

    if (y[-1] if isinstance(y, list) else y).is_cuda:
        torch.cuda.synchronize()
    return y


def _torch_peer(session: Session, job: BenchJob, times: Times) -> Any:
    with counted(times, "build"):
        model = torch_net(job.peer or "", job.name)
    with counted(times, "load"):
        dtype = "float32" if job.mode == "train" else job.dtype
        state, peer = job.state, job.peer or ""
        there = names_there(peer, job.net, state)
        named = {there[name]: array for name, array in state.items()}
        return session.moved(load_torch(model, named, dtype))


def _torch_images(job: BenchJob, like: Any) -> Any:
    """[N, C, H, W] beside the parameters, in the layout of the job."""
    import torch

    layout = torch.channels_last if job.layout == "channels_last" else torch.contiguous_format
    x = torch.from_numpy(job.images).permute(0, 3, 1, 2).to(like.device, like.dtype)
    return x.contiguous(memory_format=layout)


def _torch_loop(job: BenchJob, model: Any) -> Side:
    """The usual loop, over a batch on the device in the model's layout."""
    import torch

    like = next(model.train().parameters())
    x, y = _torch_images(job, like), torch.from_numpy(job.labels).to(like.device)
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM, nesterov=True)

    def run(steps: int) -> np.ndarray:
        for _ in range(steps):
            with torch.autocast(like.device.type, torch.bfloat16, job.dtype == "bfloat16"):
                logits = model(x)
            loss = torch.nn.functional.cross_entropy(logits.float(), y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return np.array(loss.item())

    def parameters(names: Sequence[str]) -> State:
        found = dict(model.named_parameters())
        return {name: found[name].detach().cpu().numpy().copy() for name in names}

    return Side(run, parameters)


# Keras.


def _keras_side(session: Session, job: BenchJob, times: Times) -> Side:
    import keras

    if job.peer is None:
        model = _own(session, job, times)
        if job.mode == "train":
            return _own_trainer(session, job, model)
    else:
        model, layers = _keras_peer(job, times)
        if job.mode == "train":
            return _keras_fit(job, model, layers)
    compiled = None if job.peer else session.resnet.compiled
    (framework,) = session.uses
    forward, wait = _KERAS_FORWARD[framework](model, job, compiled)
    return _passes(forward, keras.ops.convert_to_tensor(job.images, job.dtype), wait)


Compiled = Callable[[Any], Callable[[Any], Any]] | None
"""Our verb of that name; None for a peer."""


def _keras_tensorflow(model: Any, job: BenchJob, compiled: Compiled) -> tuple[Any, Any]:
    import tensorflow as tf

    if compiled is not None and job.compile == "none":
        forward = compiled(model)
    else:
        jit = job.compile != "none"
        forward = tf.function(lambda x: model(x, training=False), jit_compile=jit)
    return forward, lambda y: tf.nest.map_structure(lambda one: one.numpy(), y)


def _keras_jax(model: Any, job: BenchJob, compiled: Compiled) -> tuple[Any, Any]:
    import jax

    if compiled is not None:
        return _one_by_one(compiled(model)), _ready
    trained = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]
    run = jax.jit(lambda t, o, x: model.stateless_call(t, o, x, training=False)[0])
    return _one_by_one(lambda x: run(trained, others, x)), _ready


def _keras_torch(model: Any, job: BenchJob, compiled: Compiled) -> tuple[Any, Any]:
    import torch

    def eager(x: Any) -> Any:
        return model(x, training=False)

    forward: Callable[[Any], Any] = eager
    if job.compile != "none":
        forward = frozen(eager, job.dtype) if compiled is None else compiled(model)
    return torch.no_grad()(forward), _torch_ready


_KERAS_FORWARD: dict[str, Callable[[Any, BenchJob, Compiled], tuple[Any, Any]]] = {
    "tensorflow": _keras_tensorflow,
    "jax": _keras_jax,
    "torch": _keras_torch,
}


def _keras_peer(job: BenchJob, times: Times) -> tuple[Any, dict[str, Any]]:
    """A library's model, and its layers with parameters by canonical name."""
    # `keras_dtype` sets the kind of variables too, which stays float32 in training.
    floatx, policy = job.dtype, job.dtype
    if job.mode == "train":
        floatx, policy = "float32", "mixed_bfloat16" if job.dtype == "bfloat16" else "float32"
    with counted(times, "build"), keras_dtype(floatx, policy):
        model, layers = keras_net(job.peer or "", job.net, job.size, job.dtype)
    with counted(times, "load"):
        load_keras(job.peer or "", layers, job.state)
    return model, layers


def _keras_fit(job: BenchJob, model: Any, layers: Mapping[str, Any]) -> Side:
    import keras

    model.compile(
        optimizer=keras.optimizers.SGD(RATE, MOMENTUM, nesterov=True),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True if job.compile == "default" else "auto",
    )
    images, labels = job.images, job.labels

    def batches() -> Any:
        if job.peer == "KerasHub":  # which takes no generator
            tf = importlib.import_module("tensorflow")
            return tf.data.Dataset.from_tensors((images, labels)).repeat()
        return ((images, labels) for _ in itertools.count())

    def run(steps: int) -> np.ndarray:
        history = model.fit(batches(), steps_per_epoch=steps, epochs=1, verbose=0)
        return np.array(history.history["loss"][-1])

    def parameters(names: Sequence[str]) -> State:
        found = {}
        for name in names:
            module, _, leaf = name.rpartition(".")
            (variable,) = (v for v in layers[module].trainable_variables if KEYS[v.name] == leaf)
            array = np.array(keras.ops.convert_to_numpy(variable.value))
            found[name] = array.transpose({4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, (0,)))
        return found

    return Side(run, parameters)


# Flax.


def _one_by_one(run: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """On a CPU, JAX would compute several passes at once: each is waited for there."""
    import jax

    return (lambda x: _ready(run(x))) if jax.default_backend() == "cpu" else run


def _ready(y: Any) -> Any:
    import jax

    return jax.block_until_ready(y)  # type: ignore[no-untyped-call]


def _flax_side(session: Session, job: BenchJob, times: Times) -> Side:
    model = _own(session, job, times)
    if job.mode == "train":
        return _own_trainer(session, job, model)
    return _jax_passes(session.resnet.compiled(model), job)


def _onnx_side(session: Session, job: BenchJob, times: Times) -> Side:
    if job.form == "int8":
        forward = _int8(job, times)
    else:
        forward = session.resnet.compiled(_own(session, job, times))
    images = np.ascontiguousarray(np.moveaxis(job.images, -1, 1).astype(np.float32))
    return _passes(forward, images, lambda y: y)


def _int8(job: BenchJob, times: Times) -> Callable[[Any], Any]:
    """Our net quantised, with the ranges that tensors have on the images that are timed."""
    from resnet_onnx.calibration import quantized
    from resnet_onnx.runtimes import started
    from shared_spec.export_formats import IMAGES

    with counted(times, "load"):
        state = dict(read_safetensors(job.weights).state)
    with counted(times, "build"):
        p = inference_form(compile_plan(job.net), True)
        images = distinct_images(job.net, job.size, job.batch, job.seed)
        model = quantized(p, weight_entries(p, state, "float32"), images)
        run = started(model, "int8")
    return lambda x: run({IMAGES: x})[0]


def _jax_passes(forward: Callable[[Any], Any], job: BenchJob) -> Side:
    import jax.numpy as jnp

    return _passes(_one_by_one(forward), jnp.asarray(job.images, job.dtype), _ready)


def _linen_side(job: BenchJob, times: Times) -> Side:
    """The model of Flax's imagenet example, as the example runs and trains it."""
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import unflatten_dict

    net = job.net
    models = importlib.import_module("flax_imagenet.models")
    with counted(times, "build"):
        model = models.ResNet(
            stage_sizes=list(net.depths),
            block_cls=getattr(models, BLOCKS[net.blocks[0]]),
            num_classes=net.num_classes,
            num_filters=net.stem_width,
            dtype=getattr(jnp, job.dtype),
        )
    with counted(times, "load"):
        arrays = foreign_arrays(LINEN, job.state, net)
        variables = unflatten_dict({n: jnp.asarray(a.read()) for n, a in arrays.items()}, sep="/")
    if job.mode == "train":
        return _linen_step(job, model, variables)
    compiled = jax.jit(lambda v, x: model.apply(v, x, train=False))
    return _jax_passes(lambda x: compiled(variables, x), job)


def _linen_step(job: BenchJob, model: Any, variables: Any) -> Side:
    import jax
    import optax
    from flax.traverse_util import flatten_dict
    from jax import sharding

    transform = optax.sgd(RATE, MOMENTUM, nesterov=True)
    weights, statistics = variables["params"], variables["batch_stats"]
    state = weights, statistics, transform.init(weights)
    classes = job.net.num_classes
    images, labels = jax.device_put((job.images, job.labels))

    def step(state: Any, x: Any, y: Any) -> Any:
        weights, statistics, slots = state

        def loss(weights: Any) -> Any:
            given = {"params": weights, "batch_stats": statistics}
            logits, changed = model.apply(given, x, train=True, mutable=["batch_stats"])
            one_hot = jax.nn.one_hot(y, classes)
            return optax.softmax_cross_entropy(logits, one_hot).mean(), changed

        (value, changed), gradients = jax.value_and_grad(loss, has_aux=True)(weights)
        updates, slots = transform.update(gradients, slots, weights)
        return (optax.apply_updates(weights, updates), changed["batch_stats"], slots), value

    # The example's norms name the axis of a data-parallel batch, here of one device.
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spec: Any = sharding.PartitionSpec
    whole, part = spec(), spec("batch")
    spread = jax.shard_map(
        step, mesh=mesh, in_specs=(whole, part, part), out_specs=whole, check_vma=False
    )
    compiled = jax.jit(spread, donate_argnums=0)

    def run(steps: int) -> np.ndarray:
        nonlocal state
        for _ in range(steps):
            state, value = compiled(state, images, labels)
        return np.array(float(value))

    def parameters(names: Sequence[str]) -> State:
        leaves, found = flatten_dict({"params": state[0]}, sep="/"), {}
        for q in compile_plan(job.net).parameters():
            if q.name in names:
                place = LINEN.foreign_name(q, job.net)
                found[q.name] = place.slot.to_canonical(np.array(leaves[place.name]))
        return found

    return Side(run, parameters)
