"""Pictures of nets: valid, small, and saying what the plan says."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

import yaml

from resnet_parity.render.drawing import Drawn, draw
from resnet_parity.render.drawing.canvas import STYLE
from shared_spec import compile_plan, list_models, resolve
from shared_spec.plan.network import Plan
from shared_spec.plan.summary import block_rows, layer_rows
from tests.command import command, refused
from tests.tiers import choice

SVG = "{http://www.w3.org/2000/svg}"
GIVES = re.compile(r"^(\S+)(?: to (\S+))?: gives ([\d×]+), ([\d,]+) parameters$")
MOST = 300_000


def drawn(tmp_path: Path, *arguments: object) -> ET.Element:
    path = tmp_path / "net.svg"
    assert command("draw", *arguments, "-o", path).code == 0
    assert path.stat().st_size < MOST
    return ET.parse(path).getroot()  # noqa: S314 - written by the command above


def texts(root: ET.Element, kind: str = "") -> list[str]:
    found = root.iter(f"{SVG}text")
    return [x.text or "" for x in found if kind in (x.get("class") or "").split() or not kind]


def marked(root: ET.Element) -> Counter[str]:
    """What boxes say that have the frame of what differs."""
    groups = [g for g in root.iter(f"{SVG}g") if any("differs" in r.get("class", "") for r in g)]
    return Counter(texts(g)[0] for g in groups)


def named(p: Plan, first: str, last: str | None) -> list[str]:
    """Layers and blocks from one to another."""
    names = [b.name for b in p.blocks()]
    if first not in names:
        return [first]
    return names[names.index(first) : names.index(last or first) + 1]


def every(share: int) -> list[str]:
    """One name in so many, others each day; in tier `all` each of them."""
    return list_models() if choice.tier == "all" else list_models()[choice.seed % share :: share]


def totals(root: ET.Element) -> int:
    """Of the parameters in the row of stages."""
    told = [re.fullmatch(r"([\d,]+) parameters", text) for text in texts(root, "middle")]
    return sum(int(count[1].replace(",", "")) for count in told if count)


def test_every_name() -> None:
    for name in every(2):
        spec = resolve(name)
        p = compile_plan(spec)
        text = draw(Drawn(name, p, (spec.image_size, spec.image_size)))
        assert len(text.encode()) < MOST, name
        root = ET.fromstring(text)  # noqa: S314
        assert totals(root) == p.parameter_count(), name


def test_says_what_the_plan_says(tmp_path: Path) -> None:
    # Of the pruned ones, blocks of one kind and stage have widths of their own.
    for name in {*every(12), "ecaresnet50d_pruned"}:
        spec = resolve(name)
        p, size = compile_plan(spec), (spec.image_size, spec.image_size)
        root = drawn(tmp_path, name)
        found: dict[str, Counter[tuple[str, int]]] = {}
        for title in root.iter(f"{SVG}title"):
            for line in (title.text or "").split("\n"):
                if told := GIVES.match(line):
                    first, last, shape, count = told.groups()
                    for place in named(p, first, last):
                        entry = shape, int(count.replace(",", ""))
                        found.setdefault(place, Counter())[entry] += 1
        rows = {r.name: ("×".join(map(str, r.shape)), r.parameters) for r in layer_rows(p, size)}
        wanted = {layer.name: Counter([rows[layer.name]]) for layer in (*p.stem, *p.head)}
        for block in p.blocks():
            wanted[block.name] = Counter(rows[layer.name] for layer in block.layers())
        # The row of stages tells its own sums.
        stages = {s.name: found.pop(s.name) for s in p.stages if s.name not in wanted}
        assert found == wanted, name
        whole = {r.name: r for r in block_rows(p, size)}
        for stage in p.stages:
            count = sum(whole[b.name].parameters for b in stage.blocks)
            assert stages[stage.name] == {
                ("×".join(map(str, whole[stage.blocks[-1].name].shape)), count): 1
            }


def test_each_kind_of_block_once(tmp_path: Path) -> None:
    root = drawn(tmp_path, "resnet50")
    assert texts(root, "title") == ["resnet50"]
    names = ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    assert texts(root, "name")[:6] == names
    assert texts(root, "name")[6:] == ["Stem", "Head", "Block A", "Block B", "Block C"]
    said = texts(root)
    assert {"A, 2 × B", "C, 3 × B", "C, 5 × B", "C, 2 × B"} <= set(said)
    assert said.count("+") == 3
    assert "layer3.1 to layer3.5 (5 ×): 14×14×1024, 1,117,184 parameters each" in said
    assert "3×3 conv, 64 · 128 · 256 · 512" in said
    assert not marked(root)
    assert "+" not in texts(drawn(tmp_path, "plain18"))


def test_layers_made_of_layers(tmp_path: Path) -> None:
    said = texts(drawn(tmp_path, "skresnet50"))
    assert said.count("weights of the paths") == 3
    assert "3×3 conv, 64, dilation 2" in said
    assert "3 × part" in texts(drawn(tmp_path, "res2net50_26w_4s"))
    assert "weights of the parts" in texts(drawn(tmp_path, "resnest50d"))
    assert {"tokens", "query", "key", "value"} <= set(texts(drawn(tmp_path, "resnet50_clip")))


def test_outputs_are_marked(tmp_path: Path) -> None:
    spec = tmp_path / "maps.yaml"
    spec.write_text(yaml.safe_dump(resolve("resnet18", {"features_only": True}).to_dict()))
    said = Counter(text for text in texts(drawn(tmp_path, spec)) if text.startswith("→ "))
    # That of the stem at its layer too.
    assert said == {"→ features0": 2, **{f"→ features{i}": 1 for i in range(1, 5)}}


def test_compares(tmp_path: Path) -> None:
    root = drawn(tmp_path, "resnet50", "--compare", "resnet50d")
    said = texts(root, "soft")
    assert {"stem: conv7x7 → deep", "shortcut_pool: none → avg"} <= set(said)
    found = marked(root)
    assert found["7×7 conv, 64, /2"] == 1
    assert found["3×3 conv, 64"] == 1
    assert found["2×2 average pool, /2"] == 1
    assert found["1×1 conv, 512 · 1024 · 2048, /2"] == 1
    assert found["batch norm (scale_init 0.0)"] == found["batch norm (scale_init 1.0)"] == 3
    assert "head" not in found
    assert "Head: the same in both" in texts(root, "name")


def test_compares_depths_and_itself(tmp_path: Path) -> None:
    assert marked(drawn(tmp_path, "resnet50", "--compare", "resnet101")) == {"layer3": 2}
    assert not marked(drawn(tmp_path, "resnet50", "--compare", "resnet50"))
    # One has a stage less, and blocks of another kind.
    root = drawn(tmp_path, "resnet20", "--compare", "resnet18")
    names = texts(root, "name")
    assert "Block C: resnet18" in names
    assert "Block C: resnet20" not in names


def test_hostile_names(tmp_path: Path) -> None:
    spec = tmp_path / "<script>&\"'\x1b]0;\u202e.yaml"
    spec.write_text(yaml.safe_dump(resolve("resnet18").to_dict()))
    for arguments in ([spec], [spec, "--compare", "resnet34"]):
        root = drawn(tmp_path, *arguments)
        assert "<script>&\"' ]0;" in texts(root, "title")[0]
        assert not [x for x in root.iter() if x.tag.removeprefix(SVG) == "script"]


def test_refuses(tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    assert "resnet50x" in refused("draw", "resnet50x", "-o", path)
    assert "too small" in refused(
        "draw", "resnetblur50", "--image-size", 1, "-o", tmp_path / "a.svg"
    )
    assert "directory" in refused("draw", "resnet18", "-o", tmp_path / "none" / "a.svg")
    assert "flattened" in refused("draw", "iresnet18", "--image-size", 64, "-o", path)
    assert not path.exists()


def test_loads_no_framework_and_is_quick(tmp_path: Path) -> None:
    code = (
        "import sys; from resnet_parity.cli.app import main\n"
        f"sys.argv = ['resnet-parity', 'draw', 'resnet1202', '-o', {str(tmp_path / 'a.svg')!r}]\n"
        "try: main()\nfinally: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not {"torch", "keras", "tensorflow", "jax", "flax", "matplotlib"} & loaded
    p = compile_plan(resolve("resnet1202"))
    start = time.process_time()
    draw(Drawn("resnet1202", p, (32, 32)))
    assert time.process_time() - start < 1


def test_contrast() -> None:
    light, dark = re.findall(r"\.net \{ (--paper.*?)\}", STYLE, re.DOTALL)
    for scheme in (light, dark):
        colors = dict(re.findall(r"--(\w+): (#\w{6});", scheme))
        for back in ("paper", "panel", "convolution", "norm", "activation", "pool", "attention"):
            assert contrast(colors["ink"], colors[back]) >= 4.5, back
        assert contrast(colors["ink"], colors["other"]) >= 4.5
        assert contrast(colors["soft"], colors["panel"]) >= 4.5
        # Of lines, as WCAG asks for.
        assert contrast(colors["differs"], colors["paper"]) >= 3
        assert contrast(colors["rule"], colors["paper"]) >= 3


def contrast(a: str, b: str) -> float:
    """WCAG 2's ratio of two colours."""
    lights = []
    for color in (a, b):
        shares = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in shares]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    return max(lights) / min(lights)
