"""What `shared_spec` offers, and where each of it is: read when it is first used."""

from . import catalogue as catalogue
from . import errors as errors
from . import formats as formats
from . import plan as plan
from . import spec as spec
from . import training as training
from . import weights as weights
from .catalogue import CATALOGUE, list_models
from .catalogue.resolve import resolve
from .errors import (
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
from .formats.canonical_file import read_safetensors, write_safetensors
from .formats.read import read_checkpoint
from .formats.write import write_checkpoint
from .plan.compiler import compile_plan
from .plan.folding import Inference
from .plan.network import Plan
from .spec.files import load_spec, save_spec
from .spec.resnet_spec import ResNetSpec
from .training.optimization import Optimization, optimization
from .weights.checkpoint import Checkpoint
from .weights.initialize import initial_weights, random_images, random_weights
from .weights.preprocessing import Preprocessing
from .weights.state import State, cast_weights, check_weights, digest

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
