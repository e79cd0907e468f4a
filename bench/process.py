"""A half in a process of its own, and the handle that its parent has: one line of JSON each way for each request.

    {"open": ADDRESS}                        → {"address": ADDRESS}    (destination)
    {"run": null}                            → a run's figures         (destination)
    {"run": {"address": A, "channels": N}}   → a run's figures         (source)

The first line is the child's own: facts about its memory, once it is filled. It ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvloop

from bench.errors import BenchError
from bench.half import DestinationHalf, HalfSettings, SourceHalf
from bench.machine import ROOT

ANSWER_DEADLINE_S = 900.0  # a terabyte at the rate of a slow link is not what this is for
QUIT_DEADLINE_S = 10.0


def environment(*before: Path) -> dict[str, str]:
    """For a child that imports the benches, which are not installed: with -P nothing is found because it lies in the
    current directory. What is in `before` is found first.
    """
    path = os.pathsep.join(filter(None, (*map(str, before), str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path}


class HalfError(BenchError):
    """A half's process failed; its own words are on stderr."""


class HalfProcess:
    """The parent's handle. Use it as a context manager; the process does not outlive it.

    `library`: where the package `multifd` is taken from, if not from where it is installed.
    """

    def __init__(self, role: str, settings: HalfSettings, *, library: Path | None = None) -> None:
        self.role = role
        command = [sys.executable, "-P", "-m", "bench.process", role, json.dumps(dataclasses.asdict(settings))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env=environment(*filter(None, (library,))),
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if kind is not None:
            self._process.kill()
        self._process.stdin.close()
        try:
            self._process.wait(QUIT_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def ask(self, request: dict[str, Any]) -> None:
        """Send a request; `answer` gets what comes back. One at a time."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
        except BrokenPipeError as error:
            raise HalfError(f"the {self.role}'s process is gone") from error

    def answer(self) -> dict[str, Any]:
        """The next line from the process. Raise `HalfError` if it ends or takes longer than `ANSWER_DEADLINE_S`."""
        stdout = self._process.stdout
        assert stdout is not None
        # A line is written at once and never before it is asked for, so that none waits in the reader's buffer unseen.
        if not select.select([stdout], [], [], ANSWER_DEADLINE_S)[0]:
            raise HalfError(f"the {self.role} said nothing for {ANSWER_DEADLINE_S} s")
        line = stdout.readline()
        if not line:
            raise HalfError(f"the {self.role}'s process ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise HalfError(f"the {self.role} failed: {answer['error']}")
        return answer


async def _serve(half: SourceHalf | DestinationHalf) -> None:
    """Answer requests until stdin ends."""
    _say(half.facts())
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            _say(await _obey(half, json.loads(line)))
        except Exception as error:
            # Whatever it is, the parent must hear of it in place of waiting for an answer.
            _say({"error": f"{type(error).__name__}: {error}"})
            raise
    if isinstance(half, DestinationHalf):
        await half.close()


async def _obey(half: SourceHalf | DestinationHalf, request: dict[str, Any]) -> dict[str, Any]:
    if isinstance(half, SourceHalf):
        return dataclasses.asdict(await half.run(**request["run"]))
    if "open" in request:
        return {"address": await half.open(request["open"])}
    return dataclasses.asdict(await half.run())


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def main() -> None:
    """Be a half: role and settings are the arguments."""
    settings = HalfSettings(**json.loads(sys.argv[2]))
    half = SourceHalf(settings) if sys.argv[1] == "source" else DestinationHalf(settings)
    uvloop.run(_serve(half))


if __name__ == "__main__":
    main()
