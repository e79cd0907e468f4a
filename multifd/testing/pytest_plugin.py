"""Fixtures for tests with stock QEMUs. Opt in, in the topmost conftest.py:

    pytest_plugins = ["multifd.testing.pytest_plugin"]

Which QEMUs: `MULTIFD_QEMU`, else the globs of the ini option `qemu_binaries` (from the root of the tests) and PATH. The
end of the run says which ones ran. Without any, tests that ask for one are skipped; where the variable `CI` is set they
fail.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from multifd.testing.binaries import VARIABLE, QemuBinary, QemuError, find_binaries
from multifd.testing.faults import FaultLine, Faults
from multifd.testing.guest import assembled
from multifd.testing.peers import DestinationPeer, SourcePeer
from multifd.testing.qemu import Machine, Qemu

FOUND = pytest.StashKey[tuple[QemuBinary, ...]]()
STARTED = pytest.StashKey[dict[QemuBinary, int]]()

QemuFactory = Callable[..., Awaitable[Qemu]]
"""`await qemu(binary, machine=None, **options)`: `Qemu.start`, and `close` when the test ends."""
QemuOf = Callable[[str], QemuBinary]
"""`qemu_of("10.0")`."""
DestinationFactory = Callable[..., Awaitable[DestinationPeer]]
"""`await destination(settings, faults, **options)`: `DestinationPeer.open`, and `close` when the test ends."""
SourceFactory = Callable[..., Awaitable[SourcePeer]]
"""`await source(machine, address, settings, faults, **options)`: `SourcePeer.open`, and `close` when the test ends."""
LineFactory = Callable[[str, Faults], Awaitable[FaultLine]]
"""`await fault_line(destination, faults)`: `FaultLine.open`, and `close` when the test ends."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Make the ini option known."""
    parser.addini("qemu_binaries", "globs of QEMUs to test with, from the root of the tests", type="args", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Begin to count what is started."""
    config.stash[STARTED] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with the argument `qemu_binary` once with each version."""
    if "qemu_binary" in metafunc.fixturenames:
        found = _found(metafunc.config)
        metafunc.parametrize("qemu_binary", found or [None], ids=[str(one) for one in found] or ["none"], indirect=True)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say which versions ran, or that none did."""
    started = config.stash[STARTED]
    terminalreporter.section("QEMU", sep="-")
    for binary in sorted(started):
        terminalreporter.write_line(f"{binary.text}: started {started[binary]} times, {binary.path}")
    if not started:
        terminalreporter.write_line("none ran in these tests")


@pytest.fixture(scope="session")
def qemu_versions(request: pytest.FixtureRequest) -> tuple[QemuBinary, ...]:
    """All QEMUs at hand, oldest first. Skip the test if there is none, or no assembler for the guest."""
    return _needed(request.config)


@pytest.fixture
def qemu_binary(request: pytest.FixtureRequest, qemu_versions: tuple[QemuBinary, ...]) -> QemuBinary:
    """Each QEMU at hand, one a test."""
    return next(binary for binary in qemu_versions if binary == request.param)


@pytest.fixture
def qemu_of(qemu_versions: tuple[QemuBinary, ...]) -> QemuOf:
    """The QEMU of a version such as `10.0`; skip the test if it is not at hand."""

    def of(version: str) -> QemuBinary:
        for binary in qemu_versions:
            if str(binary) == version:
                return binary
        pytest.skip(f"no QEMU {version} at hand")

    return of


@pytest_asyncio.fixture
async def qemu(request: pytest.FixtureRequest) -> AsyncIterator[QemuFactory]:
    """Start QEMUs that end with the test."""
    _needed(request.config)
    started = request.config.stash[STARTED]
    async with contextlib.AsyncExitStack() as stack:

        async def start(binary: QemuBinary, machine: Machine | None = None, **options: Any) -> Qemu:
            one = await stack.enter_async_context(await Qemu.start(binary, machine, **options))
            started[binary] = started.get(binary, 0) + 1
            return one

        yield start


@pytest_asyncio.fixture
async def destination() -> AsyncIterator[DestinationFactory]:
    """Be the destination of a QEMU."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_peer(*arguments: Any, **options: Any) -> DestinationPeer:
            return await stack.enter_async_context(await DestinationPeer.open(*arguments, **options))

        yield open_peer


@pytest_asyncio.fixture
async def source() -> AsyncIterator[SourceFactory]:
    """Be the source of a QEMU."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_peer(*arguments: Any, **options: Any) -> SourcePeer:
            return await stack.enter_async_context(await SourcePeer.open(*arguments, **options))

        yield open_peer


@pytest_asyncio.fixture
async def fault_line() -> AsyncIterator[LineFactory]:
    """Put faults between a source and a destination."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_line(destination: str, faults: Faults) -> FaultLine:
            return await stack.enter_async_context(await FaultLine.open(destination, faults))

        yield open_line


def _found(config: pytest.Config) -> tuple[QemuBinary, ...]:
    if FOUND not in config.stash:
        globs: list[str] = config.getini("qemu_binaries")
        config.stash[FOUND] = find_binaries(path for glob in globs for path in sorted(config.rootpath.glob(glob)))
    return config.stash[FOUND]


def _needed(config: pytest.Config) -> tuple[QemuBinary, ...]:
    found = _found(config)
    if not found:
        _do_without(f"no QEMU found: name some in {VARIABLE}, or install qemu-system-x86")
    try:
        assembled()
    except QemuError as error:
        _do_without(str(error))
    return found


def _do_without(why: str) -> None:
    """Skip, but not where skipping would hide from everybody that nothing was tested."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)
