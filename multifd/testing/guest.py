"""The test guest: a ROM of 64 KiB that counts in RAM, dirties RAM, and prints the count on the serial port
(guest/counter.s). It is assembled when it is first needed, by GNU as and ld (Debian: binutils).
"""

from __future__ import annotations

import functools
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from multifd.limits import MIB
from multifd.testing.binaries import QemuError

SOURCE = Path(__file__).parent / "guest" / "counter.s"
ROM_BYTES = 64 * 1024
TIMER_HZ = 1193182
"""Of the machine's timer."""
DATA_OFFSET = MIB
"""Where in RAM the guest fills and dirties."""
COUNT_OFFSET = 0x10000
"""Where in RAM the count is: four bytes, little-endian."""
LINE_BYTES = 9
"""Of a line on the serial port: eight hexadecimal digits and a newline."""


@dataclass(frozen=True)
class Guest:
    """What the guest does. All sizes are bytes, of RAM from `DATA_OFFSET` on."""

    filled: int = 6 * MIB
    """Filled once with random words: what there is to send."""
    dirtied: int = MIB
    """One word of each page of this is written in each step."""
    steps_per_s: int | None = 500
    """At least 19. None: step after step, without pause; then it takes a whole core."""

    def rom(self) -> bytes:
        """The image for `-bios`. Raise `QemuError` without an assembler."""
        divisor = 0 if self.steps_per_s is None else TIMER_HZ // self.steps_per_s
        if not 0 <= divisor < 1 << 16:
            raise QemuError(f"the guest can't make as few as {self.steps_per_s} steps a second")
        settings = b"".join(value.to_bytes(4, "little") for value in (self.filled, self.dirtied, divisor))
        return settings + assembled()[len(settings) :]


@functools.cache
def assembled() -> bytes:
    """The ROM with all settings 0."""
    with tempfile.TemporaryDirectory(prefix="multifd-rom-") as name:
        made, image = Path(name) / "counter.o", Path(name) / "counter.bin"
        _run("as", "--32", "-o", made, SOURCE)
        _run(
            "ld", "-m", "elf_i386", "--oformat", "binary", "-e", "0xfffffff0", "-Ttext", "0xffff0000", "-o", image, made
        )
        rom = image.read_bytes()
    assert len(rom) == ROM_BYTES
    return rom


def _run(tool: str, *arguments: str | Path) -> None:
    """Run a tool of the assembler for x86."""
    native = [tool] if platform.machine() in ("x86_64", "i686") else []
    program = next(filter(None, map(shutil.which, [*native, f"x86_64-linux-gnu-{tool}"])), None)
    if program is None:
        raise QemuError(f"the test guest needs GNU {tool} for x86 (Debian: binutils)")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)  # noqa: S603  # no shell
    if done.returncode != 0:
        raise QemuError(f"{program} failed: {done.stderr}")


def counts(serial: bytes) -> list[int]:
    """What the guest has counted, from what came on the serial port; of a migration, that of both sides joined.

    A last line that is not whole is left out. Raise `QemuError` at the first gap, repetition or torn line.
    """
    lines = serial.split(b"\n")[:-1]
    found: list[int] = []
    for line in lines:
        whole = len(line) == LINE_BYTES - 1 and not line.strip(b"0123456789abcdef")
        if not whole or (found and int(line, 16) != found[-1] + 1):
            before = f"after {found[-1]:08x} " if found else ""
            raise QemuError(f"the guest's count breaks: {before}comes {line!r}")
        found.append(int(line, 16))
    return found
