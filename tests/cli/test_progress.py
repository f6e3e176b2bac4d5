"""What a log shows of long work."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from resnet_parity.render import progress as module
from resnet_parity.render.progress import progress


def test_a_log_is_told_what_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest step, also where it takes longer than all before it; each once."""
    monkeypatch.setattr(module, "QUIET", 0.05)
    stream = io.StringIO()
    with progress(Console(file=stream, width=20)) as step:
        step("passed over")
        step("a [long] one \x1b[2J")
        end = time.monotonic() + 60
        while "\n" not in stream.getvalue() and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.2)
    assert stream.getvalue() == "0 s: a [long] one  [2J\n"


def test_short_work_is_silent() -> None:
    stream = io.StringIO()
    with progress(Console(file=stream)) as step:
        step("done at once")
    assert stream.getvalue() == ""
