"""One recipe, trained in any engine; a run that was killed goes on bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_parity.train.run import train

__all__ = ["train"]


def __getattr__(name: str) -> Any:
    # Loaded on request: commands that do not train read the recipes next to it.
    if name == "train":
        from resnet_parity.train.run import train

        return train
    raise AttributeError(name)
