"""The command line in the test's own process: starting another one takes longer than most tests."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple
from unittest.mock import patch


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


def command(*arguments: object) -> Ended:
    """Run `resnet-parity ARGUMENTS`."""
    from resnet_parity.cli.app import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        patch("sys.argv", ["resnet-parity", *map(str, arguments)]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Ended(code, out.getvalue(), err.getvalue())


def refused(*arguments: object) -> str:
    """The one sentence that bad input gets."""
    code, out, err = command(*arguments)
    assert (code, out) == (2, ""), (out, err)
    assert err.startswith("error: ")
    assert err.strip().count("\n") == 0
    return err.removeprefix("error: ").strip()
