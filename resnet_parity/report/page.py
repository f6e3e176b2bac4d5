"""The report as one HTML page: no script, no other file, and nothing that is fetched."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from resnet_parity.render.drawing import STYLE
from resnet_parity.report import aot, depth, overview, parity, scaling, speed
from resnet_parity.report.against import Against, blocks
from resnet_parity.report.blocks import Block, Notice, Styles
from resnet_parity.report.collect import Net, harmless
from shared_spec.atomic_write import durable

TEMPLATES = Path(__file__).parent / "templates"
_NAMED = 3
"""Nets that a title names."""


def render(nets: Sequence[Net], date: str | None = None, against: Against | None = None) -> str:
    """The page, with what moved since an earlier report. The same data give the same text: it
    says no date but the one that is given.
    """
    names = [net.name for net in nets]
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    style = stylesheet()
    benches = [bench for net in nets for bench in net.benches]
    template = _environment().get_template("report.html.jinja")
    return template.render(
        title=f"ResNet parity: {', '.join(names[:_NAMED])}{rest}",
        date=None if date is None else harmless(date),
        style=Markup(style),  # noqa: S704 it is our own file
        policy=policy(style),
        moved=[] if against is None else blocks(against),
        nets=[_section(net, f"net-{i}") for i, net in enumerate(nets, 1)],
        environment=[*overview.precision(benches), *overview.environment(nets)],
        repeat=overview.repeat(nets),
    )


def write(
    nets: Sequence[Net], path: Path, date: str | None = None, against: Against | None = None
) -> None:
    """Write the page, whole or not at all.

    Raises:
        ResNetError: if it cannot be written there.
    """
    text = render(nets, date, against)
    with durable(path) as draft:
        draft.write_text(text, encoding="utf-8")


def stylesheet() -> str:
    """The page's style sheet, with that of the drawings on it."""
    return (TEMPLATES / "report.css").read_text(encoding="utf-8") + STYLE


def policy(style: str) -> str:
    """What a browser may do with the page: nothing but apply this one style sheet."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _section(net: Net, ident: str) -> dict[str, Any]:
    """What the template shows of one net."""
    styles, benches = Styles(), net.benches
    refused = [Notice(f"Not measured: {text}", "warn", "!") for text in net.refused]
    traced = depth.blocks(net.name, net.traces, styles, f"{ident}-depth")
    sections: list[tuple[str, Sequence[Block]]] = [
        ("Parity", parity.blocks(net.name, net.checks)),
        ("Error along depth", [*refused, *traced]),
        ("Shapes and parameters", overview.network(net)),
        ("Speed", speed.blocks(net.name, benches, f"{ident}-speed")),
        ("Memory", speed.memory(net.name, benches, f"{ident}-memory")),
        ("Start-up", speed.starting(benches)),
        ("Scaling", scaling.blocks(net.name, benches, styles, f"{ident}-scaling")),
        ("Ahead of time", aot.blocks(net.ahead)),
    ]
    return {
        "name": net.name,
        "ident": ident,
        "holds": overview.verdict(net),
        "sentence": overview.sentence(net),
        "facts": overview.facts(net),
        "sections": [
            {"title": title, "blocks": blocks, "ident": f"{ident}-section-{i}"}
            for i, (title, blocks) in enumerate(sections)
            if blocks
        ],
    }
