"""The repository follows the style rules: imports, lengths, names, docstrings, tests that wait for nothing."""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Mapping
from pathlib import Path

import tidy_rules as rules

ROOT = Path(__file__).resolve().parents[3]
OURS = ("multifd", "bench", "tests")


@functools.cache
def sources(*folders: str) -> Mapping[Path, str]:
    """Python files below these folders, by path from the root."""
    paths = (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in paths}


@functools.cache
def trees(*folders: str) -> Mapping[Path, ast.Module]:
    """The same, parsed."""
    return {path: ast.parse(text, str(path)) for path, text in sources(*folders).items()}


@functools.cache
def modules() -> Mapping[str, ast.Module]:
    """All modules of the package by dotted name; a package stands for its `__init__`."""
    return {
        ".".join(path.with_suffix("").parts).removesuffix(".__init__"): tree for path, tree in trees("multifd").items()
    }


def in_files(findings: Mapping[Path, list[str]]) -> list[str]:
    """One line for each finding, with its file."""
    return [f"{path}: {finding}" for path, found in findings.items() for finding in found]


def test_there_is_something_to_look_at() -> None:
    """The rules below see the package and its tests, so that they cannot pass by looking at nothing."""
    assert "multifd.limits" in modules()
    assert Path("tests/unit/tidy/test_tidy_repository.py") in sources(*OURS)


def test_imports_point_down() -> None:
    """Every import is of the same part or of one below it, and siblings leave each other alone."""
    assert rules.upward_imports(modules()) == []


def test_imports_form_no_cycle() -> None:
    """No module imports itself through others, not even late."""
    assert rules.import_cycles(modules()) == []


def test_io_and_bytes_stay_where_they_belong() -> None:
    """`struct` and `msgpack` are used in `wire` alone; threads, sockets and the clock not below the engine."""
    assert [finding for module, tree in modules().items() for finding in rules.forbidden_imports(module, tree)] == []


def test_functions_are_short() -> None:
    """No function has more than 70 lines without its docstring."""
    assert in_files({path: rules.long_functions(tree) for path, tree in trees(*OURS).items()}) == []


def test_files_are_short() -> None:
    """No file has more than 500 lines."""
    lengths = {path: len(text.splitlines()) for path, text in sources(*OURS).items()}
    assert {path: lines for path, lines in lengths.items() if lines > rules.FILE_LINES_MAX} == {}


def test_modules_say_what_they_are() -> None:
    """Every module of the package and of the benches begins with a docstring."""
    assert [str(path) for path, tree in trees("multifd", "bench").items() if not ast.get_docstring(tree)] == []


def test_modules_have_names_that_mean_something() -> None:
    """No module is called `utils`, `core`, `common` or the like."""
    names = [".".join(path.with_suffix("").parts) for path in sources(*OURS)]
    assert rules.nameless(names) == []


def test_tests_state_their_claim() -> None:
    """The first line of every test says what it shows."""
    assert in_files({path: rules.tests_without_claim(tree) for path, tree in trees("tests").items()}) == []


def test_tests_do_not_sleep() -> None:
    """No test waits for a number of seconds in place of what it waits for."""
    assert in_files({path: rules.sleeps(tree) for path, tree in trees("tests").items()}) == []


def test_files_name_no_machine() -> None:
    """No text in the repository holds an absolute path of the machine that it was written on."""
    made = ("build", "dist", "__pycache__")
    tops = [top for top in ROOT.iterdir() if top.name == ".ci" or not (top.name.startswith(".") or top.name in made)]
    findings = {}
    for path in (path for top in tops for path in (top.rglob("*") if top.is_dir() else [top])):
        if path.is_file() and not path.match("*.pyc") and not path.parent.match("*.egg-info"):
            findings[path.relative_to(ROOT)] = rules.machine_paths(path.read_text(encoding="utf-8", errors="replace"))
    assert Path("proto/native.md") in findings
    assert in_files(findings) == []


def test_public_names_exist() -> None:
    """Every name in a package's `__all__` can be had from it, and none is there twice."""
    packages = [".".join(path.parent.parts) for path in trees("multifd") if path.name == "__init__.py"]
    assert "multifd" in packages
    for package in packages:
        module = importlib.import_module(package)
        names = getattr(module, "__all__", [])
        assert [name for name in names if not hasattr(module, name)] == []
        assert len(names) == len(set(names))
