"""The page: its markup, its figures, what it says of what is absent, and hostile names."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resnet_parity.bench.result import BenchReport
from resnet_parity.check.result import CheckReport
from resnet_parity.render import plots
from resnet_parity.render.drawing import STYLE
from resnet_parity.report import page
from resnet_parity.report.collect import Net, harmless, record
from resnet_parity.report.speed import labelled
from resnet_parity.trace.result import TraceReport
from shared_spec.catalogue import CATALOGUE
from shared_spec.errors import ResNetError
from tests.report.reading import Element, Page
from tests.report.samples import HOSTILE, bench, real

ALL = "Speed, memory and scaling"
# No script, img, link, iframe, object, form, ...
TAGS = set(
    re.findall(
        r"\w+",
        """html head meta title style body a header p h1 h2 h3 h4 main section ul li nav dl dt dd
        div span table caption thead tbody tr th td details summary figure figcaption code bdi
        footer wbr svg desc path text g rect circle""",
    )
)
CHECKS = ("check_tiny", "check_tiny32")
TRACES = ("trace_tiny", "trace_tiny32")


def net(
    checks: list[Any] | None = None,
    traces: list[Any] | None = None,
    benches: list[Any] | None = None,
    name: str = "resnet18",
) -> Net:
    entry = CATALOGUE.get(name)
    return Net(
        name,
        None if entry is None else entry.spec,
        [record(x, CheckReport, "test") for x in checks or []],
        [record(x, TraceReport, "test") for x in traces or []],
        [record(x, BenchReport, "test") for x in benches or []],
    )


def everything() -> list[Net]:
    checks, traces = [real(n) for n in CHECKS], [real(n) for n in TRACES]
    return [net(checks, traces, [bench()]), net(name="mine.yaml", checks=checks[:1])]


def hostile(data: Any, texts: Iterator[str]) -> Any:
    """Every text and every name of a field that is free replaced by a hostile one."""
    if isinstance(data, str):
        return next(texts)
    if isinstance(data, dict):
        free = {"failed", "missing", "versions", "threads", "against_float64"}
        found = {}
        for key, value in data.items():
            if key in free:
                found[key] = {f"{k}{next(texts)}": hostile(v, texts) for k, v in value.items()}
            else:
                found[key] = hostile(value, texts)
        return found
    if isinstance(data, list):
        return [hostile(value, texts) for value in data]
    return data


def hostile_nets() -> list[Net]:
    texts = itertools.cycle(HOSTILE)
    check = hostile(real("check_tiny") | {"missing": {"a": "b"}, "problems": ["x", "y"]}, texts)
    trace = hostile(real("trace_tiny32") | {"problems": ["x"], "notes": ["y"]}, texts)
    timed = hostile(bench() | {"missing": {"a": "b"}, "notes": ["x"]}, texts)
    return [net([check], [trace], [timed], harmless(name)) for name in HOSTILE[::5]]


PAGES = {
    "everything": everything,
    "check alone": lambda: [net([real("check_tiny")])],
    "trace alone": lambda: [net(traces=[real("trace_tiny")])],
    "bench alone": lambda: [net(benches=[bench()])],
    "nothing": lambda: [net()],
    "empty bench": lambda: [net(benches=[{"name": "resnet18"}])],
    "hostile": hostile_nets,
}


@pytest.fixture(scope="module", params=PAGES)
def text(request: pytest.FixtureRequest) -> str:
    return page.render(PAGES[request.param]())


@pytest.fixture(scope="module")
def whole() -> str:
    return page.render(everything())


def test_markup_is_balanced_and_what_is_referred_to_exists(text: str) -> None:
    elements = Page(text).all()
    ids = [e.attributes["id"] for e in elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    for element in elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert set(element.attributes.get(name, "").split()) <= set(ids)
    for link in [e for e in elements if e.tag == "a"]:
        assert link.attributes["href"][0] == "#"
        assert link.attributes["href"][1:] in ids


def test_what_a_screen_reader_needs(text: str) -> None:
    found = Page(text)
    (html,) = found.all("html")
    assert html.attributes["lang"] == "en"
    assert [len(found.all(tag)) for tag in ("main", "h1", "header", "footer")] == [1] * 4
    levels = [int(e.tag[1]) for e in found.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    for section in found.all("section", "nav"):
        assert section.attributes["aria-labelledby"]
    for table in found.all("table"):
        assert table.children[0].tag == "caption"
        assert table.children[0].text
        assert all(e.attributes.get("scope") in ("row", "col") for e in table.all("th"))
        assert [row.children[0].tag for row in table.all("tbody")[0].all("tr")] == ["th"] * len(
            table.all("tbody")[0].all("tr")
        )
        widths = {len(row.children) for row in table.all("tr")}
        assert len(widths) == 1, table.children[0].text
    for picture in found.all("svg"):
        if picture.attributes.get("aria-hidden") == "true":
            continue
        if picture.attributes.get("class") == "net":
            # A drawing is text to be read, and no chart with its figures in a table.
            assert picture.attributes["role"] == "group"
            assert picture.attributes["aria-label"]
            assert len(picture.all("text")) > 10
            continue
        assert picture.attributes["role"] == "img"
        title, told = picture.children[:2]
        assert (title.tag, told.tag) == ("title", "desc")
        assert title.text
        assert told.text
        ids = [title.attributes["id"], told.attributes["id"]]
        assert picture.attributes["aria-labelledby"].split() == ids
    for box in [e for e in found.all("div") if e.attributes.get("class") == "scroll"]:
        assert box.attributes["tabindex"] == "0"  # else a keyboard cannot scroll it
        assert box.attributes["aria-label"]


def test_pictures_have_their_figures_in_a_table(whole: str) -> None:
    found = Page(whole)
    for picture in found.all("svg"):
        for dot in [e for e in picture.all("title") if e.parent and e.parent.tag == "path"]:
            figure = dot.text.rpartition(": ")[2]
            assert any(figure == c.text for c in cells(found)), dot.text


def cells(found: Page) -> list[Element]:
    return found.all("td")


def test_nothing_is_loaded_and_the_policy_says_so(text: str) -> None:
    found = Page(text)
    assert {e.tag for e in found.all()} <= TAGS
    for element in found.all():
        names = element.attributes.keys()
        assert not [n for n in names if n.startswith("on") or n in ("src", "style", "srcdoc")]
    assert len(found.all("style")) == 1
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    assert style is not None
    assert not re.search(r"url\(|@import|@font-face|image-set|expression", style[1])
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = next(e for e in found.all("meta") if "http-equiv" in e.attributes)
    assert policy.attributes["content"].split("; ")[:2] == [
        "default-src 'none'",
        f"style-src 'sha256-{digest}'",
    ]


def test_hostile_texts_are_shown_and_do_nothing() -> None:
    text = page.render(hostile_nets())
    for bad in ("<script", "<img", "onload=alert(5)>", "</style><", 'href="javascript'):
        assert bad not in text
    assert text.count("<svg onload") == 0
    assert text.count("</style>") == 1
    strange = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs")} - {"\n"}
    assert not strange
    shown = Page(text).root.text
    for name in HOSTILE:
        assert " ".join(harmless(name).split()) in shown
    assert r"\u202egnp.exe\u2066\x00\x1b[31m" in shown


def figures_of(data: Any, *path: str) -> Iterator[float]:
    """All numbers under some keys."""
    if isinstance(data, dict):
        for key, value in data.items():
            if key in path and isinstance(value, int | float):
                yield value
            yield from figures_of(value, *path)
    elif isinstance(data, list):
        for value in data:
            yield from figures_of(value, *path)


@pytest.mark.parametrize("name", [*CHECKS, *TRACES])
def test_every_figure_of_check_and_trace_is_there(name: str) -> None:
    data = real(name)
    made = net([data]) if name in CHECKS else net(traces=[data])
    shown = {cell.text.removeprefix("✗ ") for cell in Page(page.render([made])).all("td")}
    keys = ("maximum", "mean", "p99", "propagated", "forced")
    if name in TRACES:
        # Layers inside of blocks are shown where they are off.
        data["rows"] = [r for r in data["rows"] if r["kind"] == "block" or r["name"].count(".") < 2]
    wanted = {f"{x:.1e}" if x else "0" for x in figures_of(data, *keys)}
    assert len(wanted) > 5
    assert wanted <= shown
    parameters = {f"{x:,}" for x in figures_of(data, "parameters")}
    assert parameters <= shown


def test_every_figure_of_bench_is_there(whole: str) -> None:
    shown = {cell.text for cell in Page(whole).all("td")}
    data = bench()
    for row in data["rows"]:
        speed = row["images_per_second"]
        if row["refused"] is None:
            wanted = f"{speed:.1f}" if speed >= 10 else f"{speed:.2f}"
            assert wanted in shown
            assert f"{row['seconds']['median'] * 1e3:,.1f} ms" in shown
            assert f"{row['share']:.0%}".replace("%", " %") in shown
        if row["ratio"] is not None:
            assert f"{row['ratio']:.2f}× of timm" in shown
        assert {"1.23 s", "0.46 s", "0.08 s", "2.34 s"} <= shown
        assert {"611 MB", "1.09 GB"} <= shown
    for point in data["scaling"]:
        speed = point["images_per_second"]
        assert (f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}") in shown, point
        if point["first_call"] is not None:
            assert f"{point['first_call']:,.2f} s" in shown
    text = Page(whole).root.text
    refused = next(row["refused"] for row in data["rows"] if row["refused"])
    assert refused in text
    assert "420 GFLOP/s in float32 (the best of several kernels: 3×3 convolution" in text
    assert "21.0 GB/s" in text
    for setting in ("AMD EPYC 9B45", "16.8 GB", "highest", "off", "3.11.7"):
        assert setting in shown


def drawn_bars(chart: Element) -> list[Element]:
    """Bars, and the frames of those that were refused."""
    kinds = ("bar", "bar peer", "refused")
    return [e for e in chart.all("path") if e.attributes["class"] in kinds]


def test_the_bar_of_a_refused_figure_is_not_drawn(whole: str) -> None:
    charts = [e for e in Page(whole).all("svg") if "images a second." in e.children[0].text]
    assert len(charts) == 3
    kinds = [[e.attributes["class"] for e in drawn_bars(c)] for c in charts]
    assert kinds[0] == ["bar", "bar", "refused", "bar", "bar", "bar peer", "bar peer"]
    assert kinds[1].count("refused") == 0
    limits = [e for c in charts for e in c.all("path") if "limit" in e.attributes["class"]]
    assert len(limits) == 21


def test_a_bar_is_as_long_as_its_figure(whole: str) -> None:
    chart = next(e for e in Page(whole).all("svg") if "Inference, batch 8" in e.children[0].text)
    places = [re.findall(r"[\d.]+", e.attributes["d"])[::2] for e in drawn_bars(chart)]
    widths = [max(map(float, xs)) - min(map(float, xs)) for xs in places]
    speeds = [r["images_per_second"] for r in bench()["rows"][7:14]]
    assert [round(w / widths[0], 2) for w in widths] == pytest.approx(
        [s / speeds[0] for s in speeds], abs=0.02
    )


def test_no_refused_figure_is_shown() -> None:
    data = bench()
    data["rows"][8] |= {"refused": "it did not wait", "images_per_second": 98765.0}
    text = page.render([net(benches=[data])])
    assert "98,765" not in text
    assert "the fastest engine is torch with 40.6 images/s" in text


def test_charts_have_the_figures_of_the_trace() -> None:
    trace = real("trace_tiny32")
    charts = [e for e in Page(page.render([net(traces=[trace])])).all("svg") if e.all("desc")]
    rows = [r for r in trace["rows"] if r["kind"] == "block" or not r["name"].startswith("layer")]
    for chart, of, key in zip(
        charts,
        (rows, rows, trace["gradients"]),
        ("propagated", "forced", "propagated"),
        strict=True,
    ):
        dots = [e.text for e in chart.all("title")[1:]]
        told = {row["name"]: row[key] for row in of if row[key] is not None}
        assert dots == [f"keras:jax, {n}: {f'{x:.1e}' if x else 0}" for n, x in told.items()]


def test_errors_stand_at_their_height() -> None:
    trace = real("trace_tiny")
    chart = Page(page.render([net(traces=[trace])])).all("svg")[1]
    assert chart.attributes["role"] == "img"
    dots = {e.children[0].text.partition(", ")[2]: e for e in chart.all("path") if e.children}
    places = {name: float(re.findall(r"[\d.]+", e.attributes["d"])[1]) for name, e in dots.items()}
    ordered = sorted(places, key=lambda name: -float(name.rpartition(": ")[2]))
    heights = [places[name] for name in ordered]
    # Larger errors stand higher; figures are rounded, so that equal ones may be in either order.
    assert all(a <= b + 12 for a, b in itertools.pairwise(heights))
    assert heights[0] < heights[-1]


@pytest.mark.parametrize(
    ("made", "missing"),
    [
        (net(), ["Parity", "Errors along depth", ALL]),
        (net([real("check_tiny")]), ["Errors along depth", ALL]),
        (net(traces=[real("trace_tiny")]), ["Parity", ALL]),
        (net(benches=[bench()]), ["Parity", "Errors along depth"]),
        (
            net(benches=[{"name": "resnet18"}]),
            ["Parity", "Errors along depth", "Speed", "Memory", "Scaling"],
        ),
    ],
)
def test_what_was_not_measured_is_said_with_the_command(made: Net, missing: list[str]) -> None:
    found = [
        e for e in Page(page.render([made])).all("p") if e.attributes.get("class") == "missing"
    ]
    assert [re.sub(" (was|were) not measured.*", "", e.text) for e in found] == missing
    assert all(e.all("code")[0].text.startswith("resnet-parity ") for e in found)


def test_over_the_bound_is_marked_without_colour() -> None:
    check = real("check_tiny")
    check["pairs"][0]["logits"]["maximum"] = 3e-7
    check["pairs"][1]["blocks"]["maximum"] = None
    check |= {"holds": False, "problems": ["torch and flax part at layer1.0 by 3.0e-07"]}
    text = page.render([net([check])])
    marked = [e.text for e in Page(text).all("td") if "over" in e.attributes.get("class", "")]
    assert marked == ["✗ 3.0e-07", "✗ NaN"]
    assert "do not agree in float64: torch and flax part at layer1.0 by 3.0e-07" in text
    assert "✗ does not hold" in text
    assert "✓ holds" not in text


def test_what_rounding_hides_is_neither_good_nor_bad() -> None:
    hidden = real("trace_tiny32") | {"holds": False, "undecided": ["rounding hides it"]}
    alone = page.render([net(traces=[hidden])])
    assert "✓ holds" not in alone
    assert "✗" not in alone
    assert "– not compared" in alone
    assert "rounding hides it" in alone
    other = page.render([net(traces=[hidden | {"problems": ["it parts"]}])])
    assert "✗ does not hold" in other
    assert "✓ holds" in page.render([net([real("check_tiny")], [hidden])])


def test_a_layer_that_errs_is_named() -> None:
    trace = real("trace_tiny")
    row = next(r for r in trace["rows"] if r["name"] == "layer2.0.bn1")
    row |= {"forced": 0.25, "propagated": "NaN", "errs": True, "parts": True}
    trace |= {"holds": False, "problems": ["flax parts from torch at layer2.0.bn1 by 2.5e-01"]}
    next(r for r in trace["rows"] if r["name"] == "layer2.0")["forced"] = 0.25
    trace["errs"] = ["layer2.0.bn1"]
    shown = Page(page.render([net(traces=[trace])]))
    cells = [[c.text for c in r.children] for r in shown.all("tr")]
    assert ["layer2.0.bn1", "BatchNorm", "✗ NaN", "✗ 2.5e-01", "1e-12", "at fault"] in cells
    assert next(c[-1] for c in cells if c[:2] == ["layer2.0", "block"]) == "contains one at fault"
    assert "flax parts from torch at layer2.0.bn1 by 2.5e-01" in shown.root.text


def test_tf32_is_said_with_how_far_engines_part() -> None:
    data = bench()
    data["environment"] |= {"tf32": True, "matmul_precision": {"torch": "high", "jax": "highest"}}
    data["parity"][3] |= {"error": 1.1e-3, "holds": False}
    text = Page(page.render([net(benches=[data])])).root.text
    assert "measured with TF32 on, matmul precision torch high: products of float32" in text
    assert "between 4.4e-07 (torch) and 1.1e-03 (keras:torch) from torch in float64" in text
    assert "65 times the bound of 1.7e-05" in text
    assert "keras:torch computes something else than torch in float64" in text
    data["parity"] = []
    assert "By how much was not measured" in Page(page.render([net(benches=[data])])).root.text


def test_tf32_is_not_said_where_it_is_off(whole: str) -> None:
    assert "TF32 on" not in whole
    assert "computed from factors rounded" not in whole


def test_the_same_data_give_the_same_page(whole: str) -> None:
    assert page.render(everything()) == whole
    assert not re.search(r"20\d\d-\d\d-\d\d", whole)
    assert "2026-01-02" in page.render(everything(), "2026-01-02")


def test_a_failed_write_leaves_the_old_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    page.write([net()], path)
    before = path.read_text()
    assert before == page.render([net()])

    def fail(self: Path, data: str, encoding: str) -> int:
        self.write_bytes(data[:100].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(ResNetError, match="No space left"):
        page.write(everything(), path)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def schemes() -> dict[str, dict[str, str]]:
    style = page.stylesheet()
    light, dark = re.findall(r":root \{([^}]*--ink[^}]*)\}", style)
    return {
        name: dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
        for name, block in (("light", light), ("dark", dark))
    }


@pytest.mark.parametrize("name", ["light", "dark"])
def test_contrast(name: str) -> None:
    colours = schemes()[name]
    levels = ("equal", "far", "below", "near", "over")
    texts = [
        (t, b) for t in ("ink", "soft", "link", "good", "bad", "warn", "limit") for b in ("paper",)
    ]
    texts += [(t, "panel") for t in ("ink", "bad", "warn")] + [("ink", level) for level in levels]
    texts.append(("bad", "over"))
    assert {
        pair: contrast(*(colours[c] for c in pair))
        for pair in texts
        if contrast(*(colours[c] for c in pair)) < 4.5
    } == {}
    shapes = [*(f"s{i}" for i in range(7)), "ours", "peer", "limit", "rule"]
    assert [s for s in shapes if contrast(colours[s], colours["paper"]) < 3] == []
    whiskers = [contrast(colours["ink"], colours[bar]) for bar in ("ours", "peer")]
    assert min(whiskers) >= 3


def test_colours_are_the_schemes_alone() -> None:
    style = page.stylesheet().removesuffix(STYLE)
    both = schemes()
    assert both["light"].keys() == both["dark"].keys()
    rest = re.sub(r":root \{[^}]*\}", "", style)
    assert not re.search(r"#[0-9a-fA-F]{3,8}\b|rgb|hsl|[:, ](white|black|red|grey|gray)[; ]", rest)
    assert set(re.findall(r"var\(--([\w-]+)\)", style)) - {"c"} <= both["light"].keys()
    assert "@media screen and (prefers-color-scheme: dark)" in style  # paper is white
    assert "@media print" in style


def test_columns_of_figures_are_aligned() -> None:
    style = page.stylesheet()
    assert "font-variant-numeric: tabular-nums" in style
    assert re.search(r"th, td \{[^}]*text-align: right", style)


NUMBERS = st.one_of(
    st.none(),
    st.floats(),
    st.integers(-(2**70), 2**70),
    st.sampled_from(["NaN", "Infinity", 0, 0.0, -1.0, 5e-324, 1.8e308]),
)


def randomised(data: Any, draw: st.DataObject) -> Any:
    """Some of the numbers replaced by any."""
    if isinstance(data, dict):
        return {k: randomised(v, draw) for k, v in data.items()}
    if isinstance(data, list):
        return [randomised(v, draw) for v in data]
    if isinstance(data, int | float) and not isinstance(data, bool) and draw.draw(st.booleans()):
        return draw.draw(NUMBERS)
    return data


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(draw=st.data())
def test_any_number_is_shown_or_refused(draw: st.DataObject) -> None:
    small = bench()
    small["rows"], small["scaling"] = small["rows"][:3], small["scaling"][:3]
    trace = real("trace_tiny32")
    trace["rows"], trace["gradients"] = trace["rows"][4:9], trace["gradients"][:3]
    check = real("check_tiny32")
    for data, kind in ((check, CheckReport), (trace, TraceReport), (small, BenchReport)):
        changed = randomised(data, draw)
        try:
            found = record(changed, kind, "it")
        except ResNetError:
            continue
        of = {CheckReport: "checks", TraceReport: "traces", BenchReport: "benches"}[kind]
        Page(page.render([Net("resnet18", None, **{of: [found]})]))


def test_a_net_of_a_thousand_layers() -> None:
    trace = real("trace_tiny")
    row = next(r for r in trace["rows"] if r["kind"] == "block")
    trace["rows"] = [row | {"name": f"layer{1 + i // 200}.{i % 200}"} for i in range(600)]
    text = page.render([net(traces=[trace])])
    assert len(text) < 400_000
    chart = next(e for e in Page(text).all("svg") if e.attributes.get("role") == "img")
    assert "600 places from layer1.0 to layer3.199" in chart.children[1].text
    assert not [e for e in chart.all("path") if "mark" in e.attributes["class"]]
    assert len(chart.all("path")) < 10
    assert [e.text for e in chart.all("text") if "layer" in e.text] == [
        "layer1",
        "layer2",
        "layer3",
    ]


def test_what_is_read_is_printed_again_as_it_was() -> None:
    for name in (*CHECKS, *TRACES):
        data = real(name)
        again = (CheckReport if name in CHECKS else TraceReport).from_dict(data).to_dict()
        assert data == {key: again[key] for key in data}


@pytest.mark.parametrize("holds", [False, None])
def test_what_does_not_hold_says_why(holds: bool | None) -> None:
    with pytest.raises(ResNetError, match="a file: does not say that it holds, nor what does not"):
        record(real("check_tiny") | {"holds": holds}, CheckReport, "a file")


def test_the_sample_looks_like_this_version() -> None:
    text = (Path(__file__).parents[2] / "docs" / "sample_report.html").read_text()
    assert page.stylesheet() in text, "make docs/sample_report.html again; see docs/report.md"
    names = [e.text for e in Page(text).all("h2")]
    assert {"resnet50 ✓ holds", "resnet20 ✓ holds"} <= set(names)
    assert len(text) < 400_000


def test_a_library_in_several_engines_is_told_apart_by_them() -> None:
    rows = [
        SimpleNamespace(side=side, engine=engine, form="plain", layout="nhwc", compile=how)
        for side, engine, how in (
            ("timm", "torch", "none"),
            ("KerasHub", "keras:jax", "none"),
            ("KerasHub", "keras:torch", "none"),
            ("KerasHub", "keras:torch", "default"),
        )
    ]
    assert [label for label, _ in labelled(rows)] == [  # type: ignore[arg-type]
        "timm",
        "KerasHub, keras:jax",
        "KerasHub, keras:torch, plain, nhwc",
        "KerasHub, keras:torch, plain, nhwc, default",
    ]


def test_a_trace_is_drawn_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer and block has its mark, and no line joins what follows from no other layer."""
    report = record(real("trace_tiny"), TraceReport, "it")
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure))
    plots.trace(report, Path("depth.png"))
    (axis,) = drawn[0].axes
    marks = {mark.get_label(): mark for mark in axis.get_lines() if mark.get_linestyle() == "None"}
    blocks = [i for i, row in enumerate(report.rows) if row.kind == "block"]
    layers = [i for i, row in enumerate(report.rows) if row.kind != "block"]
    assert len(blocks) == 2
    assert list(marks["blocks on the reference's input"].get_xdata()) == blocks
    assert list(marks["layers on the reference's input"].get_xdata()) == layers
    (joined,) = (curve for curve in axis.get_lines() if curve.get_label() == "as computed")
    assert list(joined.get_xdata()) == list(range(len(report.rows)))
