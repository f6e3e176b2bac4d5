"""`inspect`: what it finds, that its commands work, and how it reads; and how `--part` and
`--names` of the other commands reach the reader.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import resnet_torch
from resnet_parity.convert import read
from resnet_parity.render import console
from shared_spec import (
    Checkpoint,
    WeightsError,
    compile_plan,
    digest,
    read_checkpoint,
    resolve,
    save_spec,
)
from shared_spec.formats import inspection
from shared_spec.formats.containers.source import Source
from shared_spec.formats.write import write_checkpoint
from shared_spec.weights.lazy_array import LazyArray, LazyArrays
from tests.command import command, refused
from tests.formats.test_without_frameworks import FLAX, HUB, V1
from tests.specs import SMALL

CIFAR = resolve("resnet20", {"num_classes": 4})
"""Its arrays are those of plain20 too."""
TINY = resolve("resnet18", {"depths": [1, 1], "widths": [4, 8], "stem_width": 4, "num_classes": 3})
KEPT = Path(__file__).parents[1] / "kept"


def state_of(spec: Any, seed: int = 0) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = resnet_torch.create_model(spec, seed=seed).state_dict()
    return state


def under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def looked(path: Path, *options: object) -> dict[str, Any]:
    code, out, err = command("inspect", path, "--json", *options)
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def printed(path: Path, *options: object) -> str:
    code, out, err = command("inspect", path, *options)
    assert (code, err) == (0, "")
    return out


def converted(line: str) -> dict[str, np.ndarray]:
    """What a command that was printed writes."""
    name, *words = shlex.split(line)
    assert name == "resnet-parity"
    done = command(*words, "--no-verify")
    assert done.code == 0, done
    return dict(read_checkpoint(Path(words[2])).state)


def test_two_nets_and_what_is_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    states = [state_of(CIFAR, seed) for seed in (1, 2)]
    tree = {
        "model": under("module.net.", states[0]),
        "model_ema": under("module.net.", states[1]),
        "args": argparse.Namespace(lr=0.1, output=Path("runs") / "a"),
        "what": Path,
    }
    torch.save(tree, "two nets.pth")
    found = looked(Path("two nets.pth"))
    assert [net["part"] for net in found["nets"]] == ["model/net.", "model_ema/net."]
    assert found["values"] == {"args/lr": 0.1, "args/output": "runs/a"}
    assert list(found["opaque"]) == ["what"]
    assert sum(group["arrays"] for group in found["groups"]) == len(found["arrays"])
    assert len(found["arrays"]) == 2 * len(states[0])
    for net, state in zip(found["nets"], states, strict=True):
        assert (net["fits"], net["model"], net["classes"]) == (["resnet20", "plain20"], None, 4)
        arrays = converted(net["command"])
        assert digest(arrays) == digest({name: state[name].numpy() for name in arrays})
    out = printed(Path("two nets.pth"))
    assert "? at model_ema/net.: a ResNet; 4 classes" in out
    assert "  its arrays fit resnet20, plain20, which compute different functions" in out
    assert "  left out, elsewhere in the file: model" in out
    assert f"  {found['nets'][1]['command']}\n" in out
    assert "Values: args/lr: 0.1; args/output: runs/a\n" in out


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({"arch": "resnet20", "state_dict": state_of(CIFAR)}, "as its 'arch' says"),
        (under("encoder.", state_of(CIFAR)) | {"queue": torch.ones(2, 9)}, ""),
        ({n: t for n, t in state_of(CIFAR).items() if "fc" not in n}, ""),
    ],
    ids=["arch", "company", "body"],
)
@pytest.mark.parametrize("name", ["a.pth", "-x 'y' $(z).pth", "resnet20-best.pth"])
def test_what_is_printed_can_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: Any, told: str, name: str
) -> None:
    """The model too, if only a name for it is missing."""
    monkeypatch.chdir(tmp_path)
    torch.save(tree, name)
    code, out, _ = command("inspect", "--", name)
    assert code == 0
    (line,) = (line for line in out.splitlines() if line.startswith("  resnet-parity"))
    arrays = converted(line)
    assert ("fc.weight" in arrays) == ("state_dict" in tree or "encoder.fc.weight" in tree)
    assert told in out
    known = told or name.startswith("resnet20")
    assert ("✓ " if known else "? ") in out
    assert ("--model resnet20" in line) != bool(known)


def test_a_spec_is_told_by_what_differs(tmp_path: Path) -> None:
    spec = resolve("resnet50", {"head_pool": "max", "num_classes": 3})
    write_checkpoint(tmp_path / "a.safetensors", Checkpoint(zeros(spec), spec))
    net, *_ = looked(tmp_path / "a.safetensors")["nets"]
    assert (net["model"], net["differs"]) == ("resnet50", {"head_pool": "max"})
    assert net["command"].split()[3] == "a-canonical.safetensors"
    out = printed(tmp_path / "a.safetensors")
    assert "✓ resnet50 with head_pool max; 3 classes" in out
    assert "resnet_parity" not in out  # its metadata


def zeros(spec: Any) -> dict[str, np.ndarray]:
    return {q.name: np.zeros(q.shape, np.float32) for q in compile_plan(spec).parameters()}


def test_names_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map is offered, written, and does what it says."""
    monkeypatch.chdir(tmp_path)
    state = state_of(CIFAR)
    words = {"layer1": "a", "layer2": "b", "layer3": "c", "conv1": "stem", "bn1": "n", "fc": "out"}
    theirs = {
        ".".join([words.get(name.split(".")[0], "x"), *name.split(".")[1:]]): tensor
        for name, tensor in state.items()
    }
    torch.save({"net": theirs}, "a.pth")
    found = looked(Path("a.pth"), "--model", "resnet20")
    assert found["nets"] == []
    assert "--names maps them to canonical ones" in found["problem"]
    done = command(*shlex.split(found["suggest"])[1:])
    assert done.code == 0
    line = done.out.splitlines()[-1].strip()
    assert "--names map.yaml --model resnet20" in line
    arrays = converted(line)
    assert digest(arrays) == digest({name: state[name].numpy() for name in arrays})
    out = printed(Path("a.pth"), "--names", "map.yaml", "--model", "resnet20")
    assert "✓ resnet20; 4 classes" in out
    assert line in out
    assert "no array is called 'y'" in refused("inspect", "a.pth", "--names", written("y: fc"))
    torch.save({"a": torch.ones(3)}, "b.pth")
    assert looked(Path("b.pth"))["suggest"] is None
    assert "kernels" in refused("inspect", "b.pth", "--suggest", "c.yaml")
    assert not Path("c.yaml").exists()


def written(text: str) -> Path:
    path = Path("lines.yaml")
    path.write_text(text)
    return path


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Few rows, no markup of the file's own, and names of any length in full."""
    monkeypatch.setattr(console.out, "width", width)
    long = "a" * 50
    state = state_of(resolve("resnet152", {"widths": [4, 8, 16, 32], "stem_width": 4}))
    tree = {"[red]x[/]": under(f"{long}.", state), "text": "[b]" + "y" * 120}
    tree |= {"optimizer": {i: torch.ones(2) for i in range(900)}}
    torch.save(tree, tmp_path / "a.pth")
    out = printed(tmp_path / "a.pth")
    head, *table = out.split("Values: ")[0].splitlines()
    assert "arrays of" in head
    assert all(len(row.rstrip()) <= width for row in table)
    assert inspection.ROWS // 2 <= len(table) <= 2 * inspection.ROWS + 1
    assert table[-1].startswith("optimizer ")
    assert table[-1].split()[-2:] == ["900", "1,800"]
    place = f"[red]x[/]/{long}.layer3"
    assert place in "".join(row[: len(place)].split()[0] for row in table)
    assert "[b]" in out
    assert all(len(line) < 300 for line in out.splitlines())


def test_many_nets_are_counted(tmp_path: Path) -> None:
    torch.save({f"m{i}": state_of(TINY) for i in range(40)}, tmp_path / "a.pth")
    found = looked(tmp_path / "a.pth")
    assert (len(found["nets"]), found["unseen"], len(found["groups"])) == (10, 30, 40)
    out = printed(tmp_path / "a.pth")
    assert "and 30 more ResNets" in out
    assert "and 10 more (--json)" in out
    assert out.count("fit none of the catalogue; name the model or a spec file (--model)") == 10


def test_a_model_that_was_named_is_held_against_the_file(tmp_path: Path) -> None:
    torch.save(state_of(TINY), tmp_path / "a.pth")
    assert looked(tmp_path / "a.pth")["nets"][0]["command"] is None
    save_spec(tmp_path / "s.yaml", TINY)
    out = printed(tmp_path / "a.pth", "--model", tmp_path / "s.yaml")
    assert "✓ resnet18 with depths [1, 1], widths [4, 8], strides [1, 2], stem_width 4;" in out
    (net,) = looked(tmp_path / "a.pth", "--model", "resnet50")["nets"]
    assert "the weights do not fit the model" in net["problem"]
    assert net["command"] is None


def every_kind(folder: Path) -> list[Path]:
    kinds = {
        "a.pth": (SMALL, None),
        "a.safetensors": (SMALL, None),
        "a.msgpack": (SMALL, None),
        "hf": (SMALL, "huggingface"),
        "a.h5": (V1, None),
        "a.weights.h5": (V1, "keras-applications"),
        "b.msgpack": (FLAX, "linen"),
        "preset": (HUB, "keras-hub"),
    }
    for name, (spec, to) in kinds.items():
        write_checkpoint(folder / name, Checkpoint(zeros(spec), spec), to)
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), folder / "whole.pth")
    np.savez(folder / "a.npz", a=np.zeros(3))
    (folder / "flax" / "d").mkdir(parents=True)
    (folder / "flax" / "_CHECKPOINT_METADATA").write_text("{}")
    (folder / "garbage.pth").write_bytes(b"\x80\x02" + bytes(range(256)))
    (folder / "garbage.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(range(256)))
    (folder / "zip.keras").write_bytes(b"PK\x03\x04" + bytes(200))
    (folder / "empty.npz").write_bytes(b"")
    (folder / "nothing").mkdir()
    others = ["flax", "garbage.pth", "garbage.h5", "zip.keras", "empty.npz", "nothing", "absent"]
    readable = [*kinds, "whole.pth", "a.npz", "graph.keras", "graph.h5", "weights.safetensors"]
    for name in readable[-3:]:
        (folder / name).write_bytes((KEPT / name).read_bytes())
    return [folder / name for name in [*readable, *others]]


SCRIPT = """
import json, sys
from tests.command import command
found = [command("inspect", path, "--json") for path in sys.argv[1:]]
names = ("torch", "tensorflow", "keras", "jax", "flax", "h5py", "orbax")
print(json.dumps([found, [name for name in names if name in sys.modules]]))
"""


def test_every_kind_without_a_framework(tmp_path: Path) -> None:
    paths = every_kind(tmp_path)
    script = [sys.executable, "-c", SCRIPT, *map(str, paths)]
    ran = subprocess.run(script, capture_output=True, text=True, check=True)
    found, modules = json.loads(ran.stdout)
    assert modules == []
    ended = {
        path.name: (code, out, err) for path, (code, out, err) in zip(paths, found, strict=True)
    }
    nets = {name: json.loads(out)["nets"] for name, (code, out, _) in ended.items() if code == 0}
    assert [name for name in nets if not nets[name]] == ["whole.pth", "a.npz"]
    known = [name for name, those in nets.items() if those and those[0]["spec"] is not None]
    assert {"a.safetensors", "hf", "preset", "a.h5", "graph.keras", "graph.h5"} <= set(known)
    assert all(not net["problem"] or net["part"] for those in nets.values() for net in those)
    for name in list(ended)[-7:]:
        code, out, err = ended[name]
        assert (code, out) == (2, ""), name
        assert err.startswith("error: "), name
        assert err.strip().count("\n") == 0
    assert "which only Flax can read" in ended["flax"][2]


def test_no_array_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unread(source: Source) -> Source:
        def read() -> np.ndarray:
            raise AssertionError("an array is read")

        entries = source.tensors.entries.items()
        arrays = {name: LazyArray(a.shape, a.dtype, read) for name, a in entries}
        return replace(source, tensors=LazyArrays(arrays))

    opened = inspection.open_source
    monkeypatch.setattr(inspection, "open_source", lambda path: unread(opened(path)))
    torch.save({"a": state_of(CIFAR), "b": state_of(CIFAR)}, tmp_path / "two.pth")
    torch.save({f"x{n}": t for n, t in state_of(TINY).items()}, tmp_path / "own.pth")
    save_spec(tmp_path / "s.yaml", TINY)
    for path in [*every_kind(tmp_path)[:13], tmp_path / "two.pth"]:
        looked(path)
    looked(tmp_path / "own.pth", "--model", tmp_path / "s.yaml", "--suggest", tmp_path / "m.yaml")


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("predict", "image.png", "--weights", "w.pth"), True),
        (("evaluate", "w.pth", "--format", "digits"), True),
        (("check", "resnet20", "--weights", "w.pth"), True),
        (("trace", "resnet20", "--weights", "w.pth"), False),
        (("convert", "w.pth", "x.pth"), True),
    ],
    ids=lambda x: x[0] if isinstance(x, tuple) else "",
)
def test_part_and_names_reach_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], names: bool
) -> None:
    def told(path: Path, *_: object, asked: object, **__: object) -> None:
        raise WeightsError(f"asked for {asked}")

    monkeypatch.setattr(read, "read_checkpoint", told)
    monkeypatch.chdir(tmp_path)
    from PIL import Image

    Image.new("RGB", (32, 32)).save("image.png")
    torch.save(state_of(CIFAR), "w.pth")
    Path("map.yaml").write_text("a: fc")
    given = ("--part", "teacher/", *(("--names", "map.yaml") if names else ()))
    expected = {"a": "fc"} if names else None
    assert f"asked for Asked(part='teacher/', names={expected})" in refused(*words, *given)


@pytest.mark.parametrize("command_", ["check", "trace"])
def test_part_without_weights(command_: str) -> None:
    assert "--part and --names: only with --weights" in refused(command_, "resnet20", "--part", "a")


def test_an_orbax_directory_has_no_other_names(tmp_path: Path) -> None:
    *_, folder, _, _, _, _, _, _ = every_kind(tmp_path)
    (tmp_path / "map.yaml").write_text("a: fc")
    message = refused("convert", folder, tmp_path / "b.pth", "--names", tmp_path / "map.yaml")
    assert "--names: only for files of PyTorch's modules" in message
