"""After COMMIT a destination's devices and owner run, or none of them does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from posted import Posted, SmallDevice

from multifd import Owner, limits
from multifd.device.interface import DeviceState
from multifd.engine.loader import DeviceLoader
from multifd.engine.starting import start
from multifd.errors import MultifdError, OwnerError

RUNNING, STOP = DeviceState.RUNNING, DeviceState.STOP


class Asked(SmallDevice):
    """Remembers the states that it was asked for; in `raises` it raises, in `hangs` it waits for ever."""

    def __init__(self, name: str, raises: tuple[DeviceState, ...] = (), hangs: tuple[DeviceState, ...] = ()) -> None:
        super().__init__()
        self.id = name
        self.asked: list[DeviceState] = []
        self._raises = raises
        self._hangs = hangs

    async def set_state(self, state: DeviceState) -> None:
        self.asked.append(state)
        if state in self._raises:
            raise RuntimeError(f"not {state.value}")
        if state in self._hangs:
            await asyncio.get_running_loop().create_future()


class Started(Owner):
    """Starts, or raises `error`, or takes for ever."""

    def __init__(self, error: Exception | None = None, *, hangs: bool = False) -> None:
        self.started = False
        self._error = error
        self._hangs = hangs

    async def start(self) -> None:
        self.started = True
        if self._hangs:
            await asyncio.get_running_loop().create_future()
        if self._error is not None:
            raise self._error


@pytest.fixture
def loaders() -> Iterator[list[DeviceLoader]]:
    """Whatever is in it is stopped at the end."""
    made: list[DeviceLoader] = []
    yield made
    assert all(loader.stop() for loader in made)


def load(loaders: list[DeviceLoader], *devices: Asked) -> None:
    """Loaders of these, whose workers run; nothing has arrived yet."""
    for number, device in enumerate(devices, start=1):
        loader = DeviceLoader(number, device, credit=1 << 20, events=Posted())  # type: ignore[arg-type]
        loader._worker.start()
        loaders.append(loader)


async def test_devices_run_before_the_owner(loaders: list[DeviceLoader]) -> None:
    """All are started, nothing is stopped, and both parts of the time are told."""
    devices, owner = [Asked("x"), Asked("y")], Started()
    load(loaders, *devices)
    assert set(await start(loaders, owner)) == {"start_devices", "start_owner"}
    assert owner.started
    assert [device.asked for device in devices] == [[RUNNING], [RUNNING]]


@pytest.mark.parametrize("hangs", [False, True])
async def test_an_owner_that_does_not_start_stops_all_devices(
    loaders: list[DeviceLoader], hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it raises or takes too long: when that is told no device runs."""
    monkeypatch.setattr(limits, "OWNER_DEADLINE_S", 0.05)
    devices = [Asked("x"), Asked("y")]
    load(loaders, *devices)
    with pytest.raises(OwnerError, match="in time" if hangs else "told to fail"):
        await start(loaders, Started(RuntimeError("told to fail"), hangs=hangs))
    assert [device.asked for device in devices] == [[RUNNING, STOP], [RUNNING, STOP]]


@pytest.mark.parametrize("odd", [{"raises": (RUNNING,)}, {"hangs": (RUNNING,)}], ids=["raises", "hangs"])
async def test_a_device_that_does_not_run_stops_those_that_do(
    loaders: list[DeviceLoader], odd: dict[str, tuple[DeviceState, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named, stopped as well, and those that were not asked yet are left alone, as is the owner."""
    monkeypatch.setattr(limits, "OWNER_DEADLINE_S", 0.05)
    devices, owner = [Asked("x"), Asked("y", **odd), Asked("z")], Started()
    load(loaders, *devices)
    with pytest.raises(MultifdError, match="device y/0"):
        await start(loaders, owner)
    assert [device.asked for device in devices] == [[RUNNING, STOP], [RUNNING, STOP], []]
    assert not owner.started


async def test_what_does_not_stop_again_is_told_and_waited_for_no_longer(
    loaders: list[DeviceLoader], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cause names the owner and every device that may run on."""
    monkeypatch.setattr(limits, "CLOSE_DEADLINE_S", 0.05)
    load(loaders, Asked("x", raises=(STOP,)), Asked("y", hangs=(STOP,)), Asked("z"))
    with pytest.raises(OwnerError) as raised:
        await start(loaders, Started(RuntimeError("told to fail")))
    assert "told to fail; and then device x/0: was not stopped again: RuntimeError" in str(raised.value)
    assert "device y/0: was not stopped again in time" in str(raised.value)
    assert "device z/0" not in str(raised.value)
