"""Every Python block of the README and the guides says in its info string how it is run, and is run that way.

    python run          a whole program
    python part=NAME    part of a program; the parts of a name are one program, in their order
    python file=NAME    a file; destination.py and source.py are run as two processes, over loopback
    python not-run      a fragment, to be read only

A block `text output` after a program is what it prints; `...` in it stands for anything within a line.
"""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from docs_markdown import GUIDES, ROOT, Block, blocks

from multifd.memory.choose import kernel_fault

HOW = re.compile(r"python (run|part=[\w-]+|file=\w+\.py|not-run)")
PROCESS_DEADLINE_S = 60.0  # a guard against hanging, far above what is needed

pytestmark = pytest.mark.slow


@dataclass
class Program:
    """Something to run: where it begins, its text, and what it prints."""

    where: str
    text: str
    output: str | None = None


def python_documents() -> list[Path]:
    return [ROOT / "README.md", *GUIDES]


def programs(path: Path) -> Iterator[Program]:
    """All programs of a document that run in one process."""
    parts: dict[str, Program] = {}
    last: Program | None = None
    for block in blocks(path):
        if block.info == "text output":
            assert last is not None, f"{block}: output of what?"
            last.output = block.text
        if block.words[:1] != ["python"]:
            continue
        how = block.words[1]
        if how == "run":
            last = parts[str(block)] = Program(str(block), block.text)
        elif how.startswith("part="):
            last = parts.setdefault(how, Program(str(block), ""))
            last.text += "\n" * (block.line - 1 - last.text.count("\n")) + block.text
    yield from parts.values()


def files(path: Path) -> dict[str, str]:
    """The files of a document, by name."""
    return {block.words[1].removeprefix("file="): block.text for block in blocks(path) if "file=" in block.info}


def needs_kernel_tracking(text: str) -> None:
    """Skip where the kernel can't do what the program does on purpose."""
    fault = kernel_fault() if "BufferBlock(" in text and "tracker=" not in text else None
    if fault is not None:
        pytest.skip(f"this kernel does not track writes: {fault}")


def matches(output: str, expected: str) -> bool:
    pattern = "[^\n]*".join(re.escape(piece) for piece in expected.split("..."))
    return re.fullmatch(pattern, output) is not None


@pytest.mark.parametrize("path", python_documents(), ids=lambda path: path.stem)
def test_blocks_say_how_they_are_run(path: Path) -> None:
    """No Python block is left to chance: its info string says how it is run, or that it is not."""
    strange = [str(block) for block in blocks(path) if is_python(block) and not HOW.fullmatch(block.info)]
    assert strange == []


def is_python(block: Block) -> bool:
    return block.info.startswith(("py", "Py")) or "import multifd" in block.text


@pytest.mark.parametrize(
    "program", [program for path in python_documents() for program in programs(path)], ids=lambda program: program.where
)
def test_programs_run(program: Program) -> None:
    """The program runs to its end without an error or a warning, and prints what the document says."""
    needs_kernel_tracking(program.text)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program.text, program.where, "exec"), {"__name__": "__main__"})
    if program.output is not None:
        assert matches(printed.getvalue(), program.output), printed.getvalue()


@dataclass
class Ended:
    """What two processes came to."""

    source: str
    destination: str
    codes: tuple[int, int]


def run_pair(path: Path, folder: Path) -> Ended:
    """Write the files of a document into `folder`; run destination.py, and source.py against where it listens."""
    found = files(path)
    needs_kernel_tracking("".join(found.values()))
    for name, text in found.items():
        (folder / name).write_text(text, encoding="utf-8")
    with start(folder, "destination.py", "tcp://127.0.0.1:0") as destination:
        assert destination.stdout is not None
        listening = destination.stdout.readline()
        with start(folder, "source.py", listening.split()[-1]) as source:
            sent, _ = source.communicate(timeout=PROCESS_DEADLINE_S)
        received, _ = destination.communicate(timeout=PROCESS_DEADLINE_S)
    return Ended(sent, listening + received, (source.returncode, destination.returncode))


@contextlib.contextmanager
def start(folder: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-W", "error", *command], cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_readme_moves_a_running_program(tmp_path: Path) -> None:
    """The README's two programs move a worker that runs: it goes on where it stopped, and no write of it is lost."""
    ended = run_pair(ROOT / "README.md", tmp_path)
    assert ended.codes == (0, 0)
    stopped = re.fullmatch(r"runs from 0\nstopped at (\d+), for [\d.]+ ms, after \d+ rounds\n", ended.source)
    went_on = re.fullmatch(r"listening on \S+\nruns from (\d+)\nnow at (\d+), (\d+) in all cells\n", ended.destination)
    assert stopped, ended.source
    assert went_on, ended.destination
    assert int(stopped[1]) == int(went_on[1]) < int(went_on[2]) == int(went_on[3])


def test_readme_source_without_a_destination_says_so_and_ends(tmp_path: Path) -> None:
    """One line in place of a traceback, and no thread that keeps the program from ending."""
    found = files(ROOT / "README.md")
    needs_kernel_tracking("".join(found.values()))
    for name, text in found.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-W", "error", "source.py", f"unix://{tmp_path}/nobody"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=PROCESS_DEADLINE_S, check=False
    )
    assert done.returncode == 1
    assert done.stdout == "runs from 0\n"
    assert re.fullmatch(r"not moved: can't connect to unix://.*\n", done.stderr), done.stderr


def test_a_destination_that_dies_leaves_the_source_in_doubt(tmp_path: Path) -> None:
    """The programs of the guide: in doubt, asked again in vain, and resolved by the operator's word."""
    ended = run_pair(ROOT / "docs" / "guides" / "in-doubt.md", tmp_path)
    assert ended.codes == (0, 1)
    assert [line.split(":")[0] for line in ended.source.splitlines()] == [
        "in doubt whether the destination runs",
        "still in doubt",
        "the owner was started again",
        "failed",
    ]
