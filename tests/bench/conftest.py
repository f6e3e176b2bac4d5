"""Which sides take turns depends on the memory that is free; tests say how much that is."""

from __future__ import annotations

import pytest

from resnet_parity.bench import cases


@pytest.fixture(autouse=True)
def memory_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as the sides of any test need, unless it says otherwise."""
    monkeypatch.setattr(cases, "available_memory", lambda: None)
