"""The command that measures how fast engines and their peers are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from resnet_parity.cli.options import (
    DeviceOption,
    JsonOption,
    ModelArgument,
    command_line,
    err,
    print_result,
)
from resnet_parity.engines.registry import ENGINES, parse_device, parse_engines
from resnet_parity.render import plots, tables
from shared_spec.atomic_write import durable
from shared_spec.backend import resolve
from shared_spec.errors import ResNetError

if TYPE_CHECKING:
    from resnet_parity.bench.scaling import Scale

MODES, LAYOUTS = ("infer", "train"), ("channels_last", "channels_first")
COMPILES, FORMS = ("none", "default"), ("plain", "inference")
LARGEST = 100_000


def bench(
    model: ModelArgument,
    engines: Annotated[
        str | None, typer.Option(help=f"Comma-separated; all of {', '.join(ENGINES)} if left out.")
    ] = None,
    modes: Annotated[str, typer.Option(help="Of infer and train.")] = "infer",
    batch: Annotated[str, typer.Option(help="Images of a batch, such as 1,8,32.")] = "8",
    size: Annotated[
        str | None, typer.Option(help="Of images, H or HxW; the net's own if left out.")
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(help="Of float32 and bfloat16; training then mixes, weights stay float32."),
    ] = "float32",
    device: DeviceOption = "cpu",
    layout: Annotated[
        str, typer.Option(help="In PyTorch: of channels_last and channels_first.")
    ] = "channels_last",
    compile_: Annotated[
        str,
        typer.Option(
            "--compile",
            help="Of none and default: torch.compile, Keras's jit_compile; JAX always compiles.",
        ),
    ] = "none",
    form: Annotated[
        str, typer.Option(help="Of plain and inference, which has the batch norms folded.")
    ] = "plain",
    peers: Annotated[
        bool, typer.Option("--peers/--no-peers", help="Time the libraries that have the net too.")
    ] = True,
    scaling: Annotated[
        str | None, typer.Option(help="Of batch, depth (the CIFAR nets) and size.")
    ] = None,
    depths: Annotated[str | None, typer.Option(help="With --scaling depth, such as 20,56.")] = None,
    batches: Annotated[str | None, typer.Option(help="With --scaling batch.")] = None,
    sizes: Annotated[str | None, typer.Option(help="With --scaling size.")] = None,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Turns of each side.")] = 5,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            max=100,
            help="Fresh processes of each side, which share its rounds; each has at least one.",
        ),
    ] = 1,
    seconds: Annotated[
        float, typer.Option(min=0.001, max=600, help="Of a round, about; at least one pass.")
    ] = 0.5,
    tf32: Annotated[
        bool, typer.Option("--tf32/--no-tf32", help="Let GPUs round float32 products to TF32.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of random weights and images.")] = 0,
    output: Annotated[Path | None, typer.Option(help="A JSON file for the result.")] = None,
    plot: Annotated[Path | None, typer.Option(help="A picture of speeds and bounds.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Time a net in every engine and in the libraries that have it, side by side.

    Each side has a process of its own, and they take turns. Its results are held against float64
    first, and a side that computes something else gets no speed. A figure above what the device was
    measured to be able to do is refused as an error of the timing.
    """
    from resnet_parity.bench.measure import bench as run_bench
    from resnet_parity.bench.result import Request
    from resnet_parity.bench.roofline import BYTES

    plots.require_picture(plot)
    _require_file(output)
    given = {"depth": depths, "batch": batches, "size": sizes}
    scale = _scale(scaling, given)
    request = Request(
        model,
        resolve(model),
        tuple(parse_engines(engines)),
        modes=_chosen("modes", modes, MODES),
        batches=_numbers("batch", batch),
        size=_size(size),
        dtypes=_chosen("dtype", dtype, tuple(BYTES)),
        device=parse_device(device),
        layouts=_chosen("layout", layout, LAYOUTS),
        compiles=_chosen("compile", compile_, COMPILES),
        forms=_chosen("form", form, FORMS),
        peers=peers,
        rounds=max(rounds, processes),
        processes=processes,
        seconds=seconds,
        tf32=tf32,
        seed=seed,
        requested=engines is not None,
        command=command_line(),
    )
    with tables.progress(err) as advance:
        found = run_bench(request, advance, scale=scale)
    data = found.to_dict()
    if output is not None:
        with durable(output) as draft:
            draft.write_text(json.dumps(data, indent=2) + "\n")
    if plot is not None:
        picture(data, plot)
    print_result(data, as_json, table)
    if not found.holds:
        raise typer.Exit(1)


def _chosen(option: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Names out of a comma-separated list, each once."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names or ("",):
        if name not in known:
            raise ResNetError(f"{option}: {name!r} is not one of {', '.join(known)}")
    return names


def _numbers(option: str, text: str) -> tuple[int, ...]:
    numbers = []
    for part in text.split(","):
        number = int(part) if part.strip().isdecimal() else 0
        if not 1 <= number <= LARGEST:
            raise ResNetError(
                f"{option}: {text!r} is not a list of whole numbers from 1 to {LARGEST}, "
                f"such as 1,8,32"
            )
        numbers.append(number)
    return tuple(dict.fromkeys(numbers))


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = _numbers("size", text.lower().replace("x", ","))
    if "," in text or len(text.lower().split("x")) > 2:
        raise ResNetError(f"size: {text!r} is not a size such as 224 or 97x64")
    return parts[0], parts[-1]


def _scale(over: str | None, given: dict[str, str | None]) -> Scale:
    from resnet_parity.bench.scaling import OVER, Scale

    chosen = () if over is None else _chosen("scaling", over, OVER)
    names = {"depth": "depths", "batch": "batches", "size": "sizes"}
    fields: dict[str, Any] = {"over": chosen}
    for key, text in given.items():
        if text is not None and key not in chosen:
            raise ResNetError(f"--{names[key]}: only with --scaling {key}")
        if text is not None:
            fields[names[key]] = _numbers(names[key], text)
    scale = Scale(**fields)
    scale.check()
    return scale


def _require_file(path: Path | None) -> None:
    """Refuse now what could not be written after minutes of work."""
    if path is None:
        return
    if not path.resolve().parent.is_dir():
        raise ResNetError(f"{path}: its directory does not exist; create it first")
    if path.is_dir():
        raise ResNetError(f"{path}: is a directory; name a file")


def table(console: Console, data: dict[str, Any]) -> None:
    """A table for each setting, the bound, and what was in force."""
    console.print(f"[bold]{tables.plain(data['name'])}[/]", highlight=False)
    _print(console, _conditions(data["environment"]))
    for rates in data["bounds"]:
        _print(
            console,
            f"{rates['dtype']}: at best {rates['flops_per_second'] / 1e9:,.0f} GFLOP/s "
            f"({rates['kernel']}), memory {rates['bytes_per_second'] / 1e9:,.0f} GB/s",
        )
    keys = ("mode", "dtype", "batch", "size")
    settings = list(dict.fromkeys(tuple(str(row[k]) for k in keys) for row in data["rows"]))
    for setting in settings:
        rows = [row for row in data["rows"] if tuple(str(row[k]) for k in keys) == setting]
        height, width = rows[0]["size"]
        title = f"{rows[0]['mode']}, {rows[0]['dtype']}, {rows[0]['batch']} images of "
        console.print(f"\n[bold]{title}{height}×{width}[/]\n", highlight=False)
        console.print(_speeds(rows))
        console.print()
        console.print(_costs(rows))
    _scaled(console, data["scaling"])
    worst = max((p for p in data["parity"] if p["holds"]), key=_used, default=None)
    if worst is not None:
        console.print()
        _print(
            console,
            f"parity: {sum(p['holds'] for p in data['parity'])} of {len(data['parity'])} timed "
            f"functions agree with {worst['reference']}; nearest to its bound is "
            f"{worst['engine']}, {worst['side']}: {worst['error']:.1e} of {worst['bound']:.1e}",
        )
    for note in dict.fromkeys(f"{row['side']}: {row['note']}" for row in data["rows"]):
        if not note.endswith(": "):
            _print(console, note)
    for note in data["notes"]:
        _print(console, note)
    for name, reason in data["missing"].items():
        _print(console, f"missing: {name}: {reason}")
    for problem in data["problems"]:
        console.print(f"[red]✗[/] {tables.plain(problem)}", highlight=False, soft_wrap=True)


def _print(console: Console, text: str) -> None:
    console.print(tables.plain(text), highlight=False, soft_wrap=True)


def _used(parity: dict[str, Any]) -> float:
    return float(parity["error"] / parity["bound"]) if parity["bound"] else 0.0


def _conditions(environment: dict[str, Any]) -> str:
    told = environment
    versions = ", ".join(f"{k} {v}" for k, v in sorted(told["versions"].items()))
    threads = ", ".join(f"{k} {v}" for k, v in sorted(told["threads"].items()))
    precision = ", ".join(f"{k} {v}" for k, v in sorted(told["matmul_precision"].items()))
    variables = "".join(f", {k}={v}" for k, v in sorted(told["variables"].items()))
    processes = f" in {told['processes']} processes a side" if told["processes"] > 1 else ""
    return (
        f"{told['hardware']}, {told['cores']} cores, {told['system']}, Python {told['python']}: "
        f"{versions}; threads: {threads}{variables}; TF32 {'on' if told['tf32'] else 'off'}; "
        f"precision of float32 products: {precision}; medians and quartiles of "
        f"{told['rounds']} rounds{processes}, the sides by turns"
    )


def _columns(*numbers: str) -> Table:
    found = Table(box=None, pad_edge=False, header_style="bold")
    found.add_column("", overflow="fold", min_width=22)
    for name in numbers:
        found.add_column(name, justify="right", no_wrap=True)
    return found


def _name(row: dict[str, Any]) -> str:
    """Ours, and the peers in the same framework below."""
    side = tables.plain(row["side"])
    return f"  {side}" if row["peer"] else f"[bold]{side}[/]"


def _speeds(rows: Sequence[dict[str, Any]]) -> Table:
    found = _columns("images/s", "quartiles", "of bound", "ratio")
    found.add_column("to", overflow="fold")
    for row in rows:
        if row["refused"] is not None:
            found.add_row(_name(row), "[red]refused[/]")
            continue
        seconds, batch = row["seconds"], row["batch"]
        found.add_row(
            _name(row),
            f"{row['images_per_second']:,.1f}",
            f"{batch / seconds['high']:,.1f}–{batch / seconds['low']:,.1f}",
            f"{row['share']:.1%}",
            "" if row["ratio"] is None else f"{row['ratio']:.2f}",
            tables.plain(row["against"] or ""),
        )
    return found


def _costs(rows: Sequence[dict[str, Any]]) -> Table:
    """What comes before the first image, the memory, and the layout."""
    on_device = any(row["peak_device_bytes"] for row in rows)
    numbers = ("first call", "build", "load", "import", "host MB", *["device MB"] * on_device)
    found = _columns(*numbers)
    found.add_column("layout", overflow="fold")
    for row in rows:
        if row["refused"] is None:
            peaks = [row["peak_host_bytes"], *[row["peak_device_bytes"]] * on_device]
            found.add_row(
                _name(row),
                *(f"{row[key]:.2f} s" for key in ("first_call", "build", "load", "import")),
                *("–" if peak is None else f"{peak / 1e6:,.0f}" for peak in peaks),
                row["layout"],
            )
    return found


def _scaled(console: Console, points: Sequence[dict[str, Any]]) -> None:
    for over in dict.fromkeys(point["over"] for point in points):
        some = [point for point in points if point["over"] == over]
        sides = dict.fromkeys((p["engine"], p["side"], p["mode"], p["dtype"]) for p in some)
        found = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("engine", "mode", "dtype", over):
            found.add_column(name, no_wrap=True)
        for name in ("images/s", "of bound", "first call"):
            found.add_column(name, justify="right", no_wrap=True)
        for engine, side, mode, dtype in sides:
            for p in some:
                if (p["engine"], p["side"], p["mode"], p["dtype"]) != (engine, side, mode, dtype):
                    continue
                cells = ["[red]refused[/]"]
                if p["refused"] is None:
                    cells = [f"{p['images_per_second']:,.1f}", f"{p['share']:.1%}"]
                    cells += [f"{p['first_call']:.2f} s"]
                found.add_row(tables.plain(side), mode, dtype, p["label"], *cells)
        console.print(f"\n[bold]over the {over}[/]\n", highlight=False)
        console.print(found)


def picture(data: dict[str, Any], path: Path) -> None:
    """Speeds with their quartiles, and the bounds, as bars; from the JSON data of a report."""
    plt = plots.pyplot()
    rows = [row for row in data["rows"] if row["refused"] is None]
    figure, axis = plt.subplots(figsize=(9, max(2.5, 0.45 * len(rows) + 1.2)))
    for i, row in enumerate(rows):
        speed, seconds, batch = row["images_per_second"], row["seconds"], row["batch"]
        spread = [[speed - batch / seconds["high"]], [batch / seconds["low"] - speed]]
        colour = plots.COLOURS[6] if row["peer"] else plots.COLOURS[0]
        label = "a peer" if row["peer"] else "ours"
        axis.barh(i, speed, 0.7, color=colour, xerr=spread, label=label, capsize=2)
        bound = row["bound_images_per_second"]
        axis.plot([bound, bound], [i - 0.4, i + 0.4], color=plots.COLOURS[3], label="bound")
    names = [f"{r['engine']}: {r['side']}\n{r['mode']}, {r['dtype']}, {r['batch']}" for r in rows]
    axis.set_yticks(range(len(rows)), [name.replace("$", r"\$") for name in names], fontsize=7)
    axis.invert_yaxis()
    axis.set(xlabel="images a second; whiskers are the quartiles of the rounds")
    axis.set_title(f"{data['name']} on {data['environment']['hardware']}".replace("$", r"\$"))
    handles, labels = axis.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axis.legend(unique.values(), unique.keys(), fontsize=8)
    axis.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    plots.save(figure, path)


__all__ = ["bench", "picture", "table"]
