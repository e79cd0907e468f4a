"""Writes the vectors of the messages that came with the feature `device-messages` to proto/vectors/v1.

A file of its own, since those of a released version are never written again.
"""

from __future__ import annotations

from typing import Any

from make_messages import Vector, as_json, frame, packed, write

NUMBERS = {"DEVICE_MESSAGE": 25, "DEVICE_HEARD": 26}
GOOD: list[tuple[str, str, dict[str, Any]]] = [
    ("", "DEVICE_MESSAGE", {"device": 1, "data": bytes.fromhex("0002000400000001")}),
    ("one byte", "DEVICE_MESSAGE", {"device": 4096, "data": b"\x00"}),
    ("as long as may be", "DEVICE_MESSAGE", {"device": 1, "data": bytes(range(256)) * 16}),
    ("", "DEVICE_HEARD", {"device": 1, "count": 1}),
    ("the last that can be counted", "DEVICE_HEARD", {"device": (1 << 32) - 1, "count": (1 << 64) - 1}),
]
BAD: list[tuple[str, str, str, dict[str, Any]]] = [
    ("of no device", "DEVICE_MESSAGE", "DEVICE_MESSAGE.device", {"device": 0, "data": b"x"}),
    ("empty", "DEVICE_MESSAGE", "DEVICE_MESSAGE.data", {"device": 1, "data": b""}),
    ("no data", "DEVICE_MESSAGE", "DEVICE_MESSAGE.data", {"device": 1}),
    ("data as text", "DEVICE_MESSAGE", "DEVICE_MESSAGE.data", {"device": 1, "data": "x"}),
    ("4097 bytes", "DEVICE_MESSAGE", "frame.body", {"device": 1, "data": bytes(4097)}),
    ("device beyond u32", "DEVICE_HEARD", "DEVICE_HEARD.device", {"device": 1 << 32, "count": 1}),
    ("nothing heard", "DEVICE_HEARD", "DEVICE_HEARD.count", {"device": 1, "count": 0}),
    ("a bool for a count", "DEVICE_HEARD", "DEVICE_HEARD.count", {"device": 1, "count": True}),
]


def vectors() -> list[Vector]:
    made: list[Vector] = []
    for what, name, keys in GOOD:
        message = {"type": name, **{key: as_json(value) for key, value in keys.items()}}
        title = f"{name}, {what}" if what else name
        made.append({"name": title, "bytes": frame(packed(NUMBERS[name], **keys)), "message": message})
    for what, name, where, keys in BAD:
        made.append({"name": f"{name}, {what}", "bytes": frame(packed(NUMBERS[name], **keys)), "error": where})
    return made


if __name__ == "__main__":
    write("device-messages", vectors())
