"""The sweep over the catalogue: what it compares, how it goes on, and that it notices."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from resnet_parity.check.catalogue import SweepObserver, SweepSettings, sweep
from resnet_parity.check.record_file import LibraryVerdict, SweepRecord, read_records
from resnet_parity.engines.memory import available_memory, fitting_dtype, peak_bytes
from resnet_parity.engines.process import EngineError, Worker
from resnet_parity.engines.reference_libraries import REFERENCES, references_of
from resnet_parity.engines.registry import ENGINES, Device, Engine
from resnet_parity.render.markdown import markdown, summary
from resnet_parity.render.progress import SweepProgress
from resnet_parity.worker.reference_libraries import reference_results
from shared_spec import (
    CATALOGUE,
    Checkpoint,
    ResNetError,
    compile_plan,
    random_images,
    random_weights,
    read_safetensors,
    write_safetensors,
)
from shared_spec.catalogue import Entry
from tests.conftest import Pool

SMALL = CATALOGUE["test_resnet"]
ALONE = CATALOGUE["resnet20"]
SETTINGS = SweepSettings((ENGINES["torch"], ENGINES["flax"]))


class Borrowed:
    """A worker of the pool, which outlives the sweep. `spoil` changes what it is asked."""

    def __init__(self, worker: Worker, calls: list[str], spoil: Callable[..., None]) -> None:
        self.worker, self.calls, self.spoil = worker, calls, spoil

    def call(self, operation: str, **arguments: Any) -> Any:
        self.calls.append(operation)
        self.spoil(self.worker.engine.name, operation, arguments)
        return self.worker.call(operation, **arguments)

    def resident(self) -> int:
        return 0

    def close(self) -> None:
        pass


class Lab:
    """Sweeps on the pool's workers, with results in a folder; `calls` is what they were asked."""

    def __init__(self, pool: Pool, folder: Path) -> None:
        self.pool, self.results = pool, folder / "results.jsonl"
        self.calls: list[str] = []
        self.spoil: Callable[..., None] = lambda engine, operation, arguments: None
        self.memory: int | None = None

    def start(self, engine: Engine, device: Device) -> Any:
        return Borrowed(self.pool[engine.name], self.calls, self.spoil)

    def sweep(self, *entries: Entry, settings: SweepSettings = SETTINGS) -> list[SweepRecord]:
        self.calls.clear()
        return sweep(
            entries,
            settings,
            self.results,
            SweepObserver(),
            start=self.start,
            available=lambda: self.memory,
        )


@pytest.fixture
def lab(pool: Pool, tmp_path: Path) -> Lab:
    return Lab(pool, tmp_path)


def test_which_libraries_judge_which_names() -> None:
    names = [r.name for entry in CATALOGUE.values() for r in references_of(entry)]
    assert {name: names.count(name) for name in REFERENCES} == {
        "torchvision": 29,
        "timm": 209,
        "keras.applications": 6,
    }


def test_it_holds_and_goes_on_where_it_ended(lab: Lab) -> None:
    first = lab.sweep(SMALL, ALONE)
    assert lab.calls == ["run", "run", "reference", "run", "run"]
    assert [r.all_problems() for r in first] == [[], []]
    small, alone = first
    assert set(small.references["timm"].differences) == {"torch", "flax"}
    assert small.references["timm"].parameters == small.parameters == 469_688
    assert (small.dtype, small.sizes, small.pair) == ("float64", [(97, 64)], ["torch", "flax"])
    assert alone.references == {}
    assert alone.sizes == [(49, 32)]
    again = lab.sweep(SMALL, ALONE)
    assert lab.calls == []
    assert [r.key for r in again] == [r.key for r in first]
    lab.results.write_bytes(lab.results.read_bytes()[:-20])  # as a kill may leave it
    lab.sweep(SMALL, ALONE)
    assert lab.calls == ["run", "run"]
    assert set(read_records(lab.results)) == {"test_resnet", "resnet20"}
    lab.sweep(SMALL, ALONE)
    assert lab.calls == []


def test_what_makes_a_result_out_of_date(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.sweep(ALONE)
    lab.sweep(replace(ALONE, fields={**ALONE.fields, "norm_eps": 1e-3}))
    assert lab.calls
    lab.sweep(ALONE, settings=replace(SETTINGS, seed=1))
    assert lab.calls
    monkeypatch.setattr(
        "resnet_parity.check.catalogue.versions_of", lambda modules: {"torch": "0.1"}
    )
    lab.sweep(ALONE)
    assert lab.calls
    monkeypatch.setattr("resnet_parity.check.catalogue.code_digest", lambda: "another")
    lab.sweep(ALONE)
    assert lab.calls


def test_float32_where_memory_is_short(lab: Lab) -> None:
    count = compile_plan(SMALL.spec).parameter_count()
    lab.memory = peak_bytes(count, "float32")
    (record,) = lab.sweep(SMALL)
    assert record.all_problems() == []
    assert record.dtype == "float32"
    assert record.tolerance is not None
    assert 1e-7 < record.tolerance < 1e-3
    assert record.between is not None
    assert record.between > 1e-12
    text = markdown([record])
    assert "| float32 |" in text
    assert f"`test_resnet` {record.tolerance:.1e}" in text
    lab.memory = 0
    (record,) = lab.sweep(ALONE)
    assert record.problems == ["needs 1.5 GiB of memory in float32, and 0.0 are free"]
    assert not record.holds


def test_the_dtype_follows_from_memory() -> None:
    gib = 2**30
    assert fitting_dtype(937_000_000, "float64", 20 * gib) == "float64"
    assert fitting_dtype(937_000_000, "float64", 10 * gib) == "float32"
    assert fitting_dtype(937_000_000, "float64", 5 * gib) is None
    assert fitting_dtype(937_000_000, "float64", None) == "float64"
    free = available_memory()
    assert free is not None
    assert free > gib / 10


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_fault_is_noticed_and_tried_again(lab: Lab, tmp_path: Path, dtype: str) -> None:
    def spoil(engine: str, operation: str, arguments: dict[str, Any]) -> None:
        if engine == "flax":
            state = read_safetensors(arguments["weights"]).state
            state["layer2.0.bn1.running_mean"] *= np.float32(1.01)
            arguments["weights"] = str(tmp_path / "spoiled.safetensors")
            write_safetensors(arguments["weights"], Checkpoint(state))

    settings = replace(SETTINGS, dtype=dtype)
    lab.spoil = spoil
    (record,) = lab.sweep(SMALL, settings=settings)
    first, second = record.all_problems()
    assert first.startswith("torch and flax differ by ")
    assert second.startswith("timm and flax differ by ")
    text = markdown([record])
    assert "**0 of 1** comparisons with a library hold." in text
    assert f"- `test_resnet`: {first}" in text
    lab.spoil = lambda *_: None
    (record,) = lab.sweep(SMALL, settings=settings)
    assert lab.calls
    assert record.holds


def test_an_engine_that_dies_is_told_and_the_rest_goes_on(lab: Lab) -> None:
    def spoil(engine: str, operation: str, arguments: dict[str, Any]) -> None:
        if engine == "flax":
            raise EngineError("the worker process was killed by SIGKILL")

    lab.spoil = spoil
    small, alone = lab.sweep(SMALL, ALONE)
    assert small.all_problems() == ["flax failed: the worker process was killed by SIGKILL"]
    assert set(small.references["timm"].differences) == {"torch"}
    assert "nothing was compared" in alone.problems


def test_sizes_that_a_net_refuses_are_told(lab: Lab) -> None:
    averaged = CATALOGUE["resnetaa50d"]
    (record,) = lab.sweep(averaged, settings=replace(SETTINGS, sizes=((81, 81),)))
    assert lab.calls == []
    assert "the shortcut gives" in record.problems[0]


def test_missing_libraries_and_engines_are_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = replace(REFERENCES["timm"], requires=("no_such_timm",))
    monkeypatch.setitem(REFERENCES, "timm", timm)
    absent = replace(ENGINES["keras:jax"], requires=("no_such_jax",))
    settings = SweepSettings((*SETTINGS.engines, absent), requested=False)
    (record,) = lab.sweep(SMALL, settings=settings)
    assert record.holds
    told = "no_such_timm not installed; run: pip install no_such_timm"
    assert record.missing["timm"] == told
    assert set(record.missing) == {"timm", "keras:jax"}
    assert record.references == {}
    assert f"Without timm: {told}." in markdown([record])
    (record,) = lab.sweep(SMALL, settings=replace(settings, requested=True))
    assert record.problems[0].startswith("keras:jax is missing: no_such_jax not installed")


def test_sweeps_have_no_narrow_dtypes() -> None:
    with pytest.raises(ResNetError, match="dtype: 'float16'; a sweep takes float64 or float32"):
        replace(SETTINGS, dtype="float16")


def test_libraries_load_strictly() -> None:
    state = random_weights(compile_plan(SMALL.spec))
    images = [random_images((1, 64, 64, 3))]
    for wrong in (
        {k: v for k, v in state.items() if k != "fc.bias"},
        state | {"x": state["fc.bias"]},
    ):
        with pytest.raises(ResNetError, match=r"(Missing|Unexpected) key\(s\) in state_dict"):
            reference_results(REFERENCES["timm"], SMALL, wrong, "float64", images)


RECORD = SweepRecord(
    "resnetv2_50d_frn", "timm_v2", "key", "2026-11-21", "float64", "cpu", [(97, 64)], 2, 25_000,
    {"torch": "2.13.0", "timm": "1.0.31"}, 1e-12, {"torch": 1.0, "flax": 2.0}, 1e-15,
    ["torch", "flax"], {"timm": LibraryVerdict(25_000, {"torch": 0.0, "flax": None}, recast=True)},
)  # fmt: skip


def test_the_report() -> None:
    lines = markdown([RECORD, replace(RECORD, name="resnet20", references={})]).splitlines()
    assert (
        "| `resnetv2_50d_frn` | timm¹ | 25,000 | float64 | 2×97×64 | 0 | NaN | 1.0e-15 | holds |"
    ) in lines
    assert "| `resnet20` | 25,000 | float64 | 2×97×64 | 1.0e-15 | torch, flax | holds |" in lines
    (note,) = [line for line in lines if line.startswith("¹ ")]
    assert "float32" in note
    assert "**1 of 1** comparisons with a library hold, and 1 of 1 names without one." in lines
    assert any("2026-11-21" in line and "timm 1.0.31, torch 2.13.0" in line for line in lines)


def test_records_survive_json() -> None:
    data = json.loads(json.dumps(summary([RECORD])))
    (back,) = (SweepRecord.from_dict(record) for record in data["records"])
    assert back.references == RECORD.references
    assert back == RECORD


def test_lines_of_others_are_passed_over(lab: Lab) -> None:
    (record,) = lab.sweep(SMALL)
    good = record.to_dict()
    bad = [
        {"name": []},
        {"problems": 5},
        {"problems": None},
        {"references": {"timm": {"problems": 5}}},
    ]
    lines = [json.dumps(good | change) for change in bad] + ["[" * 100_000, "7", "null", '"x"']
    lab.results.write_text("\n".join(lines) + "\n")
    assert read_records(lab.results) == {}
    lab.sweep(SMALL)
    assert lab.calls


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(terminal: bool) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120)
    bad = replace(RECORD, name="bad", problems=["torch [dim]failed[/]: so it is"])
    with SweepProgress(console, {RECORD.name: 25_000, "bad": 1}) as bar:
        bar.step(RECORD.name, "torch")
        bar.done(RECORD, True)
        bar.step("bad", "flax")
        bar.done(bad, False)
    text = file.getvalue()
    assert "2/2 bad: ✗ torch [dim]failed[/]: so it is" in text
    assert ("1/2 resnetv2_50d_frn: ✓ float64, timm NaN" in text) is not terminal
