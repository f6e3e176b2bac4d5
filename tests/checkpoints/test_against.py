"""`convert --against`: a model of the caller's own judges, and what becomes of names that nobody
knows.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from resnet_parity.convert import certificate as module
from resnet_parity.convert.certificate import read_certificate
from resnet_parity.convert.conversion import Converted, convert
from resnet_parity.convert.verify import Proof
from resnet_parity.engines import job
from resnet_parity.engines.registry import ENGINES, Device, Engine
from shared_spec import (
    Checkpoint,
    ParityError,
    ResNetError,
    compile_plan,
    random_weights,
    read_checkpoint,
    resolve,
    save_spec,
    write_safetensors,
)
from shared_spec.formats.certified import certificate_path
from shared_spec.formats.read import Asked
from shared_spec.formats.write import write_checkpoint
from tests.checkpoints import own
from tests.checkpoints.test_judges import SIDE, randomised, torch_logits
from tests.command import command, refused
from tests.conftest import Pool
from tests.formats.test_without_frameworks import FLAX

SPEC = resolve("resnet18", {"depths": own.DEPTHS, "num_classes": 3})
OWN = "tests.checkpoints.own:"


@pytest.fixture(autouse=True)
def reuse_workers(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "Worker", pool.start)
    monkeypatch.setattr(module, "_SIDE", SIDE)


def against(path: Path, function: str, **options: Any) -> Converted:
    proof = Proof((ENGINES["torch"],), judge_required=True, against=OWN + function)
    target = path.with_name("out.safetensors")
    return convert(path, target, **{"spec": SPEC, "proof": proof} | options)


def requires_truth(path: Path, net: Any) -> None:
    """The certificate beside a converted file has what a net gives."""
    found = read_certificate(certificate_path(path))
    expected = torch_logits(net, found.inputs.array())
    (reference,) = found.reference
    assert found.holds
    assert np.abs(reference - expected).max() <= 1e-12 * np.abs(expected).max()


class Opaque:
    """What `torch.load(weights_only=True)` refuses."""

    def __init__(self, net: Any) -> None:
        self.net = net


def _plain(net: Any, path: Path) -> dict[str, Any]:
    torch.save(net.state_dict(), path)
    return {}


def _canonical(net: Any, path: Path) -> dict[str, Any]:
    state = {k: v.numpy() for k, v in net.state_dict().items() if "tracked" not in k}
    write_safetensors(path, Checkpoint(state, SPEC))
    return {}


def _in_company(net: Any, path: Path) -> dict[str, Any]:
    tree = {f"module.encoder_q.{k}": v for k, v in net.state_dict().items()}
    tree |= {f"module.encoder_k.{k}": v + 1 for k, v in net.state_dict().items()}
    torch.save({"model": {"state": tree | {"module.queue": torch.ones(2, 9)}}}, path)
    return {"asked": Asked("model/state/encoder_q.")}


def _named(net: Any, path: Path) -> dict[str, Any]:
    """Below a module, under other names."""
    torch.save({f"net.{k}": v for k, v in net.state_dict().items()}, path)
    names = {f"net.{name.split('.')[0]}": name.split(".")[0] for name in net.state_dict()}
    return {"asked": Asked(names=names)}


def _safetensors(net: Any, path: Path) -> dict[str, Any]:
    safetensors.torch.save_file(net.half().state_dict(), path)
    return {}


def _opaque(net: Any, path: Path) -> dict[str, Any]:
    torch.save({"object": Opaque(net), "model": net.state_dict()}, path)
    return {"asked": Asked("model/")}


GIVEN = "given by the caller"
FILES: dict[str, tuple[Callable[[Any, Path], dict[str, Any]], str, str]] = {
    "its own names": (_plain, "make", "with the file's arrays"),
    "its own names, an optional parameter": (_plain, "optional", "with the file's arrays"),
    "our file": (_canonical, "make", "with the file's arrays"),
    "below modules, in company": (_in_company, "make", "with the file's arrays"),
    "below a module, with a map": (_named, "make", "with the file's arrays"),
    "float16": (_safetensors, "make", "with the file's arrays"),
    "an object, by its path": (_opaque, "load", "from the file's path"),
}


@pytest.mark.parametrize("kind", FILES)
def test_the_callers_model_judges(tmp_path: Path, kind: str) -> None:
    write, function, how = FILES[kind]
    net = randomised(own.make())
    options = write(net, tmp_path / "a.pth")
    done = against(tmp_path / "a.pth", function, **options)
    assert done.judged_by == f"{OWN}{function}, {GIVEN}, {how}"
    assert read_certificate(certificate_path(Path(done.target))).judged_by == done.judged_by
    requires_truth(Path(done.target), net)


def _without(net: Any, path: Path) -> dict[str, Any]:
    """Without a classifier, which the spec says."""
    torch.save({k: v for k, v in net.state_dict().items() if "fc" not in k}, path)
    return {"spec": SPEC.override(num_classes=0)}


def _extra(net: Any, path: Path) -> dict[str, Any]:
    torch.save(net.state_dict() | {"queue": torch.ones(2)}, path)
    return {}


def _maps(net: Any, path: Path) -> dict[str, Any]:
    _without(net, path)
    return {"spec": SPEC.override(num_classes=0, features_only=True)}


def _flax(net: Any, path: Path) -> dict[str, Any]:
    state = random_weights(compile_plan(FLAX))
    write_checkpoint(path.with_name("b.msgpack"), Checkpoint(state, FLAX), "linen")
    path.with_name("b.msgpack").rename(path)
    return {"spec": FLAX}


def _graph(net: Any, path: Path) -> dict[str, Any]:
    kept = Path(__file__).parents[1] / "kept" / "graph.keras"
    path.write_bytes(kept.read_bytes())
    return {"spec": None}


MAY_LOAD = "with a parameter, which gets the file's path, {}may load the file itself"
DIFFERS = f", {GIVEN}, with the file's arrays, computes something else than what was read of it"
REFUSED: dict[str, tuple[Callable[[Any, Path], dict[str, Any]], str, str]] = {
    "another eps": (_plain, "eps", f"eps{DIFFERS}"),
    "another stride": (_plain, "later_stride", f"later_stride{DIFFERS}"),
    "other weights": (_plain, "ignores", "from the file's path, computes something else"),
    "a softmax": (_plain, "softmax", f"softmax{DIFFERS}"),
    "a tuple": (_plain, "pair", "pair failed (TypeError: it returns a tuple, expected a tensor"),
    "maps of one": (_plain, "maps", "shape"),
    "an array too few": (_without, "make", "make does not find fc.bias and 1 more in the file"),
    "an array too many": (_extra, "make", "make has no queue, which the file has; " + MAY_LOAD),
    "a smaller net": (_plain, "smaller", "smaller has no layer2.1.bn1.bias, layer2.1.bn1.r"),
    "a larger net": (_plain, "larger", "larger does not find layer2.2.bn1.bias and 9 more in"),
    "other shapes": (_plain, "classes", "size mismatch for fc.weight"),
    "no module": (_plain, "number", "returned builtins.int, expected a torch.nn.Module"),
    "an error": (_plain, "fails", "fails failed (OSError: no such luck)"),
    "no function": (_plain, "mak", "has no function 'mak'; did you mean 'make'"),
    "an object": (_opaque, "make", "torch.load(weights_only=True) refuses the file"),
    "all maps": (_maps, "make", "--against: not for the maps of features"),
    "Flax's arrays": (_flax, "make", "a.pth is no file of PyTorch's arrays; " + MAY_LOAD),
    "a graph": (_graph, "make", "--against: not for a file with a graph of its own"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_it_does_not_confirm_is_not_written(tmp_path: Path, kind: str) -> None:
    write, function, why = REFUSED[kind]
    options = write(randomised(own.make()), tmp_path / "a.pth")
    (tmp_path / "out.safetensors").write_text("old")
    with pytest.raises(ResNetError) as caught:
        against(tmp_path / "a.pth", function, **options)
    told = str(caught.value)
    assert why.format(f"{OWN}{function} ") in told
    assert "\n" not in told
    assert isinstance(caught.value, ParityError) == ("computes something else" in told)
    assert (tmp_path / "out.safetensors").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pth", "out.safetensors"]


def test_its_process_ends_with_it(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the caller's code does to PyTorch stays there."""
    told: list[str] = []

    class Telling:
        def call(self, operation: str, **arguments: Any) -> Any:
            told.append(operation)
            return pool["torch"].call(operation, **arguments)

    @contextmanager
    def start(engine: Engine, device: Device = "cpu") -> Iterator[Any]:
        yield Telling()
        told.append("end")

    monkeypatch.setattr(job, "Worker", start)
    _plain(randomised(own.make()), tmp_path / "a.pth")
    against(tmp_path / "a.pth", "make")
    assert told[:2] == ["judge", "end"]
    assert "evaluate" in told[2:]
    assert told.count("judge") == 1


# Names that nobody knows, all the way: proposed, given back, and proved.


def suggested(net: Any, spec: Any) -> list[str]:
    """The command that `inspect --suggest` prints, in a folder with a file of this net's."""
    torch.save({"state": {f"module.{k}": v for k, v in net.state_dict().items()}}, "a.pth")
    save_spec("s.yaml", spec)
    done = command("inspect", "a.pth", "--suggest", "map.yaml", "--model", "s.yaml")
    assert done.code == 0, done
    line = done.out.splitlines()[-1].strip()
    name, *words = shlex.split(line)
    assert name == "resnet-parity"
    assert words[-4:-1] == ["--names", "map.yaml", "--model"]
    return words


SCRAMBLED = {
    "scrambled": SPEC,
    "scrambled_bottleneck": resolve("resnet50", {"depths": [1, 1, 1, 1], "num_classes": 3}),
}


@pytest.mark.parametrize("function", SCRAMBLED)
def test_a_proposal_is_proved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    monkeypatch.chdir(tmp_path)
    net = randomised(getattr(own, function)())
    words = suggested(net, SCRAMBLED[function])
    done = command(*words, "--engines", "torch", "--against", OWN + function)
    assert done.code == 0, done
    target = Path(words[2])
    told = f"Judged by: {OWN}{function}, {GIVEN}, with the file's arrays"
    assert told in " ".join(done.out.split())
    requires_truth(target, net)
    found = read_checkpoint(target).state
    theirs = net._net[0].state_dict()
    assert all(np.array_equal(array, theirs[name]) for name, array in found.items())


def test_a_proposal_that_is_wrong_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels of one shape in another order."""
    monkeypatch.chdir(tmp_path)
    words = suggested(randomised(own.shortcuts_first()), SCRAMBLED["scrambled_bottleneck"])
    done = command(*words, "--engines", "torch", "--against", f"{OWN}shortcuts_first")
    assert done.code == 1, done
    assert f"shortcuts_first{DIFFERS}" in done.err
    assert not Path(words[2]).exists()
    assert not certificate_path(Path(words[2])).exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--against", "no module"], "is not of the form MODULE:FUNCTION"),
        (["--against", "x:y", "--no-verify"], "--against: with --no-verify nobody judges"),
    ],
)
def test_bad_options(words: list[str], told: str) -> None:
    assert told in refused("convert", "a.pth", "b.pth", *words)
