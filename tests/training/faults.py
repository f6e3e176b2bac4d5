"""Training with something wrong in one engine, which a check has to notice and to name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resnet_parity.worker.operations import train
from resnet_parity.worker.session import Session

BRANCH = "layer1.0.bn1"


def module(model: Any, path: str) -> Any:
    """The native module of a layer, in any framework."""
    if hasattr(model, "get_layer"):  # first: on its PyTorch engine, Keras's are nn.Modules too
        return model.get_layer(path.replace(".", "_"))
    if hasattr(model, "get_submodule"):
        return model.get_submodule(path)
    from resnet_flax.model import find

    return find(model, path)


def inverted_momentum(model: Any) -> None:
    norm = module(model, BRANCH)
    norm.momentum = 1 - norm.momentum


def other_variance(model: Any) -> None:
    """The biased variance in the place of the unbiased one."""
    norm = module(model, BRANCH)
    if hasattr(norm, "unbiased"):
        norm.unbiased = False
        return
    from resnet_torch.layers import BiasedBatchNorm2d

    norm.__class__ = BiasedBatchNorm2d


def frozen_norm(model: Any) -> None:
    """A norm that goes on with its running statistics."""
    norm = module(model, BRANCH)
    kind = type(norm)
    if hasattr(model, "get_layer"):

        class Frozen(kind):  # type: ignore[misc, valid-type]
            def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
                return super().call(inputs, training=False)

    elif hasattr(model, "get_submodule"):

        class Frozen(kind):  # type: ignore[misc, valid-type, no-redef]
            def train(self, mode: bool = True) -> Any:
                return super().train(False)

    else:

        class Frozen(kind):  # type: ignore[misc, valid-type, no-redef]
            def __call__(self, x: Any, *args: Any, **options: Any) -> Any:
                return super().__call__(x, use_running_average=True)

    norm.__class__ = Frozen


def other_eps(model: Any) -> None:
    norm = module(model, BRANCH)
    name = "eps" if hasattr(norm, "eps") else "epsilon"
    setattr(norm, name, 1e-3)


MODEL_FAULTS: dict[str, Callable[[Any], None]] = {
    function.__name__: function
    for function in (inverted_momentum, other_variance, frozen_norm, other_eps)
}


def faulty_train(
    session: Session, fault: str, recipe: dict[str, Any], **arguments: Any
) -> dict[str, Any]:
    """The worker's `train`, with a fault in the model."""

    class Faulty:
        def __getattr__(self, name: str) -> Any:
            return getattr(session, name)

        def placed(self, *args: Any) -> Any:
            model = session.placed(*args)
            MODEL_FAULTS[fault](model)
            return model

    return train(Faulty(), recipe=recipe, **arguments)  # type: ignore[arg-type]
