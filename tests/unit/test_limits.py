"""Bounds that must fit each other do, whatever each one is set to."""

from __future__ import annotations

import os
import re

from multifd import limits
from multifd.session import handshake

NUMBERS = {name: value for name, value in vars(limits).items() if name.isupper()}


def test_names_tell_their_unit() -> None:
    """Every bound ends with what it is: a most or a least, bytes, seconds, a share, or a number of tries or pieces."""
    endings = re.compile(r"_(MAX|MIN|BYTES|S|SHARE|TRIES|EXTENTS)$")
    assert [name for name in NUMBERS if name not in ("KIB", "MIB", "GIB") and not endings.search(name)] == []
    assert all(value > 0 for value in NUMBERS.values())


def test_a_slot_goes_out_in_one_call() -> None:
    """Header and meta together, and each extent, are pieces of one sendmsg; the meta holds all its extents."""
    assert os.sysconf("SC_IOV_MAX") >= 1 + limits.EXTENTS_MAX
    assert 16 * limits.EXTENTS_MAX <= limits.META_BYTES_MAX


def test_what_we_send_is_within_what_is_admitted() -> None:
    """Our own sizes are below the bounds of the wire."""
    assert limits.SLOT_BYTES <= limits.SLOT_BYTES_MAX
    assert limits.SLOT_EXTENTS <= limits.EXTENTS_MAX
    assert limits.ITEM_BYTES % limits.SLOT_BYTES == 0
    assert limits.CHUNK_BYTES_MAX <= limits.SLOT_BYTES_MAX <= limits.ZSTD_WINDOW_BYTES_MAX
    assert limits.FIRST_FRAME_BYTES_MAX < limits.FRAME_BYTES_MAX
    assert handshake.PAGE_BYTES_MAX < limits.FRAME_BYTES_MAX


def test_a_device_can_always_go_on() -> None:
    """Its credit covers the largest chunk, and one that is held back besides."""
    assert 2 * (limits.CHUNK_BYTES_MAX + limits.CHUNK_COST_BYTES) <= limits.DEVICE_CREDIT_BYTES


def test_strangers_are_bounded_in_all() -> None:
    """What all of them together can have us hold, before anybody knows who they are."""
    assert limits.PENDING_CONNECTIONS_MAX * limits.FIRST_FRAME_BYTES_MAX <= 64 * limits.MIB


def test_waits_end_in_their_order() -> None:
    """Who waits for somebody else's wait waits longer; a source that asks still finds an answer."""
    starting_s = limits.OWNER_DEADLINE_S + limits.CLOSE_DEADLINE_S
    assert starting_s < limits.STARTED_DEADLINE_S
    assert starting_s < limits.OUTCOME_ANSWER_DEADLINE_S
    assert limits.OWNER_DEADLINE_S < limits.SWITCHING_DEADLINE_S
    asking_s = limits.OUTCOME_TRIES * (limits.OUTCOME_DEADLINE_S + limits.OUTCOME_PAUSE_S)
    assert limits.STARTED_DEADLINE_S + asking_s < limits.OUTCOME_LINGER_S < limits.OUTCOME_KEEP_S
    assert limits.SETTLED_DELAY_S < limits.SURVEY_PAUSE_S < limits.STALL_DEADLINE_S
