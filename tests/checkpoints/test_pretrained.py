"""Published weights by name, files that are enough to build a model, and folders for the hub."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import resnet_torch
from resnet_parity.convert.certificate import read_certificate
from shared_spec import (
    CATALOGUE,
    Checkpoint,
    Preprocessing,
    ResNetSpec,
    WeightsWarning,
    compile_plan,
    digest,
    list_models,
    random_weights,
    read_checkpoint,
    write_checkpoint,
    write_safetensors,
)
from shared_spec import download as download_module
from shared_spec.catalogue import pretrained as pretrained_module
from shared_spec.catalogue.pretrained import (
    find_pretrained,
    imagenet_labels,
    published,
    torchvision_weights,
)
from shared_spec.errors import ImageError, ResNetError, UnknownModelError, WeightsError
from shared_spec.formats.dialects.renamed import torchvision_name
from shared_spec.formats.hub_folder import CARD, CERTIFICATE, CONFIG, WEIGHTS
from shared_spec.origin import names_weights, origin_of
from tests.command import command, refused
from tests.hub_server import COMMIT, Hub, served, serving
from tests.peers import torchvision_models
from tests.specs import SMALL

ROOT = Path(__file__).parents[2]
PHOTOGRAPH = ROOT / "resnet_parity" / "assets" / "china.jpg"
PACKAGES = {"torch": "torch", "keras": "torch", "flax": "jax"}
"""Each package, and the backend of Keras that it would have."""
NAME = "resnet18.a1_in1k"


def run(*command: object, **environment: str) -> str:
    """The last line that a fresh Python prints, without the hub's settings of this process."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "RESNET_PARITY_"))}
    env |= {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1,localhost", **environment}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return (done.stdout.strip().splitlines() or [""])[-1]


def test_the_table_is_that_of_the_registries() -> None:
    """timm's, torchvision's, keras.applications' and KerasHub's, as they are installed: each place,
    hash, licence, preprocessing and number of classes; and torchvision's names of the classes.
    """
    found = json.loads(run("-m", "tests.pretrained_table", "--check", KERAS_BACKEND="torch"))
    assert found == {"lines": len(published()), "old": []}


def test_the_table_lacks_nothing_of_timm() -> None:
    torchvision_models()
    import timm

    modules = ("resnet", "resnetv2", "regnet", "sknet", "res2net", "resnest", "senet")
    theirs = [n for m in modules for n in timm.list_models(module=m)]
    theirs += timm.list_models("nf_*resnet*", module="nfnet")
    theirs += [n for n in timm.list_models(module="byobnet") if n in CATALOGUE]
    tagged = [n for n in timm.list_pretrained() if n.partition(".")[0] in theirs]
    assert list_models("*", pretrained=True) == list(published())
    assert sorted(e.name for e in published().values() if e.library == "timm") == sorted(tagged)
    for name in dict.fromkeys(e.model for e in published().values() if e.library == "timm"):
        assert find_pretrained(name).tag == timm.get_pretrained_cfg(name).tag
        assert list_models(name, pretrained=True)[0] == find_pretrained(name).name


OURS = """
import json, sys
import numpy as np
import resnet_{} as resnet
model = resnet.create_model("resnet18.a1_in1k", pretrained=True)
images = resnet.preprocess(model, sys.argv[1])
np.savez(sys.argv[2], images=images, logits=resnet.predict(model, images))
[[best, _]] = resnet.classify(model, sys.argv[1], top=2)
print(json.dumps([best.label, best.index]))
"""
THEIRS = """
import sys
from tests.peers import torchvision_models
torchvision_models()
import numpy as np, timm, torch
from PIL import Image
model = timm.create_model("resnet18.a1_in1k", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
image = transform(Image.open(sys.argv[1]).convert("RGB"))[None]
with torch.inference_mode():
    np.savez(sys.argv[2], images=image.permute(0, 2, 3, 1).numpy(), logits=model(image).numpy())
"""


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hub's cache after `download resnet18.a1_in1k`, of random weights under timm's own
    configuration.
    """
    folder = tmp_path_factory.mktemp("warm")
    spec = CATALOGUE["resnet18"].spec
    write_safetensors(folder / WEIGHTS, Checkpoint(random_weights(compile_plan(spec), 3)))
    torchvision_models()
    import timm

    told = timm.get_pretrained_cfg(NAME).to_dict()
    config = {"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": told}
    with serving(Hub()) as hub:
        hub.put(
            f"timm/{NAME}", "main", COMMIT,
            model__safetensors=(folder / WEIGHTS).read_bytes(),
            config__json=json.dumps(config).encode(),
        )  # fmt: skip
        cache = folder / "hf"
        fetch = "-m", "resnet_parity", "download", NAME
        line = run(*fetch, HF_ENDPOINT=hub.url, HF_HOME=str(cache))
    assert (Path(line.partition(": ")[2]) / CONFIG).is_file()
    return cache


@pytest.fixture(scope="module")
def theirs(warm: Path) -> dict[str, np.ndarray]:
    """What timm makes of the photograph with these weights: images and logits."""
    output = warm.parent / "theirs.npz"
    run("-c", THEIRS, PHOTOGRAPH, output, HF_HOME=str(warm), HF_HUB_OFFLINE="1")
    return dict(np.load(output))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_name_gives_timms_logits_from_a_warm_cache(
    package: str, warm: Path, theirs: dict[str, np.ndarray], tmp_path: Path
) -> None:
    offline = {"HF_HOME": str(warm), "HF_HUB_OFFLINE": "1", "KERAS_BACKEND": PACKAGES[package]}
    line = run("-c", OURS.format(package), PHOTOGRAPH, tmp_path / "ours.npz", **offline)
    ours = np.load(tmp_path / "ours.npz")
    np.testing.assert_allclose(ours["images"], theirs["images"], rtol=0, atol=1e-6)
    largest = np.abs(theirs["logits"]).max()
    np.testing.assert_allclose(ours["logits"], theirs["logits"], rtol=0, atol=1e-5 * largest)
    best = int(theirs["logits"].argmax())
    categories = torchvision_models().ResNet18_Weights.DEFAULT.meta["categories"]
    assert json.loads(line) == [categories[best], best]


V2 = "https://download.pytorch.org/models/resnet50-11ad3fa6.pth"
KERAS = find_pretrained("keras_resnet50").where


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (("resnet50", None, True), "hf-hub:timm/resnet50.a1_in1k"),
        (("resnet50.tv_in1k", None, True), "hf-hub:timm/resnet50.tv_in1k"),
        (("resnet50", None, "tv_in1k"), "hf-hub:timm/resnet50.tv_in1k"),
        (("resnet50", None, "resnet50.tv_in1k"), "hf-hub:timm/resnet50.tv_in1k"),
        (("resnet50", "tv_in1k"), "hf-hub:timm/resnet50.tv_in1k"),
        (("resnet50", "IMAGENET1K_V2"), V2),
        (("resnet50", "ResNet50_Weights.IMAGENET1K_V2"), V2),
        (("resnet50", "ResNet50_Weights.DEFAULT"), V2),
        (("resnet50", None, "IMAGENET1K_V2"), V2),
        (("resnet50", "DEFAULT"), "hf-hub:timm/resnet50.a1_in1k"),
        (("resnet50", "imagenet"), "hf-hub:timm/resnet50.a1_in1k"),
        (("keras_resnet50", "imagenet"), KERAS),
        (("keras_resnet50", None, True), KERAS),
        (("keras_resnet50", "imagenet_notop"), KERAS.replace(".h5", "_notop.h5")),
        (("resnet_vd_18", None, True), "kaggle:keras/resnet_vd/keras/resnet_vd_18_imagenet/2"),
        (("resnet34", "hf-hub:microsoft/resnet-34"), "hf-hub:microsoft/resnet-34"),
        (("resnet34", "mine.pth"), "mine.pth"),
        (("hf-hub:timm/resnet50.a1_in1k",), "hf-hub:timm/resnet50.a1_in1k"),
    ],
)
def test_weights_by_name(arguments: tuple[Any, ...], where: str) -> None:
    assert origin_of(*arguments).weights == where


def test_torchvisions_own_record_is_a_name() -> None:
    models = torchvision_models()
    found = origin_of("resnet50", models.ResNet50_Weights.IMAGENET1K_V2)
    assert (found.model, found.weights) == (torchvision_weights("resnet50").spec, V2)
    with pytest.raises(WeightsError, match="are not weights of one of torchvision's ResNets"):
        origin_of("resnet50", models.VGG11_Weights.DEFAULT)


def test_a_tag_is_a_net_of_its_size_and_classes() -> None:
    assert resnet_torch.create_model("resnet18.a3_in1k").spec.image_size == 160
    spec = origin_of("resnetv2_50x1_bit", None, "goog_in21k").model
    assert isinstance(spec, ResNetSpec)
    assert spec.num_classes == 21843


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet50.nope", None, True), "resnet50: there are no weights 'nope' for it; expec"),
        (("resnet50", "nope"), "resnet50: there are no weights 'nope' for it; expected one of a1_"),
        (
            ("resnet19", None, True),
            "there is no model named 'resnet19'; did you mean 'resnet9', 'resnet18'",
        ),
        (("d2l_resnet18", None, True), "no published weights of such a net are known; did you mea"),
        (("resnet18", "a.pth", True), "weights, pretrained: both say which weights; leave one of"),
        ((SMALL, None, True), "pretrained: weights are published for nets with a name, such as"),
        (("hf-hub:me/net", "a.pth"), "hf-hub:me/net: is weights itself; leave `weights` and"),
        (
            ("resnet18", "ResNet50_Weights.DEFAULT"),
            "resnet18: resnet50.IMAGENET1K_V2 are other weig",
        ),
        (
            ("resnet18", "resnet50.a1_in1k"),
            "resnet18: resnet50.a1_in1k are other weights; name one",
        ),
        (("resnet50.a1_in1k", None, "a2_in1k"), "resnet50.a1_in1k: resnet50.a2_in1k are other wei"),
        (("resnet50", "ResNet50_Weights.V9"), "torchvision has no ResNet weights named 'ResNet50_"),
    ],
)
def test_what_is_no_name_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises((UnknownModelError, WeightsError)) as error:
        origin_of(*arguments)
    assert message in str(error.value)
    assert len(str(error.value)) < 300


def test_hashes_of_publishers_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = b"\x89HDF\r\n\x1a\n but other bytes"

    class Serving(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    with served(Serving) as url:
        where = f"{url}/resnet50_kernels.h5"
        for told in (hashlib.md5(content).hexdigest(), "0" * 32):  # noqa: S324 (Keras's own)
            entry = replace(find_pretrained("keras_resnet50"), where=where, hash=f"md5:{told}")
            monkeypatch.setattr(download_module, "published_at", {where: entry}.get)
            if told != "0" * 32:
                path = download_module.download(where, tmp_path)
                assert path.read_bytes() == content
                continue
            with pytest.raises(
                WeightsError, match=r"has the MD5 .*, and its publisher's is 000000"
            ):
                download_module.download(where, tmp_path)
            assert path.read_bytes() == content


def test_kerashubs_presets_come_by_kaggles_client(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = CATALOGUE["resnet_vd_18"].spec
    preset = tmp_path / "models" / "keras/resnet_vd/keras/resnet_vd_18_imagenet/2"
    preset.parent.mkdir(parents=True)
    state = random_weights(compile_plan(spec), 5)
    write_checkpoint(preset, Checkpoint(state, spec), "keras-hub")
    preset.with_name("2.complete").touch()
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    monkeypatch.setenv("RESNET_PARITY_OFFLINE", "1")
    model = resnet_torch.create_model("resnet_vd_18", pretrained=True)
    assert digest(resnet_torch.export_weights(model)) == digest(state)
    assert model.labels == imagenet_labels()
    with pytest.raises(WeightsError, match=r"it is not in .*, and RESNET_PARITY_OFFLINE is set"):
        resnet_torch.create_model("resnet_vd_34", pretrained=True)


def test_torchvisions_segmenters_come_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file as torchvision has it, of a narrow net, in the cache under the address published."""
    torch = pytest.importorskip("torch")
    known = CATALOGUE["fcn_resnet50"]
    narrow = {"depths": [1, 1, 1, 1], "widths": [8] * 4, "stem_width": 8}
    monkeypatch.setitem(CATALOGUE, known.name, replace(known, fields={**known.fields, **narrow}))
    spec = CATALOGUE[known.name].spec
    state = random_weights(compile_plan(spec), 5)
    file = tmp_path / "net.pth"
    named = {torchvision_name(name, spec): torch.from_numpy(x) for name, x in state.items()}
    torch.save(named, file)
    start = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    url = f"https://download.pytorch.org/models/net-{start}.pth"
    entry = replace(find_pretrained(known.name), where=url, hash=f"sha256:{start}")
    monkeypatch.setattr(pretrained_module, "published", lambda: {entry.name: entry})
    monkeypatch.setattr(pretrained_module, "_by_place", lambda: {url: entry})
    monkeypatch.setenv("RESNET_PARITY_CACHE", str(tmp_path))
    monkeypatch.setenv("RESNET_PARITY_OFFLINE", "1")
    cached = tmp_path / hashlib.sha256(url.encode()).hexdigest()[:16] / Path(url).name
    cached.parent.mkdir()
    file.rename(cached)
    for asked in ({"pretrained": True}, {"weights": "FCN_ResNet50_Weights.DEFAULT"}):
        model = resnet_torch.create_model(known.name, **asked)
        assert digest(resnet_torch.export_weights(model)) == digest(state)
        assert model.spec == spec
        assert model.labels == tuple(torchvision_models().get_model_weights(
            known.name).DEFAULT.meta["categories"])  # fmt: skip
        assert model.preprocessing == Preprocessing.default(spec)
    assert resnet_torch.preprocess(model, PHOTOGRAPH).shape[1] == 520
    # The file alone is enough while its name and hash are the published ones.
    assert read_checkpoint(cached).spec == spec
    copy = tmp_path / "copy.pth"
    copy.write_bytes(cached.read_bytes())
    with pytest.raises(WeightsError, match="is of a segmenter, whose net is dilated as a rule"):
        read_checkpoint(copy)
    fewer = resnet_torch.create_model(known.name, weights=copy, num_classes=3, seed=4)
    fresh = resnet_torch.export_weights(resnet_torch.create_model(fewer.spec, seed=4))
    for name, array in resnet_torch.export_weights(fewer).items():
        new = name.startswith(("classifier.4", "aux_classifier.4"))
        assert np.array_equal(array, (fresh if new else state)[name]), name


def folder_of_a_run(folder: Path, checkpoint: Checkpoint) -> Path:
    (folder / "run").mkdir()
    write_safetensors(folder / "run" / "weights.safetensors", checkpoint)
    return folder / "run"


def certified_file(folder: Path, checkpoint: Checkpoint) -> Path:
    write_safetensors(folder / "w.safetensors", checkpoint)
    code, _, told = command("convert", folder / "w.safetensors", folder / "w.pth")
    assert code == 0, told
    return folder / "w.pth"


def own_file(folder: Path, checkpoint: Checkpoint) -> Path:
    write_safetensors(folder / "mine.safetensors", checkpoint)
    return folder / "mine.safetensors"


def transformers_folder(folder: Path, checkpoint: Checkpoint) -> Path:
    write_checkpoint(folder / "hf", checkpoint, "huggingface")
    return folder / "hf"


@pytest.mark.parametrize(
    "written", [own_file, folder_of_a_run, certified_file, transformers_folder]
)
def test_a_file_is_enough(written: Any, tmp_path: Path) -> None:
    state = random_weights(compile_plan(SMALL), 7)
    path = written(tmp_path, Checkpoint(state, SMALL))
    assert names_weights(path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = resnet_torch.create_model(str(path))
    assert [str(w.message).endswith("parity.json names") for w in told] == [True] * (
        written is certified_file
    )
    assert model.spec == SMALL
    assert digest(resnet_torch.export_weights(model)) == digest(state)
    # A classifier of another size is drawn anew.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = resnet_torch.create_model(path, num_classes=3)
    assert other.fc.out_features == 3
    assert (other.conv1.weight == model.conv1.weight).all()


def test_a_certificate_of_another_file_tells_nothing(tmp_path: Path) -> None:
    path = certified_file(tmp_path, Checkpoint(random_weights(compile_plan(SMALL), 7), SMALL))
    write_checkpoint(path, Checkpoint(random_weights(compile_plan(SMALL), 8), SMALL))
    with pytest.raises(WeightsError):
        resnet_torch.create_model(path)
    digest_now = hashlib.sha256(path.read_bytes()).hexdigest()
    claim = {"target": {"sha256": digest_now}, "spec": SMALL.to_dict(), "resnet_parity": 2}
    for text in ('{"target": 3}', json.dumps(claim), json.dumps(claim | {"holds": False})):
        path.with_name("w.pth.parity.json").write_text(text)
        with pytest.raises(WeightsError):
            resnet_torch.create_model(path)


# timm's smallest net, and one that timm does not have.
NETS = {"timm": ("test_resnet", {"num_classes": 4}), "ours": (SMALL, {})}


@pytest.mark.parametrize("net", NETS)
def test_a_saved_folder_is_a_model_again(net: str, tmp_path: Path) -> None:
    name, fields = NETS[net]
    model = resnet_torch.create_model(name, seed=1, **fields)
    resnet_torch.load_weights(model, random_weights(model.plan, 2))
    classes = model.spec.num_classes
    model.labels = tuple(f"class {i}" for i in range(classes))
    model.preprocessing = Preprocessing(
        image_size=64, crop=0.9, interpolation="bicubic", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2)
    )
    folder = tmp_path / "mine"
    resnet_torch.save_pretrained(model, folder)
    assert {p.name for p in folder.iterdir()} == {WEIGHTS, CONFIG, CARD, CERTIFICATE}

    again = resnet_torch.create_model(str(folder))
    assert (again.spec, again.labels) == (model.spec, model.labels)
    assert again.preprocessing == model.preprocessing
    assert digest(resnet_torch.export_weights(again)) == digest(resnet_torch.export_weights(model))

    made = read_certificate(folder / CERTIFICATE)
    assert made.holds
    assert made.target["name"] == WEIGHTS
    assert made.judged_by.startswith("timm " if net == "timm" else "reconstructed: ")
    code, _, told = command("verify", folder / WEIGHTS, "--engines", "torch", "--json")
    assert code == 0, told
    card = (folder / CARD).read_text(encoding="utf-8")
    for text in (made.judged_by, f"{model.plan.parameter_count():,} parameters", "resnet_flax"):
        assert text in card
    assert ("timm.create_model" in card) == (net == "timm")

    # Another one takes its place, and nothing that is no such folder gives way.
    resnet_torch.save_pretrained(model, folder, certify=False)
    assert {p.name for p in folder.iterdir()} == {WEIGHTS, CONFIG, CARD}
    assert "There is no certificate of these weights" in (folder / CARD).read_text(encoding="utf-8")
    (folder / "notes.txt").touch()
    with pytest.raises(Exception, match="mine"):
        resnet_torch.save_pretrained(model, folder, certify=False)


def test_a_spec_of_ones_own_stays_the_net_of_named_weights() -> None:
    origin = origin_of(SMALL, "resnet50.a1_in1k")
    assert (origin.model, origin.weights) == (SMALL, "hf-hub:timm/resnet50.a1_in1k")


def test_a_folder_says_one_thing(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    state = random_weights(compile_plan(SMALL), 7)
    write_checkpoint(folder, Checkpoint(state, SMALL), "hub")
    config = json.loads((folder / CONFIG).read_text())
    config["resnet_parity"]["spec"]["activation"] = "gelu"
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="as resnet_parity is not what its weights say"):
        resnet_torch.create_model(str(folder))
    assert "is not what its weights say" in refused("certify", folder)


@pytest.mark.parametrize("names", [("README.md",), ("README.md", "config.json"), ("config.json",)])
def test_notes_do_not_give_way_to_weights(names: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("mine")
    model = resnet_torch.create_model(SMALL)
    for save in (resnet_torch.save_pretrained, resnet_torch.save_weights):
        options = {"certify": False} if save is resnet_torch.save_pretrained else {"format": "hub"}
        with pytest.raises(ResNetError, match="project"):
            save(model, folder, **options)
    assert [(folder / name).read_text() for name in names] == ["mine"] * len(names)


def test_labels_are_those_of_the_weights(tmp_path: Path) -> None:
    labels = tuple(map(str, range(SMALL.num_classes)))
    state = random_weights(compile_plan(SMALL))
    path = own_file(tmp_path, Checkpoint(state, SMALL, Preprocessing.default(SMALL), labels))
    for change in (
        lambda model: resnet_torch.load_weights(model, random_weights(model.plan, 9)),
        lambda model: model.reset_classifier(SMALL.num_classes),
    ):
        model = resnet_torch.create_model(path)
        assert model.labels == labels
        change(model)
        assert model.labels is None
    for wrong in ("abc", (1,) * SMALL.num_classes, ("a",)):
        model.labels = wrong
        with pytest.raises(WeightsError, match=r"^model.labels: expected \d+ texts, one a class"):
            resnet_torch.save_pretrained(model, tmp_path / "folder", certify=False)
        with pytest.raises(WeightsError, match=r"^model.labels"):
            resnet_torch.classify(model, PHOTOGRAPH)
    assert not (tmp_path / "folder").exists()


def test_timm_loads_a_saved_folder(tmp_path: Path) -> None:
    torchvision_models()
    import timm
    import torch

    name, fields = NETS["timm"]
    model = resnet_torch.create_model(name, head_pool="avgmax", activation="silu", **fields)
    resnet_torch.load_weights(model, random_weights(model.plan, 2))
    mean = (0.4, 0.5, 0.6)
    model.preprocessing = Preprocessing(image_size=96, crop=0.9, mean=mean, std=(0.3,) * 3)
    model.labels = ("a", "b", "c", "d")
    resnet_torch.save_pretrained(model, tmp_path / "mine", certify=False)
    theirs = timm.create_model(f"local-dir:{tmp_path / 'mine'}", pretrained=True).eval()
    images = torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(images), model.eval()(images), rtol=0, atol=1e-5)
    data = timm.data.resolve_model_data_config(theirs)
    assert tuple(data["input_size"]) == (3, 96, 96)
    assert (tuple(data["mean"]), data["crop_pct"]) == (mean, 0.9)
    assert theirs.pretrained_cfg["label_names"] == ["a", "b", "c", "d"]
    transform = timm.data.create_transform(**data)
    with Image.open(PHOTOGRAPH) as picture:
        expected = transform(picture.convert("RGB")).permute(1, 2, 0).numpy()
    found = resnet_torch.preprocess(model, PHOTOGRAPH)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


READ = """
import sys
import resnet_flax as resnet
from shared_spec import digest
model = resnet.create_model("hf-hub:me/net")
print(digest(resnet.export_weights(model)), model.labels, model.preprocessing.image_size)
"""
PUSH = """
import sys
import resnet_torch as resnet
from shared_spec import ResNetError
model = resnet.create_model(sys.argv[1])
try:
    print(resnet.push_to_hub(model, sys.argv[2], certify=False, token="hf_test"))
except ResNetError as error:
    print("refused:", error)
"""


def test_a_model_goes_to_the_hub_and_comes_back_in_another_framework(tmp_path: Path) -> None:
    state = random_weights(compile_plan(SMALL), 7)
    labels = tuple("abcdefghijklmnopqrstuvwxyz"[: SMALL.num_classes])
    prepare = Preprocessing(image_size=48, mean=(0.5,) * 3, std=(0.5,) * 3)
    path = own_file(tmp_path, Checkpoint(state, SMALL, prepare, labels))
    with serving(Hub()) as hub:
        place = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        # Of an earlier push, which had a certificate, and something of the user's own.
        hub.put("me/net", "main", "e" * 40)
        hub.repositories["me/net"]["main"] = "e" * 40, {CERTIFICATE: b"{}", "notes.md": b"mine"}
        line = run("-c", PUSH, path, "me/net", **place)
        assert line == f"{hub.url}/me/net/commit/{COMMIT}"
        _, files = hub.repositories["me/net"]["main"]
        assert files.keys() == {WEIGHTS, CONFIG, CARD, "notes.md"}
        assert 'create_model("hf-hub:me/net")' in files[CARD].decode()
        assert run("-c", READ, **place) == f"{digest(state)} {labels} 48"
        refusal = run("-c", PUSH, path, "other/net", **place)
        assert refusal.startswith("refused: other/net: cannot be written to (")
        assert run("-c", PUSH, path, "nonsense", **place).endswith(
            "expected 'owner/name' of a repository on the hub"
        )
    offline = run("-c", PUSH, path, "me/net", HF_HUB_OFFLINE="1")
    assert offline == "refused: me/net: cannot be written to, and HF_HUB_OFFLINE is set"


def test_images_paths_and_lists_are_prepared() -> None:
    model = resnet_torch.create_model(SMALL)
    model.preprocessing = Preprocessing(image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    with Image.open(PHOTOGRAPH) as picture:
        image = picture.copy()
    expected = resnet_torch.preprocess(model, image)
    assert expected.shape == (1, 32, 32, 3)
    assert expected.dtype == np.float32
    for images in (PHOTOGRAPH, str(PHOTOGRAPH), [PHOTOGRAPH, image], (p for p in [image])):
        found = resnet_torch.preprocess(model, images)
        assert all((one == expected[0]).all() for one in found)
    assert resnet_torch.transforms(model) == model.preprocessing
    for images, message in (
        ([], "at least one"),
        ("no.jpg", "no such image"),
        (np.zeros((8, 8, 3)), "expected Pillow images or paths"),
    ):
        with pytest.raises(ImageError, match=message):
            resnet_torch.preprocess(model, images)


def test_classes_have_names_and_probabilities() -> None:
    torch = pytest.importorskip("torch")
    model = resnet_torch.create_model(SMALL)
    model.preprocessing = Preprocessing(image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    (found,) = resnet_torch.classify(model, PHOTOGRAPH, top=3)
    logits = resnet_torch.predict(model, resnet_torch.preprocess(model, PHOTOGRAPH))
    share, order = torch.from_numpy(logits).double().softmax(1)[0].topk(3)
    assert [one.index for one in found] == order.tolist()
    assert [one.label for one in found] == [str(i) for i in order.tolist()]
    np.testing.assert_allclose([one.probability for one in found], share, rtol=1e-12)
    model.labels = tuple(f"n{i}" for i in range(SMALL.num_classes))
    assert resnet_torch.classify(model, [PHOTOGRAPH] * 2)[1][0].label == f"n{found[0].index}"
    features = resnet_torch.create_model(SMALL, num_classes=0)
    with pytest.raises(WeightsError, match="gives features and no classes"):
        resnet_torch.classify(features, PHOTOGRAPH)


def test_an_unknown_preprocessing_is_told() -> None:
    with pytest.warns(WeightsWarning, match="have none of their own, and ImageNet's is used"):
        found = resnet_torch.transforms(resnet_torch.create_model(SMALL))
    assert found == Preprocessing.default(SMALL)


def test_what_weights_tell_goes_with_the_model(tmp_path: Path) -> None:
    prepare = Preprocessing(image_size=48, mean=(0.1, 0.2, 0.6), std=(0.5,) * 3)
    labels = tuple(map(str, range(SMALL.num_classes)))
    path = own_file(
        tmp_path, Checkpoint(random_weights(compile_plan(SMALL)), SMALL, prepare, labels)
    )
    model = resnet_torch.create_model(path)
    resnet_torch.save_weights(model, tmp_path / "again.safetensors")
    again = read_checkpoint(tmp_path / "again.safetensors")
    assert (again.preprocessing, again.labels) == (prepare, labels)
    grey = resnet_torch.create_model(path, in_channels=1, num_classes=2)
    assert grey.labels is None
    assert grey.preprocessing is not None
    np.testing.assert_allclose(grey.preprocessing.mean, [0.3])
    # A file that tells nothing leaves nothing behind of the last one.
    write_safetensors(tmp_path / "bare.safetensors", Checkpoint(again.state))
    resnet_torch.load_weights(model, tmp_path / "bare.safetensors")
    assert (model.preprocessing, model.labels) == (None, None)


def test_the_command_line_lists_and_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = command("list", "resnet18", "--pretrained", "--json")
    assert code == 0
    assert [row["name"] for row in json.loads(out)] == list_models("resnet18", pretrained=True)
    code, out, _ = command("list", "--pretrained", "--source", "torchvision")
    assert out.count("\n") == 1 + 55
    assert "resnet50.IMAGENET1K_V2" in out
    monkeypatch.setenv("RESNET_PARITY_OFFLINE", "1")
    code, out, told = command("download", "resnet18*", "--library", "torchvision", "--json")
    assert code == 1, told
    (row,) = json.loads(out)
    assert row["path"] is None
    assert "RESNET_PARITY_OFFLINE forbids" in row["error"]
    assert "list --pretrained` has all" in refused("download", "alexnet*")
    assert "no published weights match" in refused("list", "alexnet", "--pretrained")
    assert "resnet18.nope" in refused("show", "resnet18.nope")


def test_predict_needs_no_model(warm: Path) -> None:
    predict = "-m", "resnet_parity", "predict", PHOTOGRAPH, "--weights", NAME, "--top", "1"
    line = run(*predict, HF_HOME=str(warm), HF_HUB_OFFLINE="1")
    assert any(label in line for label in imagenet_labels()), line
