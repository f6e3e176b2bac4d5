"""What users of NNX expect of a model: that it does what one of stock layers does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest

from resnet_parity.engines.process import Worker
from resnet_parity.engines.registry import ENGINES
from shared_spec import resolve
from tests.conftest import ROOT, Pool

Probe = Any
"""`probe("what", **arguments)`"""


@pytest.fixture
def probe(pool: Pool) -> Probe:
    worker = pool["flax"]
    return lambda what, **given: worker.call("probe", function=f"flax_habits:{what}", **given)


@pytest.fixture(scope="module")
def on_devices(pool: Pool) -> Iterator[Probe]:
    """As `probe`, in a process of eight devices."""
    pool["flax"]  # sets the path that workers have, and skips without the engine
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(ROOT):
        flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"
        patch.setenv("XLA_FLAGS", flags)
        worker = Worker(ENGINES["flax"], "cpu", module="tests.worker")
    with worker:
        yield lambda what, **given: worker.call("probe", function=f"flax_habits:{what}", **given)


def test_streams_say_which_weights_and_dropout_are_equal(probe: Probe) -> None:
    probe("rngs")


def test_what_is_no_stream_seed_or_dtype_is_refused(probe: Probe) -> None:
    dtypes = "is not one of float64, float32, float16, bfloat16"
    told = probe("refusals")
    assert told.pop("object").startswith("dtype: <object object at")
    assert told.pop("float64").startswith("dtype: float64 needs jax.config.update('jax_enable_x64'")
    assert told == {
        "traced floats": "seed: expected an integer, got BatchTracer",
        "traced keys": "seed: expected an integer, got BatchTracer",
        "several": "seed: expected an integer, got DynamicJaxprTracer",
        "list": "seed: expected an integer, got list",
        "rngs": "rngs: expected nnx.Rngs, got int",
        "seed": "seed: expected an integer, got str",
        "float": "seed: expected an integer, got float",
        "adapted": "seed: expected an integer, got BatchTracer",
        "param_dtype": f"param_dtype: 'float31' {dtypes}",
        "dtype": f"dtype: 'int8' {dtypes}",
    }


@pytest.mark.parametrize("how", ["seed", "key", "split_rngs", "jit, for inference"])
def test_members_of_an_ensemble_are_what_they_are_alone(probe: Probe, how: str) -> None:
    probe("ensemble", how=how)


def test_an_abstract_model_draws_nothing(probe: Probe) -> None:
    probe("abstract")


def test_a_compiled_creation_has_no_weights_in_its_program(probe: Probe) -> None:
    probe("compiled_creation")


def test_convolutions_in_groups_are_divided_among_devices(on_devices: Probe) -> None:
    on_devices("divided")


def test_each_device_gets_its_part_of_a_created_model(on_devices: Probe) -> None:
    on_devices("sharded_creation")


@pytest.mark.parametrize(
    ("dtype", "param_dtype"),
    [
        (None, None),
        (None, "float32"),
        ("bfloat16", "float32"),
        ("float16", "float32"),
        ("float32", "float32"),
        ("float64", "float32"),
    ],
)
def test_dtypes_are_those_of_stock_layers(
    probe: Probe, dtype: str | None, param_dtype: str | None
) -> None:
    probe("dtypes", dtype=dtype, param_dtype=param_dtype)


def test_a_dtype_is_a_name_or_the_frameworks_own(probe: Probe) -> None:
    probe("names_of_dtypes")


NARROW: list[tuple[str, dict[str, Any]]] = [
    ("resnet20", {"widths": [16], "drop_rate": 0.1, "drop_path_rate": 0.1, "drop_block_rate": 0.1}),
    ("seresnet50", {"widths": [16], "stem_width": 16}),
    ("ecaresnet50d", {"widths": [16], "stem_width": 16}),
    ("resnetv2_50x1_bit", {"widths": [32]}),
    ("resnetv2_50", {"widths": [16], "stem_width": 16, "layer_scale": 0.1}),
    ("resnetv2_50d_evos", {"widths": [16], "norm_groups": 4, "stem_width": 32}),
    ("resnetv2_50d_frn", {"widths": [16], "stem_width": 16}),
    ("resnetblur50", {"widths": [16], "stem_width": 16}),
]


@pytest.mark.parametrize(("name", "fields"), NARROW, ids=[name for name, _ in NARROW])
def test_every_layer_computes_in_its_dtype(probe: Probe, name: str, fields: dict[str, Any]) -> None:
    spec = resolve(name, {"depths": [1], "num_classes": 4} | fields)
    probe("every_layer_computes_narrowly", spec=spec.to_dict())


def test_standardised_convolutions_promote_as_stock_ones(probe: Probe) -> None:
    probe("standardized")


@pytest.mark.parametrize("how", ["vmap", "pmap", "shard_map"])
@pytest.mark.parametrize("variance", ["unbiased", "biased"])
def test_running_variance_is_of_the_whole_batch(on_devices: Probe, how: str, variance: str) -> None:
    on_devices("running_variance", how=how, variance=variance)


def test_a_recipe_decides_how_a_model_is_trained(probe: Probe) -> None:
    losses = probe("trainer")
    for narrow in ("float32", "bfloat16"):
        assert losses[narrow][0] == losses[narrow][1] == losses[narrow][2]
    assert losses["float32"] != losses["bfloat16"]


def test_loaded_weights_stay_where_the_model_lies(on_devices: Probe) -> None:
    on_devices("places")


ANY, MULTIPLES = "b, h, w, {}", "b, 32*h, 32*w, {}"
EXPORTED: list[tuple[str, dict[str, Any], str]] = [
    ("resnet20", {"widths": [8, 16], "stem_width": 8}, ANY),
    ("resnet18", {"widths": [8, 16], "stem_width": 8}, ANY),
    ("resnet50d", {"widths": [8, 16], "stem_width": 8, "output_stride": 4}, ANY),
    ("resnet50d", {"widths": [8, 16], "stem_width": 8}, ANY),
    ("resnetblur50", {"widths": [8, 16], "stem_width": 8}, ANY),
    ("resnetv2_50x1_bit", {"widths": [32, 32]}, ANY),
    ("resnetaa50d", {"widths": [8, 16], "stem_width": 8}, MULTIPLES),
    ("d2l_resnet18_same", {"widths": [8, 16], "stem_width": 8}, MULTIPLES),
]


@pytest.mark.parametrize(("name", "fields", "shape"), EXPORTED)
def test_a_program_of_any_size_is_the_model(
    probe: Probe, name: str, fields: dict[str, Any], shape: str
) -> None:
    spec = resolve(name, {"depths": [1, 1], "num_classes": 4} | fields)
    found = probe("exported", spec=spec.to_dict(), shape=shape.format(spec.in_channels))
    assert max(found) < 1e-5


def test_a_model_prints_as_stock_modules_do(probe: Probe) -> None:
    found = probe("printed")
    for view in ("text", "notebook"):
        # Ours has activations and a pool for modules.
        assert found["ours"]["size"][view] < 1.2 * found["stock"]["size"][view]
        assert found["ours"]["width"][view] < 1.1 * found["stock"]["width"][view]
    for path in ("conv1", "layer1/0/bn2", "fc"):
        assert path in found["stock"]["table"]
        assert path in found["ours"]["table"]


def test_a_model_is_a_linen_module_too(probe: Probe) -> None:
    probe("linen")


@pytest.mark.parametrize(
    "name",
    [
        "gradients",
        "jit(value_and_grad)",
        "remat",
        "scan",
        "Optimizer",
        "Optimizer of the classifier",
        "replaced layers",
        "LoRA",
        "view",
        "set_attributes",
        "copies",
        "a pytree",
        "update",
        "iter_graph",
        "metadata",
        "orbax",
        "vmap of an image",
    ],
)
def test_habits(probe: Probe, name: str) -> None:
    probe("habit", name=name)


def test_an_edited_model_is_not_saved(probe: Probe) -> None:
    probe("an_edited_model_is_not_saved")
