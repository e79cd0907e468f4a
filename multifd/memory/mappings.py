"""What /proc says about the mappings of a process. Read at set-up only: it walks all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HUGE = ("AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:")


@dataclass(frozen=True, slots=True)
class Mapping:
    """One line of /proc/PID/maps: addresses `start` to `end`, and `path`, the text at its end; `inode` 0 is memory
    without a file.
    """

    start: int
    end: int
    inode: int
    path: str

    def __str__(self) -> str:
        """What it is, in words."""
        if self.inode == 0:
            return "anonymous"
        if self.path.startswith("/memfd:"):
            return "memfd"
        if self.path.startswith("/dev/zero"):
            return "shared anonymous"
        if self.path.startswith("/anon_hugepage"):
            return "hugetlb"
        return f"mapping of {self.path}"


def mapping_at(address: int, process: str = "self") -> str:
    """In words, what kind of memory is at `address` of `process` ("self" or a pid)."""
    try:
        lines = Path(f"/proc/{process}/maps").read_text(errors="replace").splitlines()
    except OSError:
        return "unknown"
    for mapping in map(_parse, lines):
        if mapping.start <= address < mapping.end:
            return str(mapping)
    return "not mapped"


def huge_bytes(start: int, end: int) -> int:
    """Bytes in huge pages of this process's mappings that overlap addresses `start` to `end`."""
    return sum(size for mapping, size in _huge_sizes() if mapping.start < end and mapping.end > start)


def _huge_sizes() -> Iterator[tuple[Mapping, int]]:
    mapping: Mapping | None = None
    for line in Path("/proc/self/smaps").read_text(errors="replace").splitlines():
        head, _, rest = line.partition(" ")
        if not head.endswith(":"):
            mapping = _parse(line)
        elif head in _HUGE and mapping is not None:
            yield mapping, int(rest.split()[0]) * 1024


def _parse(line: str) -> Mapping:
    fields = line.split(maxsplit=5)
    start, _, end = fields[0].partition("-")
    return Mapping(int(start, 16), int(end, 16), int(fields[4]), fields[5] if len(fields) > 5 else "")
