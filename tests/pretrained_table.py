"""The table of published weights, from the registries of the libraries that are installed:
`python -m tests.pretrained_table [--timm-results results-imagenet.csv]` writes it anew.

timm's accuracies are in its repository alone, in `results/results-imagenet.csv`; without that file
those of the table are kept.
"""

from __future__ import annotations

import argparse
import csv
import json
import runpy
import sys
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from shared_spec.catalogue import CATALOGUE
from shared_spec.catalogue.pretrained import COLUMNS, LABELS, STATISTICS, TABLE, VOC
from shared_spec.formats.dialects.timm_config import FAMILIES
from tests.peers import PEERS, torchvision_models

Row = dict[str, str]
ACCURACY = ("top1", "top5", "test_top1", "test_top5")
IMAGENET, VOCS = "imagenet-1k", "pascal-voc"
# https://keras.io/api/applications, in percent: its code does not have them.
KERAS_ACCURACY = {
    "keras_resnet50": ("74.9", "92.1"),
    "keras_resnet101": ("76.4", "92.8"),
    "keras_resnet152": ("76.6", "93.1"),
    "keras_resnet50v2": ("76.0", "93.0"),
    "keras_resnet101v2": ("77.2", "93.8"),
    "keras_resnet152v2": ("78.0", "94.2"),
}
# Repositories of transformers' authors, which no registry lists.
TRANSFORMERS = {
    "resnet18": "microsoft/resnet-18",
    "resnet26": "microsoft/resnet-26",
    "resnet34": "microsoft/resnet-34",
    "resnet50": "microsoft/resnet-50",
    "resnet101": "microsoft/resnet-101",
    "resnet152": "microsoft/resnet-152",
    "resnetv2_50x1_bit": "google/bit-50",
}


def row(model: str, tag: str, where: str, **columns: object) -> Row:
    """A line of the table; what a registry does not tell is empty."""
    told = {key: f"{value:g}" if isinstance(value, float) else str(value)
            for key, value in columns.items() if value is not None}  # fmt: skip
    return dict.fromkeys(COLUMNS, "") | {"model": model, "tag": tag, "where": where} | told


def statistics(mean: Iterable[float], std: Iterable[float]) -> str:
    """The name of a mean and a standard deviation."""
    wanted = tuple(mean), tuple(std)
    return next(name for name, known in STATISTICS.items() if known[:2] == wanted)


def timm_rows() -> Iterator[Row]:
    """timm's ResNets and their kin: the default of each name first. What is not on the hub is at an
    address whose file name ends in the start of its digest, as torch's hub has it.
    """
    torchvision_models()  # before timm, which imports it
    import timm
    from timm.models._registry import _model_pretrained_cfgs as configs

    for name in (n for n, e in CATALOGUE.items() if e.family in FAMILIES):
        tags = [c for key, c in configs.items() if key.partition(".")[0] == name and "." in key]
        first = timm.get_pretrained_cfg(name).tag
        for config in sorted(tags, key=lambda c: c.tag != first):
            if not config.has_weights:
                continue
            _, side, _ = config.input_size
            test = config.test_input_size
            if test is None and config.test_crop_pct is not None:
                test = config.input_size
            there = Path(config.url or "").stem.rpartition("-")[2]
            yield row(
                name,
                config.tag,
                f"hf-hub:{config.hf_hub_id}" if config.hf_hub_id else config.url,
                library="timm",
                hash=None if config.hf_hub_id else f"sha256:{there}",
                license=config.license,
                image_size=side,
                crop=float(config.crop_pct),
                interpolation=config.interpolation,
                statistics=statistics(config.mean, config.std),
                classes=config.num_classes,
                labels=IMAGENET if config.num_classes == 1000 else None,
                test_image_size=test and test[1],
                test_crop=test and float(config.test_crop_pct or config.crop_pct),
            )


def torchvision_rows() -> Iterator[Row]:
    """torchvision's enumerations: the default of each first."""
    models = torchvision_models()
    families = ("torchvision", "torchvision_regnet", "torchvision_segmentation")
    for name in (n for n, e in CATALOGUE.items() if e.family in families):
        enum = models.get_model_weights(name)
        for entry in sorted(enum, key=lambda e: e is not enum.DEFAULT):
            prepare, classes = entry.transforms(), entry.meta["categories"]
            (side,) = prepare.resize_size
            if tuple(classes) == VOC:
                told: dict[str, object] = {"image_size": side, "crop": "whole", "labels": VOCS}
            else:
                (crop,), top = prepare.crop_size, entry.meta["_metrics"]["ImageNet-1K"]
                told = {"image_size": crop, "crop": f"{crop}/{side}", "labels": IMAGENET}
                told |= {"top1": f"{top['acc@1']:.3f}", "top5": f"{top['acc@5']:.3f}"}
            yield row(
                name,
                entry.name,
                entry.url,
                library="torchvision",
                hash=f"sha256:{Path(entry.url).stem.rpartition('-')[2]}",
                interpolation=prepare.interpolation.value,
                statistics=statistics(prepare.mean, prepare.std),
                classes=len(classes),
                **told,
            )


def keras_rows() -> Iterator[Row]:
    """keras.applications, with classifier and without."""
    from keras.src.applications import resnet

    for name, entry in CATALOGUE.items():
        if entry.family != "keras":
            continue
        bare = name.removeprefix("keras_")
        form = f"{resnet.BASE_WEIGHTS_PATH}{bare}_weights_tf_dim_ordering_tf_kernels"
        prepared = "half" if name.endswith("v2") else "caffe"
        for end, digest in zip(("", "_notop"), resnet.WEIGHTS_HASHES[bare], strict=True):
            top1, top5 = ("", "") if end else KERAS_ACCURACY[name]
            yield row(
                name,
                f"imagenet{end}",
                f"{form}{end}.h5",
                library="keras.applications",
                hash=f"md5:{digest}",
                image_size=224,
                statistics=prepared,
                classes=0 if end else 1000,
                labels=None if end else IMAGENET,
                top1=top1,
                top5=top5,
            )


def keras_hub_rows() -> Iterator[Row]:
    """KerasHub's presets, whose files tell the preprocessing."""
    path = PEERS / "keras_hub" / "src" / "models" / "resnet" / "resnet_presets.py"
    for preset, entry in runpy.run_path(str(path))["backbone_presets"].items():
        model = preset.split("_imagenet")[0].split("_ssld")[0]
        if model not in CATALOGUE:
            model = model.replace("resnet_v2", "resnetv2").replace("resnet_1", "resnet1")
            model = model.replace("resnet_5", "resnet5")
        where = entry["kaggle_handle"].replace("kaggle://", "kaggle:")
        yield row(
            model, preset, where, library="KerasHub", classes=1000, labels=IMAGENET
        )  # fmt: skip


def transformers_rows() -> Iterator[Row]:
    """Repositories for transformers, whose files tell the preprocessing."""
    for model, name in TRANSFORMERS.items():
        yield row(
            model,
            name.replace("/", "_").replace("-", "_"),
            f"hf-hub:{name}",
            library="transformers",
            classes=1000,
            labels=IMAGENET,
        )


def registered() -> list[Row]:
    """All lines, those of a model together."""
    sources = (timm_rows, torchvision_rows, keras_rows, keras_hub_rows, transformers_rows)
    order = {name: number for number, name in enumerate(CATALOGUE)}
    return sorted((r for rows in sources for r in rows()), key=lambda r: order[r["model"]])


def with_accuracies(rows: list[Row], results: Path | None) -> list[Row]:
    """The lines with timm's accuracies, at each of the two sizes, from `results` or the table."""
    kept = {(r["model"], r["tag"]): r for r in read(TABLE)} if TABLE.is_file() else {}
    if results is None:
        return [
            r | {k: r[k] or kept.get((r["model"], r["tag"]), r)[k] for k in ACCURACY} for r in rows
        ]
    measured = {
        (m["model"], int(m["img_size"]), round(float(m["crop_pct"]), 3)): m for m in read(results)
    }
    for r in rows:
        for sizes, begin in (("", ""), ("test_", "test_")):
            if r["library"] != "timm" or not r[f"{sizes}image_size"]:
                continue
            name = f"{r['model']}.{r['tag']}"
            at = name, int(r[f"{sizes}image_size"]), round(float(r[f"{sizes}crop"]), 3)
            if found := measured.get(at):
                r |= {f"{begin}{top}": found[top] for top in ("top1", "top5")}
    return rows


def read(path: Path) -> list[Row]:
    """The lines of a table."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def imagenet_labels() -> list[str]:
    """torchvision's names of ImageNet's classes."""
    labels: list[str] = torchvision_models().ResNet50_Weights.DEFAULT.meta["categories"]
    return labels


def main() -> None:
    """Write the table and the labels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timm-results", type=Path, help="timm's results-imagenet.csv")
    parser.add_argument("--check", action="store_true", help="write nothing; print what is old")
    given: Any = parser.parse_args()
    rows, labels = with_accuracies(registered(), given.timm_results), imagenet_labels()
    if given.check:
        pairs = zip_longest(rows, read(TABLE), fillvalue={})
        old = [f"{theirs} is {ours}" for theirs, ours in pairs if theirs != ours]
        if LABELS.read_text(encoding="utf-8").splitlines() != labels:
            old.append("the labels are others")
        print(json.dumps({"lines": len(rows), "old": old}))
        return
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    LABELS.write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    print(f"{len(rows)} lines", file=sys.stderr)


if __name__ == "__main__":
    main()
