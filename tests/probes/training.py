"""A trainer's steps: on batches that were placed and on arrays, and with `remat`."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np

from shared_spec import ImageError, ResNetSpec, optimization
from shared_spec.kernels import xla
from shared_spec.plan.compiler import compile_plan
from shared_spec.weights.initialize import random_weights


def placed(resnet: Any, spec: dict[str, Any]) -> dict[str, Any]:
    """Losses of four steps, each on arrays and each on what was placed; whether the weights are bit
    for bit the same after them; and what each of the two refuses.
    """
    given = ResNetSpec.parse(spec)
    draw = np.random.default_rng(0)
    batches = [
        (draw.standard_normal((4, 32, 32, 3)).astype(np.float32), draw.integers(0, 10, 4))
        for _ in range(2)
    ]
    how = optimization(learning_rate=0.1)
    losses, states = [], []
    for ahead in (False, True):
        trainer = resnet.Trainer(resnet.create_model(given, seed=0, dtype="float32"), how, 10)
        if ahead:
            kept = [trainer.place(*batch) for batch in batches]
            steps = [trainer.step(kept[i % 2]) for i in range(4)]
        else:
            steps = [trainer.step(*batches[i % 2]) for i in range(4)]
        losses.append([float(step.loss) for step in steps])
        states.append(trainer.state())
    refused = []
    for call in (trainer.place, trainer.step):
        for arrays in ((batches[0][0], batches[0][1] + 10), (batches[0][0], None)):
            try:
                call(*arrays)
            except ImageError as error:
                refused.append(str(error))
    same = all(np.array_equal(states[0][key], states[1][key]) for key in states[0])
    return {"losses": losses, "same": same, "refused": refused}


def recomputed(resnet: Any, spec: dict[str, Any]) -> dict[str, Any]:
    """By how much two steps and the gradients between them change if blocks are computed again in
    the backward pass, and whether that is what happens.
    """
    given = ResNetSpec.parse(spec)
    weights = random_weights(compile_plan(given), 0)
    draw = np.random.default_rng(0)
    batches = [(draw.standard_normal((4, 16, 16, 3)), draw.integers(0, 7, 4)) for _ in range(2)]
    found: list[dict[str, np.ndarray]] = []
    counts = []
    for remat in (False, True):
        how = optimization(learning_rate=0.05, precision="float64", remat=remat)
        model = resnet.create_model(given, weights=weights, dtype="float64")
        trainer = resnet.Trainer(model, how, 2)
        first = trainer.step(*batches[0])
        arrays = {"loss": np.array(float(first.loss)), **trainer.state()}
        gradients = trainer.gradients(*batches[1])
        arrays |= {f"gradient/{name}": a for name, a in gradients.parameters.items()}
        arrays |= {"gradient/images": gradients.images}
        last = trainer.step(*batches[1])
        arrays |= {"last": np.array(float(last.loss))}
        arrays |= {f"after/{name}": a for name, a in trainer.state().items()}
        found.append({key: np.asarray(a) for key, a in arrays.items()})
        counts.append(_convolutions(trainer, batches[0]))
    plain, again = found
    assert plain.keys() == again.keys()
    least = max(float(np.abs(a).max()) for k, a in plain.items() if k.startswith("gradient/"))
    differences = {
        key: float(np.abs(a - again[key]).max()) / max(float(np.abs(a).max()), 1e-12 * least)
        for key, a in plain.items()
    }
    worst = max(differences, key=differences.__getitem__)
    return {"worst": [worst, differences[worst]], "counts": counts}


def left(resnet: Any, spec: dict[str, Any]) -> int:
    """Bytes of tensors that steps of recomputed blocks leave for Python to collect, in PyTorch."""
    import torch

    def alive() -> int:
        found = (x for x in gc.get_objects() if issubclass(type(x), torch.Tensor))
        return sum(
            {s.data_ptr(): s.nbytes() for s in (x.untyped_storage() for x in found)}.values()
        )

    draw = np.random.default_rng(0)
    batch = draw.standard_normal((4, 16, 16, 3)), draw.integers(0, 7, 4)
    model = resnet.create_model(ResNetSpec.parse(spec))
    trainer = resnet.Trainer(model, optimization(learning_rate=0.05, remat=True), 3)
    trainer.step(*batch)
    gc.collect()
    gc.disable()
    try:
        before = alive()
        trainer.step(*batch)
        trainer.step(*batch)
        return alive() - before
    finally:
        gc.enable()


def _convolutions(trainer: Any, batch: tuple[np.ndarray, np.ndarray]) -> int:
    """How many convolutions and products a step has, forwards and backwards."""
    engine = getattr(trainer, "_engine", None)
    if type(engine).__name__ == "_TensorFlow":
        placed = trainer.place(*batch)
        rate = np.asarray(0.05)
        graph = engine._compiled.get_concrete_function(placed.images, placed.labels, rate).graph
        return sum(node.type.startswith(("Conv2D", "MatMul")) for node in graph.get_operations())
    if type(trainer).__module__ == "resnet_flax.training" or type(engine).__name__ == "_Jax":
        try:
            with xla.ahead_of_time("cpu"):
                type(trainer)(trainer.model, trainer.optimization, 2).step(*batch)
        except xla.Planned as planned:
            text = planned.function.lower(*planned.args).as_text()
        return text.count("stablehlo.convolution") + text.count("stablehlo.dot_general")
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        trainer.step(*batch)
    return int(counter.get_total_flops())
