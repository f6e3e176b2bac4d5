"""What a GPU or TPU computes, held against the CPU, and how fast: one command, no network.

    python benchmarks/accelerator.py [--device gpu] [--output docs/results] [--quick]

Runs, in whichever engines are installed:

1. `check` of each net: float64 against the CPU's (not on TPUs, which have none), float32 with full
   products and with each framework's own, bfloat16, all within the bounds that float64 measures;
2. `bench` of ResNet-50 in float32, float32 with TF32 and bfloat16, inference and training, with
   the libraries that are installed, and its share of the bound of this very device.

Writes `<device's name>.json` with everything and `<device's name>.md` to read. Each part is written
as it is done, so that a machine that is taken away leaves what it has measured.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resnet_parity import tables
from resnet_parity.bench import bench
from resnet_parity.bench_report import Request
from resnet_parity.check import check
from resnet_parity.engines import ENGINES, parse_device
from resnet_parity.terminal import err
from shared_spec import ResNetError, resolve
from shared_spec.durable import durable

NETS = ("resnet18", "resnet50", "seresnext50_32x4d", "resnetv2_50x1_bit")
TRAIN_BATCH, INFER_BATCH = 256, 512
Step = Any


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
    given = parser.parse_args()
    names = given.engines.split(",") if given.engines else list(ENGINES)
    engines = [ENGINES[name] for name in names if ENGINES[name].missing() is None]
    found: dict[str, Any] = {"device": given.device, "checks": [], "benches": [], "failed": {}}
    found["missing"] = {n: ENGINES[n].missing() for n in names if ENGINES[n].missing()}
    with tables.progress(err) as step:
        for name in NETS:
            spec = resolve(name, {"depths": [1, 1, 1, 1]} if given.quick else {})
            for dtype, precision in settings(given.device):
                text = f"{name}, {dtype}, {precision}"
                report = check(
                    spec,
                    engines,
                    name=name,
                    dtype=dtype,
                    device=parse_device(given.device),
                    requested=False,
                    compiled=dtype != "float64",
                    precision=precision,
                    step=lambda part, text=text: step(f"{text}: {part}"),
                )
                found["checks"].append(report.to_dict())
                write(found, given.output)
        for request in speeds(given.device, given.quick):
            options = {"device": parse_device(given.device), "rounds": 2 if given.quick else 5}
            try:
                asked = Request(
                    "resnet50", resolve("resnet50"), tuple(engines), **options, **request
                )
                found["benches"].append(bench(asked, step).to_dict())
            except ResNetError as error:
                found["failed"][str(request)] = str(error)
            write(found, given.output)


def write(found: dict[str, Any], folder: Path) -> None:
    """Both files, whole or not at all."""
    stem = slug(hardware(found)) or found["device"]
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".json", json.dumps(found, indent=1) + "\n"), (".md", document(found))):
        with durable(folder / f"{stem}{suffix}") as draft:
            draft.write_text(text)


def hardware(found: dict[str, Any]) -> str:
    """The device's own name, as the engines tell it."""
    own = [
        row["device"]
        for report in found["checks"]
        for row in report["engines"]
        if not row["engine"].endswith("(cpu)")
    ]
    return own[0] if own else ""


def slug(name: str) -> str:
    """A device's name as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def document(found: dict[str, Any]) -> str:
    """The tables, in Markdown."""
    versions = {
        name: version
        for report in found["checks"]
        for row in report["engines"]
        for name, version in row["versions"].items()
    }
    listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    lines = [f"# {hardware(found) or found['device']}", "", f"{listed}.", ""]
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
    main()
