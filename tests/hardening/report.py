"""Measure what the tests of this directory check, with larger counts, and write the figures down.

    python -m tests.hardening.report [--count 10000] [--only bombs] [--output FILE]

Each section of the document is written anew on its own; the others are left as they are.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.hardening.attack import bombs, corpus
from tests.hardening.attack.cases import Case, run_case
from tests.hardening.attack.child import ADDRESS_SPACE, Child
from tests.hardening.attack.samples import FORMATS, load_sample, make_samples
from tests.hardening.test_truncation import cuts

OUTPUT = Path("docs/results/hardening.md")
TITLE = "# Hardening, measured"


class Bench:
    """Samples, a process that reads, and how much to do."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self.samples = folder / "samples"
        self.samples.mkdir()
        make_samples(self.samples)
        work = folder / "work"
        work.mkdir()
        self.child = Child(self.samples, work)


def mutations(bench: Bench) -> list[str]:
    rows = [
        _row(name, bench.child.run("mutate", format=name, cases=range(bench.count)))
        for name in FORMATS
    ]
    text = (
        "Seeded damage that knows the format: header fields, names, shapes, opcodes, records, "
        "attributes and links, or bytes of the header. A file is refused in one sentence that "
        "names it, or everything in it still fits."
    )
    return [text, "", *_table(rows)]


def truncation(bench: Bench) -> list[str]:
    rows = []
    for name in FORMATS:
        cases = cuts(load_sample(bench.samples, name), None, 200)
        rows.append(_row(name, bench.child.run("cut", format=name, cases=cases)))
    text = (
        "Cut off at every byte of the header and at 200 places of the data. What is still read is "
        "text that lacks its last line break or its last fields."
    )
    return [text, "", *_table(rows)]


def _row(name: str, answers: Iterable[dict[str, Any]]) -> list[str]:
    found = list(answers)
    kinds = Counter(answer["kind"] for answer in found)
    failed = [answer for answer in found if answer["problem"]]
    for answer in failed[:10]:
        print(f"{name} {answer['case']}: {answer['problem'][:300]}")
    crashes = sum(answer["problem"].startswith("crashed") for answer in failed)
    hangs = sum(answer["problem"].startswith("hung") for answer in failed)
    return [
        name,
        *(f"{n:,}" for n in (len(found), kinds["refused"], kinds["valid"], crashes, hangs)),
        f"{len(failed) - crashes - hangs}",
        f"{max(answer['seconds'] for answer in found):.2f} s",
        f"{max(answer['megabytes'] for answer in found):.0f} MB",
    ]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    head = [
        "format",
        "files",
        "refused",
        "fit",
        "crashes",
        "hangs",
        "other failures",
        "slowest",
        "memory",
    ]
    rules = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (head, rules, *rows)]


def _cases(bench: Bench, cases: Sequence[Case]) -> list[str]:
    groups: dict[str, list[tuple[Case, dict[str, Any], str]]] = {}
    for number, case in enumerate(cases):
        folder = bench.folder / "cases" / str(number)
        found = run_case(bench.child, case, folder)
        shutil.rmtree(folder)
        if found.problem:
            print(f"{case.name}: {found.problem[:300]}")
        group = case.name.partition(":")[0] if ":" in case.name else "what is no file"
        groups.setdefault(group, []).append((case, found.outcome, found.problem))
    head = "| files | as specified | slowest | memory | what |"
    rows = [head, "| ---: | ---: | ---: | ---: | --- |"]
    for group, items in groups.items():
        names = "; ".join(case.name.partition(": ")[2] or case.name for case, _, _ in items)
        rows.append(
            f"| {len(items)} | {sum(not problem for *_, problem in items)} "
            f"| {max(found['seconds'] for _, found, _ in items):.2f} s "
            f"| {max(found['megabytes'] for _, found, _ in items):.0f} MB | **{group}**: {names} |"
        )
    return rows


def attacks(bench: Bench) -> list[str]:
    text = (
        "One file for each known attack, given to `resnet-parity convert`, `show`, `check` or "
        "`verify`: exit code 2, one sentence, the target as it was. An audit hook records that "
        "nothing outside the file's own folder is opened, nothing is imported or run, and canaries "
        "beside it are untouched."
    )
    return [text, "", *_cases(bench, corpus.CASES)]


def large(bench: Bench) -> list[str]:
    text = (
        f"Small files that ask for a lot, in {ADDRESS_SPACE:,} MB of address space: refused within "
        f"2 s of processor time and 64 MB above what was in use, or what a valid file of that size "
        f"takes (numbers of 28 MB in an ONNX file that are not raw)."
    )
    return [text, "", *_cases(bench, bombs.CASES)]


SECTIONS: dict[str, tuple[str, Callable[[Bench], list[str]]]] = {
    "mutations": ("Damaged files", mutations),
    "truncation": ("Files that end early", truncation),
    "corpus": ("Known attacks", attacks),
    "bombs": ("Bombs", large),
}


def write_section(output: Path, heading: str, lines: Sequence[str]) -> None:
    """Put a section into the document, in the place of an older one of this heading."""
    text = output.read_text() if output.exists() else f"{TITLE}\n"
    first, *sections = text.split("\n## ")
    made = f"{heading}\n\n" + "\n".join(lines).strip() + "\n"
    known = [section.partition("\n")[0] for section in sections]
    if heading in known:
        sections[known.index(heading)] = made
    else:
        sections.append(made)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("\n\n## ".join(part.strip("\n") for part in (first, *sections)) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=10_000, help="damaged files a format (10000)")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="this section; or all")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), given.count)
        for name in given.only or SECTIONS:
            heading, measure = SECTIONS[name]
            how = f"`python -m tests.hardening.report --only {name}`, {date}, Python "
            lines = measure(bench)
            write_section(given.output, heading, [*lines, "", f"{how}{platform.python_version()}."])
        bench.child.close()


if __name__ == "__main__":
    main()
