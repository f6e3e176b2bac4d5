"""Initial values, drawn here once so that they are bit-identical in every framework.

Each array has a counter-based generator of its own (Philox, Salmon et al. 2011), keyed by the seed
and the parameter's canonical name. A value therefore depends on neither the order of drawing nor on
what else the model holds.
"""

from __future__ import annotations

import hashlib
import math
import operator
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from shared_spec import plan
from shared_spec.errors import SpecError
from shared_spec.plan.layers import Layer, Parameter
from shared_spec.plan.network import Block, Plan
from shared_spec.plan.parameters import parameters_of, placed
from shared_spec.weights.lazy_array import LazyArray, LazyArrays
from shared_spec.weights.state import State


def checked_seed(seed: object) -> int:
    """A seed as an integer.

    Raises:
        SpecError: if it is none: what JAX traces, for example, has no value yet.
    """
    try:
        return operator.index(seed)  # type: ignore[arg-type]
    except TypeError:
        raise SpecError(f"seed: expected an integer, got {type(seed).__name__}") from None


def generator(seed: int, name: str) -> np.random.Generator:
    """The generator of the array called `name` under `seed`."""
    key = hashlib.blake2b(f"{checked_seed(seed)}/{name}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def initial_weights(p: Plan, seed: int = 0) -> State:
    """Float32 weights to start training from.

    Convolutions are normal with variance 2 / fan_out (He et al. 2015, arXiv:1502.01852, in the
    fan-out form that torchvision and timm use), in nets without norms 1 / fan_in; dense layers
    uniform within 1 / sqrt(fan_in) as in PyTorch, but the classifiers of RegNets and of the nets of
    timm's byobnet and nfnet normal with a standard deviation of 0.01, as in timm, torchvision and
    the RegNets' own code; an attention pool normal with variance
    1 / channels, convolutions of a feature pyramid uniform with variance 1 / fan_in as in
    torchvision, biases 0, norms 1 and 0, slopes of PReLU 0.25 (PyTorch's, and that paper's).
    """
    parameters = list(p.parameters())
    # numpy draws without the interpreter's lock, and no draw depends on another.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        arrays = pool.map(lambda q: _initial(q, generator(seed, q.name)), parameters)
        return {q.name: array for q, array in zip(parameters, arrays, strict=True)}


def initial_entries(p: Plan, seed: int = 0) -> LazyArrays:
    """As `initial_weights`, each array drawn when it is read."""
    kind = np.dtype(np.float32)

    def entry(q: Parameter) -> LazyArray:
        return LazyArray(q.shape, kind, lambda: _initial(q, generator(seed, q.name)))

    return LazyArrays({q.name: entry(q) for q in p.parameters()})


def _initial(q: Parameter, rng: np.random.Generator, nonzero: bool = False) -> np.ndarray:
    if q.start == "small" and not nonzero:
        return np.float32(0.01) * rng.standard_normal(q.shape, np.float32)
    if q.role in ("conv_kernel", "conv1d_kernel"):
        values = rng.standard_normal(q.shape, np.float32)
        if q.start == "zeros" and not nonzero:
            return np.zeros(q.shape, np.float32)
        if q.start == "lecun_uniform":
            bound = math.sqrt(3 / math.prod(q.shape[1:]))
            return rng.uniform(-bound, bound, q.shape).astype(np.float32)
        channels = q.shape[1] if q.start in ("fan_in", "lecun") else q.shape[0]
        gain = 1 if q.start == "lecun" else 2
        values *= np.float32(math.sqrt(gain / (channels * math.prod(q.shape[2:]))))
        return values
    if q.role == "positions" or q.start == "lecun":
        values = rng.standard_normal(q.shape, np.float32)
        values *= np.float32(q.shape[1] ** -0.5)
        return values
    if q.role == "dense_kernel":
        bound = 1 / math.sqrt(q.shape[1])
        return rng.uniform(-bound, bound, q.shape).astype(np.float32)
    if q.role == "prelu_slope":
        return np.full(q.shape, 0.25, np.float32)
    usual = float(q.role in ("norm_scale", "norm_var", "norm_gate", "conv_gain"))
    return np.full(q.shape, usual if q.init is None else q.init, np.float32)


def random_weights(p: Plan, seed: int = 0) -> State:
    """Float32 weights for comparing implementations: nothing is left at 0 or 1.

    Fresh norm statistics (0 and 1) hide a swapped mean and variance, and fresh scales a swapped
    scale and bias, so all of them are drawn. The running variance follows the second moment that
    the layer's input has on standard normal images, so that activations keep their size through a
    thousand layers.
    """
    state: State = {}
    moment = _randomise(p.stem, 1.0, seed, state)
    ends: dict[str, float] = {}
    for stage in p.stages:
        for block in stage.blocks:
            moment = _randomise_block(block, moment, seed, state)
        ends[stage.name] = moment
    moment = _randomise(p.head, moment, seed, state)
    ends |= {layer.name: moment for layer in p.head[-1:]}
    for junction in p.junctions:
        first, *others = (ends.get(name, 1.0) for name in junction.sources)
        entering = first + sum(others) if isinstance(junction.layers[0], plan.Sum) else first
        ends[junction.name] = _randomise(junction.layers, entering, seed, state)
    return {q.name: state[q.name] for q in p.parameters()}


NORMALISED = 1.04 * math.log(3) * 13 / 12 + 0.04
"""Mean square after a batch norm of random statistics: a mean of 0.2 times the input's scale, a
variance, a scale and a bias as `_random` draws them.
"""


def _randomise_block(block: Block, moment: float, seed: int, state: State) -> float:
    h = _randomise(block.pre, moment, seed, state)
    y = _randomise(block.branch, h, seed, state)
    if block.shortcut_from is None:
        return _randomise(block.output, y, seed, state)
    y += _randomise(block.shortcut, moment if block.shortcut_from == "input" else h, seed, state)
    # An activation after the sum takes little from it: what comes by the shortcut is positive.
    _randomise(block.output, y, seed, state)
    return y


def _randomise(layers: Iterable[Layer], moment: float, seed: int, state: State) -> float:
    """Draw the arrays of a chain whose input has the mean square `moment`; return its output's."""
    for layer in layers:
        if chains := layer.chains():
            named = ([placed(layer, before, x) for x in chain] for before, chain in chains)
            # What the first gives is as large as what they all give, weighted or side by side.
            given = [_randomise(chain, moment, seed, state) for chain in named]
            added = isinstance(layer, plan.GlobalContext)
            moment = moment + given[-1] if added else given[0]
            continue
        if isinstance(layer, plan.Conv):
            fan_in = layer.in_channels // layer.groups
            # A standardised filter has unit variance; a He-normal one 2 / fan_out.
            standard = layer.kernel_size**2 * fan_in
            plain = 1.0 if layer.start == "lecun_uniform" else 2 * fan_in / layer.out_channels
            moment *= plain if layer.standardize_eps is None else standard
            moment *= (layer.scale or 1.0) ** 2
        for q in parameters_of(layer):
            state[q.name] = _random(q, generator(seed, q.name), moment)
        if isinstance(layer, plan.BatchNorm):
            moment = NORMALISED
        elif isinstance(layer, plan.GroupNorm):
            moment = 1.0
        elif isinstance(layer, plan.EvoNorm | plan.FilterResponseNorm):
            activates = getattr(layer, "activates", True)
            moment = 0.5 if activates else 1.0  # an activation is part of it
        elif isinstance(layer, plan.Scale):
            moment *= layer.value**2
        elif isinstance(layer, plan.Activation | plan.PReLU):
            moment /= 2
        elif isinstance(layer, plan.Dense):
            moment /= 3  # of a uniform kernel
        elif isinstance(layer, plan.SqueezeExcite | plan.ChannelAttention):
            moment /= 4  # a sigmoid is about a half
    return moment


def _random(q: Parameter, rng: np.random.Generator, moment: float) -> np.ndarray:
    if q.role in ("conv_kernel", "conv1d_kernel", "dense_kernel"):
        return _initial(q, rng, nonzero=True)
    if q.role in ("norm_scale", "norm_gate", "branch_scale", "conv_gain", "skip_gain"):
        return rng.uniform(0.5, 1.5, q.shape).astype(np.float32)
    if q.role == "prelu_slope":
        return rng.uniform(0.1, 0.4, q.shape).astype(np.float32)
    if q.role == "norm_var":
        return (moment * rng.uniform(0.5, 1.5, q.shape)).astype(np.float32)
    size = 0.2 * (math.sqrt(moment) if q.role == "norm_mean" else 1.0)
    return rng.normal(0, size, q.shape).astype(np.float32)


def random_images(shape: tuple[int, int, int, int], seed: int = 0) -> np.ndarray:
    """Standard normal float32 images, [N, H, W, C]."""
    return generator(seed, f"images{shape}").standard_normal(shape, np.float32)
