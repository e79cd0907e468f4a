import asyncio
import pytest
from harness.migration import *
from harness.proxy import *
import multifd.messages as m

@pytest.mark.usefixtures("nothing_left")
async def test_one(host):
    """x"""
    async with asyncio.timeout(10):
        async with migration(host, Setup(here={"x": EmulatedOptions(initial_bytes=65536, stop_copy_bytes=1000, setup_s=0.2)})) as it:
            await it.begin()
            r = await it.report()
            print(r.to_json(), it.proxy.story())
            await it.check_completed()
