"""The other process of test_memory_trackers.py: maps and registers regions of a memory file and writes to them.

Requests are lines on stdin: `map OFFSET LENGTH` is answered by address and length, `write REGION OFFSET LENGTH VALUE`
by 1.
"""

from __future__ import annotations

import mmap
import sys

from multifd.memory.flat import Bytes, flat
from multifd.memory.kernel import Registration, register


def main() -> None:
    """Answer until stdin ends."""
    fd = int(sys.argv[1])
    regions: list[tuple[Bytes, Registration]] = []
    for line in sys.stdin:
        word, *numbers = line.split()
        if word == "map":
            offset, length = map(int, numbers)
            memory = flat(mmap.mmap(fd, length, offset=offset))
            registration = register(memory)
            regions.append((memory, registration))
            print(registration.address, registration.length, flush=True)
        else:
            region, offset, length, value = map(int, numbers)
            regions[region][0][offset : offset + length] = value
            print(1, flush=True)


main()
