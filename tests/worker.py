"""The worker of the tests: the product's operations, and probes that need a framework."""

from __future__ import annotations

import importlib
from typing import Any

from resnet_parity.worker import OPERATIONS, Session, serve
from tests.trace.faults import faulty_gradient, faulty_trace
from tests.training.faults import faulty_train


def probe(session: Session, function: str, **arguments: Any) -> Any:
    """Call `tests.probes.<module>:<name>` with the backend package as first argument."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(f"tests.probes.{module}"), name)(
        session.resnet, **arguments
    )


if __name__ == "__main__":
    own = (probe, faulty_train, faulty_trace, faulty_gradient)
    serve({**OPERATIONS, **{function.__name__: function for function in own}})
