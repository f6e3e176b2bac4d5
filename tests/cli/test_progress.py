"""What a log shows of long work."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from resnet_parity import tables


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 101.0, 106.0, 107.0, 112.5])
    monkeypatch.setattr("resnet_parity.tables.time.monotonic", lambda: next(now))
    stream = io.StringIO()
    with tables.progress(Console(file=stream, width=20)) as step:
        for text in ("first", "second, a [long] one \x1b[2J", "third", "fourth"):
            step(text)
    assert stream.getvalue() == "6 s: second, a [long] one  [2J\n12 s: fourth\n"
