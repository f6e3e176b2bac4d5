"""What an exported file says of itself: the images that it takes, and the weights in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resnet_parity.engines.job import EngineJob
from resnet_parity.engines.process import Start, Worker
from resnet_parity.numerics.structure import matched, onnx_calls, weights_in
from resnet_parity.trace.compare import LITE, ExportedFile
from shared_spec.atomic_write import workspace
from shared_spec.errors import ImageError, SpecError, WeightsError, some
from shared_spec.formats.containers.onnx import GRAPH, OnnxGraph, open_onnx
from shared_spec.formats.containers.source import Source
from shared_spec.formats.graphs.onnx.file import read_onnx
from shared_spec.plan.compiler import compile_plan
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.state import State


@dataclass(frozen=True)
class Contents:
    """Of an exported file."""

    size: tuple[int | None, int | None]
    """Their height and width; None for any."""
    spec: ResNetSpec
    """The net that was named; in a form for inference, of the eps and biases that the file has."""
    weights: State | None
    absent: tuple[str, ...]
    """Weights of the net that no array of the file is."""

    def fitting(self, size: tuple[int, int], asked: bool) -> tuple[int, int]:
        """Height and width that it takes: `size` as far as it takes any.

        Raises:
            ImageError: if it takes another one than that which was asked for.
        """
        height, width = (own or side for own, side in zip(self.size, size, strict=True))
        if asked and (height, width) != size:
            raise ImageError(
                f"image_size: {size[0]} is not what the file takes, which is {height}x{width}"
            )
        return height, width

    def required(self, file: ExportedFile) -> State:
        """The weights in the file.

        Raises:
            WeightsError: if the file does not have them all.
        """
        if self.absent or self.weights is None:
            raise WeightsError(
                f"{file.path}: cannot tell which of its arrays are {some(self.absent)}; name the "
                f"weights that are in it (--weights)"
            )
        return self.weights


def contents(spec: ResNetSpec, file: ExportedFile, start: Start = Worker) -> Contents:
    """What a file takes, and the weights of `spec` in it: by its graph if that is the net's, by
    canonical names, or by the way of the images through it, which a fault leaves as it was.

    Raises:
        ResNetError: if it cannot be read, or takes something else than normalised images.
    """
    if file.path.suffix == LITE:
        with workspace() as folder:
            job = EngineJob(folder, start)
            with job.worker(file.runtime) as worker:
                asked: dict[str, Any] = {
                    "source": str(file.path.resolve()),
                    "spec": spec.to_dict(),
                }
                told, state = job.run(worker.call, "lite_graph", **asked)
        _, height, width, _ = told["shape"]
        return Contents((height, width), spec, state, tuple(told["absent"]))
    source = open_onnx(file.path)
    graph: OnnxGraph = source.metadata[GRAPH]
    if len(graph.shape) != 4 or graph.dtype.kind != "f":
        raise WeightsError(
            f"{file.path}: takes {graph.dtype.name} of {len(graph.shape)} axes; expected "
            f"normalised images, of floats"
        )
    last = graph.shape[3] == spec.in_channels and graph.shape[1] != spec.in_channels
    height, width = graph.shape[1:3] if last else graph.shape[2:]
    return Contents((height, width), *_weights(spec, source, graph))


def _weights(
    spec: ResNetSpec, source: Source, graph: OnnxGraph
) -> tuple[ResNetSpec, State | None, tuple[str, ...]]:
    try:
        read = read_onnx(source, spec)
    except (WeightsError, SpecError):  # it is another graph, which is what to find
        pass
    else:
        assert read.spec is not None
        if read.own_graph is not None and read.own_graph.pixels:
            raise WeightsError(
                f"{source.path}: normalises pixels by itself; expected a graph of normalised images"
            )
        return read.spec, dict(read.state), ()
    p = compile_plan(spec)
    shapes = {name: array.shape for name, array in source.tensors.entries.items()}
    if all(shapes.get(q.name) == q.shape for q in p.parameters()):
        return spec, {q.name: source.tensors[q.name] for q in p.parameters()}, ()
    state, absent = weights_in(p, matched(p, graph.input, onnx_calls(graph, source.tensors)).arrays)
    return spec, state, tuple(absent)
