"""The style rules themselves: each finds what it is for, and lets pass what is right."""

from __future__ import annotations

import ast

import pytest
import tidy_rules as rules


def trees(**sources: str) -> dict[str, ast.AST]:
    """Modules by keyword; `_` in a name stands for a dot."""
    return {f"multifd.{name.replace('_', '.')}": ast.parse(source) for name, source in sources.items()}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("multifd.wire.control", "from multifd.session import states"),
        ("multifd.wire.control", "import multifd.engine.source"),
        ("multifd.wire.control", "def f():\n    from multifd import Source"),
        ("multifd.errors", "from multifd.messages import Refusal"),
        ("multifd.errors", "from multifd import limits"),
        ("multifd.kinds.ram", "from multifd.engine.options import SourceOptions"),
        ("multifd", "from multifd.cli import main"),
        ("multifd.novel", "import os"),
    ],
)
def test_upward_imports_are_found(module: str, source: str) -> None:
    """Importing a sibling, something above or the public package is a finding, and so is a part that has no layer."""
    known = {"multifd.session.states": ast.parse(""), "multifd.limits": ast.parse("")}
    assert len(rules.upward_imports({**known, module: ast.parse(source)})) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "multifd.wire.control",
            "from multifd.wire import fields\nfrom multifd import errors\nimport multifd.messages",
        ),
        ("multifd.engine.source", "from multifd.wire.control import encode\nfrom multifd.kinds import ram"),
        (
            "multifd.errors",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from multifd.messages import Refusal",
        ),
        ("multifd", "from multifd.engine.source import Source"),
        ("multifd.cli.main", "import multifd\nfrom multifd import Source"),
    ],
)
def test_downward_imports_pass(module: str, source: str) -> None:
    """Imports of one's own part and of those below it are right, and those for type checkers alone are free."""
    known = {name: ast.parse("") for name in ("multifd.wire.fields", "multifd.errors", "multifd.kinds.ram")}
    assert rules.upward_imports({**known, module: ast.parse(source)}) == []


def test_cycles_are_found() -> None:
    """A ring of modules is found however long it is, and once; a diamond is none."""
    ring = trees(
        wire_a="from multifd.wire import b", wire_b="import multifd.wire.c", wire_c="from multifd.wire.a import x"
    )
    assert rules.import_cycles(ring) == [
        "multifd.wire.a imports multifd.wire.b imports multifd.wire.c imports multifd.wire.a"
    ]
    package = trees(wire="from multifd.wire.a import x", wire_a="from multifd.wire import y")
    assert len(rules.import_cycles(package)) == 1
    diamond = trees(
        wire_a="from multifd.wire import b, c",
        wire_b="import multifd.wire.d",
        wire_c="import multifd.wire.d",
        wire_d="",
    )
    assert rules.import_cycles(diamond) == []


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("multifd.wire.control", "import struct, msgpack", 0),
        ("multifd.kinds.chunk", "import struct", 1),
        ("multifd.session.source", "import msgpack", 1),
        ("multifd.session.source", "from time import monotonic", 1),
        ("multifd.wire.control", "import concurrent.futures", 1),
        ("multifd.memory.tracker", "import threading", 0),
        ("multifd.memory.tracker", "import socket", 1),
        ("multifd.stats", "def f():\n    import asyncio", 1),
        ("multifd.device.emulated", "import asyncio, time", 0),
        ("multifd.engine.source", "import asyncio, socket, threading, time", 0),
        ("multifd.engine.source", "from . import clock", 1),
    ],
)
def test_imports_out_of_place_are_found(module: str, source: str, found: int) -> None:
    """Bytes belong to `wire`, threads, sockets and the clock to the engine, relative imports to nobody."""
    assert len(rules.forbidden_imports(module, ast.parse(source))) == found


@pytest.mark.parametrize(("body", "docstring", "found"), [(69, 0, 0), (70, 0, 1), (69, 50, 0), (70, 50, 1)])
def test_long_functions_are_found(body: int, docstring: int, found: int) -> None:
    """A function may have 70 lines with its head, and any docstring."""
    text = "    '''" + "\n" * (docstring - 1) + "'''\n" if docstring else ""
    source = "async def f():\n" + text + "    x = 1\n" * body
    assert len(rules.long_functions(ast.parse(source))) == found


def test_tests_without_claim_are_found() -> None:
    """A test needs a docstring that begins on its first line; other functions do not."""
    source = (
        'def test_a():\n  """Claim."""\nasync def test_b():\n  """\n  Late."""\ndef test_c(): pass\ndef helper(): pass'
    )
    assert [finding.split()[-1] for finding in rules.tests_without_claim(ast.parse(source))] == ["test_b", "test_c"]


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ("time.sleep(1)", 1),
        ("sleep(0.1)", 1),
        ("asyncio.sleep(2 * 0.1)", 1),
        ("asyncio.sleep(-1)", 1),
        ("asyncio.sleep(0)", 0),
        ("clock.sleep(tick)", 0),
        ("sleep()", 0),
    ],
)
def test_sleeps_are_found(call: str, found: int) -> None:
    """Waiting for a number of seconds is a finding; giving way for one turn is not."""
    assert len(rules.sleeps(ast.parse(call))) == found


def test_machine_paths_are_found() -> None:
    """An absolute path below somebody's home is a finding, a path in an address or below another folder is not."""
    root = "/"
    assert len(rules.machine_paths(f"see {root}home/me/notes\n'{root}root/x'")) == 2
    assert rules.machine_paths(f"https://example.org{root}home/x\nsrc{root}work/x {root}sys/kernel/mm") == []


def test_nameless_modules_are_found() -> None:
    """`utils` and its like are found wherever they stand in a module's name."""
    assert rules.nameless(["multifd.utils", "multifd.core.x", "multifd.scores"]) == ["multifd.utils", "multifd.core.x"]
