"""The commands `bench` and `aot`: how fast a net is here, and what it comes to elsewhere."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnet_parity.cli.options import (
    DeviceOption,
    EnginesOption,
    JsonOption,
    ModelArgument,
    SeedOption,
    command_line,
    conclude,
    parse_names,
    parse_size,
    require_file,
)
from resnet_parity.engines.registry import parse_device, parse_engines
from resnet_parity.render import plots
from resnet_parity.render.aot import table as aot_table
from resnet_parity.render.bench import table
from resnet_parity.render.console import err
from resnet_parity.render.plots import picture
from resnet_parity.render.progress import progress
from shared_spec.atomic_write import durable
from shared_spec.catalogue.resolve import resolve
from shared_spec.errors import ResNetError

if TYPE_CHECKING:
    from resnet_parity.bench.scaling import ScalingAxis

MODES, LAYOUTS = ("infer", "train"), ("channels_last", "channels_first")
COMPILES = ("none", "default")
LARGEST = 100_000


def bench(
    model: ModelArgument,
    engines: EnginesOption = None,
    modes: Annotated[str, typer.Option(help="infer, train or both.")] = "infer",
    batch: Annotated[str, typer.Option(help="Batch sizes, such as 1,8,32.")] = "8",
    size: Annotated[
        str | None, typer.Option(help="Image sizes, H or HxW; default: the net's own.")
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(help="float32, bfloat16 or both; in training, bfloat16 is mixed precision."),
    ] = "float32",
    device: DeviceOption = "cpu",
    layout: Annotated[
        str, typer.Option(help="For PyTorch: channels_last, channels_first or both.")
    ] = "channels_last",
    compile_: Annotated[
        str,
        typer.Option(
            "--compile",
            help="none, default or both: torch.compile, Keras's jit_compile; JAX always compiles.",
        ),
    ] = "none",
    form: Annotated[
        str,
        typer.Option(
            help="Any of plain; to infer, inference (batch norms are folded) and, in runtimes, "
            "int8; to train, remat (blocks are computed again in the backward pass)."
        ),
    ] = "plain",
    peers: Annotated[
        bool, typer.Option("--peers/--no-peers", help="Also time the libraries that have the net.")
    ] = True,
    scaling: Annotated[
        str | None, typer.Option(help="Any of batch, depth (the CIFAR nets) and size.")
    ] = None,
    depths: Annotated[str | None, typer.Option(help="For --scaling depth, such as 20,56.")] = None,
    batches: Annotated[str | None, typer.Option(help="Values for --scaling batch.")] = None,
    sizes: Annotated[str | None, typer.Option(help="Values for --scaling size.")] = None,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Rounds of each contender.")] = 5,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            max=100,
            help="Fresh processes for each contender; they share its rounds, at least one each.",
        ),
    ] = 1,
    seconds: Annotated[
        float,
        typer.Option(min=0.001, max=600, help="Approximate length of a round; at least one pass."),
    ] = 0.5,
    latency: Annotated[
        int,
        typer.Option(
            min=0,
            max=LARGEST,
            help="Also time so many calls of each contender one by one: p50, and p99 from 100 on.",
        ),
    ] = 0,
    tf32: Annotated[
        bool, typer.Option("--tf32/--no-tf32", help="Let GPUs round float32 products to TF32.")
    ] = False,
    seed: SeedOption = 0,
    output: Annotated[Path | None, typer.Option(help="Write the result to this JSON file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write a chart of speeds and bounds to this file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Time a net in every engine and in the libraries that have it, side by side.

    Each contender runs in its own process, and they take turns. Its results are first compared with
    float64, and a contender that computes something else gets no speed. A figure above the measured
    limit of the device is refused as a timing error.
    """
    from resnet_parity.bench.measure import bench as run_bench
    from resnet_parity.bench.result import FORMS, BenchRequest
    from resnet_parity.engines.bench_job import BYTES

    plots.require_picture(plot)
    require_file(output)
    scale = _scale(scaling, {"depths": depths, "batches": batches, "sizes": sizes})
    chosen = parse_names("modes", modes, MODES)
    request = BenchRequest(
        model,
        resolve(model),
        tuple(parse_engines(engines)),
        modes=chosen,
        batches=_numbers("batch", batch),
        size=None if size is None else parse_size("size", size),
        dtypes=parse_names("dtype", dtype, tuple(BYTES)),
        device=parse_device(device),
        layouts=parse_names("layout", layout, LAYOUTS),
        compiles=parse_names("compile", compile_, COMPILES),
        forms=_forms(form, FORMS, chosen),
        peers=peers,
        rounds=max(rounds, processes),
        processes=processes,
        seconds=seconds,
        latency=latency,
        tf32=tf32,
        seed=seed,
        requested=engines is not None,
        command=command_line(),
    )
    with progress(err) as advance:
        found = run_bench(request, advance, scale=scale)
    if output is not None:
        with durable(output) as draft:
            draft.write_text(json.dumps(found.to_dict(), indent=2) + "\n")
    if plot is not None:
        picture(found, plot)
    conclude(found, as_json, table)


def aot(
    model: ModelArgument,
    target: Annotated[
        str,
        typer.Option(
            help="Devices, such as tpu:v5e:2x2, tpu:v4:2x2x1 or gpu:h100:8; several separated by "
            "commas."
        ),
    ],
    engines: Annotated[str, typer.Option(help="flax, keras:jax or both.")] = "flax",
    modes: Annotated[str, typer.Option(help="infer, train or both.")] = "infer,train",
    form: Annotated[
        str,
        typer.Option(
            help="Any of plain; to infer, inference (batch norms are folded) and space_to_depth "
            "(with the stem on blocks of pixels); to train, remat (blocks are computed again in "
            "the backward pass)."
        ),
    ] = "plain",
    batch: Annotated[int, typer.Option(min=1, max=LARGEST, help="Images a device.")] = 32,
    size: Annotated[
        str | None, typer.Option(help="Image size, H or HxW; default: the net's own.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="float32 or bfloat16, in training as mixed precision.")
    ] = "bfloat16",
    largest: Annotated[
        bool,
        typer.Option(
            "--largest/--no-largest", help="Find the largest batch that fits: several compilations."
        ),
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Write the result to this JSON file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compile a net for TPUs or GPUs on a machine that has none, and say whether it fits.

    What is compiled is what `compiled` and `Trainer` run, with images spread over the devices. It
    tells the bytes of a device, the collectives of the partitioned program, and an estimate of its
    speed from published peak rates. Nothing runs. Needs libtpu (the extra tpu-aot) or
    JAX's plugin for CUDA (gpu-aot).
    """
    from resnet_parity.aot.compile import aot as compile_ahead
    from resnet_parity.aot.result import FORMS, AotRequest
    from resnet_parity.aot.targets import parse_targets
    from resnet_parity.engines.bench_job import BYTES

    require_file(output)
    if dtype not in BYTES:
        raise ResNetError(f"dtype: {dtype!r} is not one of {', '.join(BYTES)}")
    chosen = parse_names("modes", modes, MODES)
    request = AotRequest(
        model,
        resolve(model),
        tuple(parse_targets(target)),
        tuple(parse_engines(engines)),
        modes=chosen,
        forms=_forms(form, FORMS, chosen),
        batch=batch,
        size=None if size is None else parse_size("size", size),
        dtype=dtype,
        largest=largest,
    )
    with progress(err) as advance:
        found = compile_ahead(request, advance)
    found.command = command_line()
    if output is not None:
        with durable(output) as draft:
            draft.write_text(json.dumps(found.to_dict(), indent=2) + "\n")
    conclude(found, as_json, aot_table)


def _forms(
    text: str, of_modes: dict[str, tuple[str, ...]], modes: tuple[str, ...]
) -> tuple[str, ...]:
    """Forms that some of the modes have."""
    found = parse_names("form", text, tuple(dict.fromkeys(itertools.chain(*of_modes.values()))))
    there_are = list(dict.fromkeys(itertools.chain(*(of_modes[mode] for mode in modes))))
    for form in found:
        if form not in there_are:
            raise ResNetError(
                f"form: with --modes {','.join(modes)} there is no {form}; there are "
                f"{', '.join(there_are)}"
            )
    return found


def _numbers(option: str, text: str) -> tuple[int, ...]:
    numbers = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if not all(1 <= number <= LARGEST for number in numbers):
        raise ResNetError(
            f"{option}: {text!r} is not a list of whole numbers from 1 to {LARGEST}, such as 1,8,32"
        )
    return tuple(dict.fromkeys(numbers))


def _scale(over: str | None, given: dict[str, str | None]) -> ScalingAxis:
    from resnet_parity.bench.scaling import OVER, ScalingAxis

    chosen = () if over is None else parse_names("scaling", over, OVER)
    fields: dict[str, Any] = {"over": chosen}
    for key, (name, text) in zip(("depth", "batch", "size"), given.items(), strict=True):
        if text is not None and key not in chosen:
            raise ResNetError(f"--{name}: only with --scaling {key}")
        if text is not None:
            fields[name] = _numbers(name, text)
    scale = ScalingAxis(**fields)
    scale.check()
    return scale
