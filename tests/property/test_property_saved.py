"""Saved machines against a model: whatever order pages come in, and whichever become zero."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from multifd import elements as e
from multifd.qemu.saved import SavedMachine, SavingMachine

PAGE = e.PAGE_BYTES
PAGES = {"m": 700, "pc.bios": 3}
STATE = e.MachineState(
    e.Configuration("pc-q35-10.0"),
    (),
    e.SectionHeader(2, "ram", 0, 4),
    tuple(e.RamBlock(name, pages * PAGE) for name, pages in PAGES.items()),
    True,
    (e.Section(e.Phase.FULL, e.SectionHeader(3, "timer", 0, 2), b"body"),),
    b"{}",
)


@st.composite
def steps(draw: st.DrawFn) -> tuple[str, bool, list[int]]:
    """A block, whether its pages become zero, and which: a run, or any, in any order."""
    name = draw(st.sampled_from(sorted(PAGES)))
    last = PAGES[name] - 1
    some = st.lists(st.integers(0, last), max_size=20, unique=True)
    run = st.tuples(st.integers(0, last), st.integers(1, 150)).map(
        lambda of: list(range(of[0], min(sum(of), last + 1)))
    )
    return name, draw(st.booleans()), draw(some | run)


@settings(max_examples=40, deadline=None)
@given(st.lists(steps(), max_size=12), st.integers(0, 1 << 32))
def test_a_saved_machine_is_what_came_last(work: list[tuple[str, bool, list[int]]], seed: int) -> None:
    """RAM, flags and digests are those of a plain array that went through the same."""
    rng = np.random.default_rng(seed)
    model = {name: np.zeros((pages, PAGE), dtype=np.uint8) for name, pages in PAGES.items()}
    with tempfile.TemporaryDirectory() as folder:
        saving = SavingMachine(Path(folder) / "vm1")
        targets = saving.begin(STATE.configuration, STATE.ram, STATE.blocks)
        for name, becomes_zero, numbers in work:
            offsets = np.array(numbers, dtype=np.int64) * PAGE
            data = rng.integers(0, 256, (len(numbers), PAGE), dtype=np.uint8)
            model[name][numbers] = 0 if becomes_zero else data
            if becomes_zero:
                targets[name].zero(offsets)
                continue
            raw = data.tobytes()
            for view in targets[name].place(offsets):
                view[:], raw = raw[: len(view)], raw[len(view) :]
        saving.commit(STATE)
        digests = saving.digest(lambda _: None)
        with SavedMachine.open(Path(folder) / "vm1") as saved:
            assert saved.state == STATE
            assert saved.digest() == digests
            for name, pages in model.items():
                block = saved.contents(name)
                assert block is not None
                found = np.frombuffer(block.view, dtype=np.uint8).reshape(pages.shape)
                assert (found[block.present] == pages[block.present]).all()
                assert not pages[~block.present].any()
                del found
