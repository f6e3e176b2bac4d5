"""The process that runs one engine: reads requests as JSON lines, answers in JSON lines.

Arrays travel in safetensors files. Started as `python -m resnet_parity.worker PACKAGE DEVICE`.
"""

from __future__ import annotations

import gc
import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from resnet_parity.engines.job import ForwardPass
from resnet_parity.engines.reference_libraries import REFERENCES
from resnet_parity.numerics.rounding import perturbed
from resnet_parity.numerics.teacher_forcing import inputs_of, rounded
from resnet_parity.worker import aot, bench
from resnet_parity.worker.exported import calibrate, lite_graph, run_exported, trace_file
from resnet_parity.worker.judges import judge
from resnet_parity.worker.reference_libraries import reference_results
from resnet_parity.worker.session import (
    LITERT,
    Operation,
    Session,
    Written,
    narrowed,
    one_line,
    writing,
)
from shared_spec.catalogue import CATALOGUE
from shared_spec.errors import ResNetError
from shared_spec.export_formats import Form
from shared_spec.formats.canonical_file import read_safetensors, save_canonical, write_safetensors
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.dataflow import nodes, recorded
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.training.optimization import Optimization
from shared_spec.weight_verbs import remember
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.state import State, cast_weights, check_weights


def info(session: Session) -> dict[str, Any]:
    """Versions and device."""
    beside = {
        "resnet_keras": ["keras"],
        "resnet_flax": ["flax"],
        "resnet_onnx": ["onnx"],
        LITERT: ["keras", "tensorflow"],
    }
    modules = beside.get(session.package, [])
    names = sorted({*modules, *session.uses})
    versions = {n: str(importlib.import_module(n).__version__) for n in names}
    return {"versions": versions, "device": session.hardware}


@writing
def run(session: Session, **request: Any) -> Written:
    """What the model returns, and every block's output, for each file of images.

    The tensors are called `<index>/logits` (`<index>/features<i>` for a features-only model)
    and `<index>/<block>`. `compiled` takes the results from `predict`; without it they too are
    computed layer by layer: XLA takes longer to compile a net than to run its layers once. `form`
    takes another function than `predict`.
    """
    asked = ForwardPass(**request)
    found: dict[str, Any] = {}
    with session.forward_only(), session.at_precision(asked.precision):
        model = session.model(asked.spec, asked.weights, asked.dtype)
        names = [block.name for block in model.plan.blocks()] if asked.blocks else []
        results = model.plan.results()
        function = session.function(model, asked.form)
        for index, file in enumerate(asked.images):
            batch = read_safetensors(file).state["images"]
            wanted = dict.fromkeys(names if asked.compiled else [*names, *results.values()])
            layers = session.resnet.activations(model, batch, wanted) if wanted else {}
            found |= {f"{index}/{name}": layers[name] for name in names}
            if asked.compiled:
                arrays = function(batch)
            else:
                arrays = [layers[name] for name in results.values()]
            found |= {f"{index}/{key}": x for key, x in zip(results, arrays, strict=True)}
    return {"parameters": session.resnet.parameter_count(model)}, found


@writing
def reference(
    session: Session, library: str, name: str, weights: str, dtype: str, images: list[str]
) -> Written:
    """What the net that `library` has under a name of the catalogue returns, named as in `run`."""
    state = narrowed(read_safetensors(weights).state, dtype)
    count, found = reference_results(
        REFERENCES[library],
        CATALOGUE[name],
        state,
        dtype,
        [read_safetensors(file).state["images"] for file in images],
    )
    results = compile_plan(CATALOGUE[name].spec).results()
    named = ((i, zip(results, arrays, strict=True)) for i, arrays in enumerate(found))
    return {"parameters": count}, {
        f"{i}/{key}": array for i, batch in named for key, array in batch
    }


@writing
def predict(
    session: Session, spec: dict[str, Any], weights: str, dtype: str, images: str, repeat: int = 0
) -> Written:
    """Logits for a file of images; `repeat` further passes are timed, after that warm-up."""
    model = session.model(spec, weights, dtype)
    batch = read_safetensors(images).state["images"]
    logits = session.resnet.predict(model, batch)
    passes = []
    for _ in range(repeat):
        start = time.perf_counter()
        session.resnet.predict(model, batch)
        passes.append(time.perf_counter() - start)
    count = session.resnet.parameter_count(model)
    return {"parameters": count, "seconds": passes}, {"logits": logits}


def classify(
    session: Session,
    images: str | None = None,
    outputs: str | None = None,
    net: dict[str, Any] | None = None,
    at_once: int | None = None,
) -> dict[str, Any]:
    """Logits for a file of images, so many or all at once, of a model that is kept: the first
    request has its `net` (spec, weights and dtype), and may have no images. `warm` says whether
    images of that shape came before, so that nothing was compiled in the `seconds`.
    """
    if net is not None:
        session.kept = None
        gc.collect()
        session.kept = session.model(**net), set()
    if session.kept is None:
        raise ResNetError("classify: no net was given yet")
    model, shapes = session.kept
    if images is None or outputs is None:
        return {"parameters": session.resnet.parameter_count(model)}
    batch = read_safetensors(images).state["images"]
    start = time.perf_counter()
    logits = session.resnet.predict(model, batch, batch_size=at_once or len(batch))
    seconds = time.perf_counter() - start
    warm = batch.shape in shapes
    shapes.add(batch.shape)
    save_canonical(Path(outputs), Checkpoint({"logits": logits}))
    return {"seconds": seconds, "warm": warm}


@writing
def evaluate(
    session: Session,
    source: str,
    spec: dict[str, Any],
    dtypes: list[str],
    trials: list[Any] | None,
    images: str,
    place: dict[str, Any],
    layers: bool = False,
) -> Written:
    """What a checkpoint, read by the backend itself, makes of images: `<dtype>/<output>`, and in
    float64 with its weights changed as rounding in a dtype would so many times, which `trials`
    are, `trial<i>/<output>`; with
    `layers` the output of every layer too, `<dtype>/<number>`.
    """
    given = ResNetSpec.parse(spec)
    p = compile_plan(given)
    state = dict(session.resnet.read_checkpoint(source, given, **place).state)
    check_weights(p, state, "float64", source)
    batch = read_safetensors(images).state["images"]
    runs = [(dtype, dtype, narrowed(state, dtype)) for dtype in dtypes]
    if trials is not None:
        narrow, count = trials
        wide = cast_weights(state, "float64")
        runs += [(f"trial{i}", "float64", perturbed(p, wide, narrow, i)) for i in range(count)]
    results: State = {}
    for name, dtype, weights in runs:
        model = session.placed(given, weights, dtype)
        if layers:
            order = [layer.name for layer in p.layers()]
            found = session.resnet.activations(model, batch, order)
            answer = [found[layer] for layer in order]
        else:
            answer = session.resnet.predict(model, batch)
        arrays = answer if isinstance(answer, list) else [answer]
        results |= {f"{name}/{i:05}": array for i, array in enumerate(arrays)}
        del model
        gc.collect()
    return {}, results


@writing
def trace(
    session: Session,
    spec: dict[str, Any],
    weights: str,
    dtype: str,
    images: str,
    reference: str | None = None,
    rounding: list[Any] | None = None,
) -> Written:
    """The output of every layer and block, `output/<name>`, and, with a `reference` that is another
    such file, of each on what enters it there, `forced/<name>`; with `rounding`, a dtype and a
    seed, that input is changed as rounding would. What could not be run is listed in `broken`.
    """
    batch = read_safetensors(images).state["images"]
    given = ResNetSpec.parse(spec)
    state = narrowed(read_safetensors(weights).state, dtype)
    model = session.placed(given, state, dtype)
    found = nodes(compile_plan(given))
    names = recorded(found)
    results: dict[str, Any] = {}
    broken: dict[str, str] = {}
    with session.forward_only():
        try:
            whole = session.resnet.activations(model, batch, names)
            results |= {f"output/{name}": array for name, array in whole.items()}
        except ResNetError:
            raise
        # Whatever a net that is not right may do in a framework.
        except Exception as error:
            broken[""] = one_line(error)
        if reference is not None:
            known = read_safetensors(reference).state
            inputs = inputs_of(found, batch, {name: known[f"output/{name}"] for name in names})
            if rounding is not None:
                inputs = rounded(found, inputs, *rounding)
            teacher_forced, failed = _each(session, model, inputs)
            results |= {f"forced/{name}": array for name, array in teacher_forced.items()}
            broken |= failed
    return {"broken": broken}, results


def _each(session: Session, model: Any, inputs: State) -> tuple[State, dict[str, str]]:
    """`run_parts`, and one by one if that fails."""
    try:
        return session.resnet.run_parts(model, inputs), {}
    except Exception:
        found: State = {}
        failed = {}
        for name, x in inputs.items():
            try:
                found |= session.resnet.run_parts(model, {name: x})
            except Exception as error:
                failed[name] = one_line(error)
        return found, failed


@writing
def trace_model(
    session: Session,
    own: dict[str, Any],
    spec: dict[str, Any],
    weights: str,
    dtype: str,
    images: str,
    reference: str,
) -> Written:
    """As `trace`, of a user's own model (its `factory`, and `names` for canonical ones) with a
    spec's weights; `input/<name>` too is what it computes, and `result/<name>` what it returns.
    """
    from resnet_parity.worker.user_model import run_own

    given = ResNetSpec.parse(spec)
    state = narrowed(read_safetensors(weights).state, dtype)
    batch = read_safetensors(images).state["images"]
    known = read_safetensors(reference).state
    with session.forward_only():
        arrays, notes = run_own(
            session, compile_plan(given), own["factory"], own["names"], state, dtype, batch, known
        )
    return {"broken": {}, "notes": notes}, arrays


@writing
def train(
    session: Session, spec: dict[str, Any], weights: str, recipe: dict[str, Any], batches: str
) -> Written:
    """Train on batches, `<i>/images` and `<i>/labels`, and report: `gradient/<parameter>` and
    `gradient.images` before the first step; `updated/<parameter>` after it; `loss/<i>` and
    `statistics/<i>/<array>` of every step; `weights/<array>` and `average/<array>` after the last.
    """
    optimization = Optimization.parse(recipe)
    state = narrowed(read_safetensors(weights).state, optimization.dtype)
    model = session.placed(ResNetSpec.parse(spec), state, optimization.dtype)
    given = read_safetensors(batches).state
    steps = len(given) // 2
    trainer = session.resnet.Trainer(model, optimization, steps)
    found: State = {}
    for i in range(steps):
        images, labels = given[f"{i}/images"], given[f"{i}/labels"]
        if i == 0:
            gradients = trainer.gradients(images, labels)
            found |= {f"gradient/{name}": g for name, g in gradients.parameters.items()}
            found |= {"gradient.images": gradients.images, "gradient.loss": _scalar(gradients.loss)}
        found[f"loss/{i}"] = _scalar(trainer.step(images, labels).loss)
        if i == 0:
            kept = trainer.state()
            found |= {f"updated/{n}": kept[f"weights/{n}"] for n in gradients.parameters}
        found |= {f"statistics/{i}/{name}": a for name, a in trainer.statistics().items()}
    kept = trainer.state()
    found |= {k: a for k, a in kept.items() if k.startswith(("weights/", "average/"))}
    return {}, found


def _scalar(value: Any) -> np.ndarray:
    return np.array([float(value)])


def read(
    session: Session, source: str, spec: dict[str, Any] | None, output: str, part: str | None = None
) -> dict[str, Any]:
    """A file in one of the backend's formats, to a canonical file; the dtype is kept. The answer is
    what the canonical file does not tell.
    """
    given = None if spec is None else ResNetSpec.parse(spec)
    found = session.resnet.read_checkpoint(source, given, part=part)
    write_safetensors(output, found)
    return {key: getattr(found, key) for key in ("kind", "library", "assumed", "notes")}


def write(
    session: Session, source: str, spec: dict[str, Any], output: str, format: str | None = None
) -> None:
    """A canonical file, to one of the backend's formats; the dtype is kept."""
    checkpoint = read_safetensors(source)
    dtypes = {array.dtype.name for array in checkpoint.state.values()}
    if len(dtypes) != 1:
        raise ResNetError(f"{source}: holds arrays of {', '.join(sorted(dtypes))}; expected one")
    model = session.resnet.create_model(
        ResNetSpec.parse(spec), weights=checkpoint.state, dtype=dtypes.pop()
    )
    session.resnet.save_weights(model, Path(output), checkpoint, format=format)


def export(
    session: Session,
    source: str,
    output: str,
    form: dict[str, Any],
    dtype: str,
    folded: bool,
) -> None:
    """A canonical file with its net, to a file that runtimes run."""
    found = read_safetensors(source)
    assert found.spec is not None
    state = narrowed(found.state, dtype)
    model = session.resnet.create_model(found.spec, weights=state, dtype=dtype, inference=folded)
    remember(model, found)
    size = form["size"]
    given = Form(**{**form, "size": None if size is None else tuple(size)})
    session.resnet.export(model, output, form=given)


_OWN = (info, run, reference, predict, classify, evaluate, trace, trace_model, train)
_FILES = (read, write, export, judge, run_exported, calibrate, trace_file, lite_graph)
OPERATIONS: dict[str, Operation] = {
    f.__name__: f for f in (*_OWN, *_FILES, *bench.OPERATIONS, *aot.OPERATIONS)
}
