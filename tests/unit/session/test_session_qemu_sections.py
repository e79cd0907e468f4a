"""Sections are gathered in order and held against the VM description; what is missing or too much is named."""

from __future__ import annotations

import pytest
from qemu_pair import DEVICES, describe, description_of, section

from multifd import limits
from multifd.elements import Phase
from multifd.errors import RemoteProtocolError
from multifd.session.qemu_sections import SectionLog, first_difference


def test_equal_lists_have_no_difference() -> None:
    """Names, instances and lengths in wire order are what counts; sections of live devices are not described."""
    live = section("d/vfio", b"much", Phase.START)
    assert first_difference((live, *DEVICES), describe(description_of(DEVICES))) == ""
    assert first_difference((), ()) == ""


@pytest.mark.parametrize(
    ("described", "words"),
    [
        (("timer 0 5", "cpu 0 5"), "section 3 is cpu 1 with 4 bytes, which the VM description does not have"),
        (("timer 0 5", "cpu 0 5", "cpu 1 4", "nic 0 9"), "nic 0 with 9 bytes of the VM description did not come"),
        (
            ("timer 0 5", "cpu 0 6", "cpu 1 4"),
            "section 2 is cpu 0 with 5 bytes, the VM description says cpu 0 with 6 bytes",
        ),
        (
            ("timer 0 5", "cpu 1 4", "cpu 0 5"),
            "section 2 is cpu 0 with 5 bytes, the VM description says cpu 1 with 4 bytes",
        ),
        (("timer 7 5",), "section 1 is timer 0 with 5 bytes, the VM description says timer 7 with 5 bytes"),
        ((), "section 1 is timer 0 with 5 bytes, which the VM description does not have"),
    ],
)
def test_the_first_difference_is_named(described: tuple[str, ...], words: str) -> None:
    """A missing, extra, exchanged or longer section is told by what came and what was said."""
    assert first_difference(DEVICES, describe("\n".join(described).encode())) == words


def test_early_and_late_are_told_apart() -> None:
    """What comes before RAM's END is early, whatever its phase, and the order is kept."""
    log = SectionLog()
    start, part, end = (section("d/vfio", b"", phase) for phase in (Phase.START, Phase.PART, Phase.END))
    for each in (start, DEVICES[0], part):
        log.handle_section(each, 0)
    log.handle_ram_ended()
    for each in (end, DEVICES[1]):
        log.handle_section(each, 0)
    assert log.early == [start, DEVICES[0], part]
    assert log.late == [end, DEVICES[1]]
    assert log.in_order == [start, DEVICES[0], part, end, DEVICES[1]]
    log.check_ended(0)


def test_a_device_that_began_must_end() -> None:
    """A live device without its END at the end of the state lacks the last of its state."""
    log = SectionLog()
    log.handle_section(section("a/vfio", b"", Phase.START), 0)
    log.handle_section(section("a/vfio", b"", Phase.START, instance=1), 0)
    log.handle_section(section("a/vfio", b"", Phase.END), 0)
    with pytest.raises(RemoteProtocolError, match="main at 5: end of state: expected an END of a/vfio 1"):
        log.check_ended(5)


def test_all_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies count, and so do sections without any: a source can't fill memory with either."""
    monkeypatch.setattr(limits, "QEMU_SECTIONS_BYTES_MAX", 10 * limits.QEMU_SECTION_COST_BYTES)
    log = SectionLog()
    for _ in range(10):
        log.handle_section(section("d/vfio", b"", Phase.PART), 0)
    with pytest.raises(RemoteProtocolError, match="main at 9: section d/vfio"):
        log.handle_section(section("d/vfio", b"", Phase.PART), 9)
    with pytest.raises(RemoteProtocolError, match="bytes of device sections"):
        SectionLog().handle_section(section("big", bytes(limits.QEMU_SECTIONS_BYTES_MAX)), 0)
