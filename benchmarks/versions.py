"""Which releases work: installs the oldest or the newest that pyproject.toml allows and tries them.

    python3 benchmarks/versions.py oldest
    python3.13 benchmarks/versions.py newest --torch 2.6.0

Makes an environment of its own (`.venv-oldest`, `.venv-newest`) with the Python that runs this,
runs the quick tests, one check of outputs and one of training there, and writes the results into
the table of docs/results/versions.md. Exits with 1 if anything failed. Needs no package.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "results" / "versions.md"
EXTRAS = "torch,tensorflow,flax,hub,report,data,examples,tensorboard"
TESTS = ("pytest", "hypothesis")
QUICK = ("pytest", "-q", "--tier", "quick")
CHECKS = {"check": ("resnet18",), "training": ("resnet20", "--training")}
SHOWN = ("torch", "keras", "tensorflow", "jax", "flax", "numpy", "pydantic", "typer")
# An engine needs these extras.
ENGINES = {
    "torch": {"torch"},
    "keras:tensorflow": {"tensorflow"},
    "keras:jax": {"keras", "flax"},
    "keras:torch": {"keras", "torch"},
    "flax": {"flax"},
}
HEAD = """\
# Releases that were tried

Written by `benchmarks/versions.py`, a row a run: `make test-oldest` installs every direct
dependency at its floor in `pyproject.toml`, `make test-newest` the newest releases. Each run has an
environment of its own and runs the tests that need no framework, `resnet-parity check resnet18`
(float64: the largest relative difference of logits and blocks between any two engines) and
`resnet-parity check resnet20 --training` (of gradients, and of weights after 20 steps). `+debian`
marks Debian's own build of PyTorch.

Not tried: PyTorch 2.6 to 2.12 on Python 3.11 (2.6 was tried on 3.13), PyTorch on Python 3.12,
TensorFlow on Python 3.14 (it has no release for it yet), accelerators, macOS and Windows.

"""
COLUMNS = ("set", "Python", "date", *SHOWN, "quick tests", "check", "training", "engines")


def floors() -> list[str]:
    """`name==version` of each floor in pyproject.toml, with its marker."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = (project["dependencies"], *project["optional-dependencies"].values())
    return sorted({r.replace(">=", "==", 1) for group in groups for r in group if ">=" in r})


def run(*command: str | Path) -> tuple[bool, str]:
    """Whether a command succeeded, and its output; its errors pass through to the terminal."""
    print("+", *command, file=sys.stderr, flush=True)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode == 0, done.stdout


def install(which: str, folder: Path, extras: str, torch: str | None, system: bool) -> None:
    """Create the environment, or bring the one of an earlier run up to date."""
    options = ["--system-site-packages"] if system else []
    python = folder / "bin" / "python"
    config = folder / "pyvenv.cfg"
    if config.exists() and f"version = {platform.python_version()}\n" not in config.read_text():
        options.append("--clear")
    pins = floors() if which == "oldest" else []
    if torch:
        pins = [p for p in pins if not p.startswith("torch==")] + [f"torch=={torch}"]
    for command in (
        (sys.executable, "-m", "venv", *options, folder),
        (python, "-m", "pip", "install", "--quiet", "--upgrade", "pip"),
    ):
        if not run(*command)[0]:
            raise SystemExit(1)
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{p}\n" for p in pins))
    upgrade = [] if which == "oldest" else ["--upgrade", "--upgrade-strategy", "eager"]
    done, _ = run(
        *(python, "-m", "pip", "install", "--quiet", "--prefer-binary", *upgrade),
        *("--constraint", constraints, "--editable", f".[{extras}]", *TESTS),
    )
    if not done:
        raise SystemExit(1)


def largest(pairs: list[dict[str, dict[str, float]]], *measures: str) -> str:
    """The largest difference of any pair of engines."""
    return f"{max(p[m]['maximum'] for p in pairs for m in measures if m in p):.1e}"


def outcome(kind: str, held: bool, output: str) -> str:
    """What a table's cell says of one check."""
    if not held:
        print(output, file=sys.stderr)
        return "**failed**"
    measures = ("logits", "blocks") if kind == "check" else ("gradients", "weights")
    return largest(json.loads(output)["pairs"], *measures)


def write_row(row: dict[str, str]) -> None:
    """Put a row into the table, in place of an earlier one of the same set and Python."""
    rows = {}
    for line in TABLE.read_text().splitlines() if TABLE.exists() else ():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if len(cells) == len(COLUMNS) and re.match(r"\d", cells[1]):
            rows[cells[0], cells[1]] = cells
    rows[row["set"], row["Python"]] = [row[c] for c in COLUMNS]
    order = sorted(rows, key=lambda k: (k[0], [int(n) for n in re.findall(r"\d+", k[1])]))
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(rows[k] for k in order)]
    TABLE.write_text(HEAD + "".join(f"| {' | '.join(cells)} |\n" for cells in lines))


def main() -> int:
    """Install, try, and write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", choices=("oldest", "newest"))
    parser.add_argument("--torch", help="this release of PyTorch instead")
    parser.add_argument("--extras", default=EXTRAS, help="what to install")
    parser.add_argument(
        "--system-site-packages", action="store_true", help="PyTorch is the system's"
    )
    parser.add_argument("--folder", type=Path, help="of the environment")
    options = parser.parse_args()
    extras = {*options.extras.split(",")} | ({"keras"} if "tensorflow" in options.extras else set())
    engines = ",".join(e for e, needed in ENGINES.items() if needed <= extras)
    folder = options.folder or ROOT / f".venv-{options.set}"
    install(options.set, folder, options.extras, options.torch, options.system_site_packages)
    python = folder / "bin" / "python"
    _, listed = run(python, "-m", "pip", "list", "--format", "json")
    versions = {re.sub("[-_]cpu$", "", p["name"].lower()): p["version"] for p in json.loads(listed)}
    passed, output = run(python, "-m", *QUICK)
    print(output, file=sys.stderr)
    row = {name: versions.get(name, "–") for name in SHOWN} | {
        "set": options.set,
        "Python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "quick tests": (re.findall(r"\d+ passed", output) or ["?"])[-1] if passed else "**failed**",
        "engines": engines.replace(",", ", "),
    }
    held = passed
    for kind, arguments in CHECKS.items():
        ok, output = run(
            *(folder / "bin" / "resnet-parity", "check", *arguments),
            *("--engines", engines, "--json"),
            *(("--plot", folder / "training.png") if kind == "training" else ()),
        )
        row[kind] = outcome(kind, ok, output)
        held = held and ok
    write_row(row)
    print(*(f"{c}: {row[c]}" for c in COLUMNS), sep="\n")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
