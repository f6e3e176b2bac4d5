"""A folder for the Hugging Face Hub: weights, configuration and a model card."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from shared_spec.errors import ParityError, WeightsError
from shared_spec.formats.canonical_file import save_canonical
from shared_spec.formats.containers.source import read_json, write_json
from shared_spec.formats.dialects.timm_config import config_for_timm
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.summary import describe, stage_rows
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.weights.checkpoint import METADATA_KEY, Checkpoint

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
CERTIFICATE = f"{WEIGHTS}.parity.json"
"""Of the weights, where `verify` looks for it."""
HUB_FILES = frozenset({WEIGHTS, CONFIG, CARD, CERTIFICATE})
"""All that such a folder holds."""


def save_hub_folder(folder: Path, checkpoint: Checkpoint) -> None:
    """Make `folder`, from which `create_model` builds the net in any framework, and timm too, if it
    has such a net.
    """
    folder.mkdir()
    save_canonical(folder / WEIGHTS, checkpoint)
    config = config_for_timm(checkpoint) or {}
    write_json(folder / CONFIG, config | {METADATA_KEY: checkpoint.metadata()}, 2)
    write_card(folder, checkpoint)


def certify(folder: Path) -> None:
    """Have the weights in a folder run in the frameworks that are installed, each in a process of
    its own, and write their certificate into it.

    Raises:
        ParityError: if one of them computes something else.
        WeightsError: if it cannot be done.
    """
    command = [sys.executable, "-m", "resnet_parity", "certify", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        told = lines[-1].removeprefix("error: ") if lines else f"exit code {done.returncode}"
        raise (ParityError if done.returncode == 1 else WeightsError)(told)


def write_card(folder: Path, checkpoint: Checkpoint, name: str | None = None) -> None:
    """Write the model card of a folder: what the net is, how to load it, and who judged it.

    Args:
        folder: with everything else in it; its certificate too, if it has one.
        checkpoint: what is in it.
        name: `owner/name` on the hub, or `owner/name@revision`; None where that is not known.
    """
    spec = checkpoint.spec
    assert spec is not None
    architecture = read_json(folder / CONFIG).get("architecture")
    place = f"hf-hub:{name}" if name else f"./{folder.name}"
    parts = [
        _front(architecture, bool(spec.num_classes) and not spec.gives_maps),
        f"# {name or folder.name}\n\n{_summary(spec)}",
        _stages(spec),
        _loading(place, architecture, spec),
        _preparation(checkpoint),
        _proof(folder),
    ]
    (folder / CARD).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _front(architecture: object, classifies: bool) -> str:
    task = "image-classification" if classifies else "image-feature-extraction"
    tags = [task, "resnet", "resnet-parity", *(["timm"] if architecture else [])]
    lines = ["---", f"pipeline_tag: {task}", "tags:", *(f"- {tag}" for tag in tags)]
    lines += ["library_name: timm"] if architecture else ["library_name: resnet-parity"]
    return "\n".join([*lines, "---"])


def _summary(spec: ResNetSpec) -> str:
    p = compile_plan(spec)
    gives = f"{spec.num_classes:,} classes" if spec.num_classes else "features"
    if spec.gives_maps:
        gives = f"{len(p.outputs)} maps of {'features' if spec.features_only else gives}"
    colour = {1: "grey", 3: "RGB"}.get(spec.in_channels, f"{spec.in_channels}-channel")
    return (
        f"A ResNet of {p.parameter_count():,} parameters, from {colour} images of "
        f"{spec.image_size} × {spec.image_size} pixels to {gives}."
    )


def _stages(spec: ResNetSpec) -> str:
    p = compile_plan(spec)
    described = describe(p)
    rows = [
        (
            row.name,
            described.get(row.name, ""),
            " × ".join(map(str, row.shape)),
            f"{row.parameters:,}",
            f"{row.macs:,}",
        )
        for row in stage_rows(p, (spec.image_size, spec.image_size))
    ]
    return _table(("stage", "layers", "output", "parameters", "MACs"), rows)


def _loading(place: str, architecture: object, spec: ResNetSpec) -> str:
    use = (
        'for found in resnet.classify(model, "image.jpg")[0]:\n'
        '    print(f"{found.label}: {found.probability:.1%}")'
        if spec.num_classes and not spec.gives_maps
        else 'features = resnet.predict(model, resnet.preprocess(model, "image.jpg"))'
    )
    code = (
        "import resnet_torch as resnet  # PyTorch; resnet_keras for Keras, resnet_flax for Flax\n\n"
        f"model = resnet.create_model({json.dumps(place)})\n{use}"
    )
    text = (
        f"## Use\n\nThe same in PyTorch, Keras and Flax, by the import:\n\n```python\n{code}\n```"
    )
    if architecture:
        where = place if place.startswith("hf-hub:") else f"local-dir:{place}"
        text += (
            f"\n\nIn timm, whose `{architecture}` computes the same function:\n\n```python\n"
            f"import timm\n\nmodel = timm.create_model({json.dumps(where)}, pretrained=True)\n```"
        )
    return text


def _preparation(checkpoint: Checkpoint) -> str:
    prepare = checkpoint.preprocessing
    if prepare is None:
        return "## Preprocessing\n\nThe weights came without one."
    facts = {
        "shorter side": f"{prepare.shorter_side} pixels, {prepare.interpolation}",
        "centre crop": f"{prepare.image_size} × {prepare.image_size} pixels",
        "mean": ", ".join(f"{x:.4g}" for x in prepare.mean),
        "standard deviation": ", ".join(f"{x:.4g}" for x in prepare.std),
        "order of channels": prepare.channel_order.upper(),
    }
    return "## Preprocessing\n\n" + _table(("step", "value"), list(facts.items()))


def _proof(folder: Path) -> str:
    path = folder / CERTIFICATE
    if not path.is_file():
        return "## Proof\n\nThere is no certificate of these weights."
    certificate = read_json(path)
    reference = certificate["reference"]
    rows = [
        (
            check["engine"],
            check["dtype"],
            check["device"],
            "not a number" if check["error"] is None else f"{check['error']:.1e}",
            f"{check['bound']:.1e}",
        )
        for check in certificate["checks"]
    ]
    only = len({check["engine"] for check in certificate["checks"]}) == 1
    own = reference["judged_by"].startswith("reconstructed")
    alone = " One engine alone was run, so that nothing else has confirmed it." * (only and own)
    assumed = f" Assumed: {reference['assumed']}." if reference.get("assumed") else ""
    return (
        f"## Proof\n\nThe reference logits were judged by: {reference['judged_by']}."
        f"{assumed}{alone} Largest difference from them, relative to the largest logit:\n\n"
        + _table(("engine", "dtype", "device", "difference", "bound"), rows)
        + f"\n\n`resnet-parity verify {WEIGHTS}` holds the weights against `{CERTIFICATE}` on any "
        f"machine."
    )


def _table(header: tuple[str, ...], rows: Any) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
