"""What a GPU or TPU computes, compared with the CPU, and how fast: one command, no network.

    python benchmarks/accelerator.py [--device gpu] [--output docs/results] [--quick] [--anew]

Runs, in whichever engines are installed:

1. `check` of each net: float64 against the CPU's (not on TPUs, which have none), float32 with full
   products and with each framework's own, bfloat16, all within the bounds that float64 measures;
2. `bench` of ResNet-50 in float32, float32 with TF32 and bfloat16, inference and training, with
   the libraries that are installed, and its share of the bound of this very device.

Writes `<device's name>.json` with everything and `<device's name>.md` to read. Each part is written
as it is done, so that a machine that is taken away leaves what it has measured; the same command
goes on from there.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from resnet_parity.bench.measure import bench
from resnet_parity.bench.result import BenchRequest
from resnet_parity.check.forward import check
from resnet_parity.engines.process import EngineError, Worker
from resnet_parity.engines.registry import ENGINES, Engine, parse_device
from resnet_parity.render.console import err
from resnet_parity.render.progress import progress
from shared_spec import ResNetError, resolve
from shared_spec.atomic_write import durable

NETS = ("resnet18", "resnet50", "seresnext50_32x4d", "resnetv2_50x1_bit")
TRAIN_BATCH, INFER_BATCH = 256, 512
Step = Callable[[str], None]


def settings(device: str) -> Iterator[tuple[str, str]]:
    """Dtype and precision of each comparison."""
    if device != "tpu":
        yield "float64", "highest"
    yield from (("float32", "highest"), ("float32", "default"), ("bfloat16", "highest"))


def speeds(device: str, quick: bool) -> Iterator[dict[str, Any]]:
    """What `bench` is asked for, one request after another."""
    size = (64, 64) if quick else (224, 224)
    infer, train = (8, 8) if quick else (INFER_BATCH, TRAIN_BATCH)
    kinds = [("float32", False), ("bfloat16", False)]
    if device == "gpu":
        kinds.insert(1, ("float32", True))
    for dtype, tf32 in kinds:
        for compiled in ("none", "default"):
            common = {"size": size, "dtypes": (dtype,), "tf32": tf32, "compiles": (compiled,)}
            yield common | {"modes": ("infer",), "batches": (infer,), "forms": ("inference",)}
            yield common | {"modes": ("train",), "batches": (train,)}


def main() -> None:
    """Measure, and write after each part."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="gpu", choices=("gpu", "tpu", "cpu"))
    parser.add_argument("--engines", help="comma-separated; all that are installed if left out")
    parser.add_argument("--output", type=Path, default=Path("docs/results"))
    parser.add_argument("--quick", action="store_true", help="small images and batches: a trial")
    parser.add_argument("--anew", action="store_true", help="measure again what was measured")
    given = parser.parse_args()
    names = given.engines.split(",") if given.engines else list(ENGINES)
    engines = [ENGINES[name] for name in names if ENGINES[name].missing() is None]
    with progress(err) as step:
        step("starting engines")
        found: dict[str, Any] = begin(engines, given.device, given.quick)
        found["missing"] = {n: ENGINES[n].missing() for n in names if ENGINES[n].missing()}
        if not given.anew:
            found = resumed(found, given.output)
        for label, kind, measure in parts(engines, given.device, given.quick):
            if label in found["done"]:
                continue
            step(label)
            try:
                found[kind].append(measure(lambda text, label=label: step(f"{label}: {text}")))
                found["done"].append(label)
                found["failed"].pop(label, None)
            except ResNetError as error:
                found["failed"][label] = str(error)
            write(found, given.output)


def begin(engines: list[Engine], device: str, quick: bool) -> dict[str, Any]:
    """An empty result, with what it is of."""
    hardware, versions = "", {}
    for engine in engines:
        try:
            with Worker(engine, parse_device(device)) as worker:
                facts = worker.call("info")
        except (EngineError, ResNetError):  # which each part will tell
            versions |= {engine.name: "does not start"}
            continue
        hardware = hardware or facts["device"]
        versions |= facts["versions"]
    return {
        "device": device,
        "hardware": hardware,
        "quick": quick,
        "engines": [engine.name for engine in engines],
        "versions": versions,
        "done": [],
        "checks": [],
        "benches": [],
        "failed": {},
    }


def resumed(found: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What an earlier run left in the folder; else `found`.

    Raises:
        ResNetError: if it was a run of other things, which would be overwritten.
    """
    path = folder / f"{stem(found)}.json"
    try:
        left: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return found
    for key in ("device", "hardware", "engines", "versions"):
        if left.get(key) != found[key]:
            raise ResNetError(
                f"{path}: is of {key} {left.get(key)}, and here are {found[key]}; name another "
                f"--output, or overwrite it with --anew"
            )
    err.print(f"{path}: continues after {len(left['done'])} parts (--anew measures them again)")
    return left


def parts(
    engines: list[Engine], device: str, quick: bool
) -> Iterator[tuple[str, str, Callable[[Step], dict[str, Any]]]]:
    """What is measured: what to call it, where it goes, and how."""
    for name in NETS:
        spec = resolve(name, {"depths": [1, 1, 1, 1]} if quick else {})
        for dtype, precision in settings(device):

            def compare(
                step: Step, name: str = name, spec: Any = spec, how: Any = (dtype, precision)
            ) -> dict[str, Any]:
                report = check(
                    spec,
                    engines,
                    name=name,
                    dtype=how[0],
                    device=parse_device(device),
                    requested=False,
                    compiled=how[0] != "float64",
                    precision=how[1],
                    on_progress=step,
                )
                return report.to_dict()

            yield f"{name}, {dtype}, {precision}", "checks", compare
    for wanted in speeds(device, quick):
        request = BenchRequest(
            "resnet50",
            resolve("resnet50"),
            tuple(engines),
            device=parse_device(device),
            rounds=2 if quick else 5,
            **wanted,
        )
        label = ", ".join(
            [*wanted["modes"], *wanted["dtypes"], *wanted["compiles"], *["TF32"] * wanted["tf32"]]
        )

        def time(step: Step, request: BenchRequest = request) -> dict[str, Any]:
            return bench(request, step).to_dict()

        yield f"bench, {label}", "benches", time


def write(found: dict[str, Any], folder: Path) -> None:
    """Both files, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".json", json.dumps(found, indent=1) + "\n"), (".md", document(found))):
        with durable(folder / f"{stem(found)}{suffix}") as draft:
            draft.write_text(text)


def stem(found: dict[str, Any]) -> str:
    """The files' name."""
    name = slug(found["hardware"]) or str(found["device"])
    return f"{name}-quick" if found["quick"] else name


def slug(name: str) -> str:
    """A device's name as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def document(found: dict[str, Any]) -> str:
    """The tables, in Markdown."""
    listed = ", ".join(f"{name} {version}" for name, version in sorted(found["versions"].items()))
    lines = [f"# {found['hardware'] or found['device']}", "", f"{listed}.", ""]
    lines += [f"Without {name}: {text}." for name, text in found["missing"].items()]
    lines += ["", "## Parity", "", *parity_table(found["checks"])]
    if found["benches"]:
        lines += ["", "## Speed", "", *speed_table(found["benches"])]
    lines += [f"- not measured: {what}: {why}" for what, why in found["failed"].items()]
    return "\n".join(lines) + "\n"


def parity_table(checks: list[dict[str, Any]]) -> list[str]:
    """One row a comparison: the largest difference, and the bound that it has to keep."""
    rows = ["| net | dtype | products | engines | largest difference | bound | holds |"]
    rows += ["|---|---|---|---|---|---|---|"]
    for report in checks:
        if report["dtype"] == "float64":
            figures = [pair["logits"]["maximum"] for pair in report["pairs"]]
        else:
            figures = [d["maximum"] for d in report["against_float64"].values()]
        worst = max((x for x in figures if x is not None), default=None)
        engines = ", ".join(row["engine"] for row in report["engines"])
        cells = [report["model"], report["dtype"], report["precision"], engines]
        cells += ["–" if worst is None else f"{worst:.1e}", f"{report['tolerance']:.1e}"]
        rows.append("| " + " | ".join([*cells, "yes" if report["holds"] else "**no**"]) + " |")
    problems = [f"- {r['model']}, {r['dtype']}: {text}" for r in checks for text in r["problems"]]
    return [*rows, *(["", *problems] if problems else [])]


def speed_table(benches: list[dict[str, Any]]) -> list[str]:
    """One row a side: images a second, its share of the bound, and the ratio to its peer."""
    rows = ["| mode | dtype | TF32 | side | batch | images/s | of the bound | ratio | to |"]
    rows += ["|---|---|---|---|---|---|---|---|---|"]
    for report in benches:
        tf32 = "on" if report["environment"].get("tf32") else "off"
        for row in report["rows"]:
            cells = [row["mode"], row["dtype"], tf32, row["side"], str(row["batch"])]
            if row["refused"] is not None:
                rows.append(
                    "| " + " | ".join([*cells, f"refused: {row['refused']}", "", "", ""]) + " |"
                )
                continue
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
            cells += [f"{row['images_per_second']:,.0f}", f"{row['share']:.0%}", ratio]
            rows.append("| " + " | ".join([*cells, row["against"] or ""]) + " |")
    return rows


if __name__ == "__main__":
    try:
        main()
    except ResNetError as error:
        sys.exit(f"error: {error}")
