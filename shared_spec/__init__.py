"""What a ResNet is: spec, catalogue, plan and canonical weights. Imports no framework."""

from shared_spec.catalogue import CATALOGUE, list_models
from shared_spec.catalogue.resolve import resolve
from shared_spec.errors import (
    FrameworkError,
    ImageError,
    ParityError,
    RecipeError,
    ResNetError,
    SpecError,
    UnknownModelError,
    WeightsError,
    WeightsWarning,
)
from shared_spec.formats.canonical_file import read_safetensors, write_safetensors
from shared_spec.formats.read import read_checkpoint
from shared_spec.formats.write import write_checkpoint
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.folding import Inference
from shared_spec.plan.network import Plan
from shared_spec.spec.files import load_spec, save_spec
from shared_spec.spec.resnet_spec import ResNetSpec
from shared_spec.training.optimization import Optimization, optimization
from shared_spec.weights.checkpoint import Checkpoint
from shared_spec.weights.initialize import initial_weights, random_images, random_weights
from shared_spec.weights.preprocessing import Preprocessing
from shared_spec.weights.state import State, cast_weights, check_weights, digest

__all__ = [
    "CATALOGUE",
    "Checkpoint",
    "FrameworkError",
    "ImageError",
    "Inference",
    "Optimization",
    "ParityError",
    "Plan",
    "Preprocessing",
    "RecipeError",
    "ResNetError",
    "ResNetSpec",
    "SpecError",
    "State",
    "UnknownModelError",
    "WeightsError",
    "WeightsWarning",
    "cast_weights",
    "check_weights",
    "compile_plan",
    "digest",
    "initial_weights",
    "list_models",
    "load_spec",
    "optimization",
    "random_images",
    "random_weights",
    "read_checkpoint",
    "read_safetensors",
    "resolve",
    "save_spec",
    "write_checkpoint",
    "write_safetensors",
]
