"""The messages of the main channel as a table: type number, name, keys with types and bounds (proto/control.md
sections 2 and 3). Data only; `wire.control` reads it in both directions, and a test compares it with that page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from multifd import messages as m
from multifd.errors import Code
from multifd.limits import (
    CHANNELS_MAX,
    DEVICE_MESSAGE_BYTES_MAX,
    INVENTORY_PAGES_MAX,
    PAGE_SIZE_BYTES_MAX,
    PAGE_SIZE_BYTES_MIN,
    VERSION_MAX,
)
from multifd.wire.fields import (
    U32_MAX,
    FieldType,
    Rule,
    array,
    binary,
    boolean,
    choice,
    integer,
    name,
    nullable,
    power_of_two,
    record,
    seconds,
    table,
    text,
)

COUNT = integer()  # of slots, bytes, chunks: may be zero
U32 = integer(0, U32_MAX)
NUMBER = integer(1, U32_MAX)  # a device's; an epoch; how many channels HELLO asks for or grants at most
FROM_ONE = integer(1)  # rounds and sequences
CHANNEL = integer(1, CHANNELS_MAX)
PAGE = integer(1, INVENTORY_PAGES_MAX)
ID = binary(16)
CODE = choice(Code, fallback=Code.INTERNAL)
COUNTS = array(COUNT, low=1, high=CHANNELS_MAX)
EPOCHS = table(NUMBER, NUMBER)
PARTS = table(name(), seconds())

BLOCK = record(
    m.BlockInfo,
    {"name": name(), "length": COUNT, "page_size": power_of_two(PAGE_SIZE_BYTES_MIN, PAGE_SIZE_BYTES_MAX)},
)
DEVICE = record(
    m.DeviceInfo,
    {
        "id": name(),
        "instance": U32,
        "schema_version": U32,
        "token": text(),
        "explicit_switchover": boolean(),
        "expected_bytes": nullable(COUNT),
    },
)
KIND = record(m.KindInfo, {"name": name()})
REFUSAL = record(m.Refusal, {"what": choice(m.What), "name": text(), "code": CODE, "cause": text()})
DEVICE_VERDICT = record(m.DeviceVerdict, {"takes_part": boolean(), "credit": COUNT})


def _hello_rule(hello: m.Hello) -> tuple[str, str] | None:
    lowest, highest = hello.versions
    return None if lowest <= highest else ("versions", "the lowest first")


def _inventory_rule(inventory: m.Inventory) -> tuple[str, str] | None:
    return None if inventory.page <= inventory.pages else ("page", f"1..{inventory.pages}, the number of pages")


def _verdict_rule(verdict: m.Verdict) -> tuple[str, str] | None:
    if verdict.accepted != (not verdict.refusals):
        return "accepted", "true if and only if nothing is refused"
    if verdict.accepted and not verdict.channels:
        return "channels", f"1..{CHANNELS_MAX} when accepted"
    return None


class Row(NamedTuple):
    """One message."""

    number: int
    name: str
    make: type[m.Message]
    keys: Mapping[str, FieldType]
    rule: Rule | None = None


ROWS = (
    Row(
        1,
        "HELLO",
        m.Hello,
        {
            "versions": array(integer(1, VERSION_MAX), low=2, high=2),
            "session": ID,
            "secret": ID,
            "features": array(name()),
            "channels": NUMBER,
            "software": text(),
        },
        _hello_rule,
    ),
    Row(
        2,
        "INVENTORY",
        m.Inventory,
        {
            "page": PAGE,
            "pages": PAGE,
            "blocks": array(BLOCK),
            "devices": array(DEVICE),
            "kinds": array(KIND),
            "preflight": boolean(),
        },
        _inventory_rule,
    ),
    Row(
        3,
        "VERDICT",
        m.Verdict,
        {
            "accepted": boolean(),
            "channels": integer(0, CHANNELS_MAX),
            "refusals": array(REFUSAL),
            "devices": array(DEVICE_VERDICT),
        },
        _verdict_rule,
    ),
    Row(4, "ATTACHED", m.Attached, {"channels": CHANNEL}),
    Row(5, "SYNC", m.Sync, {"class": name(), "round": FROM_ONE, "counts": COUNTS}),
    Row(6, "SYNC_DONE", m.SyncDone, {"class": name(), "round": FROM_ONE}),
    Row(7, "SETTLED", m.Settled, {"counts": COUNTS}),
    Row(8, "RESEND", m.Resend, {"channel": CHANNEL, "sequence": FROM_ONE}),
    Row(9, "CREDIT", m.Credit, {"device": NUMBER, "bytes": COUNT}),
    Row(
        10,
        "DEVICE_STATUS",
        m.DeviceStatus,
        {
            "device": NUMBER,
            "epoch": NUMBER,
            "ready": boolean(),
            "loaded_bytes": COUNT,
            "load_s": seconds(),
            "setup_s": seconds(),
            "doing": text(),
        },
    ),
    Row(11, "SWITCHOVER_READY", m.SwitchoverReady, {"epochs": EPOCHS}),
    Row(12, "STOP_COPY", m.StopCopy, {"epochs": EPOCHS}),
    Row(13, "END", m.End, {"counts": COUNTS, "chunks": table(NUMBER, COUNT), "resends": COUNT}),
    Row(14, "LOADED", m.Loaded, {"parts": PARTS}),
    Row(15, "COMMIT", m.Commit, {}),
    Row(16, "STARTED", m.Started, {"parts": PARTS}),
    Row(17, "ABORTED", m.Aborted, {"code": CODE, "cause": text()}),
    Row(18, "CANCEL", m.Cancel, {"code": CODE, "cause": text()}),
    Row(19, "OUTCOME", m.AskOutcome, {"session": ID, "secret": ID}),
    Row(20, "OUTCOME_IS", m.OutcomeIs, {"outcome": choice(m.Fate), "cause": text()}),
    Row(25, "DEVICE_MESSAGE", m.DeviceMessage, {"device": NUMBER, "data": binary(1, DEVICE_MESSAGE_BYTES_MAX)}),
    Row(26, "DEVICE_HEARD", m.DeviceHeard, {"device": NUMBER, "count": FROM_ONE}),
)
