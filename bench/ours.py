"""Ours as a contender: both halves as processes of this machine, which keep their memory from run to run."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.certificates import certificates
from bench.contender import Contender
from bench.errors import BenchError
from bench.half import HalfRun, HalfSettings
from bench.process import HalfProcess
from bench.result import Run
from bench.scenario import MEMORY, TLS, Scenario
from multifd.codec import NONE

NAME = "multifd"


class Ours(Contender):
    """Every scenario that it is given must be of `settings`, with any number of channels.

    `library`: where the package `multifd` is taken from, if not from where it is installed.
    """

    def __init__(self, settings: HalfSettings, *, name: str = NAME, library: Path | None = None) -> None:
        self.name = name
        self.pages = self.security = "unknown"
        """How the memory is populated, and what the connections of the last run were: the cipher, or `plain`."""
        self._settings = settings
        self._library = library
        self._stack = contextlib.ExitStack()
        self._source: HalfProcess
        self._destination: HalfProcess
        self._address = ""

    def __enter__(self) -> Self:
        with self._stack as stack:  # undone if the rest fails
            settings = self._settings
            if settings.security == TLS:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="multifd-bench-"))
                settings = dataclasses.replace(settings, tls_dir=str(certificates(Path(folder))))
            self._source, self._destination = halves = [
                stack.enter_context(HalfProcess(role, settings, library=self._library))
                for role in ("source", "destination")
            ]
            facts = [half.answer() for half in halves]
            if facts[0]["digest"] != facts[1]["digest"]:
                raise BenchError("the halves do not make the same bytes from the same seed")
            taken = {fact["library"] for fact in facts}
            if self._library is not None and taken != {str(self._library.resolve())}:
                raise BenchError(f"the library that was measured would be that of {taken}, not of {self._library}")
            self.pages = " and ".join(dict.fromkeys(fact["pages"] for fact in facts))
            self._destination.ask({"open": "tcp://127.0.0.1:0"})
            self._address = self._destination.answer()["address"]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, tb)

    def run(self, scenario: Scenario) -> Run:
        """Move all of the memory once. Raise `BenchError`."""
        self._destination.ask({"run": None})
        self._source.ask({"run": {"address": self._address, "channels": scenario.channels}})
        sent, received = HalfRun(**self._source.answer()), HalfRun(**self._destination.answer())
        verify(received)
        self.security = sent.security
        both = run_of(sent, scenario)
        peaks = [half.peak_bytes for half in (sent, received) if half.peak_bytes is not None]
        return dataclasses.replace(both, cpu_s=sent.cpu_s + received.cpu_s, peak_bytes=max(peaks, default=None))


def run_of(half: HalfRun, scenario: Scenario) -> Run:
    """What one half has to say of a run. Raise `BenchError` if it moved something else, where its size tells."""
    if (scenario.work, scenario.compression) == (MEMORY, NONE) and half.wire_bytes != scenario.size:
        raise BenchError(f"{half.wire_bytes} bytes were moved, not {scenario.size}")
    return Run(
        bytes=scenario.size,
        wire_bytes=half.wire_bytes,
        seconds=half.transfer_s,
        cpu_s=half.cpu_s,
        congestion=half.congestion_control,
        peak_bytes=half.peak_bytes,
    )


def verify(run: HalfRun) -> None:
    """Raise `BenchError` unless the destination found what it expected."""
    if not run.verified:
        raise BenchError("what arrived is not what was sent: the digests differ")
