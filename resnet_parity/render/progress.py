"""Progress bars, and what takes their place where there is no terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from resnet_parity.check.record_file import SweepRecord
from resnet_parity.render.console import err
from resnet_parity.render.text import largest, plain, plain_figure
from shared_spec.errors import framework_missing

EVENTS = "events"


class _Shown:
    """What is shown with a bar while it is entered."""

    _bar: Progress

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.stop()


class TrainingProgress(_Shown):
    """A bar of the steps, and TensorBoard's files if requested."""

    def __init__(self, steps: int, events: Path | None) -> None:
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
        )
        self._task = self._bar.add_task("", total=steps, told="")
        self._writer = None if events is None else _event_writer(events / EVENTS)
        self._events: Any = None
        self._told: dict[str, str] = {}

    def observer(self) -> Any:
        """For `train`."""
        from resnet_parity.train.run import TrainingObserver

        return TrainingObserver(
            self._step, self._held_out, lambda text: err.print(text, highlight=False)
        )

    def _step(self, step: int, steps: int, loss: float, accuracy: float) -> None:
        self._told |= {"loss": f"{loss:.4f}", "accuracy": f"{accuracy:.1%}"}
        self._show(step)
        self._record(step, {"training/loss": loss, "training/accuracy": accuracy})

    def _held_out(self, step: int, scores: Any) -> None:
        self._told["held out"] = f"{scores.top1:.2%}"
        self._show(step)
        told = {"top1": scores.top1, "top5": scores.top5, "loss": scores.loss}
        self._record(step, {f"held_out/{name}": value for name, value in told.items()})

    def _record(self, step: int, values: dict[str, float]) -> None:
        if self._writer is None:
            return
        # Not before there is something to report: the run's folder has to be its own first.
        self._events = self._events or self._writer(purge_step=step)
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def _show(self, step: int) -> None:
        told = ", ".join(f"{name} {value}" for name, value in self._told.items())
        self._bar.update(self._task, completed=step, told=told)

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if self._events is not None:
            self._events.close()


def _event_writer(folder: Path) -> Callable[..., Any]:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise framework_missing("--tensorboard", "tensorboardX", "tensorboard") from None
    return partial(SummaryWriter, logdir=str(folder))


QUIET = 5.0
"""Seconds between two lines of progress in a log."""


@contextmanager
def progress(console: Console) -> Iterator[Callable[[str], None]]:
    """A spinner with the step at work and the time it has taken; in a log, lines (see `lines`)."""
    with ImageProgress(console, counted=False) as display:
        yield display.on_progress


@contextmanager
def lines(console: Console) -> Iterator[Callable[[str], None]]:
    """A line for a log with the time so far and what is at work, every `QUIET` seconds at most, and
    none where it is still the same.
    """
    began = time.monotonic()
    over = threading.Event()
    latest = told = ""

    def tell() -> None:
        nonlocal told
        while not over.wait(QUIET):
            if latest != told:
                told = latest
                line = f"{time.monotonic() - began:.0f} s: {plain(told)}"
                console.print(line, highlight=False, soft_wrap=True)

    def step(text: str) -> None:
        nonlocal latest
        latest = text

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield step
    finally:
        over.set()
        thread.join()


class ImageProgress(_Shown):
    """What is at work and how many images are done: a bar on a terminal, else lines in a log."""

    def __init__(self, console: Console, counted: bool = True) -> None:
        counts = (MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            *(counts if counted else [TimeElapsedColumn()]),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=None)
        self._what, self._done, self._total = "starting", 0.0, 0
        self._log: AbstractContextManager[Callable[[str], None]] = (
            nullcontext(lambda text: None) if console.is_terminal else lines(console)
        )

    def __enter__(self) -> Self:
        self._line = self._log.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._log.__exit__(*error)

    def on_progress(self, text: str) -> None:
        """Show what runs now."""
        self._what = text
        self._bar.update(self._task, description=plain(text))
        self._line(text)

    def expect(self, images: int) -> None:
        """Set the number of images."""
        self._total = images
        self._bar.update(self._task, total=images)

    def advance(self, images: float) -> None:
        """Count images, or a fraction of one, as done."""
        self._done += images
        self._bar.advance(self._task, images)
        self._line(f"{self._what}, {self._done:,.0f} of {self._total:,} images")


class SweepProgress(_Shown):
    """How far a sweep is: a bar with an estimate of the rest on a terminal, else a line a name.

    The estimate goes by parameters, of which one name has two thousand times as many as another.
    """

    OVERHEAD = 3e7
    """Parameters that take as long as what every name costs."""

    def __init__(self, console: Console, sizes: Mapping[str, int]) -> None:
        self._console, self._sizes, self._done = console, sizes, 0
        self._total = sum(sizes.values()) + self.OVERHEAD * len(sizes)
        self._bar = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("elapsed,"),
            TimeRemainingColumn(),
            TextColumn("to go"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=self._total, count=self._count())

    def step(self, name: str, what: str) -> None:
        """Tell what runs now."""
        self._bar.update(self._task, description=plain(f"{name} · {what}"))

    def done(self, record: SweepRecord, fresh: bool) -> None:
        """Tell a result; on a terminal only one that does not hold."""
        self._done += 1
        cost = self._sizes[record.name] + self.OVERHEAD
        self._total -= 0 if fresh else cost
        ran = cost if fresh else 0
        self._bar.update(self._task, advance=ran, total=self._total, count=self._count())
        if not self._console.is_terminal or not record.holds:
            line = f"{self._count()} {plain(_sweep_line(record, fresh))}"
            self._console.print(line, highlight=False, soft_wrap=True)

    def _count(self) -> str:
        return f"{self._done}/{len(self._sizes)}"


def _sweep_line(record: SweepRecord, fresh: bool) -> str:
    if not record.holds:
        return f"{record.name}: ✗ {'; '.join(record.all_problems())}"
    parts = [f"{name} {largest(j)}" for name, j in record.references.items()]
    parts += [f"engines {plain_figure(record.between)}"] if record.pair else []
    return f"{record.name}: ✓ {record.dtype}, {', '.join(parts)}{'' if fresh else ' (before)'}"


def downloading(advance: Callable[[str], None], name: str) -> Callable[[int, int | None], None]:
    """Progress of a download, in words."""

    def told(done: int, whole: int | None) -> None:
        share = f" of {whole / 1e6:.0f}" if whole else ""
        advance(f"{plain(name)}: {done / 1e6:.0f}{share} MB")

    return told
