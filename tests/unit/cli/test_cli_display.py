"""Progress reaches people: a line a second and one for each change of state in a log, a bar on a terminal."""

import io

import pytest
from rich.console import Console

from multifd.cli.display import FILES, LiveDisplay, PlainDisplay, facts, fraction, open_display, waits
from multifd.cli.sizes import format_part
from multifd.limits import GIB, MIB
from multifd.stats import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def look(state: str = "PRECOPY", **more: object) -> Progress:
    values: dict[str, object] = {"state": state, "elapsed_s": 1.5, "bytes_total": GIB, "bytes_left": GIB // 4} | more
    return Progress(**values)  # type: ignore[arg-type]


def test_plain_lines_come_once_a_second_at_most() -> None:
    """Nothing while a second has not gone by."""
    stream, clock = io.StringIO(), Clock()
    display = PlainDisplay(stream, clock)
    for step in range(25):
        clock.now = 100 + step / 10
        display.show(look())
    assert len(stream.getvalue().splitlines()) == 3


def test_a_change_of_state_is_a_line_at_once() -> None:
    """However soon it comes."""
    stream = io.StringIO()
    display = PlainDisplay(stream, Clock())
    for state in ("HELLO", "PRECOPY", "PRECOPY", "STOP_COPY"):
        display.show(look(state))
    assert [line.split()[2].rstrip(",") for line in stream.getvalue().splitlines()] == ["hello", "precopy", "stop"]


def test_the_line_says_all_that_is_known() -> None:
    """Round, rate, what is left, expected downtime, what it waits for."""
    stream = io.StringIO()
    PlainDisplay(stream, Clock()).show(
        look(
            round=3,
            bytes_sent=2 * GIB,
            rate=1.5 * GIB,
            expected_downtime_s=0.0854,
            waiting_for=("nic/0",),
        )
    )
    assert stream.getvalue() == (
        "1.5 s: precopy, round 3, 2 GiB moved, 1.5 GiB/s, 256 MiB left, expected downtime 85 ms, waits for nic/0\n"
    )


def test_unknown_things_are_left_out() -> None:
    """No `None`, no zeros that mean nothing."""
    assert facts(Progress(state="HELLO", elapsed_s=0.0)) == ["hello", "0 B moved"]
    assert waits(look()) == ""


@pytest.mark.parametrize(("left", "total", "expected"), [(0, 0, 0.0), (0, 10, 1.0), (5, 10, 0.5), (20, 10, 0.0)])
def test_the_bar_shows_how_much_is_the_same_on_both_sides(left: int, total: int, expected: float) -> None:
    """Between 0 and 1 whatever is reported."""
    assert fraction(look(round=1, bytes_left=left, bytes_total=total)) == expected


@pytest.mark.parametrize(("arrived", "expected"), [(0, 0.0), (5, 0.5), (20, 1.0)])
def test_the_bar_of_a_destination_shows_what_has_arrived(arrived: int, expected: float) -> None:
    """It knows no rounds, nor what is left."""
    assert fraction(look(bytes_sent=arrived, bytes_left=0, bytes_total=10)) == expected


def test_the_live_display_draws_bar_and_waits_and_leaves_the_notes() -> None:
    """On a terminal: a note, the picture, nothing of it after close."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    clock = Clock()
    display = LiveDisplay(console, clock)
    display.note("before [bold]no markup[/bold] \x1b[2J")
    display.show(look(round=2, rate=5.0 * MIB, waiting_for=("gpu/0: loading",)))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "before [bold]no markup[/bold] \\x1b[2J" in shown
    assert "75%" in shown
    assert "precopy · round 2" in shown
    assert "waits for gpu/0: loading" in shown
    display.show(look(state="soon after"))
    assert "soon after" not in console.file.getvalue()  # type: ignore[attr-defined]
    clock.now += 1
    display.show(look(state="later"))
    assert "later" in console.file.getvalue()  # type: ignore[attr-defined]
    display.close()
    display.close()


def test_a_stream_that_is_no_terminal_gets_plain_lines() -> None:
    """A pipe, a file."""
    assert isinstance(open_display(io.StringIO()), PlainDisplay)


def test_files_are_shown_as_files() -> None:
    """How much of them, how fast, how long yet; nothing before the first byte."""
    stream = io.StringIO()
    display = PlainDisplay(stream, Clock(), FILES)
    display.show(look("hello", bytes_sent=0))
    waiting = ("ram: a round is under way",)
    display.show(look("precopy", round=1, bytes_left=0, bytes_sent=GIB // 4, rate=MIB * 128.0, waiting_for=waiting))
    display.show(look("loading", round=1, bytes_left=0, bytes_sent=GIB // 2, expected_downtime_s=1.0))
    display.show(look("cancelled", round=1, bytes_sent=GIB // 2))
    assert stream.getvalue().splitlines() == [
        "1.5 s: 256 MiB of 1 GiB, 128 MiB/s, at most 6 s left",
        "1.5 s: all of 1 GiB copied, making it last",
    ]


def test_the_bar_of_files_shows_what_was_sent() -> None:
    """Not what is left to be handed out, which is nothing long before the end."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    display = LiveDisplay(console, Clock(), FILES)
    display.show(look("precopy", round=1, bytes_left=0, bytes_sent=GIB // 4))
    display.close()
    assert "25%" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_part_has_the_unit_of_the_whole_once() -> None:
    """If it is the same."""
    assert format_part(1.44 * GIB, 2 * GIB) == "1.44 of 2 GiB"
    assert format_part(700 * MIB, 2 * GIB) == "700 MiB of 2 GiB"
