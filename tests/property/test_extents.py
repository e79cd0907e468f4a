"""Extents against plain sets of bytes and pages: cutting, merging, the meta on the wire, zero pages, whole sweeps."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from multifd.errors import RemoteProtocolError
from multifd.kinds.ram import RamFeed, RamKind, ZeroKind
from multifd.memory.block import BufferBlock
from multifd.memory.extents import Extents, complement, cut, merge, pages, runs, total
from multifd.memory.zero import page_words, zero_pages, zero_rows
from multifd.wire.extents import pack, parse

PAGE = 512
LENGTH = 40 * PAGE + 77

Pairs = list[tuple[int, int]]


def as_extents(pairs: Pairs) -> Extents:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def covered(extents: Extents) -> list[int]:
    """Every byte, as often and in the order in which it is covered."""
    return [place for start, length in extents.tolist() for place in range(start, start + length)]


ranges = st.lists(st.tuples(st.integers(-PAGE, LENGTH + PAGE), st.integers(0, 5 * PAGE)), max_size=8)


@st.composite
def apart(draw: st.DrawFn) -> Extents:
    """Ascending extents that do not touch, of any alignment."""
    edges = sorted(draw(st.sets(st.integers(0, 3000), max_size=24)))
    return as_extents([(a, b - a) for a, b in zip(edges[::2], edges[1::2], strict=False)])


@given(st.lists(ranges, max_size=3))
def test_merge_is_the_union_of_pages(parts: list[Pairs]) -> None:
    """`merge` gives the pages that any part touches, each once, ascending, neighbours joined."""
    touched = {
        place // PAGE
        for part in parts
        for start, length in part
        for place in range(start, start + length)
        if 0 <= place < LENGTH
    }
    expected = sorted(place for page in touched for place in range(page * PAGE, min((page + 1) * PAGE, LENGTH)))
    merged = merge([as_extents(part) for part in parts], page_size=PAGE, length=LENGTH)
    assert covered(merged) == expected
    assert all(a[0] + a[1] < b[0] for a, b in pairwise(merged.tolist()))


@given(apart())
def test_complement_is_what_is_left(extents: Extents) -> None:
    """An extent list and its complement are every byte, each once."""
    assert sorted(covered(extents) + covered(complement(extents, 3000))) == list(range(3000))


@given(apart(), st.integers(1, 700), st.integers(1, 5))
def test_cut_covers_exactly(extents: Extents, size: int, count_max: int) -> None:
    """Batches cover the bytes of the extents in their order, and keep to size and count."""
    pieces, bounds = cut(extents, size=size, count_max=count_max)
    assert covered(pieces) == covered(extents)
    assert bounds[0] == 0
    assert bounds[-1] == len(pieces)
    for begin, end in pairwise(bounds):
        assert 1 <= end - begin <= count_max
        assert 0 < total(pieces[begin:end]) <= size


@given(st.sets(st.integers(0, 39)), st.booleans(), st.integers(1, 6), st.integers(1, 5))
def test_cut_keeps_pages_whole(numbers: set[int], tail: bool, size: int, count_max: int) -> None:
    """With a size of whole pages no page is cut, the short last one included."""
    extents, _ = runs(
        np.array(sorted(numbers | ({40} if tail else set())), dtype=np.int64), page_size=PAGE, length=LENGTH
    )
    pieces, _ = cut(extents, size=size * PAGE, count_max=count_max)
    assert all(start % PAGE == 0 for start, _ in pieces.tolist())
    assert covered(pieces) == covered(extents)


@given(st.sets(st.integers(0, 40)))
def test_pages_and_runs_are_inverse(numbers: set[int]) -> None:
    """Page numbers to extents and back."""
    ascending = np.array(sorted(numbers), dtype=np.int64)
    extents, first = runs(ascending, page_size=PAGE, length=LENGTH)
    assert pages(extents, PAGE).tolist() == ascending.tolist()
    assert (ascending[first] * PAGE).tolist() == extents[:, 0].tolist()


@given(apart(), st.randoms(use_true_random=False))
def test_the_meta_goes_round(extents: Extents, random: Random) -> None:
    """What is packed, in any order, is parsed the same."""
    rows = extents.tolist()
    random.shuffle(rows)
    if rows:
        assert parse(pack(as_extents(rows)), block_length=3000).tolist() == rows


number = st.one_of(st.integers(0, 20), st.integers(0, 2**64 - 1), st.sampled_from([2**63 - 1, 2**63, 2**64 - 1]))


@given(st.lists(st.tuples(number, number), max_size=6), st.binary(max_size=20), st.integers(0, 2**63 - 1))
def test_any_meta_is_extents_or_the_peer_s_fault(pairs: Pairs, rest: bytes, block_length: int) -> None:
    """Any bytes give extents that keep the rules, or a `RemoteProtocolError`: exactly when a rule is broken."""
    meta = b"".join(value.to_bytes(8, "big") for pair in pairs for value in pair) + rest
    numbers = [int.from_bytes(meta[at : at + 8], "big") for at in range(0, len(meta), 8)]
    rows = sorted(zip(numbers[::2], numbers[1::2], strict=False))
    right = (
        len(meta) % 16 == 0
        and len(rows) > 0
        and all(length > 0 and start + length <= block_length for start, length in rows)
        and all(a[0] + a[1] <= b[0] for a, b in pairwise(rows))
    )
    try:
        extents = parse(meta, block_length=block_length)
    except RemoteProtocolError:
        assert not right
    else:
        assert right
        assert sorted(map(tuple, extents.tolist())) == rows


@st.composite
def memories(draw: st.DrawFn) -> bytearray:
    """Memory of mostly zero and mostly full pages, with an odd end."""
    memory = bytearray(draw(st.integers(0, 12)) * PAGE + draw(st.integers(0, PAGE - 1)))
    for page in draw(st.sets(st.integers(0, 12))):
        if (page + 1) * PAGE <= len(memory):
            memory[page * PAGE : (page + 1) * PAGE] = b"x" * PAGE
    for place in draw(st.lists(st.integers(0, 13 * PAGE), max_size=4)):
        if place < len(memory):
            memory[place] = 1
    return memory


@given(memories(), st.data())
def test_zero_pages_are_those_of_a_naive_search(memory: bytearray, data: st.DataObject) -> None:
    """Zero detection, of all pages and of some, equals comparing each with zeros."""
    naive = [not any(memory[at : at + PAGE]) for at in range(0, len(memory) - PAGE + 1, PAGE)]
    assert zero_pages(memoryview(memory), PAGE).tolist() == naive
    some = sorted(data.draw(st.sets(st.sampled_from(range(len(naive)))))) if naive else []
    rows = np.array(some, dtype=np.int64)
    assert zero_rows(page_words(memoryview(memory), PAGE), rows).tolist() == [naive[row] for row in some]


@settings(deadline=None)
@given(memories(), memories(), st.booleans(), st.lists(ranges, max_size=2), st.integers(8, 20))
def test_a_sweep_moves_everything_once(
    first: bytearray, second: bytearray, detect: bool, written: list[Pairs], pages_a_slot: int
) -> None:
    """Two blocks, moved whole and then by what was written, are equal at the destination; no byte is in two slots of a
    sweep.
    """
    sources = [
        BufferBlock(name, memory, page_size=PAGE, tracker="software") for name, memory in (("a", first), ("b", second))
    ]
    copies = [bytearray(b"z" * len(memory)) for memory in (first, second)]
    targets = [BufferBlock("t", copy, page_size=PAGE) for copy in copies]
    kinds = {"ram": RamKind(targets), "zero": ZeroKind(targets)}
    feed = RamFeed(sources, slot_bytes=pages_a_slot * PAGE, zero_detection=detect)
    for sweep in range(2):
        seen: set[tuple[int, int]] = set()
        for slot in (slot for work in feed.collect(live=not sweep) for slot in feed.expand(work)):
            places = covered(parse(slot.meta, block_length=len(copies[slot.owner - 1])))
            assert seen.isdisjoint((slot.owner, place) for place in places)
            seen.update((slot.owner, place) for place in places)
            assert (slot.length, slot.covers) == ((len(places), 0) if slot.kind == "ram" else (0, len(places)))
            assert slot.length <= pages_a_slot * PAGE
            payload = b"".join(slot.buffers)
            views = kinds[slot.kind].place(slot.owner, slot.meta, slot.length)
            for view in views:
                view[:], payload = payload[: len(view)], payload[len(view) :]
            kinds[slot.kind].commit(slot.owner, slot.meta, views)
        assert copies == [first, second]
        if sweep == 0:
            assert len(seen) == len(first) + len(second)
            write(sources, [first, second], written)


def write(blocks: list[BufferBlock], memories: list[bytearray], written: list[Pairs]) -> None:
    """Write to each block, and mark it."""
    for block, memory, pairs in zip(blocks, memories, written, strict=False):
        for start, length in pairs:
            begin, end = max(start, 0), min(start + length, len(memory))
            if begin < end:
                memory[begin:end] = bytes([start & 1]) * (end - begin)
                block.tracker.mark(begin, end - begin)  # type: ignore[attr-defined]
