"""Which converters change labels: ResNet-101 and a net trained on digits, in two frameworks.

    python benchmarks/converters.py --folder converters [--packages DIR] [--only PyTorch]

Louloudakis et al. (arXiv:2306.06157, 2312.15101) find that conversions of published ResNet-101
among PyTorch, Keras and TFLite change labels of images. Here each converter gets such nets, in a
process of its own, and what comes out is run on the same arrays, one image at a time, and compared
with the source net in its own library. `--packages` is a folder of converters that must not be
installed beside the rest (`pip install --target DIR --no-deps …`). The folder keeps every result:
what is there is not run again. Writes its own section of docs/results/export.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results" / "export.md"
TITLE = "## Labels that converters change"
NETS = ("random", "digits")
LIMIT = 900
"""Seconds of one route with one net."""
PACKAGES = (
    *("torch", "torchvision", "tensorflow_cpu", "keras", "onnx", "onnxruntime", "openvino"),
    *(
        "ai-edge-litert",
        "onnxscript",
        "nobuco",
        "tf_keras",
        "onnx2keras",
        "onnx2tf",
        "litert-torch",
    ),
    *("tf2onnx", "onnx2torch"),
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE = (103.939, 116.779, 123.68)
"""Mean of blue, green and red that keras.applications takes from pixels of its first ResNets."""


@dataclass(frozen=True)
class Job:
    """A net, and where its files are."""

    net: str
    folder: Path

    @property
    def images(self) -> np.ndarray:
        """[N, H, W, C], float32, preprocessed."""
        images: np.ndarray = np.load(self.folder / f"{self.net}.npy")
        return images

    @property
    def torch_file(self) -> Path:
        """The source's weights for PyTorch."""
        return self.folder / ("random.pth" if self.net == "random" else "digits.safetensors")

    @property
    def keras_file(self) -> Path:
        """The source in Keras."""
        return self.folder / f"{self.net}.keras"

    def torch_model(self) -> Any:
        """The source net in PyTorch: torchvision's own; digits' nets are in no library but ours."""
        import torch

        if self.net == "digits":
            import resnet_torch

            return resnet_torch.create_model(str(self.torch_file)).eval()
        from resnet_parity.worker.reference_libraries import torchvision_models

        model = torchvision_models().resnet101()
        model.load_state_dict(torch.load(self.torch_file, weights_only=True))
        return model.eval()

    def keras_model(self) -> Any:
        """The source net in Keras: keras.applications' own, or the digits' net of ours."""
        import keras

        if self.net == "digits":
            import resnet_keras  # noqa: F401  its layers are registered
        return keras.saving.load_model(self.keras_file)

    def example(self) -> Any:
        """One image as PyTorch takes it."""
        import torch

        return torch.from_numpy(_first(self.images[:1]))


def ours(command: str, *arguments: object) -> None:
    """One of this project's commands. What it would verify is judged here."""
    line = [sys.executable, "-m", "resnet_parity", command, *map(str, arguments), "--no-verify"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())


def _first(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def one_by_one(call: Callable[[np.ndarray], Any], images: np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray(call(images[i : i + 1])) for i in range(len(images))])


def in_torch(model: Any, images: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return one_by_one(lambda x: model(torch.from_numpy(_first(x))), images)


def in_keras(model: Any, images: np.ndarray) -> np.ndarray:
    import tensorflow as tf

    return one_by_one(tf.function(lambda x: model(x, training=False)), images)


def in_litert(file: Path, images: np.ndarray) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(file), num_threads=os.cpu_count())
    given, result = runner.get_input_details()[0], runner.get_output_details()[0]
    first = given["shape"][-1] != images.shape[-1]

    def call(x: np.ndarray) -> np.ndarray:
        runner.set_tensor(given["index"], _first(x) if first else x)
        runner.invoke()
        return runner.get_tensor(result["index"])

    runner.resize_tensor_input(given["index"], (_first if first else np.array)(images[:1]).shape)
    runner.allocate_tensors()
    return one_by_one(call, images)


def in_onnxruntime(file: Path, images: np.ndarray, last: bool = False) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return one_by_one(lambda x: session.run(None, {name: x if last else _first(x)})[0], images)


def in_openvino(model: Any, images: np.ndarray) -> np.ndarray:
    import openvino

    # On some CPUs it would compute in bfloat16 by itself.
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return one_by_one(lambda x: compiled(_first(x))[0], images)


def onnx_of(job: Job, dynamo: bool) -> Path:
    """What torch.onnx writes."""
    import torch

    file = job.folder / "x.onnx"
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"]}
    torch.onnx.export(job.torch_model(), (job.example(),), str(file), dynamo=dynamo, **names)
    return file


def ours_onnx(job: Job, source: Path) -> Path:
    file = job.folder / "ours.onnx"
    # A bare state dict does not say which of two nets of its shapes it is.
    named = ("resnet101", "--weights", source) if source.suffix == ".pth" else (source,)
    ours("export", *named, "-o", file)
    return file


def ours_keras(job: Job) -> Any:
    import keras

    import resnet_keras  # noqa: F401  its layers are registered

    file = job.folder / "ours.keras"
    named = ("--model", "resnet101") if job.net == "random" else ()
    ours("convert", job.torch_file, file, *named)
    return keras.saving.load_model(file)


def litert_of(job: Job, model: Any) -> Path:
    """What Keras's own exporter writes, for images of one size."""
    import keras

    file = job.folder / "x.tflite"
    fixed = keras.Input(job.images.shape[1:], batch_size=1)
    keras.Model(fixed, model(fixed)).export(file, format="litert", verbose=False)
    return file


def ours_torch(job: Job) -> np.ndarray:
    import resnet_torch

    file = job.folder / "ours.safetensors"
    ours("convert", job.keras_file, file)
    return in_torch(resnet_torch.create_model(str(file)).eval(), job.images)


def nobuco_keras(job: Job) -> Any:
    # nobuco is written for Keras 2, which is published as tf_keras today.
    import tf_keras

    for name in [n for n in sys.modules if n == "keras" or n.startswith("keras.")]:
        del sys.modules[name]
    import tf_keras.src.engine.keras_tensor

    for name in [n for n in sys.modules if n == "tf_keras" or n.startswith("tf_keras.")]:
        sys.modules[name.removeprefix("tf_")] = sys.modules[name]
    sys.modules["keras"] = tf_keras
    import nobuco

    return nobuco.pytorch_to_keras(job.torch_model(), args=[job.example()])


def onnx2keras_keras(job: Job) -> np.ndarray:
    import onnx
    import tensorflow as tf
    from onnx2keras import onnx_to_keras

    model = onnx_to_keras(
        onnx.load(onnx_of(job, False)), ["x"], verbose=False, change_ordering=True
    )
    del tf
    return in_keras(model, job.images)


def onnx2tf_folder(job: Job) -> Path:
    import onnx2tf

    folder = job.folder / "onnx2tf"
    onnx2tf.convert(str(onnx_of(job, False)), output_folder_path=str(folder), verbosity="error")
    return folder


def onnx2tf_keras(job: Job) -> np.ndarray:
    import tensorflow as tf

    model = tf.saved_model.load(str(onnx2tf_folder(job)))
    call = model.signatures["serving_default"]
    return one_by_one(lambda x: next(iter(call(tf.constant(x)).values())), job.images)


def litert_torch_file(job: Job) -> Path:
    import litert_torch

    file = job.folder / "x.tflite"
    litert_torch.convert(job.torch_model(), (job.example(),)).export(str(file))
    return file


def tflite_of(job: Job, model: Any) -> Path:
    """What TensorFlow's TFLiteConverter writes."""
    import tensorflow as tf

    file = job.folder / "x.tflite"
    file.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return file


def keras_onnx(job: Job) -> Path:
    file = job.folder / "x.onnx"
    model = job.keras_model()
    model(job.images[:1])  # or Keras refuses it
    model.export(file, format="onnx", verbose=False)
    return file


def tf2onnx_file(job: Job) -> Path:
    """tf2onnx from a SavedModel, as its documentation has it."""
    folder, file = job.folder / "saved", job.folder / "x.onnx"
    job.keras_model().export(folder, format="tf_saved_model", verbose=False)
    line = [sys.executable, "-m", "tf2onnx.convert", "--saved-model", str(folder), "--output"]
    done = subprocess.run([*line, str(file)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return file


def onnx2torch_torch(job: Job, file: Path) -> np.ndarray:
    import torch

    from resnet_parity.worker.reference_libraries import torchvision_models

    torchvision_models()
    from onnx2torch import convert

    model = convert(str(file)).eval()
    with torch.no_grad():
        return one_by_one(lambda x: model(torch.from_numpy(x.copy())), job.images)


def converted_by_openvino(job: Job) -> Any:
    import openvino

    return openvino.convert_model(job.torch_model(), example_input=job.example())


def torch_float64(job: Job) -> np.ndarray:
    return in_torch(job.torch_model().double(), job.images.astype(np.float64))


def wrong_preprocessing(job: Job) -> np.ndarray:
    """Digits: pixels as they are. Photographs: as keras.applications' ResNets take them."""
    return in_torch(job.torch_model(), np.load(job.folder / f"{job.net}.mistaken.npy"))


def wrong_padding(job: Job) -> np.ndarray:
    """Strided windows padded as TensorFlow's `same` does: an odd pixel after, not before."""
    import torch

    model = job.torch_model()

    def padded(layer: Any, inputs: Any) -> Any:
        x = inputs[0]
        k = layer.kernel_size if isinstance(layer.kernel_size, int) else layer.kernel_size[0]
        pads: list[int] = []
        for n in (x.shape[3], x.shape[2]):
            total = max((-(-n // 2) - 1) * 2 + k - n, 0)
            pads += [total // 2, total - total // 2]
        pool = isinstance(layer, torch.nn.MaxPool2d)
        return torch.nn.functional.pad(x, pads, value=float("-inf") if pool else 0.0)

    for layer in model.modules():
        if getattr(layer, "stride", 1) in (2, (2, 2)) and getattr(layer, "padding", 0) not in (
            0,
            (0, 0),
        ):
            layer.padding = (0, 0) if isinstance(layer.padding, tuple) else 0
            layer.register_forward_pre_hook(padded)
    return in_torch(model, job.images)


Route = Callable[[Job], np.ndarray]
SOURCES: dict[str, Route] = {
    "PyTorch": lambda j: in_torch(j.torch_model(), j.images),
    "Keras": lambda j: in_keras(j.keras_model(), j.images),
}
ROUTES: dict[tuple[str, str, str], Route] = {
    ("PyTorch", "Keras", "ours: `convert`"): lambda j: in_keras(ours_keras(j), j.images),
    ("PyTorch", "Keras", "nobuco"): lambda j: in_keras(nobuco_keras(j), j.images),
    ("PyTorch", "Keras", "torch.onnx, onnx2keras"): onnx2keras_keras,
    ("PyTorch", "SavedModel", "torch.onnx, onnx2tf"): onnx2tf_keras,
    ("PyTorch", "TFLite", "ours: `convert`, Keras's export"): lambda j: in_litert(
        litert_of(j, ours_keras(j)), j.images
    ),
    ("PyTorch", "TFLite", "litert-torch"): lambda j: in_litert(litert_torch_file(j), j.images),
    ("PyTorch", "TFLite", "torch.onnx, onnx2tf"): lambda j: in_litert(
        onnx2tf_folder(j) / "x_float32.tflite", j.images
    ),
    ("PyTorch", "TFLite", "nobuco, TFLiteConverter"): lambda j: in_litert(
        tflite_of(j, nobuco_keras(j)), j.images
    ),
    ("PyTorch", "ONNX Runtime", "ours: `export`"): lambda j: in_onnxruntime(
        ours_onnx(j, j.torch_file), j.images
    ),
    ("PyTorch", "ONNX Runtime", "torch.onnx, dynamo"): lambda j: in_onnxruntime(
        onnx_of(j, True), j.images
    ),
    ("PyTorch", "ONNX Runtime", "torch.onnx, TorchScript"): lambda j: in_onnxruntime(
        onnx_of(j, False), j.images
    ),
    ("PyTorch", "OpenVINO", "ours: `export`"): lambda j: in_openvino(
        ours_onnx(j, j.torch_file), j.images
    ),
    ("PyTorch", "OpenVINO", "openvino.convert_model"): lambda j: in_openvino(
        converted_by_openvino(j), j.images
    ),
    ("PyTorch", "OpenVINO", "torch.onnx, dynamo"): lambda j: in_openvino(
        onnx_of(j, True), j.images
    ),
    ("Keras", "PyTorch", "ours: `convert`"): ours_torch,
    ("Keras", "PyTorch", "Keras's export, onnx2torch"): lambda j: onnx2torch_torch(
        j, keras_onnx(j)
    ),
    ("Keras", "PyTorch", "tf2onnx, onnx2torch"): lambda j: onnx2torch_torch(j, tf2onnx_file(j)),
    ("Keras", "ONNX Runtime", "ours: `export`"): lambda j: in_onnxruntime(
        ours_onnx(j, j.keras_file), j.images
    ),
    ("Keras", "ONNX Runtime", "Keras's export"): lambda j: in_onnxruntime(
        keras_onnx(j), j.images, last=True
    ),
    ("Keras", "ONNX Runtime", "tf2onnx"): lambda j: in_onnxruntime(
        tf2onnx_file(j), j.images, last=True
    ),
    ("Keras", "TFLite", "Keras's export"): lambda j: in_litert(
        litert_of(j, j.keras_model()), j.images
    ),
    ("Keras", "TFLite", "TFLiteConverter"): lambda j: in_litert(
        tflite_of(j, j.keras_model()), j.images
    ),
    ("PyTorch", "PyTorch", "none: float64"): torch_float64,
    ("PyTorch", "PyTorch", "none: wrong preprocessing"): wrong_preprocessing,
    ("PyTorch", "PyTorch", "none: `same` padding"): wrong_padding,
}


def crops(count: int, size: int) -> np.ndarray:
    """[N, size, size, 3], bytes: squares of the two photographs, of random places and sizes."""
    rng = np.random.default_rng(0)
    files = [ROOT / "resnet_parity" / "assets" / f"{name}.jpg" for name in ("china", "flower")]
    photographs = [Image.open(file).convert("RGB") for file in files]
    made = []
    for i in range(count):
        photograph = photographs[i % 2]
        side = int(min(photograph.size) * rng.uniform(0.25, 1))
        left, top = (int(rng.integers(0, n - side + 1)) for n in photograph.size)
        box = (left, top, left + side, top + side)
        made.append(np.asarray(photograph.resize((size, size), Image.Resampling.BILINEAR, box)))
    return np.stack(made)


def spread(kernel: np.ndarray, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A classifier's kernel [features, classes] and bias, with which each class's logits have mean
    0 and deviation 1 over the images: else one class has the largest in all of them.
    """
    scaled = kernel / (features @ kernel).std(0)
    return scaled, -(features @ scaled).mean(0)


def prepare(folder: Path, count: int, size: int) -> None:
    """Write nets and images into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "random.keras").exists():
        prepare_random(folder, crops(count, size))
    if (folder / "digits.keras").exists():
        return
    if not (folder / "digits.safetensors").exists():
        line = [sys.executable, "-m", "resnet_parity", "train", "digits", "--engine", "torch"]
        subprocess.run([*line, "--output", str(folder / "run")], check=True)
        (folder / "run" / "weights.safetensors").rename(folder / "digits.safetensors")
    prepare_digits(folder)


def prepare_random(folder: Path, pixels: np.ndarray) -> None:
    """ResNet-101 of torchvision and of keras.applications, with weights drawn alike."""
    import keras
    import torch

    from shared_spec import Checkpoint, compile_plan, random_weights, resolve, write_safetensors

    images = ((pixels / 255 - MEAN) / STD).astype(np.float32)
    np.save(folder / "random.npy", images)
    np.save(folder / "random.mistaken.npy", (pixels[..., ::-1] - CAFFE).astype(np.float32))
    job = Job("random", folder)
    weights = random_weights(compile_plan(resolve("resnet101")))
    state = {name: torch.from_numpy(array) for name, array in weights.items()}
    torch.save(state, job.torch_file)
    model = job.torch_model()
    classifier, model.fc = model.fc, torch.nn.Identity()
    kernel, bias = spread(classifier.weight.detach().numpy().T, in_torch(model, images))
    state |= {"fc.weight": torch.from_numpy(kernel.T.copy()), "fc.bias": torch.from_numpy(bias)}
    torch.save(state, job.torch_file)

    spec = resolve("keras_resnet101")
    drawn = folder / "drawn.safetensors"
    write_safetensors(drawn, Checkpoint(random_weights(compile_plan(spec)), spec))
    ours("convert", drawn, folder / "drawn.weights.h5", "--to", "keras-applications")
    size = images.shape[1:]
    net = keras.applications.ResNet101(weights=None, classifier_activation=None, input_shape=size)
    net.load_weights(folder / "drawn.weights.h5")
    features = in_keras(keras.Model(net.input, net.layers[-2].output), images)
    net.layers[-1].set_weights(spread(net.layers[-1].get_weights()[0], features))
    net.save(job.keras_file)


def prepare_digits(folder: Path) -> None:
    """The digits held out, and the net in Keras too, by our own conversion: a source of its own."""
    from resnet_parity.datasets import InMemory, open_dataset
    from shared_spec import read_checkpoint
    from shared_spec.training.data_spec import DataSpec

    data = open_dataset(DataSpec(format="digits"), "held_out")
    preprocessing = read_checkpoint(folder / "digits.safetensors").preprocessing
    assert isinstance(data, InMemory)
    assert preprocessing is not None
    np.save(folder / "digits.npy", preprocessing.normalise(data.pixels))
    np.save(folder / "digits.mistaken.npy", data.pixels)
    ours("convert", folder / "digits.safetensors", folder / "digits.keras")


def run_one(route: Route, job: Job, result: Path) -> None:
    """Run a route in this process; what comes of it, or its error, goes into a file."""
    from resnet_parity.worker.reference_libraries import torchvision_models

    torchvision_models()  # some converters import torchvision, which needs care beside PyTorch
    try:
        np.save(result.with_suffix(".npy"), route(job))
        result.write_text(json.dumps({"error": None}))
    except Exception as error:  # whatever a converter raises is its result
        first = (str(error).strip().splitlines() or [""])[0]
        result.write_text(json.dumps({"error": f"{type(error).__name__}: {first}"}))


def in_process(number: int, job: Job, result: Path, packages: Path | None) -> None:
    """Run route `number` in a process of its own, unless its result is there."""
    if result.exists():
        return
    paths = [str(p) for p in (ROOT, packages) if p]
    quiet = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    env = os.environ | quiet | {"PYTHONPATH": os.pathsep.join(paths)}
    line = [sys.executable, __file__, "--folder", str(job.folder), "--route", str(number)]
    log = result.with_suffix(".log")
    ending = ""
    with log.open("w") as out:
        try:
            done = subprocess.run(
                [*line, "--net", job.net], env=env, stdout=out, stderr=out, timeout=LIMIT
            )
            if done.returncode < 0:
                ending = f"the process ended with {signal.Signals(-done.returncode).name}"
            elif done.returncode:
                ending = log.read_text().strip().splitlines()[-1]
        except subprocess.TimeoutExpired:
            ending = f"not done after {LIMIT} s"
    if ending:
        result.write_text(json.dumps({"error": ending}))


def result_of(job: Job, number: int) -> Path:
    results = job.folder / "results"
    results.mkdir(exist_ok=True)
    return results / f"{job.net}-{number}.json"


def compared(result: Path, source: np.ndarray) -> tuple[str, str, str]:
    """The share of labels changed, the largest relative difference, and the error, in words."""
    error = json.loads(result.read_text())["error"]
    if error:
        return "failed", "", error
    logits = np.load(result.with_suffix(".npy")).reshape(len(source), -1)
    if logits.shape != source.shape:
        return "failed", "", f"its output has the shape {list(logits.shape)}"
    changed = int((logits.argmax(1) != source.argmax(1)).sum())
    difference = np.abs(logits.astype(np.float64) - source).max() / np.abs(source).max()
    return f"{changed} ({changed / len(source):.1%})", f"{difference:.1e}", ""


def about(source: np.ndarray) -> str:
    """How easily labels of a net change: how many there are, and the margins of the largest."""
    two = np.sort(source, axis=1)[:, -2:]
    margins = (two[:, 1] - two[:, 0]) / np.abs(source).max()
    labels = len(set(source.argmax(1)))
    return (
        f"{len(source)} images, {labels} distinct labels, margin of the first logit over the "
        f"second, relative to the largest logit: least {margins.min():.1e}, median "
        f"{np.median(margins):.1e}"
    )


def _told(error: str) -> str:
    return error.replace("|", "/").replace(f"{ROOT}/", "")[:120]


def page(folder: Path, packages: Path | None) -> str:
    """The section, from the results in a folder."""
    if packages:
        sys.path.append(str(packages))
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    lines = [
        TITLE,
        "",
        "    python benchmarks/converters.py --folder FOLDER --packages CONVERTERS",
        "",
        "Louloudakis et al. ([2306.06157](https://arxiv.org/abs/2306.06157),",
        "[2312.15101](https://arxiv.org/abs/2312.15101)) find that conversions among PyTorch,",
        "Keras and TFLite change labels of published ResNet-101. Here the same kinds of conversion",
        "get ResNet-101 with random weights and norm statistics, whose classifier is scaled so",
        "that labels spread, and our net trained on digits; nothing could be downloaded, so that",
        "no published weights were converted. What comes out is run on the same preprocessed",
        "arrays, one at a time, and compared with the source net in its own library in float32.",
        f"{'; '.join(found)}; Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}.",
        "",
    ]
    for net, title in (("random", "ResNet-101, random weights"), ("digits", "The digits net")):
        job, number = Job(net, folder), len(SOURCES)
        sources = {
            name: np.load(result_of(job, i).with_suffix(".npy")) for i, name in enumerate(SOURCES)
        }
        lines += [
            f"**{title}**, images of {job.images.shape[1:3]}: "
            + "; ".join(f"{k}: {about(v)}" for k, v in sources.items())
            + ".",
            "",
        ]
        lines += ["| from | to | by | labels changed | logits off |", "|---|---|---|---:|---:|"]
        for i, (origin, to, by) in enumerate(ROUTES, number):
            if not result_of(job, i).exists():
                continue
            changed, off, error = compared(result_of(job, i), sources[origin])
            lines.append(f"| {origin} | {to} | {by} | {changed} | {off or _told(error)} |")
        lines.append("")
    lines += [
        "A route has to get three things right: rounding, which changes a label only where two",
        "logits are closer than it; padding, which TensorFlow puts after an odd pixel where",
        "PyTorch puts it before; and preprocessing. Rows of `none` show what each does, with",
        "nothing converted. Routes that were not run are left out; one that asks a server found",
        "none.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="for nets and results")
    parser.add_argument("--packages", type=Path, help="a folder of more converters")
    parser.add_argument("--images", type=int, default=200, help="crops of photographs (200)")
    parser.add_argument("--size", type=int, default=224, help="their pixels a side (224)")
    parser.add_argument("--route", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--net", choices=NETS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder.resolve()
    routes = [*SOURCES.values(), *ROUTES.values()]
    if options.route is not None:
        job = Job(options.net, folder)
        run_one(routes[options.route], job, result_of(job, options.route))
        return
    os.environ["KERAS_BACKEND"] = "tensorflow"
    prepare(folder, options.images, options.size)
    for net in reversed(NETS):
        for number in range(len(routes)):
            job = Job(net, folder)
            in_process(number, job, result_of(job, number), options.packages)
            print(net, number, result_of(job, number).read_text(), flush=True)
    text, made = PAGE.read_text(), page(folder, options.packages)
    before, _, rest = text.partition(TITLE)
    after = rest[rest.find("\n## ") :] if "\n## " in rest else ""
    PAGE.write_text(f"{before.rstrip()}\n\n{made}{after}")


if __name__ == "__main__":
    main()
