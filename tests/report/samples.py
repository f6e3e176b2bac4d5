"""JSON as check and trace printed it on a tiny net, and as bench prints it, made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "data"
HOSTILE = (
    '"><script>alert(1)</script>',
    "</style><script>alert(2)</script>",
    "javascript:alert(3)",
    "'><img src=x onerror=alert(4)>",
    "{{ 7 * 7 }}{% raw %}",
    "-->]]><svg onload=alert(5)>",
    "\u202egnp.exe\u2066\x00\x1b[31m",
    "&lt;b&gt; & <b>",
)


def real(name: str) -> Any:
    """One of the files in `data`."""
    return json.loads((FOLDER / f"{name}.json").read_text())


SPEEDS = {
    "torch": 40.6,
    "keras:tensorflow": 48.1,
    "keras:jax": 29.7,
    "keras:torch": 33.2,
    "flax": 30.4,
}
PEERS = {"timm": ("torch", 31.6), "keras.applications": ("keras:tensorflow", 43.7)}


def bench(name: str = "resnet50") -> dict[str, Any]:
    """A benchmark: two modes, two batches, five engines, two peers, one refused figure."""
    rows = []
    for mode, batch, slower in (("infer", 1, 1.6), ("infer", 8, 1.0), ("train", 8, 3.4)):
        for i, (side, speed) in enumerate(SPEEDS.items()):
            rows.append(_row(side, side, speed / slower, mode, batch, 0.02 + 0.01 * i))
            rows[-1] |= {"against": "timm", "ratio": speed / 31.6}
        for peer, (engine, speed) in PEERS.items():
            rows.append(_row(peer, engine, speed / slower, mode, batch, 0.03))
            rows[-1]["peer"] = True
    blank = dict.fromkeys(("seconds", "images_per_second", "share", "ratio"))
    rows[2] |= blank | {
        "refused": "512 images/s is above the bound of 79 images/s: the timing did not wait for "
        "the device",
    }
    return {
        "kind": "bench",
        "name": name,
        "command": f"resnet-parity bench {name} --modes infer,train --batch 1,8 --json",
        "environment": {
            "device": "cpu",
            "hardware": "AMD EPYC 9B45",
            "cores": 2,
            "memory_bytes": 16_787_480_576,
            "system": "Linux 6.1",
            "python": "3.11.7",
            "versions": {"torch": "2.13.0", "jax": "0.10.2"},
            "threads": {"torch": 2, "jax": 2},
            "tf32": False,
            "matmul_precision": "highest",
        },
        "bounds": [
            {
                "dtype": "float32",
                "flops_per_second": 4.2e11,
                "bytes_per_second": 2.1e10,
                "kernel": "3×3 convolution, 256 channels",
            }
        ],
        "parity": [
            {
                "side": s,
                "reference": "torch in float64",
                "error": 4.4e-7,
                "bound": 1.7e-5,
                "holds": True,
            }
            for s in (*SPEEDS, *PEERS)
        ],
        "rows": rows,
        "scaling": _scaling(),
    }


def _row(
    side: str, engine: str, speed: float, mode: str, batch: int, spread: float
) -> dict[str, Any]:
    low, high = batch / speed * (1 - spread), batch / speed * (1 + 2 * spread)
    bound = 79.25 if mode == "infer" else 26.4
    return {
        "side": side,
        "engine": engine,
        "peer": False,
        "against": None,
        "mode": mode,
        "batch": batch,
        "size": [224, 224],
        "dtype": "float32",
        "form": "inference" if mode == "infer" else "plain",
        "layout": "channels_last",
        "compile": "none",
        "seconds": {"median": batch / speed, "low": low, "high": high, "passes": [low, high]},
        "images_per_second": speed,
        "bound_images_per_second": bound,
        "share": speed / bound,
        "ratio": None,
        "import": 1.23,
        "build": 0.456,
        "load": 0.0789,
        "first_call": 2.34,
        "peak_host_bytes": 5.4321e8 * (1 + batch / 8),
        "peak_device_bytes": None,
        "refused": None,
    }


def _scaling() -> list[dict[str, Any]]:
    points = []
    for side, base in (("torch", 2900.0), ("flax", 2100.0)):
        for depth in (20, 32, 44, 56, 110, 302, 1202):
            points.append(
                {
                    "over": "depth",
                    "side": side,
                    "mode": "infer",
                    "x": depth,
                    "label": f"resnet{depth}",
                    "images_per_second": base * 20 / depth,
                    "share": 0.31,
                    "first_call": 0.05 * depth * (3 if side == "flax" else 1),
                }
            )
        for batch in (1, 2, 4, 8, 16, 32):
            speed = base / 80 * batch / (batch + 1.5)
            points.append(
                {
                    "over": "batch",
                    "side": side,
                    "mode": "infer",
                    "x": batch,
                    "label": "resnet50",
                    "images_per_second": speed,
                    "share": speed / 79.25,
                    "first_call": None,
                }
            )
    return points
