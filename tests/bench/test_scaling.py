"""The cost model of docs/scaling.md: its networks, and how far it is from what was published."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from resnet_parity.aot.result import Compiled
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scaling", ROOT / "benchmarks/scaling.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["scaling"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def programs(script: ModuleType) -> dict[str, Compiled]:
    """ResNet-50's step for v5e, 128 images, as the page has it."""
    row = Compiled(
        engine="flax",
        target="tpu:v5e:2x2",
        devices=4,
        mode="train",
        batch=128,
        compile_seconds=1.0,
        device_memory=16 * 2**30,
        flops=128 * 24.19e9,
        traffic=128 * 332.2e6,
        collectives={"all-reduce": 372},
        collective_bytes=51_600_000,
    )
    return dict.fromkeys(script.CHIPS, row)


def test_rings_and_lines(script: ModuleType) -> None:
    torus = script.Torus(1e9, 4, {4: (2, 2, 1), 64: (4, 4, 4)}, hop=1.0)
    assert (torus.small(4), torus.small(64)) == (4, 12)
    assert (torus.rate(4), torus.rate(64)) == (2e9, 6e9)
    gpus = script.Cluster(300e9, 25e9)
    assert gpus.rate(8) == 300e9
    assert gpus.rate(64) == 200e9
    assert gpus.small(64) == pytest.approx((6.8 + 2 * (7 * 0.6 + 3 * 5)) * 1e-6)


def test_what_the_page_says_of_published_results(
    script: ModuleType, programs: dict[str, Compiled]
) -> None:
    found = script.models(programs)
    off = {
        (e.round, e.system): script.predicted(found[e.chip], e) / e.speed - 1
        for e in script.ENTRIES
    }
    assert len(off) == 20
    for entry in script.ENTRIES:
        if entry.fixes:
            assert off[entry.round, entry.system] == pytest.approx(0, abs=1e-9)
    assert {e for e, d in off.items() if abs(d) > 0.25} == {("v0.7", "tpu-v4-512-TF")}
    # One chip has nobody to tell anything; more images take longer, and more chips wait longer.
    model = found["v5p"]
    assert model.efficiency(1) == 1
    shares = [model.efficiency(n) for n in (4, 64, 1024, 4096)]
    assert shares == sorted(shares, reverse=True)


def test_tables_are_put_between_their_marks(
    script: ModuleType, programs: dict[str, Compiled], tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text((ROOT / "docs/scaling.md").read_text(encoding="utf-8"), encoding="utf-8")
    script.write(page, dict.fromkeys(("checks", "gpus"), "| here |"))
    assert page.read_text(encoding="utf-8").count("-->\n| here |\n<!-- end -->") == 2
    script.write(page, script._tables(script.models(programs), programs))
    text = page.read_text(encoding="utf-8")
    assert "| here |" not in text
    assert "## What is not known" in text
    with pytest.raises(AssertionError, match="0 places for nothing"):
        script.write(page, {"nothing": ""})
