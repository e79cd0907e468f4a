"""Sections of a machine other than RAM: gathered in their order, bounded, and held against the VM description
(proto/qemu.md section 8). Nobody else notices that one is missing: a QEMU would start without it.

That each phase of a section follows the one before is seen to where they are parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from multifd import limits
from multifd.elements import DescribedSection, Phase, Section
from multifd.errors import RemoteProtocolError

Describe = Callable[[bytes], tuple[DescribedSection, ...]]
"""What reads a VM description (`wire.qemu_description.described_sections`); raises `RemoteProtocolError`."""

RAM = "ram"
"""The name of RAM's section."""


def first_difference(sections: Iterable[Section], described: Sequence[DescribedSection]) -> str:
    """Where FULL sections, in wire order, differ from what the VM description tells, in words; empty if nowhere."""
    there = [DescribedSection(each.header.name, each.header.instance, len(each.body)) for each in full(sections)]
    for number, (have, said) in enumerate(zip(there, described, strict=False), start=1):
        if have != said:
            return f"section {number} is {_words(have)}, the VM description says {_words(said)}"
    if len(there) > len(described):
        return (
            f"section {len(described) + 1} is {_words(there[len(described)])}, which the VM description does not have"
        )
    if len(there) < len(described):
        return f"{_words(described[len(there)])} of the VM description did not come"
    return ""


def full(sections: Iterable[Section]) -> list[Section]:
    """Those that a VM description tells of."""
    return [each for each in sections if each.phase is Phase.FULL]


class SectionLog:
    """The sections of a stream. `early` came before RAM's END, `late` after it."""

    def __init__(self) -> None:
        self.early: list[Section] = []
        self.late: list[Section] = []
        self._bytes = 0
        self._live: dict[tuple[str, int], bool] = {}  # a live device → whether its END came
        self._ram_ended = False

    @property
    def in_order(self) -> list[Section]:
        """All of them, as they came."""
        return self.early + self.late

    def handle_section(self, section: Section, offset: int) -> None:
        """A section that ends at `offset` of main. Raises `RemoteProtocolError` if all together are too much."""
        name, instance = section.header.name, section.header.instance
        self._bytes += len(section.body) + limits.QEMU_SECTION_COST_BYTES
        if self._bytes > limits.QEMU_SECTIONS_BYTES_MAX:
            expected = f"at most {limits.QEMU_SECTIONS_BYTES_MAX} bytes of device sections"
            raise RemoteProtocolError(f"main at {offset}: section {name}", expected)
        if section.phase is not Phase.FULL:
            self._live[name, instance] = section.phase is Phase.END
        (self.late if self._ram_ended else self.early).append(section)

    def handle_ram_ended(self) -> None:
        """RAM's END is over: what follows is late."""
        self._ram_ended = True

    def check_ended(self, offset: int) -> None:
        """At the end of the state. Raises `RemoteProtocolError` if a device began and did not end."""
        for (name, instance), ended in self._live.items():
            if not ended:
                raise RemoteProtocolError(f"main at {offset}: end of state", f"an END of {name} {instance} before it")


def _words(section: DescribedSection) -> str:
    return f"{section.name} {section.instance} with {section.length} bytes"
