"""The script for accelerators, on this machine's CPU: what it asks for, and what it writes."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from resnet_parity.check.forward import check
from resnet_parity.engines.registry import ENGINES
from shared_spec import ResNetError
from tests.conftest import ROOT, Pool

pytestmark = pytest.mark.optimised


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("accelerator", ROOT / "benchmarks/accelerator.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_comparison_that_a_device_can_make(script: ModuleType) -> None:
    assert list(script.settings("tpu")) == list(script.settings("gpu"))[1:]
    gpu = list(script.speeds("gpu", quick=False))
    assert {(r["dtypes"], r["tf32"]) for r in gpu} == {
        (("float32",), False),
        (("float32",), True),
        (("bfloat16",), False),
    }
    assert {r["modes"] for r in gpu} == {("infer",), ("train",)}
    assert not any(r["tf32"] for r in script.speeds("tpu", quick=False))


def test_what_it_finds_is_written_as_it_goes(
    script: ModuleType, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def small(spec: Any, engines: Any, **options: Any) -> Any:
        assert [e.name for e in engines] == ["torch", "flax"]
        asked.append((options["name"], options["dtype"], options["precision"]))
        tiny = spec.override(depths=[1, 1], widths=[32, 32], num_classes=5)
        return check(tiny, engines[:1], **options | {"sizes": [(32, 32)], "start": pool.start})

    timed = []

    def bench(request: Any, step: Any) -> Any:
        timed.append(request.modes)
        if request.modes == ("train",):
            raise ResNetError("it is told")
        if len(timed) == 3:
            raise KeyboardInterrupt  # the machine is taken away
        return SimpleNamespace(to_dict=lambda: {"rows": [], "environment": {}})

    monkeypatch.setattr(script, "NETS", ("resnet18",))
    monkeypatch.setattr(script, "Worker", pool.start)
    monkeypatch.setattr(script, "check", small)
    monkeypatch.setattr(script, "bench", bench)
    arguments = ["--device", "cpu", "--engines", "torch,flax", "--output", str(tmp_path), "--quick"]
    monkeypatch.setattr(sys, "argv", ["accelerator.py", *arguments])
    with pytest.raises(KeyboardInterrupt):
        script.main()
    (page,) = tmp_path.glob("*.md")
    found = json.loads(page.with_suffix(".json").read_text())
    assert [(r["model"], r["dtype"], r["precision"]) for r in found["checks"]] == asked
    assert len(asked) == 4
    assert found["done"][-1] == "bench, infer, float32, none"
    assert found["failed"] == {"bench, train, float32, none": "it is told"}
    # Again, it goes on where it was, and tries anew what failed.
    timed[:] = [("begun",)] * 4
    script.main()
    assert len(asked) == 4
    assert timed[4:] == [("train",), *[("infer",), ("train",)] * 3]
    monkeypatch.setattr(sys, "argv", ["accelerator.py", *arguments, "--anew"])
    script.main()
    assert len(asked) == 8
    monkeypatch.setattr(sys, "argv", ["accelerator.py", *arguments])
    left = json.loads(page.with_suffix(".json").read_text())
    left["versions"]["torch"] = "1.0"
    page.with_suffix(".json").write_text(json.dumps(left))
    with pytest.raises(ResNetError, match=r"is of versions .* overwrite it with --anew"):
        script.main()
    assert len(asked) == 8
    text = page.read_text()
    assert "- not measured: bench, train, bfloat16, default: it is told" in text
    assert f"torch {found['checks'][0]['engines'][0]['versions']['torch']}" in text
    # One engine alone proves nothing in float64, and the table says so.
    assert "| resnet18 | float64 | highest | torch | – | 1.0e-12 | **no** |" in text
    error = found["checks"][1]["against_float64"]["torch"]["maximum"]
    assert f"| resnet18 | float32 | highest | torch | {error:.1e} |" in text
    assert "nothing was compared: torch ran alone" in text


def test_speeds_and_refusals_are_rows(script: ModuleType) -> None:
    row = {"mode": "infer", "dtype": "float32", "side": "torch", "batch": 8, "refused": None}
    row |= {"images_per_second": 1234.5, "share": 0.61, "ratio": 1.25, "against": "timm"}
    refused = row | {"side": "flax", "refused": "above the bound"}
    lines = script.speed_table([{"environment": {"tf32": True}, "rows": [row, refused]}])
    assert lines[2] == "| infer | float32 | on | torch | 8 | 1,234 | 61% | 1.25 | timm |"
    assert lines[3] == "| infer | float32 | on | flax | 8 | refused: above the bound |  |  |  |"


def test_a_missing_engine_is_told(script: ModuleType) -> None:
    assert "torch" in ENGINES
    found = {"device": "gpu", "hardware": "", "versions": {}, "checks": [], "benches": []}
    found["failed"] = {}
    text = script.document(found | {"missing": {"keras:tensorflow": "tensorflow not installed"}})
    assert "Without keras:tensorflow: tensorflow not installed." in text
