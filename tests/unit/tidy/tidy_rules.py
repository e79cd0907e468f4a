"""Style as rules: each takes parsed source and returns findings in words, none if all is well. Reads no files."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 500

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"__main__"}),
    frozenset({"cli", "testing"}),
    frozenset({""}),  # multifd/__init__: the public names
    frozenset({"qemu"}),
    frozenset({"engine"}),
    frozenset({"kinds"}),
    frozenset({"session", "wire", "codec", "memory", "device"}),
    frozenset({"stats"}),
    frozenset({"slot", "messages", "elements"}),
    frozenset({"errors", "limits"}),
)
"""Top first. A part imports only from rows below its own, and from itself."""

_IO = frozenset({"asyncio", "concurrent", "selectors", "socket", "ssl", "threading", "time"})
_PURE = ("session", "wire", "codec", "stats", "slot", "messages", "elements", "errors", "limits")
FORBIDDEN: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(_PURE, _IO),
    **dict.fromkeys(("memory", "kinds"), _IO - {"threading"}),  # locks
    "device": _IO - {"asyncio", "threading", "time"},  # a device is awaited and may take its time
}
"""Part → modules that it must not import: threads, sockets and the clock are the engine's."""

BYTES_MODULES = frozenset({"struct", "msgpack"})
"""What turns bytes into values is for `wire` alone."""

NAMELESS = frozenset({"utils", "util", "core", "common", "helpers", "misc"})
"""Names of modules that say nothing about what is in them."""

MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:home|root|work|Users)/")


def part_of(module: str) -> str:
    """`multifd.wire.control` → `wire`; `multifd` → the empty string."""
    return module.partition(".")[2].partition(".")[0]


def imported(tree: ast.AST) -> Iterator[tuple[str, str, int]]:
    """Every import that happens at run time as (module, name or empty, line); those for type checkers alone are left
    out.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((module, alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in node.orelse:
                yield from imported(other)
        else:
            yield from imported(node)


def edges(trees: Mapping[str, ast.AST]) -> dict[str, dict[str, int]]:
    """Module → modules of ours that it imports → line."""
    graph: dict[str, dict[str, int]] = {}
    for module, tree in trees.items():
        targets = graph.setdefault(module, {})
        for source, name, line in imported(tree):
            target = f"{source}.{name}" if f"{source}.{name}" in trees else source
            if target.split(".")[0] == "multifd":
                targets.setdefault(target, line)
    return graph


def upward_imports(trees: Mapping[str, ast.AST]) -> list[str]:
    """Imports that do not point down, and parts that have no layer yet."""
    level = {part: number for number, parts in enumerate(LAYERS) for part in parts}
    findings = [f"{module}: {part_of(module)!r} is in no layer" for module in trees if part_of(module) not in level]
    for module, targets in edges(trees).items():
        here = part_of(module)
        for target, line in targets.items():
            there = part_of(target)
            if here != there and level.get(there, -1) <= level.get(here, len(LAYERS)):
                findings.append(f"{module}:{line} imports {target}, which is not below it")
    return findings


def import_cycles(trees: Mapping[str, ast.AST]) -> list[str]:
    """Modules that import each other, directly or through others."""
    graph = edges(trees)
    done: set[str] = set()
    findings: list[str] = []

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            findings.append(" imports ".join((*path[path.index(module) :], module)))
            return
        if module in done or module not in graph:
            return
        for target in graph[module]:
            visit(target, (*path, module))
        done.add(module)

    for module in graph:
        visit(module, ())
    return findings


def forbidden_imports(module: str, tree: ast.AST) -> list[str]:
    """Imports of bytes, threads, sockets or the clock where they do not belong, and relative ones."""
    part = part_of(module)
    forbidden = FORBIDDEN.get(part, frozenset()) | (frozenset() if part == "wire" else BYTES_MODULES)
    return [
        f"{module}:{line} imports {source or '.'}"
        for source, _name, line in imported(tree)
        if source.split(".")[0] in forbidden or source.startswith(".")
    ]


def long_functions(tree: ast.AST) -> list[str]:
    """Functions with more than `FUNCTION_LINES_MAX` lines, their docstring not counted."""
    findings = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = _lines(node) - (_lines(node.body[0]) if ast.get_docstring(node) is not None else 0)
            if lines > FUNCTION_LINES_MAX:
                findings.append(f"line {node.lineno}: {node.name} has {lines} lines")
    return findings


def tests_without_claim(tree: ast.AST) -> list[str]:
    """Test functions whose docstring does not begin with a claim."""
    return [
        f"line {node.lineno}: {node.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not (ast.get_docstring(node, clean=False) or "").partition("\n")[0].strip()
    ]


def sleeps(tree: ast.AST) -> list[str]:
    """Calls of a `sleep` with a number that is not zero."""
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _called(node.func) == "sleep" and node.args and _is_nonzero(node.args[0])
    ]


def machine_paths(text: str) -> list[str]:
    """Lines that name an absolute path of somebody's machine."""
    return [
        f"line {number}: {line.strip()[:100]}"
        for number, line in enumerate(text.splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]


def nameless(modules: Sequence[str]) -> list[str]:
    """Modules with a name that could hold anything."""
    return [module for module in modules if NAMELESS & set(module.split("."))]


def _lines(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def _called(function: ast.expr) -> str:
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def _is_nonzero(argument: ast.expr) -> bool:
    """Whether it is a number, or arithmetic of numbers alone, and not 0."""
    numbers = (ast.Constant, ast.UnaryOp, ast.BinOp, ast.operator, ast.unaryop)
    if not all(isinstance(node, numbers) for node in ast.walk(argument)):
        return False
    return not (isinstance(argument, ast.Constant) and argument.value == 0)
