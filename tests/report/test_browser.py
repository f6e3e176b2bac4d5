"""The page in a real browser: no errors, no sideways scrolling, colours, and hostile names."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from resnet_parity.report import page
from tests.report.test_page import everything, hostile_nets

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--v=0",
    # The test's own page has to see into the report's.
    "--allow-file-access-from-files",
)
WATCH = """<!DOCTYPE html><title>-</title>
<iframe src="{name}" style="width: {width}px; height: 800px; border: 0"></iframe>
<script>
  onload = () => {{
    const page = document.querySelector("iframe").contentDocument;
    const root = page.documentElement, body = document.body.dataset;
    for (const each of page.querySelectorAll("details")) each.open = true;
    body.page = root.scrollWidth;
    body.room = root.clientWidth;
    body.scripts = page.querySelectorAll("script, img, iframe, object, [onload]").length;
    body.headings = page.querySelectorAll("h2").length;
    body.paper = getComputedStyle(root).backgroundColor;
    const matrix = page.querySelector("table.matrix");
    body.boxes = matrix.parentElement.scrollWidth > matrix.parentElement.clientWidth;
    page.defaultView.scrollTo(0, root.scrollHeight);
    body.contents = Math.round(page.querySelector("nav").getBoundingClientRect().bottom);
    const ends = [...page.querySelectorAll("main > *")].map(e => e.getBoundingClientRect().right);
    body.used = Math.round(Math.max(...ends));
    body.link = getComputedStyle(page.querySelector("a[href^='#net']")).color;
  }};
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)} is on the PATH")
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("pages")
    page.write(everything(), found / "everything.html")
    page.write(hostile_nets(), found / "hostile.html")
    return found


def opened(browser: str, path: Path, profile: Path, *options: str) -> tuple[str, list[str]]:
    """The document as the browser has it, and what it had to say of it."""
    done = subprocess.run(
        [browser, *QUIET, *options, f"--user-data-dir={profile}", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, said


def watched(browser: str, path: Path, profile: Path, width: int, *options: str) -> dict[str, str]:
    watch = path.with_name(f"watch-{path.stem}-{width}.html")
    watch.write_text(WATCH.format(name=path.name, width=width))
    document, said = opened(browser, watch, profile, *options)
    assert said == []
    return dict(re.findall(r'data-([a-z]+)="([^"]*)"', document.partition("<body")[2]))


def test_the_console_is_not_deaf(browser: str, folder: Path, tmp_path: Path) -> None:
    path = folder / "bad.html"
    text = (folder / "everything.html").read_text()
    path.write_text(text.replace("</footer>", "</footer><script>alert(1)</script>"))
    _, said = opened(browser, path, tmp_path)
    assert len(said) == 1
    assert "Content Security Policy" in said[0]


def test_nothing_is_said_on_the_console(browser: str, folder: Path, tmp_path: Path) -> None:
    document, said = opened(browser, folder / "everything.html", tmp_path)
    assert said == []
    assert document.count("<h1") == 1


@pytest.mark.parametrize(
    ("name", "width"),
    [("everything", 360), ("everything", 390), ("everything", 1280), ("hostile", 390)],
)
def test_no_page_is_wider_than_its_window(
    browser: str, folder: Path, tmp_path: Path, name: str, width: int
) -> None:
    seen = watched(browser, folder / f"{name}.html", tmp_path, width)
    assert int(seen["page"]) <= int(seen["room"]) <= width
    assert seen["scripts"] == "0"
    assert int(seen["headings"]) >= 6
    if name == "everything":
        assert seen["boxes"] == ("true" if width < 400 else "false")


@pytest.mark.parametrize(("width", "stays"), [(1280, False), (1600, True)])
def test_the_contents_stay_where_there_is_room(
    browser: str, folder: Path, tmp_path: Path, width: int, stays: bool
) -> None:
    seen = watched(browser, folder / "everything.html", tmp_path, width)
    # At the end of the page, above the window or in it.
    assert (0 < int(seen["contents"]) <= 800) is stays
    assert int(seen["page"]) <= int(seen["room"])
    assert int(seen["used"]) > 0.9 * width


@pytest.mark.parametrize(("scheme", "number"), [("light", 1), ("dark", 0)])
def test_light_and_dark(
    browser: str, folder: Path, tmp_path: Path, scheme: str, number: int
) -> None:
    option = f"--blink-settings=preferredColorScheme={number}"
    seen = watched(browser, folder / "everything.html", tmp_path, 390, option)
    channels = [int(n) for n in re.findall(r"\d+", seen["paper"])][:3]
    assert (min(channels) > 240) if scheme == "light" else (max(channels) < 40)
    assert seen["link"] != seen["paper"]


def test_it_prints(browser: str, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.pdf"
    opened(browser, folder / "everything.html", tmp_path / "profile", f"--print-to-pdf={target}")
    data = target.read_bytes()
    assert data.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", data)) <= 40
