"""Names of classes from files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared_spec import SpecError
from shared_spec.weights.labels import read_labels

NAMES = ("tench", "great white shark", "crème brûlée")


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "tench\ngreat white shark\ncrème brûlée\n"),
        ("a", "\ufefftench\r\n great white shark \r\ncrème brûlée\n\n\n"),
        ("a.json", json.dumps(NAMES)),
        ("a.JSON", "\ufeff" + json.dumps(dict(enumerate(NAMES)), ensure_ascii=False)),
        ("a.json", json.dumps({"2": NAMES[2], "0": NAMES[0], "1": NAMES[1]})),
        ("a.json", json.dumps({i: [f"n0{i}", name] for i, name in enumerate(NAMES)})),
    ],
)
def test_every_form_gives_the_names_in_order(tmp_path: Path, name: str, content: str) -> None:
    path = written(tmp_path, name, content)
    assert read_labels(path) == NAMES
    assert read_labels(str(path)) == NAMES


def test_numbers_are_not_sorted_as_words(tmp_path: Path) -> None:
    names = {str(i): f"class {i}" for i in range(12)}
    path = written(tmp_path, "a.json", json.dumps(names, sort_keys=True))
    assert read_labels(path) == tuple(f"class {i}" for i in range(12))


def test_two_names_in_a_list_are_no_pair_of_synset_and_name(tmp_path: Path) -> None:
    assert read_labels(written(tmp_path, "a.json", '["cat", "dog"]')) == ("cat", "dog")
    assert read_labels(written(tmp_path, "b.json", '{"0": "no", "1": "ok"}')) == ("no", "ok")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "holds no labels"),
        ("a.txt", "\n \n", "holds no labels"),
        ("a.txt", "cat\n\ndog\n", "class 1 has no name"),
        ("a.txt", b"caf\xe9\n", "is not UTF-8 text"),
        ("a.txt", b"x" * (10 * 2**20 + 1), "is larger than 10 MB"),
        ("a.json", "[]", "holds no labels"),
        ("a.json", "{}", "holds no labels"),
        ("a.json", '["cat", ""]', "class 1 has no name"),
        ("a.json", '["cat"', "is not valid JSON"),
        ("a.json", "[" * 100_000, "is not valid JSON"),
        ("a.json", '["cat", 1]', "is not a list of names"),
        ("a.json", '[["n01", "cat"]]', "is not a list of names"),
        ("a.json", '"cat"', "is not a list of names"),
        ("a.json", '{"cat": "0"}', "has 1 labels, none for class 0"),
        ("a.json", '{"1": "cat", "2": "dog"}', "has 2 labels, none for class 0"),
        ("a.json", '{"0": ["n01", "cat"], "1": "dog"}', "is not a list of names"),
        ("a.json", '{"0": ["n01", 2]}', "is not a list of names"),
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(SpecError) as caught:
        read_labels(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert str(caught.value).endswith('{"0": [synset, name], ...}')
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no such file of labels"):
        read_labels(tmp_path / "missing.txt")
    with pytest.raises(SpecError, match="cannot be read"):
        read_labels(tmp_path)
