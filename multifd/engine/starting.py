"""What a destination does after COMMIT: its devices run, and then its owner, or none of them. Loop only.

It knows nothing of the session.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from multifd import limits
from multifd.engine.loader import DeviceLoader
from multifd.engine.owner import Owner
from multifd.errors import MultifdError, OwnerError


async def start(loaders: Sequence[DeviceLoader], owner: Owner) -> dict[str, float]:
    """Start all, within `OWNER_DEADLINE_S`. Returns the seconds that the parts took.

    Raises `OwnerError` or `DeviceError` if one does not start: then every device that was asked to run has been asked
    to stop, since the source's are about to run again.
    """
    began = time.monotonic()
    doing = ""
    try:
        async with asyncio.timeout(limits.OWNER_DEADLINE_S):
            for loader in loaders:
                doing = f"device {loader.device.name}"
                await loader.run_device()
            devices_at = time.monotonic()
            doing = "the owner"
            await owners(owner.start(), "start")
    except TimeoutError:
        failure: MultifdError = OwnerError(f"{doing} did not start in time")
    except MultifdError as error:
        failure = error
    else:
        return {"start_devices": devices_at - began, "start_owner": time.monotonic() - devices_at}
    asked = [loader.stop_device() for loader in loaders if loader.asked_to_run]
    trouble = [str(error) for error in await asyncio.gather(*asked, return_exceptions=True) if error is not None]
    if trouble:
        raise OwnerError("; and then ".join([str(failure), *trouble])) from failure
    raise failure


async def owners(work: Coroutine[Any, Any, None], what: str) -> None:
    """Whatever the owner raises becomes an error that says what it was doing."""
    try:
        await work
    except MultifdError:
        raise
    except Exception as error:
        raise OwnerError(f"the owner could not {what}: {type(error).__name__}: {error}") from error
