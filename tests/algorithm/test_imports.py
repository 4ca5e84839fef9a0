"""Which sources a module can reach, on packages made for the purpose."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lib.algorithm.imports import Sources

Package = Callable[[dict[str, str]], None]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """Writes modules, by path, into a folder on Python's path."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(files: dict[str, str]) -> None:
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def reached(module: str, *packages: str) -> list[str]:
    sources = Sources(packages or ("mine",))
    assert sources.add(module)
    return sorted(sources.digests)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import mine.b", ["mine.b"]),
        ("import mine.sub.c as c", ["mine.sub", "mine.sub.c"]),
        ("from mine.b import something", ["mine.b"]),
        ("from mine import b", ["mine.b"]),
        ("from mine.sub import c", ["mine.sub", "mine.sub.c"]),
        ("from . import b", ["mine.b"]),
        ("from .sub.c import x", ["mine.sub", "mine.sub.c"]),
        ("def f():\n    from mine import b", ["mine.b"]),
        ("class A:\n    def f(self):\n        if self:\n            import mine.b", ["mine.b"]),
        ("try:\n    import mine.b\nexcept ImportError:\n    pass", ["mine.b"]),
        ("import mine\ndef f():\n    return mine.sub.c.x", ["mine.sub", "mine.sub.c"]),
        ("from mine import sub as s\ns.c.x(s.c.y)", ["mine.sub", "mine.sub.c"]),
        ("from mine.sub import *", ["mine.sub", "mine.sub.c", "mine.sub.up"]),
        ("from mine.sub import up", ["mine.b", "mine.sub", "mine.sub.up"]),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mine.b\nelse:\n    import mine.sub",
         ["mine.sub"]),
        ("import numpy, absent\nfrom absent.x import y", []),
        ("'mine.b'", []),
    ],
)  # fmt: skip
def test_imports_of_every_form_are_followed(package: Package, text: str, expected: list[str]) -> None:
    package({
        "mine/__init__.py": "", "mine/a.py": text, "mine/b.py": "", "mine/sub/__init__.py": "", "mine/sub/c.py": "",
        "mine/sub/up.py": "from .. import b",
    })  # fmt: skip
    found = reached("mine.a")
    if "*" in text:
        expected = [*expected, "mine.b"]
    assert found == sorted(["mine", "mine.a", *expected])
    assert not {"mine", "mine.a"} & set(sys.modules)  # nothing was run


@pytest.mark.parametrize(
    "text",
    [
        "import importlib\ndef f(name):\n    return importlib.import_module(name)",
        "from importlib import import_module as load\nload('mine.b')",
        "module = __import__(input())",
        "exec('import mine.b')",
    ],
)
def test_computed_imports_make_the_whole_package_count(package: Package, text: str) -> None:
    package({
        "mine/__init__.py": "from mine import helper", "mine/a.py": "", "mine/helper.py": text,
        "mine/sub/__init__.py": "", "mine/sub/deep/__init__.py": "", "mine/sub/deep/c.py": "import other.x",
        "other/__init__.py": "", "other/x.py": "", "other/y.py": "",
    })  # fmt: skip
    whole = ["mine", "mine.a", "mine.helper", "mine.sub", "mine.sub.deep", "mine.sub.deep.c", "other", "other.x"]
    assert reached("mine.a", "mine", "other") == whole


def digest(package: Package, text: str) -> str:
    package({"mine/__init__.py": "", "mine/a.py": text})
    sources = Sources({"mine"})
    assert sources.add("mine.a")
    return sources.digests["mine.a"]


def test_comments_docstrings_and_layout_do_not_count_and_all_else_does(package: Package) -> None:
    text = '"""Doc."""\nX = "text"\n"""Of X."""\n\ndef f(a, *, b=1):\n    """Doc."""\n    return {None: a, **b}  # c\n'
    before = digest(package, text)
    for same in ("# c\n" + text, text.replace("Doc", "Dog"), text.replace("Of X", "On X"), text.replace("a, *", "a,*")):
        assert digest(package, same) == before, same
    for other in (text.replace("b=1", "b=1.0"), text.replace('"text"', '"test"'), text.replace("None", "0"),
                  text.replace("f(", "g("), text + "f(1)\n"):  # fmt: skip
        assert digest(package, other) != before, other


def test_folders_without_init_and_modules_that_are_not_there(package: Package) -> None:
    package({"mine/a.py": "import mine.absent\nfrom mine.sub import c", "mine/sub/c.py": ""})
    assert reached("mine.a") == ["mine", "mine.a", "mine.sub", "mine.sub.c"]
    assert not Sources({"mine"}).add("mine.absent")
    assert not Sources({"absent"}).add("absent.a")


def test_other_packages_are_named(package: Package) -> None:
    package({"mine/__init__.py": "", "mine/a.py": "import numpy as np, json\nfrom scipy import sparse\nnp.zeros(1)"})
    sources = Sources({"mine"})
    sources.add("mine.a")
    assert sources.others["mine.a"] == {"numpy", "json", "scipy"}
