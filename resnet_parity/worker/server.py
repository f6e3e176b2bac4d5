"""Reads requests as JSON lines and answers in JSON lines."""

from __future__ import annotations

import gc
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_parity.worker.session import Operation, Session
from shared_spec.errors import ResNetError


def serve(operations: Mapping[str, Operation]) -> None:
    """Answer requests on standard input until it ends."""
    # Whatever a library prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    package, device = sys.argv[1:3]
    session: Session | None = None
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    while True:
        request = json.loads(lines.get())
        try:
            if session is None:
                session = Session(package, device)
                gc.freeze()  # or each collection would go through all that was imported
            result = operations[request["operation"]](session, **request["arguments"])
            answer: dict[str, Any] = {"result": result}
        except ResNetError as error:
            answer = {"refused": str(error)}
        except Exception as error:
            traceback.print_exc()
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = " ".join(str(error).split())[:500]
            place = f"{Path(where.filename).name}:{where.lineno}"
            answer = {"broken": f"{type(error).__name__} at {place}: {text}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _listen(lines: queue.Queue[str]) -> None:
    """Pass requests on, and end the process with its parent, in the middle of work too."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)
