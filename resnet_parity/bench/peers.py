"""Which libraries have a net to time beside ours: the same one, or the nearest that they build."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass

from resnet_parity.engines.reference_libraries import REFERENCES, peer_missing, references_of
from resnet_parity.engines.registry import Engine
from shared_spec.catalogue import CATALOGUE
from shared_spec.errors import ResNetError
from shared_spec.formats.dialects.dialect import Dialect
from shared_spec.formats.dialects.keras_applications import APPLICATIONS
from shared_spec.formats.dialects.keras_hub import KERAS_HUB
from shared_spec.formats.dialects.linen import LINEN
from shared_spec.plan.compiler import compile_plan
from shared_spec.plan.equivalence import function_of
from shared_spec.plan.summary import macs
from shared_spec.spec.resnet_spec import ResNetSpec

NEAR = 0.1
"""Nets whose MACs differ by more than this share are not compared."""

TWINS: dict[str, tuple[Dialect, str]] = {
    "keras.applications": (APPLICATIONS, "resnet_keras"),
    "KerasHub": (KERAS_HUB, "resnet_keras"),
    "flax example": (LINEN, "resnet_flax"),
}
"""Libraries whose nets go by other names: whose rules, and in which of our packages' processes."""


@dataclass(frozen=True)
class Candidate:
    """A net to time: ours, or that of a library."""

    engine: Engine
    peer: str | None
    spec: ResNetSpec
    net: str
    macs: int
    note: str = ""

    @property
    def label(self) -> str:
        """What it is called."""
        return self.peer or self.engine.name


def candidates(
    name: str,
    spec: ResNetSpec,
    engines: Sequence[Engine],
    peers: bool,
    missing: MutableMapping[str, str],
) -> list[Candidate]:
    """Ours in each engine, each followed by its peers; libraries that are not installed are added
    to `missing`.
    """
    found = []
    for engine in engines:
        found.append(Candidate(engine, None, spec, name, _macs(spec)))
        for candidate in _peers(name, spec, engine) if peers else ():
            assert candidate.peer is not None
            absent = peer_missing(candidate.peer)
            if absent is None:
                found.append(candidate)
            else:
                missing[candidate.peer] = absent
    return found


def _peers(name: str, spec: ResNetSpec, engine: Engine) -> Iterator[Candidate]:
    entry = CATALOGUE.get(name)
    if engine.package == "resnet_torch" and entry is not None and entry.spec == spec:
        for reference in references_of(entry):
            if REFERENCES[reference.name].engine == "torch":
                yield Candidate(engine, reference.name, spec, name, _macs(spec))
    for peer, (dialect, package) in TWINS.items():
        library_spec = _nearest_library_spec(dialect, spec) if package == engine.package else None
        if library_spec is not None and (peer != "keras.applications" or _published(library_spec)):
            note = _note(spec, library_spec)
            net = _name(name, library_spec) if note else name
            yield Candidate(engine, peer, library_spec, net, _macs(library_spec), note)


def _nearest_library_spec(dialect: Dialect, spec: ResNetSpec) -> ResNetSpec | None:
    """The net that a library builds for a spec, if it has the same layers and as much to do."""
    assert dialect.nearest_library_spec is not None
    try:
        library_spec = dialect.nearest_library_spec(spec).override(image_size=spec.image_size)
    except (ResNetError, KeyError):
        return None
    ours, theirs = ({q.module for q in compile_plan(s).parameters()} for s in (spec, library_spec))
    near = abs(_macs(library_spec) / _macs(spec) - 1) <= NEAR
    return library_spec if ours == theirs and near else None


def _published(library_spec: ResNetSpec) -> bool:
    """Whether keras.applications has a function that builds it: of its own depths alone."""
    published = (entry.spec for entry in CATALOGUE.values() if entry.family == "keras")
    fields = ("depths", "pre_activation", "block", "widths")
    return any(
        all(getattr(known, f) == getattr(library_spec, f) for f in fields) for known in published
    )


def _name(name: str, library_spec: ResNetSpec) -> str:
    """What the catalogue calls another net than ours."""
    known = (n for n, entry in CATALOGUE.items() if entry.spec == library_spec)
    return next(known, f"the counterpart of {name}")


def _note(spec: ResNetSpec, library_spec: ResNetSpec) -> str:
    """What is different; nothing if it computes the same function."""
    if function_of(compile_plan(spec)) == function_of(compile_plan(library_spec)):
        return ""
    more = _macs(library_spec) / _macs(spec) - 1
    words = f"{abs(more):.1%} {'more' if more > 0 else 'fewer'}" if more else "as many"
    return f"another net, with {words} MACs"


def _macs(spec: ResNetSpec) -> int:
    return macs(compile_plan(spec), (spec.image_size, spec.image_size))
