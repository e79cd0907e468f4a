"""The two halves of the throughput bench over loopback, in one process: what they move, and that they notice a
difference.
"""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bench.certificates import certificates
from bench.contents import WORKS
from bench.half import DestinationHalf, HalfRun, HalfSettings, SourceHalf
from bench.process import HalfError, HalfProcess
from multifd.limits import KIB, MIB

SETTINGS = HalfSettings(size=3 * MIB + 17, slot_bytes=256 * KIB, congestion="reno")
DEADLINE_S = 30


async def one_run(source: SourceHalf, destination: DestinationHalf, address: str) -> tuple[HalfRun, HalfRun]:
    """What both halves say of one run over two channels."""
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        received = group.create_task(destination.run())
        sent = group.create_task(source.run(address, 2))
    return sent.result(), received.result()


async def test_a_source_waits_for_a_busy_destination() -> None:
    """A source that comes while its destination still verifies the run before is not lost: it asks again."""
    source, destination = SourceHalf(SETTINGS), DestinationHalf(SETTINGS)
    address = await destination.open("tcp://127.0.0.1:0")
    try:
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
            sent = group.create_task(source.run(address, 1))
            await source.turned_away.wait()
            received = group.create_task(destination.run())
    finally:
        await destination.close()
    assert sent.result().wire_bytes == SETTINGS.size
    assert received.result().verified


async def test_runs_are_verified_one_by_one() -> None:
    """Each run moves every byte and is verified on its own: a byte that differs fails its run and no other."""
    source, destination = SourceHalf(SETTINGS), DestinationHalf(SETTINGS)
    assert source.expected == destination.expected
    address = await destination.open("tcp://127.0.0.1:0")
    verified = []
    try:
        for spoil in (0, 1, 0):
            source.memory[SETTINGS.size - 1] ^= spoil
            sent, received = await one_run(source, destination, address)
            source.memory[SETTINGS.size - 1] ^= spoil
            assert sent.wire_bytes == received.wire_bytes == SETTINGS.size
            assert sent.congestion_control == "reno"
            verified.append(received.verified)
    finally:
        await destination.close()
    assert verified == [True, False, True]


@pytest.mark.parametrize(
    "options",
    [*({"work": work} for work in WORKS), {"codec": "lz4", "work": "text"}, {"cold": True}, {"security": "tls"}],
    ids=lambda options: "-".join(map(str, options.values())),
)
async def test_every_work_arrives_twice(options: dict[str, Any], tmp_path: Path) -> None:
    """Whatever the memory holds and however it goes over, both runs are verified, and say what the connection was."""
    settings = dataclasses.replace(SETTINGS, **options)
    if settings.security == "tls":
        settings = dataclasses.replace(settings, tls_dir=str(certificates(tmp_path / "tls")))
    source, destination = SourceHalf(settings), DestinationHalf(settings)
    address = await destination.open("tcp://127.0.0.1:0")
    try:
        for _number in range(2):
            sent, received = await one_run(source, destination, address)
            assert received.verified
            assert sent.wire_bytes <= SETTINGS.size
            assert sent.security.startswith("TLS 1.3, ") == (settings.security == "tls")
    finally:
        await destination.close()


@pytest.mark.slow
def test_a_half_that_fails_says_why() -> None:
    """The error of a half in its own process reaches the parent in words, and the process is gone after it."""
    with HalfProcess("source", SETTINGS) as source:
        source.answer()
        source.ask({"run": {"address": "tcp://127.0.0.1:1", "channels": 1}})
        with pytest.raises(HalfError, match=r"the source failed: MigrationFailedError: can't connect"):
            source.answer()
        with pytest.raises(HalfError, match=r"process ended|process is gone"):
            source.answer()
