"""`resnet-parity report`: what it reads, what it runs itself, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from resnet_parity import report
from resnet_parity.bench import measure as benching
from resnet_parity.bench.peers import Candidate
from resnet_parity.bench.result import BenchReport, BenchRequest, BenchRow, Bound, Case, Parity
from resnet_parity.check.result import CheckReport
from resnet_parity.cli.app import app
from resnet_parity.engines.bench_job import Rates
from resnet_parity.engines.process import EngineError
from resnet_parity.engines.registry import ENGINES
from resnet_parity.report import commands
from resnet_parity.report.collect import read, record
from resnet_parity.trace.result import TraceReport
from shared_spec.catalogue.resolve import resolve
from shared_spec.errors import ResNetError
from tests.command import command
from tests.conftest import FAST, ROOT, Pool
from tests.report.reading import Page
from tests.report.samples import FOLDER, bench, real

TINY = "block: basic\ndepths: [1, 1]\nwidths: [8, 16]\nnum_classes: 7\nimage_size: 32\n"


def run(*arguments: object, code: int = 0) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "resnet_parity", "report", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def test_from_files(tmp_path: Path) -> None:
    timed = tmp_path / "bench.json"
    timed.write_text(json.dumps([bench("tiny.yaml"), bench("resnet18")]))
    given = ["--check", FOLDER / "check_tiny.json", "--trace", FOLDER / "trace_tiny.json"]
    output = tmp_path / "report.html"
    out, _ = run(*given, "--bench", timed, "--date", "today", "-o", output, "--json")
    told = json.loads(out)
    assert told["report"] == str(output)
    assert told["holds"] is True
    assert [net["name"] for net in told["nets"]] == ["tiny.yaml", "resnet18"]
    page = Page(output.read_text())
    assert "today" in page.root.text
    items = next(e for e in page.all("ul") if e.attributes.get("class") == "verdicts").all("li")
    assert [net["summary"] in e.text for net, e in zip(told["nets"], items, strict=True)] == [
        True
    ] * 2
    assert {p.name for p in tmp_path.iterdir()} == {"bench.json", "report.html"}


def test_what_does_not_hold_is_written_and_told(tmp_path: Path) -> None:
    data = real("check_tiny") | {"holds": False, "problems": ["torch has 3 parameters"]}
    file = tmp_path / "check.json"
    file.write_text(json.dumps(data))
    output = tmp_path / "report.html"
    out, _ = run("--check", file, "-o", output, code=1)
    assert "✗ tiny.yaml: 5 engines do not agree in float64: torch has 3 parameters" in out
    assert "✗ does not hold" in output.read_text()


def upgraded() -> tuple[dict[str, Any], dict[str, Any]]:
    """A check and a benchmark as of after an upgrade of torch that broke a block and is faster."""
    check, timed = real("check_tiny"), bench("tiny.yaml")
    for versions in [timed["environment"]["versions"], *(e["versions"] for e in check["engines"])]:
        versions |= {"torch": "2.99"} if "torch" in versions else {}
    check["pairs"][0]["blocks"]["maximum"] = 2.5e-9
    check |= {"holds": False, "problems": ["torch and keras:tensorflow part at layer2.0"]}
    for row in timed["rows"]:
        if (row["side"], row["mode"], row["batch"]) == ("torch", "infer", 8):
            row["images_per_second"] *= 2
            row["ratio"] *= 2
            row["seconds"] = {key: row["seconds"][key] / 2 for key in ("median", "low", "high")}
            # Records of before are without.
            row["latency"] = {"p50": 0.0123, "p99": None, "calls": [0.0123]}
    return check, timed


def test_against_an_earlier_report(tmp_path: Path) -> None:
    given = {}
    for name, (check, timed) in {
        "old": (real("check_tiny"), bench("tiny.yaml")),
        "new": upgraded(),
    }.items():
        files = [tmp_path / f"{name}_{kind}.json" for kind in ("check", "bench")]
        for file, data in zip(files, (check, timed), strict=True):
            file.write_text(json.dumps(data))
        given[name] = ["--check", files[0], "--bench", files[1], "-o", tmp_path / f"{name}.html"]
    old = tmp_path / "old.json"
    old.write_text(command("report", *given["old"], "--json").out)
    same = command("report", *given["old"], "--against", old).out
    assert "since old.json:\n  nothing moved\n" in same
    shown = command("report", *given["new"], "--against", old)
    assert shown.code == 1
    said = " ".join(shown.out.split())
    for text in (
        "version of torch: 2.13.0+cpu, 2.13.0 → 2.99",
        "tiny.yaml: holds → does not hold",
        "tiny.yaml: 1 of 20 parity figures moved, the largest being worst block of torch and "
        "keras:tensorflow in float64",
        "9.2e-16 → 2.5e-09 (over the bound of 1e-12)",
        "tiny.yaml: torch, inference, batch 8, 224 × 224, float32: 40.6 → 81.2 images/s, 2.00×; "
        "beside the peer 1.28× → 2.57×",
    ):
        assert text in said
    told = json.loads(command("report", *given["new"], "--against", old, "--json").out)
    moved = [each for each in told["against"]["parity"] if each["before"] != each["after"]]
    assert [each["after"] for each in moved] == [2.5e-9]
    assert [each["what"] for each in told["against"]["speed"] if each["apart"]] == [
        "torch, inference, batch 8, 224 × 224, float32"
    ]
    page = Page((tmp_path / "new.html").read_text())
    cells = {cell.text for cell in page.all("td")}
    assert {"✗ 2.5e-09", "▲ 2.00×", "2.57×", "12.3 ms"} <= cells
    notices = [e.text for e in page.all("p") if "notice" in e.attributes.get("class", "")]
    assert "✗ tiny.yaml: holds → does not hold" in notices
    # What was measured once, and nets of one side alone.
    before, after = report.read_report(old), report.read_report(old)
    after[0].checks[0].pairs.pop()
    before[0].benches.clear()
    found = report.compare(before, [*after, report.Net("resnet20")], "old.json")
    texts = [text for text, _ in report.sentences(found)]
    assert "resnet20 is new" in texts
    assert any(text.startswith("tiny.yaml: 2 of 20 parity figures moved") for text in texts)
    assert any("– → 40.6 images/s" in text for text in texts)
    assert "tiny.yaml is no longer there" in dict(
        report.sentences(report.compare(after, [report.Net("resnet20")], "x"))
    )


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (real("check_tiny"), "(it has no list of nets)"),
        ([], "(it has no list of nets)"),
        ({"nets": [{"holds": True}]}, "(a net has no name)"),
        ({"nets": [{"name": "resnet18", "holds": True}]}, "(resnet18 has no list of checks)"),
        ({"nets": [{"name": "a", "checks": [{}], "traces": [], "benches": []}]}, "(model: "),
    ],
)
def test_against_what_is_no_report(data: Any, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    file.write_text(json.dumps(data))
    with pytest.raises(ResNetError, match=re.escape(sentence)) as caught:
        report.read_report(file)
    assert str(caught.value).startswith(f"{file}: is not what `resnet-parity ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--against", "missing.json"], "missing.json: cannot be read"),
        ([], "report: name a net, or give files with --check, --trace, --bench or --aot"),
        (["resnet19"], "resnet18"),
        (["--speed"], "--speed: name the models to measure"),
        (["--check", "missing.json"], "missing.json: cannot be read (No such file or directory)"),
        (["resnet18", "-o", "no/such/report.html"], "its directory does not exist"),
        (["resnet18", "--dtype", "float31"], "float31"),
        (["resnet18", "--engines", "tpu"], "there is no engine 'tpu'"),
    ],
)
def test_refusals(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    out, err = run(*arguments, code=2)
    assert out == ""
    assert err.startswith("error: ")
    assert err.strip().count("\n") == 0
    assert sentence in err


@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        ("{", CheckReport, "is not JSON"),
        ("[" * 100_000, CheckReport, "is not JSON"),
        ("[]", BenchReport, "holds no record"),
        ("3", CheckReport, "is not what `resnet-parity check NAME --json` prints"),
        ("{}", TraceReport, "is not what `resnet-parity trace NAME --json` prints (model: "),
        (json.dumps(real("trace_tiny")), CheckReport, "(inputs: Field required)"),
        (json.dumps(real("check_tiny")), BenchReport, "(name: Field required)"),
        (json.dumps(real("check_tiny") | {"parameters": 10**400}), CheckReport, "(parameters: "),
    ],
)
def test_files_that_hold_something_else(
    text: str, kind: Any, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "given.json"
    path.write_text(text)
    with pytest.raises(ResNetError) as caught:
        read(path, kind)
    assert str(caught.value).startswith(str(path))
    assert sentence in str(caught.value)


def test_a_name_in_a_file_is_not_opened(tmp_path: Path) -> None:
    spec = tmp_path / "mine.yaml"
    spec.write_text(TINY)
    file = tmp_path / "check.json"
    file.write_text(json.dumps(real("check_tiny") | {"model": str(spec)}))
    (net,) = report.collect([], report.Files(checks=[file]), report.ReportSettings([]))
    assert net.spec is None


def parsed(line: str) -> dict[str, Any]:
    """A command as the command line would take it, without running it."""
    words = shlex.split(line.partition(" > ")[0])
    assert words[0] == "resnet-parity"
    group: Any = typer.main.get_command(app)
    found: dict[str, Any] = group.commands[words[1]].make_context(words[1], words[2:]).params
    return found


@pytest.mark.parametrize("name", ["resnet18", "a b.yaml", "-x.yaml", "$(reboot).yaml", "';'"])
def test_commands_are_such_as_the_command_line_takes(name: str) -> None:
    check = record(real("check_tiny") | {"model": name}, CheckReport, "it")
    trace = record(real("trace_tiny32") | {"model": name}, TraceReport, "it")
    path = f"./{name}" if name[0] == "-" else name
    found = parsed(commands.check(check))
    assert found["model"] == path
    assert found["engines"] == ",".join(ENGINES)
    assert found["image_size"] == ["32x32", "33x33", "49x32"]
    assert found["batch"] == 2
    found = parsed(commands.trace(trace))
    assert found["model"] == path
    assert [found[k] for k in ("engines", "dtype", "gradients", "image_size", "batch")] == [
        "torch,keras:jax",
        "float32",
        True,
        32,
        4,
    ]
    own = real("trace_tiny") | {"model": name, "other": "my.net:make", "engines": []}
    own["engines"] = real("trace_tiny")["engines"][:1]
    found = parsed(commands.trace(record(own, TraceReport, "it")))
    assert [found[k] for k in ("model", "engines", "against")] == [path, "torch", "my.net:make"]
    measuring = (
        commands.missing_check,
        commands.missing_trace,
        commands.missing_bench,
        commands.missing_scaling,
        lambda name: commands.own_bench(name, [ENGINES["torch"]], "cpu"),
    )
    for line in [of(name) for of in measuring]:
        assert parsed(line)["model"] == path
    checked = record(real("check_tiny"), CheckReport, "it")
    found = parsed(commands.whole([name], [checked], True))
    assert (found["models"], found["speed"]) == ([path], True)
    assert found["engines"].split(",") == [ran.engine for ran in checked.ran]
    assert parsed(commands.whole([name], [], False))["engines"] is None


def test_what_no_file_tells_is_run(
    tmp_path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    engines = [ENGINES["torch"], ENGINES["flax"]]
    steps: list[str] = []
    nets = report.collect(
        ["tiny.yaml"],
        report.Files(),
        report.ReportSettings(engines, start=pool.start),
        steps.append,
    )
    (net,) = nets
    assert [len(x) for x in (net.checks, net.traces, net.benches)] == [1, 1, 0]
    assert report.verdict(net) is True
    # The same weights, images and engines as those of the command that the page tells.
    found = net.traces[0]
    program, *arguments = shlex.split(commands.trace(found))
    assert program == "resnet-parity"
    done = subprocess.run(
        [sys.executable, "-m", "resnet_parity", *arguments, "--json"],
        capture_output=True,
        check=True,
        # XLA adds in another order where it compiles in another way.
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": os.environ["XLA_FLAGS"] + FAST},
    )
    assert found.rows == record(json.loads(done.stdout), TraceReport, "it").rows
    assert [p.engines for p in net.checks[0].pairs] == [("torch", "flax")]
    assert any(step.startswith("tiny.yaml: trace, ") for step in steps)
    assert "resnet-parity check tiny.yaml --engines torch,flax" in report.render(nets)
    # What a file tells is not run again.
    files = report.Files(traces=[FOLDER / "trace_tiny32.json"], checks=[FOLDER / "check_tiny.json"])
    (net,) = report.collect(["tiny.yaml"], files, report.ReportSettings([]))
    assert [t.dtype for t in net.traces] == ["float32"]
    assert net.spec is not None


def test_an_engine_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, *arguments: object) -> None:
            pass

        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def call(self, *arguments: object, **options: object) -> None:
            raise ResNetError("the worker fell over")

    engines = [ENGINES["torch"], ENGINES["flax"]]
    nets = report.collect(
        ["resnet20"], report.Files(), report.ReportSettings(engines, start=Broken)
    )
    assert report.verdict(nets[0]) is False
    text = Page(report.render(nets)).root.text
    assert "flax failed: the worker fell over" in text
    assert "Not measured: errors along depth of flax: the worker fell over" in text


@pytest.mark.parametrize("needed", ["jinja2", "matplotlib"])
def test_without_what_it_needs(
    needed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        f"u.find_spec = lambda name, *a: None if name == '{needed}' else find(name, *a)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    _, err = run("resnet18", "-o", tmp_path / "x.html", code=2)
    assert "pip install 'resnet-parity[report]'" in err


def test_what_bench_finds_is_read() -> None:
    """The records of `resnet_parity.bench.result`, as they are, and not as `samples` has them."""
    spec = resolve("resnet20")
    engine = ENGINES["torch"]
    candidate = Candidate(engine, None, spec, "resnet20", 40_551_040)
    peer = Candidate(engine, "timm", spec, "resnet20", 40_551_040)
    how = ("infer", 2, (32, 32), "float32", "plain", "channels_last", "none")
    facts = {"imported": 1.5, "build": 0.25, "first_call": 0.5, "peak_host_bytes": 3e8}
    rows = [
        BenchRow(Case(candidate, *how), "timm", [0.01, 0.02], 300.0, 1.25, facts),
        BenchRow(Case(peer, *how), None, [0.02, 0.03], 300.0),
        BenchRow(Case(candidate, "train", *how[1:]), bound=100.0, refused="it did not wait"),
    ]
    rows[0].calls = [0.011] * 95 + [0.044] * 5
    rows[1].calls = [0.021] * 99
    wrong = Parity(
        side="torch", reference="torch in float64", error=1e-4, bound=1e-5, holds=False,
        mode="infer", dtype="float32",
    )  # fmt: skip
    found = BenchReport(
        name="resnet20",
        environment={"device": "cpu", "tf32": True, "matmul_precision": {"torch": "high"}},
        bounds=[Bound(**Rates("float32", 2e11, "a product", ((2**20, 2e10),)).to_dict())],
        parity=[wrong],
        rows=[row.timed for row in rows],
        scaling=[rows[0].scaled("batch", n, f"batch {n}") for n in (2, 4)],
        problems=["torch, train: it did not wait"],
    )
    data = json.loads(json.dumps(found.to_dict()))
    net = report.Net("resnet20", spec, benches=[record(data, BenchReport, "it")])
    page = Page(report.render([net]))
    cells = {cell.text for cell in page.all("td")}
    assert {"133", "300", "44 %", "1.25× of timm", "15.0 ms", "300 MB", "refused"} <= cells
    assert {"1.50 s", "0.25 s", "0.50 s"} <= cells
    assert {"11.0 ms", "44.0 ms", "100", "21.0 ms", "99"} <= cells
    text = page.root.text
    assert text.count("it did not wait") == 1
    assert "TF32 on, matmul precision torch high" in text
    assert "quartiles" in text
    assert "200 GFLOP/s in float32 (the best of several kernels: a product) and 20.0 GB/s" in text
    assert report.verdict(net) is False
    assert BenchReport.from_dict(data) == found


def test_speed_is_measured_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[BenchRequest] = []

    def fake(request: BenchRequest, **options: Any) -> BenchReport:
        asked.append(request)
        options["on_progress"]("timing")
        return BenchReport(name=request.name)

    monkeypatch.setattr(benching, "bench", fake)
    files = report.Files(checks=[FOLDER / "check_tiny.json"], traces=[FOLDER / "trace_tiny.json"])
    steps: list[str] = []
    for speed in (False, True):
        settings = report.ReportSettings(
            [ENGINES["torch"]], "float64", "cpu", speed, start=NeverStarted
        )
        nets = report.collect(["resnet20"], files, settings, steps.append)
        assert len(nets[0].benches) == len(asked) == speed
    (request,) = asked
    assert (request.name, request.spec) == ("resnet20", resolve("resnet20"))
    assert (request.modes, request.device) == (("infer", "train"), "cpu")
    assert parsed(request.command)["modes"] == "infer,train"
    assert "resnet20: bench, timing" in steps


class NeverStarted:
    """A worker that cannot be had: what else would run is no part of the test."""

    def __init__(self, *arguments: object) -> None:
        raise EngineError("is not here")
