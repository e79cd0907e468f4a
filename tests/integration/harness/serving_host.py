"""A process that serves one migration after another on one address, for tests that send it what no source would.

Prints its address, then a word for each migration that ended (`completed`, or `failed` and why); ends with its stdin.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

from multifd import BufferBlock, Destination, MigrationError, limits, listen

BLOCK = "memory"
BLOCK_BYTES = 8 << 20


async def serve() -> None:
    """Receive into fresh memory, again and again."""
    memory = bytearray(BLOCK_BYTES)
    listener = await listen("tcp://127.0.0.1:0")
    print(listener.address, flush=True)
    try:
        while True:
            destination = Destination(listener, blocks=[BufferBlock(BLOCK, memory, tracker="none")])
            try:
                await destination.run()
                print("completed", flush=True)
            except MigrationError as error:
                print("failed", str(error).replace("\n", " "), flush=True)
    finally:
        await listener.close()


async def main() -> None:
    """Until nobody is there any more."""
    serving = asyncio.create_task(serve())
    await asyncio.to_thread(sys.stdin.read)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


if __name__ == "__main__":
    limits.PREAMBLE_DEADLINE_S = 1.0  # what strangers are held for: tests wait for its end
    uvloop.run(main())
