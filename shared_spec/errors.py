"""The errors a user can meet. Each message is one sentence: what, where, what would be accepted."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

_LONGEST = 15_000


class ResNetError(ValueError):
    """Base of every error that bad input causes. The command line prints it and exits with 2.

    Parts of a message may come from a file that is not well meant: what is not printable is
    escaped, and what would fill screens is cut.
    """

    def __init__(self, message: str) -> None:
        text = message[:_LONGEST]
        if not text.isprintable():
            text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)[:_LONGEST]
        cut = len(message) - len(text)
        super().__init__(f"{text} ... ({cut:,} characters more)" if cut > 0 else text)


class SpecError(ResNetError):
    """A spec, or a file that should hold one, is not valid."""


class RecipeError(ResNetError):
    """A recipe, or a file that should hold one, is not valid."""


class UnknownModelError(ResNetError):
    """A model name is not in the catalogue."""


class WeightsError(ResNetError):
    """Weights, or a file that should hold them, do not fit the model.

    `mismatches` has everything that does not fit, of which the message names the first ones.
    """

    def __init__(self, message: str, mismatches: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.mismatches = tuple(mismatches)


class WeightsWarning(UserWarning):
    """Something in a file of weights was left out, assumed, or expressed in another way."""


class ImageError(ResNetError):
    """An image cannot be read or does not fit the model."""


class DataError(ResNetError):
    """Training data are missing, damaged, or do not fit what was declared of them."""


class ParityError(ResNetError):
    """Two things that should compute the same do not; the command line exits with 1."""


class FrameworkError(ResNetError):
    """A framework is missing, or cannot do what was asked of it here."""


def some(items: Sequence[str], most: int = 10) -> str:
    """`"a, b, c and 3 more"`: at most so many of a list that may be long."""
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def reworded(text: str, words: Mapping[str, str]) -> str:
    """A message with its arguments, which stand between backticks, as their caller knows them.

    Examples:
        >>> reworded("a.pth: name the model (`spec`)", {"spec": "--model"})
        'a.pth: name the model (--model)'
    """
    return re.sub(r"`(\w+)`", lambda found: words.get(found[1], found[0]), text)


@contextmanager
def arguments_as(words: Mapping[str, str]) -> Iterator[None]:
    """Errors from within, `reworded`."""
    try:
        yield
    except ResNetError as error:
        error.args = (reworded(str(error), words),)
        raise


def nearest(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """The `count` candidates most like `name`, best first; empty if none is near."""
    return difflib.get_close_matches(name, list(candidates), n=count, cutoff=0.5)


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """`"; did you mean 'a', 'b'?"`, or an empty string if nothing is near."""
    near = nearest(name, candidates)
    return "; did you mean " + ", ".join(map(repr, near)) + "?" if near else ""


def framework_missing(package: str, framework: str, extra: str) -> FrameworkError:
    """The error for a backend whose framework is not installed, with the command that mends it."""
    return FrameworkError(
        f"{package} needs {framework}, which is not installed; "
        f"run: pip install 'resnet-parity[{extra}]'"
    )
