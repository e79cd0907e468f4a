"""The decision to switch: it rests on the downtime expected and on readiness, and says what stands in the way."""

from dataclasses import replace

import pytest

from multifd.session.convergence import (
    THROTTLE_LEVELS,
    Decision,
    DeviceNeed,
    FeedNeed,
    RateMeter,
    Situation,
    Throttle,
    decide,
)

MIB = 1024 * 1024
RATE = 1000.0 * MIB

IDLE_DEVICE = DeviceNeed(
    name="gpu0/0",
    takes_part=False,
    initial=0,
    dirty=0,
    stop_copy=0,
    load_seconds_per_byte=None,
    declared_stop_s=None,
    initial_sent=True,
    ready=False,
    doing="",
)
READY_DEVICE = replace(IDLE_DEVICE, takes_part=True, ready=True)


def ram(size: int, description: str = "") -> FeedNeed:
    return FeedNeed("ram", description, size)


def situation(
    *needs: FeedNeed | DeviceNeed,
    rate: float | None = RATE,
    limit: float = 0.1,
    fixed_s: float = 0.0,
    explicit: bool = True,
) -> Situation:
    return Situation(
        now=10.0,
        began=0.0,
        rate=rate,
        feeds=[need for need in needs if isinstance(need, FeedNeed)],
        devices=[need for need in needs if isinstance(need, DeviceNeed)],
        downtime_limit_s=limit,
        fixed_s=fixed_s,
        explicit=explicit,
    )


def test_switches_when_the_rest_fits() -> None:
    """Bytes over rate plus the fixed part within the limit: yes, and nothing is waited for."""
    decision = decide(situation(ram(50 * MIB), IDLE_DEVICE, fixed_s=0.02))
    assert decision.switch
    assert decision.expected_downtime_s == pytest.approx(0.07)
    assert decision.waiting_for == ()


def test_exactly_the_limit_fits() -> None:
    """The limit itself is allowed, one byte more is not."""
    assert decide(situation(ram(1000), rate=10_000.0, limit=0.1)).switch
    assert not decide(situation(ram(1001), rate=10_000.0, limit=0.1)).switch


def test_all_bytes_count() -> None:
    """Feeds, and initial, dirty and stop-copy bytes of devices; the unknown counts as nothing."""
    device = replace(IDLE_DEVICE, initial=1 * MIB, dirty=2 * MIB, stop_copy=4 * MIB)
    unknown = replace(IDLE_DEVICE, initial=None, dirty=None, stop_copy=None)
    decision = decide(situation(ram(8 * MIB), FeedNeed("acme/log", "", 16 * MIB), device, unknown))
    assert decision.expected_downtime_s == pytest.approx(31 / 1000)


def test_devices_load_at_the_same_time() -> None:
    """The slowest device's time is added, not the sum; declared goes before learned."""
    declared = replace(IDLE_DEVICE, name="a/0", declared_stop_s=0.05, stop_copy=MIB, load_seconds_per_byte=1.0)
    learned = replace(IDLE_DEVICE, name="b/0", stop_copy=2 * MIB, load_seconds_per_byte=0.03 / MIB)
    silent = replace(IDLE_DEVICE, name="c/0", load_seconds_per_byte=1.0)
    decision = decide(situation(declared, learned, silent, rate=float(10**15)))
    assert decision.expected_downtime_s == pytest.approx(0.06)


def test_declared_zero_is_a_declaration() -> None:
    """A device that says it needs no time is believed, whatever was learned."""
    device = replace(IDLE_DEVICE, declared_stop_s=0.0, stop_copy=1, load_seconds_per_byte=100.0)
    assert decide(situation(device)).switch


def test_unknown_rate_waits_but_only_if_there_are_bytes() -> None:
    """Without a rate nothing can be expected, but with nothing left to send none is needed, or it would never end."""
    decision = decide(situation(ram(1), rate=None))
    assert decision == Decision(False, None, ("rate of the channels: not measured yet",))
    assert decide(situation(ram(1), rate=0.0)).expected_downtime_s is None
    assert decide(situation(ram(0), rate=None, fixed_s=0.02)) == Decision(True, 0.02, ())


def test_says_what_memory_needs() -> None:
    """The sentence has the feed's own words, the time, the limit and the rate."""
    decision = decide(situation(ram(int(312.4 * MIB), "ram: 312.4 MiB dirty"), rate=1.1e9))
    assert decision.waiting_for == ("ram: 312.4 MiB dirty need 298 ms at 1.10 GB/s (the limit is 100 ms)",)
    decision = decide(situation(ram(64 * MIB), rate=1e6))
    assert decision.waiting_for == ("ram: 64.0 MiB dirty need 67.1 s at 0.00 GB/s (the limit is 100 ms)",)


def test_says_what_a_device_needs() -> None:
    """Its bytes by kind, and its time in the stop."""
    nic = replace(IDLE_DEVICE, name="nic/0", dirty=512, stop_copy=4 * MIB, declared_stop_s=0.2)
    decision = decide(situation(nic, rate=1e9))
    assert decision.waiting_for == (
        "device nic/0: dirty of 512 bytes, stop-copy of 4.0 MiB needs 204 ms at 1.00 GB/s (the limit is 100 ms)",
    )
    slow = replace(IDLE_DEVICE, name="slow/0", declared_stop_s=1.5)
    assert decide(situation(slow)).waiting_for == ("device slow/0: its stop needs 1.50 s (the limit is 100 ms)",)


def test_names_no_more_than_stand_in_the_way() -> None:
    """Largest first, as many as would have to go for the rest to fit; small change is not named."""
    feeds = [FeedNeed(f"f{size}", "", size * MIB) for size in (1, 200, 5, 90, 120)]
    named = [text.partition(":")[0] for text in decide(situation(*feeds)).waiting_for]
    assert named == ["f200", "f120"]


def test_says_when_only_the_sum_is_too_much() -> None:
    """Each alone would fit: the sentence gives the whole as well."""
    texts = decide(situation(ram(80 * MIB), fixed_s=0.05)).waiting_for
    assert texts == ("ram: 80.0 MiB dirty need 80 ms at 1.05 GB/s, 130 ms with all else (the limit is 100 ms)",)


def test_says_when_the_limit_can_never_be_met() -> None:
    """The fixed part alone is over the limit: that is named, and besides only what is over it by itself."""
    texts = decide(situation(ram(80 * MIB), FeedNeed("log", "", MIB), fixed_s=0.3)).waiting_for
    assert texts == ("owner: stop, start and round trips need 300 ms (the limit is 100 ms)",)
    texts = decide(situation(ram(500 * MIB), fixed_s=0.3)).waiting_for
    assert [text.partition(":")[0] for text in texts] == ["owner", "ram"]


def test_waits_for_ready() -> None:
    """A device that takes part and is not ready is named with its epoch and what it does; others are not asked."""
    device = replace(READY_DEVICE, ready=False, epoch=2, doing="set-up, 1.2 s")
    decision = decide(situation(device))
    assert not decision.switch
    assert decision.expected_downtime_s == 0.0
    assert decision.waiting_for == ("device gpu0/0: READY of epoch 2 (set-up, 1.2 s)",)
    assert decide(situation(replace(device, doing=""))).waiting_for == ("device gpu0/0: READY of epoch 2",)
    assert decide(situation(READY_DEVICE)).switch
    assert decide(situation(replace(device, takes_part=False))).switch
    assert decide(situation(device, explicit=False)).switch


def test_waits_for_the_initial_phase_of_any_device() -> None:
    """An initial phase under way stops the switch whether or not the device takes part."""
    text = "device gpu0/0: initial data of 3.0 KiB to be sent"
    for device in (READY_DEVICE, IDLE_DEVICE):
        assert decide(situation(replace(device, initial=3072, initial_sent=False))).waiting_for == (text,)
    unknown = replace(IDLE_DEVICE, initial=None, initial_sent=False)
    assert decide(situation(unknown)).waiting_for == ("device gpu0/0: initial data of unknown size to be sent",)


def test_new_initial_data_matters_to_those_that_take_part() -> None:
    """A re-arm not yet under way: the device that takes part waits, another's goes as bytes of the stop."""
    assert not decide(situation(replace(READY_DEVICE, initial=1))).switch
    assert decide(situation(replace(IDLE_DEVICE, initial=1))).switch
    assert decide(situation(replace(READY_DEVICE, initial=1), explicit=False)).switch


def test_force_ignores_the_limit_and_nothing_else() -> None:
    """Past the deadline any downtime will do, but never a device that is not ready or whose initial data is not out."""
    late = situation(ram(10**12), READY_DEVICE, fixed_s=99.0)
    assert not decide(late).switch
    assert decide(late, force=True).switch
    assert decide(late, force=True).waiting_for == ()
    assert decide(situation(ram(1), rate=None), force=True) == Decision(True, None, ())
    for blocked in (replace(READY_DEVICE, ready=False), replace(IDLE_DEVICE, initial_sent=False)):
        decision = decide(situation(blocked, ram(10**12)), force=True)
        assert not decision.switch
        assert len(decision.waiting_for) == 1


def test_what_was_sent_and_is_not_loaded_counts() -> None:
    """A stop would wait for the device to load its backlog too, at the rate that its loads have shown."""
    slow = replace(READY_DEVICE, load_seconds_per_byte=1e-6, unloaded=1_000_000, dirty=0, stop_copy=0)
    decision = decide(situation(slow))
    assert not decision.switch
    assert decision.expected_downtime_s == pytest.approx(1.0)
    assert "unloaded of 976.6 KiB needs 1.00 s" in decision.waiting_for[0]


def test_debt_to_the_bandwidth_limit_counts_and_is_told() -> None:
    """What went ahead of the limit holds the stop back; it is not the owner's fault."""
    decision = decide(replace(situation(ram(1)), held_back_s=4.0))
    assert decision.expected_downtime_s == pytest.approx(4.0, abs=0.01)
    assert decision.waiting_for[0] == "bandwidth limit: what was sent is 4.00 s ahead of it (the limit is 100 ms)"


def test_rate_is_unknown_until_there_was_busy_time() -> None:
    """No busy time, no rate: neither at the start nor after bytes while idle."""
    meter = RateMeter()
    assert meter.rate(5.0) is None
    meter.add(1000, 6.0)
    assert meter.rate(7.0) is None
    meter.busy(8.0)
    assert meter.rate(8.0) is None


def test_rate_is_bytes_over_busy_time() -> None:
    """Idle gaps of any length do not slow the link down; telling busy or idle twice changes nothing."""
    meter = RateMeter()
    now = 100.0
    for _ in range(40):
        meter.busy(now)
        meter.busy(now + 0.001)
        meter.add(500, now + 0.005)
        meter.add(500, now + 0.01)
        meter.idle(now + 0.01)
        meter.idle(now + 3.0)
        now += 7.0
    assert meter.rate(now) == pytest.approx(100_000.0, rel=0.01)


def test_rate_follows_a_change_within_the_window() -> None:
    """A little more than the window after the link changed the old rate is forgotten."""
    meter = RateMeter()
    meter.busy(0.0)
    for step in range(1, 501):
        meter.add(1000, step * 0.01)
    assert meter.rate(5.0) == pytest.approx(100_000, rel=0.06)
    for step in range(501, 612):
        meter.add(10, step * 0.01)
    assert meter.rate(6.11) == pytest.approx(1000, rel=0.06)


def test_rate_falls_when_nothing_moves() -> None:
    """Busy and nothing goes: the rate goes to zero, it does not stay at what it was."""
    meter = RateMeter()
    meter.busy(0.0)
    for step in range(1, 101):
        meter.add(1000, step * 0.01)
    for step in range(200):
        meter.rate(1.0 + step * 0.01)
    assert meter.rate(3.0) == 0.0


def test_rate_keeps_few_samples() -> None:
    """However many bytes are reported, what it keeps is bounded by window over spacing."""
    meter = RateMeter()
    meter.busy(0.0)
    for step in range(5000):
        meter.add(1, step * 0.003)
    assert len(meter._marks) <= 22


def test_rate_survives_a_clock_that_stands_or_steps_back() -> None:
    """Times out of order never give a negative rate or an error."""
    meter = RateMeter()
    meter.busy(10.0)
    meter.add(1000, 10.1)
    meter.add(1000, 9.0)
    assert meter.rate(9.0) is None
    meter.idle(9.0)
    meter.busy(9.0)
    meter.add(1000, 10.0)
    rate = meter.rate(10.0)
    assert rate is not None
    assert rate > 0


def test_throttle_rises_after_two_bad_rounds_in_a_row() -> None:
    """More than half of what was sent got dirty, twice in a row: one step; a good round between starts anew."""
    throttle = Throttle()
    assert throttle.next_level(51, 100) == 0.0
    assert throttle.next_level(50, 100) == 0.0
    assert throttle.next_level(51, 100) == 0.0
    assert throttle.next_level(51, 100) == 0.2
    assert throttle.next_level(51, 100) == 0.2
    assert throttle.next_level(51, 100) == 0.4


def test_throttle_never_falls_and_never_stops_the_owner() -> None:
    """Good rounds leave the level where it is, bad ones end at the highest, below 1."""
    throttle = Throttle()
    levels = [throttle.next_level(100, 100) for _ in range(40)]
    assert levels == sorted(levels)
    assert tuple(sorted(set(levels))) == THROTTLE_LEVELS
    assert levels[-1] == 0.99
    assert [throttle.next_level(0, 100) for _ in range(4)] == [0.99] * 4


def test_throttle_learns_nothing_from_a_round_that_sent_nothing() -> None:
    """Neither a bad round nor a good one."""
    throttle = Throttle()
    throttle.next_level(100, 100)
    assert throttle.next_level(100, 0) == 0.0
    assert throttle.next_level(100, 100) == 0.2
