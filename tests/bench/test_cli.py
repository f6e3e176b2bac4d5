"""The command line of `bench`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from resnet_parity.bench import measure as benching
from resnet_parity.bench import peers
from resnet_parity.bench.result import BenchReport
from resnet_parity.cli.app import app
from resnet_parity.engines.registry import Engine
from resnet_parity.render.bench import table
from shared_spec import ResNetError
from tests.bench.fakes import Fakes

RUN = CliRunner()


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    found = Fakes()
    monkeypatch.setattr(Engine, "missing", lambda engine: None)
    monkeypatch.setattr(peers, "peer_missing", lambda peer: None)
    bench = benching.bench

    def faked(request: Any, step: Any, scale: Any) -> Any:
        return bench(request, step, found.start, scale)

    monkeypatch.setattr(benching, "bench", faked)
    return found


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "block: basic\ndepths: [1, 1]\nwidths: [8, 16]\nstem_width: 8\n"
        "num_classes: 7\nimage_size: 32\n"
    )
    return str(path)


def test_the_table_says_every_setting(fakes: Fakes, tiny: str, tmp_path: Path) -> None:
    output, plot = tmp_path / "found.json", tmp_path / "found.png"
    options = ["--engines", "torch,flax", "--batch", "4", "--seconds", "0.01", "--rounds", "2"]
    options += ["--output", str(output), "--plot", str(plot), "--scaling", "batch"]
    options += ["--batches", "1,2", "--latency", "150"]
    found = RUN.invoke(app, ["bench", tiny, *options])
    assert found.exit_code == 0, found.output
    data = json.loads(output.read_text())
    assert plot.read_bytes().startswith(b"\x89PNG")
    console = Console(file=io.StringIO(), width=300)
    table(console, BenchReport.from_dict(data))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for word in ("torch 1.0", "threads: torch 3", "TF32 off", "OMP_NUM_THREADS=3", "highest"):
        assert word in text
    for word in ("channels_last", "quartiles of 2 rounds", "400.0", "flax example", "1.00"):
        assert word in text
    for word in ("p50", "10.0 ms", "p99", "100.0 ms", "calls", "150"):
        assert word in text
    for word in ("GFLOP/s", "batch 2", "parity: 7 of 7", "nearest to its bound"):
        assert word in text


def test_json_goes_to_standard_output(fakes: Fakes, tiny: str) -> None:
    options = ["--engines", "torch", "--seconds", "0.01", "--json", "--batch", "4"]
    found = RUN.invoke(app, ["bench", tiny, *options])
    assert found.exit_code == 0
    assert json.loads(found.stdout)["kind"] == "bench"


def test_a_refusal_ends_in_1_and_is_told(fakes: Fakes, tiny: str) -> None:
    fakes.seconds = lambda key: 1e-9
    found = RUN.invoke(app, ["bench", tiny, "--engines", "torch", "--batch", "4"])
    assert found.exit_code == 1
    assert "above the bound" in found.stdout
    assert "refused" in found.stdout


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--modes", "infer,fly"], "modes: 'fly' is not one of infer, train"),
        (["--modes", ""], "modes: '' is not one of infer, train"),
        (["--batch", "1,0"], "batch: '1,0' is not a list of whole numbers from 1"),
        (["--batch", "many"], "batch: 'many' is not a list"),
        (["--batch", "1000000"], "batch: '1000000' is not a list"),
        (["--size", "1x2x3"], "size: '1x2x3' is not a size"),
        (["--size", "1,2"], "size: '1,2' is not a size"),
        (["--dtype", "float64"], "dtype: 'float64' is not one of float32, bfloat16"),
        (["--device", "abacus"], "device: 'abacus' is not one of cpu, gpu, tpu"),
        (["--layout", "diagonal"], "layout: 'diagonal' is not one of"),
        (["--compile", "twice"], "compile: 'twice' is not one of none, default"),
        (["--form", "folded"], "form: 'folded' is not one of plain, inference"),
        (["--form", "remat"], "form: with --modes infer there is no remat; there are plain,"),
        (["--engines", "theano"], "engines: there is no engine 'theano'"),
        (["--scaling", "width"], "scaling: 'width' is not one of batch, depth, size"),
        (["--depths", "20"], "--depths: only with --scaling depth"),
        (["--scaling", "depth", "--depths", "21"], "'resnet21'"),
        (["--output", "/nowhere/x.json"], "its directory does not exist"),
        (["--plot", "x.bmp"], "a picture's name ends in one of"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(tiny: str, options: list[str], sentence: str) -> None:
    found = RUN.invoke(app, ["bench", tiny, *options])
    assert isinstance(found.exception, ResNetError)
    assert sentence in str(found.exception)
    assert found.stdout == ""
