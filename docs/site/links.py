"""Whether everything that the built site refers to is in it: pages, places on them, pictures.

Links to other sites are left alone, but nothing may be loaded from there.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADED = {"img": "src", "script": "src", "object": "data", "iframe": "src", "source": "src"}
_SHEETS = ("stylesheet", "preload", "preconnect", "icon")


class _Page(HTMLParser):
    """What a page refers to, and the places that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[tuple[str, bool]] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.places |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag in _LOADED and _LOADED[tag] in given:
            self.links.append((given[_LOADED[tag]], True))
        elif tag == "link" and "href" in given:
            loaded = any(kind in given.get("rel", "") for kind in _SHEETS)
            self.links.append((given["href"], loaded))
        elif tag == "a" and "href" in given:
            self.links.append((given["href"], False))


def problems(site: Path) -> list[str]:
    """A line for each reference that leads nowhere, or loads something from elsewhere."""
    files = sorted(site.rglob("*.html"))
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in files}
    found = []
    for path, page in pages.items():
        for link, loaded in page.links:
            parts = urlsplit(link)
            where = f"{path.relative_to(site)}: {link}"
            if parts.scheme or parts.netloc:
                if loaded and parts.scheme != "data":
                    found.append(f"{where} is loaded from another site")
                continue
            # 404.html has paths from the root.
            root = site if parts.path.startswith("/") else path.parent
            target = (root / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                found.append(f"{where} is not there")
            elif parts.fragment and target in pages:
                place = unquote(parts.fragment)
                if place not in pages[target].places and not place.startswith("__"):
                    found.append(f"{where}: there is no such place on that page")
    return found


def main() -> None:
    site = Path(sys.argv[1]).resolve()
    found = problems(site)
    print("\n".join(found) or f"{len(list(site.rglob('*.html')))} pages, all links lead somewhere")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
