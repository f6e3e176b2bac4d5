"""Compiling for devices that are not here: what is asked, what is found, what is wrong with it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from resnet_parity.aot import targets
from resnet_parity.aot.collectives import ALONE, calls, collectives, strays, summed, unsummed
from resnet_parity.aot.compile import STEP, aot
from resnet_parity.aot.result import AotReport, AotRequest
from resnet_parity.cli.app import app
from resnet_parity.engines.aot_job import PIECES, AotJob, Program
from resnet_parity.engines.bench_job import Rates
from resnet_parity.engines.process import EngineError, Worker
from resnet_parity.engines.registry import ENGINES, Device, Engine, missing_modules
from resnet_parity.engines.roofline import bound_seconds
from resnet_parity.report import Net, render, sentence, verdict
from resnet_parity.worker.aot import collective_lines
from shared_spec import FrameworkError, ResNetSpec, compile_plan, resolve
from shared_spec.plan.summary import layer_rows
from tests.conftest import FAST
from tests.report.reading import Page
from tests.tiers import choice

TINY = resolve("resnet20", {"depths": [1], "widths": [8], "stem_width": 8})
GROUPED = resolve("regnetx_002", {"depths": [1], "widths": [16], "strides": [2]})
ROOT = Path(__file__).parents[2]


def target(text: str) -> targets.Target:
    """Whether libtpu is installed or not."""
    return targets._target(text)


@dataclass
class Canned:
    """Starts workers that answer with programs from a shelf."""

    program: Callable[[AotJob], Program]
    asked: list[AotJob] = field(default_factory=list)
    started: int = 0

    def start(self, engine: Engine, device: Device = "cpu") -> Any:
        self.started += 1
        return self

    def resident(self) -> int:
        return 0

    def close(self) -> None:
        """There is no process."""

    def call(self, operation: str, **arguments: Any) -> Any:
        if operation == "aot_info":
            return {"versions": {"libtpu": "0.1"}, "settings": {"XLA_FLAGS": "--x"}}
        self.asked.append(AotJob.from_dict(json.loads(json.dumps(arguments["job"]))))
        return self.program(self.asked[-1]).to_dict()


def found(program: Callable[[AotJob], Program], **request: Any) -> AotReport:
    """What `aot` says of such programs, for one device of a v5e unless said."""
    asked = {"targets": (target("tpu:v5e:1x1"),), "modes": ("infer",)} | request
    engines = (ENGINES["flax"],)
    return aot(AotRequest("tiny", TINY, engines=engines, **asked), start=Canned(program).start)


SOUND = Program(1, 2.0, arguments=100, outputs=20, aliased=10, temporary=40, code=5)


# What is asked.


@pytest.mark.parametrize(
    ("text", "devices", "memory", "host"),
    [
        ("tpu:v5e:2x2", 4, 16 * 2**30, {}),
        ("tpu:v6e:16x16", 256, 32 * 2**30, {}),
        ("tpu:v5p:2x2x1", 4, 95 * 2**30, {}),
        # JAX sees two devices in a chip of v4, each with half of what it has.
        ("tpu:v4:2x2x1", 8, 16 * 2**30, {}),
        ("tpu:v6e:1x1", 1, 32 * 2**30, {"chips_per_host_bounds": [1, 1, 1]}),
    ],
)
def test_targets(text: str, devices: int, memory: int, host: dict[str, Any]) -> None:
    read = target(text)
    assert (read.name, read.devices, read.memory) == (text, devices, memory)
    assert read.topology == {"platform": "tpu", "topology_name": text[len("tpu:") :], **host}


@pytest.mark.parametrize(
    ("text", "name", "devices", "topology"),
    [
        ("gpu:h100", "gpu:h100", 1, "1x1x1"),
        ("gpu:a100:1", "gpu:a100", 1, "1x1x1"),
        ("gpu:h200:8", "gpu:h200:8", 8, "1x1x8"),
        ("gpu:b200:32", "gpu:b200:32", 32, "1x4x8"),  # on four hosts
    ],
)
def test_gpus(text: str, name: str, devices: int, topology: str) -> None:
    read = target(text)
    assert (read.name, read.devices, read.topology["topology"]) == (name, devices, topology)
    assert read.topology["platform"] == "cuda"
    assert f"device_memory_size: {read.memory} " in read.topology["target_config"]


def test_a_target_is_compiled_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "missing_modules", lambda names, how: None)
    read = targets.parse_targets("gpu:h100,gpu:h100:1, gpu:h100:8")
    assert [one.name for one in read] == ["gpu:h100", "gpu:h100:8"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v5e:2x2",
        "tpu:v5e",
        "tpu:v9:2x2",
        "tpu:v5e:2x3",
        "tpu:v4:2x2",
        "tpu:v5e:0x2",
        "tpu:v5e:16x32",
        "gpu",
        "gpu:",
        "gpu:h100:",
        "gpu:h100:0",
        "gpu:h100:12",
        "gpu:h100:2x2",
        "gpu:v5e",
        "tpu:h100",
        "gpu:rtx4090",
    ],
)
def test_targets_that_there_are_not(text: str) -> None:
    with pytest.raises(
        FrameworkError, match=r"^target: .* such as tpu:v5e:2x2, nor gpu:.*, such as gpu:h100:8$"
    ):
        targets.parse_targets(f"tpu:v5e:2x2,{text}")


def test_a_sum_with_a_norm_on_both_sides_is_summed_once() -> None:
    """As in the steps that libtpu compiles of ResNet-18 and ResNet-50: docs/results/aot.md."""
    found = {name: len(summed(compile_plan(resolve(name)))) + ALONE for name in SUMMED}
    assert found == SUMMED


SUMMED = {"resnet18": 142, "resnet50": 372, "resnet20": 138}


def test_without_a_compiler_a_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "missing_modules", lambda names, how: f"run: pip install {how}")
    done = CliRunner().invoke(app, ["aot", "resnet20", "--target", "tpu:v5e:2x2"])
    assert str(done.exception) == "target: run: pip install 'resnet-parity[tpu-aot]'"
    done = CliRunner().invoke(app, ["aot", "resnet20", "--target", "gpu:h100"])
    assert str(done.exception) == "target: run: pip install 'resnet-parity[gpu-aot]'"


def test_engines_that_xla_does_not_compile_are_refused() -> None:
    request = AotRequest("tiny", TINY, (target("tpu:v5e:2x2"),), (ENGINES["torch"],))
    with pytest.raises(
        FrameworkError, match="torch compiles nothing ahead of time; flax and keras:jax"
    ):
        aot(request)


def test_the_workers_are_asked_for_everything() -> None:
    shelf = Canned(lambda job: SOUND)
    places = (target("tpu:v5e:1x1"), target("tpu:v4:2x2x1"))
    engines = (ENGINES["flax"], ENGINES["keras:jax"])
    report = aot(AotRequest("tiny", TINY, places, engines, batch=7), start=shelf.start)
    asked = [(job.topology, job.mode, job.batch) for job in shelf.asked]
    assert asked == 2 * [(t.topology, mode, 7) for t in places for mode in ("infer", "train")]
    assert [row.engine for row in report.rows] == 4 * ["flax"] + 4 * ["keras:jax"]
    assert {job.dtype for job in shelf.asked} == {"bfloat16"}
    assert {job.net for job in shelf.asked} == {TINY}


def test_a_crash_of_the_compiler_is_told_and_the_rest_compiled() -> None:
    places = (target("tpu:v5e:1x1"), target("tpu:v4:2x2x1"))

    def program(job: AotJob) -> Program:
        if job.topology == places[0].topology:
            raise EngineError("the worker process was killed by SIGSEGV")
        return replace(SOUND, devices=8)

    shelf = Canned(program)
    request = AotRequest("tiny", TINY, places, (ENGINES["flax"],), modes=("infer",))
    report = aot(request, start=shelf.start)
    died, sound = report.rows
    assert died.refused == "compiling it failed: the worker process was killed by SIGSEGV"
    assert died.memory is None
    assert died.devices == 1
    assert (sound.refused, sound.devices, shelf.started) == (None, 8, 2)
    assert report.problems == [f"flax, tpu:v5e:1x1, infer: {died.refused}"]


# What is found.


def test_the_estimate_is_the_larger_of_both_times() -> None:
    """A v5e's chip does 197 TFLOP/s and moves 819 GB/s."""
    (row,) = found(lambda job: replace(SOUND, devices=4, flops=197e9, traffic=8.19e9)).rows
    assert row.estimate is not None
    assert row.estimate.seconds == pytest.approx(0.01)
    assert row.estimate.images_per_second == pytest.approx(4 * 32 / 0.01)
    assert row.estimate.bound_by == "memory"
    (row,) = found(lambda job: replace(SOUND, flops=19.7e12, traffic=8.19e9)).rows
    assert row.estimate is not None
    assert (row.estimate.bound_by, row.estimate.seconds) == ("arithmetic", pytest.approx(0.1))
    assert row.memory == 100 + 20 - 10 + 40 + 5
    (row,) = found(lambda job: SOUND).rows
    assert row.estimate is None


def test_of_a_gpu_the_spec_is_counted() -> None:
    """XLA counts neither operations nor bytes of its programs for GPUs."""
    asked = {"targets": (target("gpu:h100:8"),), "modes": ("infer", "train")}
    gpus = replace(SOUND, devices=8)
    for row in found(lambda job: gpus, **asked).rows:
        rates = Rates("bfloat16", 989e12, "", ((1, 3350e9),))
        seconds = bound_seconds(compile_plan(TINY), (32, 32), row.mode, 32, rates)
        assert row.estimate is not None
        assert row.estimate.seconds == pytest.approx(seconds)
        assert row.estimate.images_per_second == pytest.approx(8 * 32 / seconds)
        assert row.estimate.bound_by == "memory"  # it has 8 channels
        assert "NVIDIA's data sheet; counted from the spec" in row.estimate.rates
    # How fast a GPU multiplies numbers of float32 depends on its settings.
    assert found(lambda job: gpus, dtype="float32", **asked).rows[0].estimate is None
    assert found(lambda job: Program(8, 1.0, refused="no"), **asked).rows[0].estimate is None
    # Nor does the spec count what is computed again.
    again = found(lambda job: gpus, **asked | {"modes": ("train",)}, forms=("remat",)).rows[0]
    assert (again.form, again.estimate) == ("remat", None)


def test_more_memory_than_there_is() -> None:
    report = found(lambda job: replace(SOUND, temporary=17 * 2**30))
    assert not report.holds
    (problem,) = report.problems
    assert problem == (
        "flax, tpu:v5e:1x1, infer: needs 17.00 GiB of memory, and a device has 16.00 GiB"
    )
    refused = "JaxRuntimeError: Used 17.1G of 15.75G hbm"
    report = found(lambda job: Program(1, 2.0, refused=refused, exceeds=17.1 * 2**30))
    assert report.problems == [f"flax, tpu:v5e:1x1, infer: {refused}"]


@pytest.mark.parametrize("first", [8, 64, 5000])
@pytest.mark.parametrize("waste", [0, 3 * 2**28])
@pytest.mark.parametrize("refuses", [True, False])
def test_the_largest_batch_that_fits(first: int, waste: int, refuses: bool) -> None:
    """Bytes grow with the batch; `waste` comes at once above 600 images. XLA for GPUs refuses
    nothing.
    """
    limit, image = 16 * 2**30, 2**24
    sizes = []

    def program(job: AotJob) -> Program:
        sizes.append(job.batch)
        needed = 2**28 + image * job.batch + (waste if job.batch > 600 else 0)
        assert needed < 64 * limit
        if needed > limit and refuses:
            return Program(1, 1.0, refused="no", exceeds=needed)
        return replace(SOUND, temporary=needed - 115)

    (row,) = found(program, batch=first, largest=True).rows
    most = (limit - 2**28 - waste) // image
    assert row.largest_batch is not None
    assert most - max(STEP, most // 16) <= row.largest_batch <= most
    assert len(sizes) <= 8


def test_not_even_the_smallest_batch_fits() -> None:
    report = found(lambda job: Program(1, 1.0, refused="no", exceeds=2e11), largest=True)
    assert report.rows[0].largest_batch is None


# Collectives.

LINES = """
%all-reduce.1 = (f32[16]{0:T(128)S(1)}, /*index=1*/f32[3,3,16,32]{3,2,1,0:T(8,128)}) \
all-reduce(%a, %b), metadata={op_name="jit(_step)/sum"}
%all-reduce-start.2 = bf16[8,4]{1,0:T(8,128)(2,1)} all-reduce-start(%c), channel_id=7
%all-reduce-done.2 = bf16[8,4]{1,0} all-reduce-done(%all-reduce-start.2)
ROOT %all-gather = s32[64]{0} all-gather(%d), dimensions={0}
%fusion.3 = f32[] fusion(%all-reduce.1), kind=kLoop, calls=%all-reduce.clone
%all-gather-start.4 = (f32[4,3], f32[32,3]) all-gather-start(%e), dimensions={0}
%all-to-all.5 = (pred[2]{0}, f8e4m3fn[2]{0}) all-to-all(%x, %y)
"""


def test_collectives_of_a_program() -> None:
    read = collectives(LINES)
    assert [(c.instruction, c.kind, c.shape, c.bytes) for c in read] == [
        ("all-reduce.1", "all-reduce", (16,), 64),
        ("all-reduce.1", "all-reduce", (3, 3, 16, 32), 4 * 3 * 3 * 16 * 32),
        ("all-reduce-start.2", "all-reduce", (8, 4), 64),
        ("all-gather", "all-gather", (64,), 256),
        ("all-gather-start.4", "all-gather", (32, 3), 384),
        ("all-to-all.5", "all-to-all", (2,), 2),
        ("all-to-all.5", "all-to-all", (2,), 2),
    ]
    assert [c.origin for c in read[:3]] == ["jit(_step)/sum", "jit(_step)/sum", ""]


LAID_END_TO_END = """
%fused (param_0.1: bf16[432], param_1: bf16[10]) -> bf16[442] {
  %param_0.1 = bf16[432]{0} parameter(0)
  %param_1 = bf16[10]{0} parameter(1)
  ROOT %concatenate.2 = bf16[442]{0} concatenate(%param_0.1, /*index=1*/%param_1), dimensions={0}
}
%both (param_2: f32[8]) -> (f32[8], f32[24]) {
  %param_2 = f32[8]{0} parameter(0)
  %twice = f32[16]{0} broadcast(%param_2)
  %concatenate.3 = f32[24]{0} concatenate(%twice, %param_2), dimensions={0}
  ROOT %tuple = (f32[8]{0}, f32[24]{0}) tuple(%param_2, %concatenate.3)
}
ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %wrapped = bf16[442]{0} fusion(%b, %c), kind=kLoop, calls=%fused
  %all-reduce-start.1 = bf16[442]{0} all-reduce-start(%wrapped), channel_id=1
  %all-reduce-done.1 = bf16[442]{0} all-reduce-done(%all-reduce-start.1)
  %two = (f32[8]{0}, f32[24]{0}) fusion(%a), kind=kLoop, calls=%both
  %second = f32[24]{0} get-tuple-element(%two), index=1
  %seen = f32[4,6]{1,0} bitcast(%second)
  %all-reduce.2 = f32[4,6]{1,0} all-reduce(%seen), metadata={op_name="jit(_step)/sum"}
  %all-gather-start.4 = (f32[24]{0}, f32[192]{0}) all-gather-start(%second), dimensions={0}
  %first = f32[8]{0} get-tuple-element(%two), index=0
  ROOT %all-reduce.3 = f32[8]{0} all-reduce(%first), channel_id=3
}
"""


def test_arrays_that_were_laid_end_to_end() -> None:
    """As XLA does for GPUs: a gradient is no longer told by the size of what is summed."""
    read = collectives("\n".join(collective_lines(LAID_END_TO_END)))
    assert [(c.instruction, c.shape, c.bytes) for c in read] == [
        ("all-reduce-start.1", (432,), 864),
        ("all-reduce-start.1", (10,), 20),
        ("all-reduce.2", (16,), 64),
        ("all-reduce.2", (8,), 32),
        ("all-gather-start.4", (192,), 768),
        ("all-reduce.3", (8,), 32),
    ]
    assert read[2].origin == "jit(_step)/sum"
    assert not any(PIECES in line for line in collective_lines(LINES))


def summing(spec: ResNetSpec, without: int = 0) -> tuple[str, ...]:
    """An all-reduce for each gradient but some, and one for each norm's mean."""
    plan = compile_plan(spec)
    shapes = [q.shape for q in plan.parameters() if q.trainable][without:]
    shapes += [q.shape for q in plan.parameters() if q.name.endswith("running_mean")]
    return tuple(
        f"%all-reduce.{i} = f32[{','.join(map(str, shape))}]{{0}} all-reduce(%x.{i})"
        for i, shape in enumerate([(), *shapes])
    )


def test_data_parallel_training_sums_gradients_statistics_and_the_loss() -> None:
    request = {"targets": (target("tpu:v5e:2x2"),), "modes": ("train",)}
    step = replace(SOUND, devices=4, text=summing(TINY))
    report = found(lambda job: step, **request)
    assert report.problems == []
    assert report.rows[0].collectives == {"all-reduce": len(step.text)}
    # In inference, images have nothing to tell one another.
    report = found(lambda job: step, targets=request["targets"])
    assert len(report.rows[0].stray) == len(step.text)
    for line, told in (
        ("%ag = bf16[128,32,32,3] all-gather(%images)", "ag (all-gather of 128×32×32×3, from"),
        ("%all-reduce.99 = f32[32,10] all-reduce(%logits)", "all-reduce.99 (all-reduce of 32×10"),
    ):
        broken = replace(step, text=(*step.text, line))
        (problem,) = found(lambda job, broken=broken: broken, **request).problems
        assert f"train: data parallelism does not need {told}" in problem
    first = next(q.name for q in compile_plan(TINY).parameters() if q.trainable)
    fewer = replace(step, text=summing(TINY, without=1))
    (problem,) = found(lambda job: fewer, **request).problems
    assert problem.endswith(f"no all-reduce sums the gradients of {first}")


def test_below_a_flattened_map_places_are_summed_apart() -> None:
    """As XLA does in the step of iresnet18; a net with a pooled head has no such sum."""
    found = collectives("%all-reduce.255 = f32[512,7,7]{2,1,0} all-reduce(%x)")
    assert strays(found, compile_plan(resolve("iresnet18")), "train") == []
    assert strays(found, compile_plan(resolve("resnet18")), "train") == found


def test_gains_follow_from_kernels() -> None:
    """XLA sums the gradient of a standardised kernel, and computes its gain's from that."""
    spec = resolve("nf_resnet26", {"depths": [1], "widths": [8], "stem_width": 8})
    plan = compile_plan(spec)
    sizes = [q.shape for q in plan.parameters() if q.role != "conv_gain"]
    lines = [f"%ar.{i} = f32[{','.join(map(str, s))}] all-reduce(%x)" for i, s in enumerate(sizes)]
    assert unsummed(collectives("\n".join(lines)), plan) == []
    (missing,) = unsummed(collectives("\n".join(lines[:-1])), plan)
    assert missing == [q.name for q in plan.parameters()][-1]


# Programs that XLA partitions, on eight devices that are simulated.


@pytest.mark.frameworks
@pytest.mark.parametrize("engine", ["flax", "keras:jax"])
def test_on_eight_devices(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Trainer's step, partitioned; then one that brings all images to each device."""
    monkeypatch.setenv("XLA_FLAGS", f"--xla_force_host_platform_device_count=8 {FAST}")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    monkeypatch.setenv("RESNET_PARITY_CACHE", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    jobs = {m: AotJob(TINY.to_dict(), m, 4, (32, 32), "float32", {}) for m in ("infer", "train")}
    jobs["remat"] = replace(jobs["train"], form="remat")
    jobs |= {f"grouped {m}": replace(jobs[m], spec=GROUPED.to_dict()) for m in ("infer", "train")}
    with Worker(ENGINES[engine], module="tests.worker") as worker:
        programs = {
            mode: Program.from_dict(worker.call("aot_compile", job=job.to_dict()))
            for mode, job in jobs.items()
        }
        again = {
            mode: Program.from_dict(worker.call("aot_compile", job=jobs[mode].to_dict()))
            for mode in ("infer", "grouped infer")
        }
        # The same code for both engines.
        gathers = engine == "flax"
        stray = gathers and worker.call("gathering_aot_compile", job=jobs["train"].to_dict())
    for mode, program in again.items():
        assert program == programs[mode]  # from the cache: to the second that it took
    both = {"targets": (target("tpu:v5e:4x2"),), "modes": ("infer", "train"), "batch": 4}
    # Computed again, norms ask for the sums again.
    (remat,) = found(lambda job: programs["remat"], **both | {"modes": ("train",)}).rows
    assert [remat.stray, remat.unsummed, [*remat.collectives]] == [[], [], ["all-reduce"]]
    # XLA would gather the images for a convolution in groups.
    request = AotRequest("grouped", GROUPED, engines=(ENGINES["flax"],), **both)
    grouped = aot(request, start=Canned(lambda job: programs[f"grouped {job.mode}"]).start)
    assert grouped.problems == []
    report = found(lambda job: programs[job.mode], **both)
    assert report.problems == []
    infer, train = report.rows
    assert infer.collectives == {}
    assert [*train.collectives] == ["all-reduce"]
    assert (infer.devices, train.devices) == (8, 8)
    assert remat.collectives["all-reduce"] > train.collectives["all-reduce"]
    # What docs/scaling.md takes a step to send: so many arrays, bytes and calls.
    plan = compile_plan(TINY)
    arrays = summed(plan, of_a_norm=4 if engine == "flax" else 5)
    assert train.collectives["all-reduce"] == len(arrays) + ALONE
    assert train.collective_bytes == 4 * (sum(arrays.values()) + ALONE)
    text = "\n".join(programs["train"].text)
    assert len({c.instruction for c in collectives(text)}) == calls(plan)
    macs = sum(row.macs for row in layer_rows(compile_plan(TINY), (32, 32)))
    for row, passes in ((infer, 1), (train, 3)):
        # JAX's own count of bytes; arguments and results lie there as they are.
        assert row.unpadded == pytest.approx((row.arguments or 0) + (row.outputs or 0), rel=0.01)
        assert row.flops == pytest.approx(passes * 2 * macs * 4, rel=0.2)
    if gathers:
        report = found(lambda job: Program.from_dict(stray), **both | {"modes": ("train",)})
        assert any("(all-gather of 32×32×32×3" in problem for problem in report.problems)


# What the compilers of devices say.


@pytest.fixture
def compilers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Makes importable what `make test-all` installs, or skips where there is no such module."""
    own = str(ROOT / ".venv" / "ahead")
    monkeypatch.syspath_prepend(own)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), own, *sys.path]))
    monkeypatch.setenv("RESNET_PARITY_CACHE", str(tmp_path / "cache"))

    def require(module: str, extra: str) -> None:
        absent = missing_modules((module,), f"'resnet-parity[{extra}]'")
        if absent is not None:
            pytest.skip(absent)

    return require


@pytest.mark.frameworks
@pytest.mark.parametrize("engine", ["flax", "keras:jax"])
def test_for_gpus(engine: str, compilers: Callable[[str, str], None], tmp_path: Path) -> None:
    """Eight H100s: a step sums as many arrays as on TPUs, laid end to end, in fewer calls."""
    compilers("jax_cuda12_plugin", "gpu-aot")
    output = tmp_path / "found.json"
    command = ["aot", "resnet20", "--target", "gpu:h100:8", "--engines", engine]
    done = CliRunner().invoke(app, [*command, "--output", str(output)])
    assert done.exit_code == 0, done.output
    report = AotReport.from_dict(json.loads(output.read_text()))
    plan = compile_plan(resolve("resnet20"))
    infer, train = report.rows
    assert (infer.devices, train.devices) == (8, 8)
    assert infer.collectives == {}
    assert [*train.collectives] == ["all-reduce"]
    arrays = len(summed(plan, of_a_norm=4 if engine == "flax" else 5)) + ALONE
    assert train.collectives["all-reduce"] == arrays
    numbers = plan.parameter_count() + 2 * 688 + 32 * 32 * 32 * 3
    assert infer.unpadded == 2 * (numbers + 32 * 10)
    assert (infer.arguments or 0) + (infer.outputs or 0) == pytest.approx(infer.unpadded, rel=0.01)
    assert "jax-cuda12-pjrt" in report.versions
    assert infer.estimate is not None
    much = ["--modes", "infer", "--size", "2048", "--batch", "6000"]
    done = CliRunner().invoke(app, [*command, *much])
    assert done.exit_code == 1, done.output
    assert "GiB of memory, and a device has 79.11 GiB" in done.output


@pytest.mark.frameworks
def test_for_a_tpu(
    compilers: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the compiler's least effort; the step takes a core half a minute all the same."""
    compilers("libtpu", "tpu-aot")
    monkeypatch.setenv("JAX_EXEC_TIME_OPTIMIZATION_EFFORT", "-1")
    output = tmp_path / "found.json"
    command = ["aot", "resnet20", "--target", "tpu:v5e:2x2"]
    modes = ("infer", "train") if choice.tier == "all" else ("infer",)
    asked = ["--modes", ",".join(modes), "--output", str(output)]
    done = CliRunner().invoke(app, [*command, *asked])
    assert done.exit_code == 0, done.output
    report = AotReport.from_dict(json.loads(output.read_text()))
    assert report.settings["JAX_EXEC_TIME_OPTIMIZATION_EFFORT"] == "-1"
    plan = compile_plan(resolve("resnet20"))
    macs = sum(row.macs for row in layer_rows(plan, (32, 32)))
    for row, mode in zip(report.rows, modes, strict=True):
        assert (row.devices, row.mode) == (4, mode)
        assert [*row.collectives] == ([] if mode == "infer" else ["all-reduce"])
        assert row.flops == pytest.approx((1 if mode == "infer" else 3) * 2 * macs * 32, rel=0.2)
        if mode == "train":
            assert row.collectives["all-reduce"] == len(summed(plan)) + ALONE
    infer = report.rows[0]
    # Weights in bfloat16, and images; the logits.
    numbers = plan.parameter_count() + 2 * 688 + 32 * 32 * 32 * 3
    assert infer.unpadded == 2 * (numbers + 32 * 10)
    assert "libtpu" in report.versions
    much = ["--modes", "infer", "--size", "224", "--batch", "6000"]
    done = CliRunner().invoke(app, [*command, *much])
    assert done.exit_code == 1, done.output
    assert "RESOURCE_EXHAUSTED" in done.output


# The page.


def test_the_report_shows_it() -> None:
    sound = replace(SOUND, flops=1e9, traffic=2e9, temporary=3 * 10**9)
    report = AotReport.from_dict(json.loads(json.dumps(found(lambda job: sound).to_dict())))
    net = Net("tiny", TINY, ahead=[report])
    page = Page(render([net])).root.text
    for told in ("Ahead of time", "by libtpu 0.1, with XLA_FLAGS --x", "Nothing ran", "3.00 GB"):
        assert told in page
    assert "it compiles for tpu:v5e:1x1" in sentence(net)
    assert verdict(net) is True
    broken = found(lambda job: Program(1, 1.0, refused="it does not fit"))
    net = Net("tiny", TINY, ahead=[broken])
    assert "✗ flax, tpu:v5e:1x1, infer: it does not fit" in Page(render([net])).root.text
    assert "ahead of time: flax, tpu:v5e:1x1, infer: it does not fit" in sentence(net)
    assert verdict(net) is False
