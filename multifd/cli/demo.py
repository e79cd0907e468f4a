"""`multifd demo`: move memory that is being written, and devices, between two processes, and prove that it arrived."""

from __future__ import annotations

import argparse
import asyncio
import time
from contextlib import AsyncExitStack

from multifd.cli.arguments import add_json, add_transfer, amount, count, positive_size
from multifd.cli.companion import CompanionError
from multifd.cli.demo_report import completed_json, completed_text, failed_json, failed_text
from multifd.cli.demo_stage import Stage
from multifd.cli.demo_state import PAGE_BYTES, Comparison, DemoOptions, device_names, wait_for_writes
from multifd.cli.display import Display, open_display
from multifd.cli.ending import (
    EXIT_CODES_HELP,
    Ending,
    ExitCode,
    InterruptedByUserError,
    UsageError,
    failed,
)
from multifd.cli.running import follow, no_more_interruptions, run_command
from multifd.cli.sizes import format_bytes
from multifd.cli.wording import Wording
from multifd.errors import MigrationError, MigrationInDoubtError
from multifd.limits import GIB, SWITCHOVER_FIXED_S
from multifd.stats import Report

DEVICES_MAX = 64  # each is a thread on both sides
DOWNTIME_LIMIT_FLOOR_MS = SWITCHOVER_FIXED_S * 1000
WORDING = Wording(peer="the destination")
DESCRIPTION = """\
Two processes: one owns memory and devices and keeps writing to them, the
other takes them over. The memory is copied while it is written to, round by
round; the workload is stopped only when what is left fits the downtime limit
and every device that takes part is ready at the destination. At the end both
sides' memory is compared, byte for byte, as it was at the stop.

example:
  multifd demo --size 256MiB --device-setup-s 3
"""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `demo` to the parser."""
    parser = commands.add_parser(
        "demo",
        help="move 1 GiB of memory that is being written between two processes, and compare",
        description=DESCRIPTION,
        epilog=EXIT_CODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", type=positive_size, default=GIB, metavar="SIZE", help="memory to move (default 1GiB)")
    parser.add_argument("--devices", type=count, default=2, metavar="N", help="emulated devices (default %(default)s)")
    add_transfer(parser)
    parser.add_argument(
        "--dirty-mib-per-s",
        type=amount,
        default=100.0,
        metavar="MIB",
        help="how fast the workload writes to pages (default %(default)g)",
    )
    parser.add_argument(
        "--downtime-limit-ms",
        type=amount,
        default=300.0,
        metavar="MS",
        help=f"stop only if the rest fits; more than {DOWNTIME_LIMIT_FLOOR_MS:g} (default %(default)g)",
    )
    parser.add_argument(
        "--deadline-s",
        type=amount,
        default=60.0,
        metavar="S",
        help="give up if it has not converged by then (default %(default)g)",
    )
    parser.add_argument(
        "--device-setup-s", type=amount, default=0.0, metavar="S", help="slow set-up of each device at the destination"
    )
    parser.add_argument(
        "--no-explicit-switchover", action="store_true", help="do not wait for devices to say that they are ready"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> Ending:
    """Run the demo."""
    return run_command(demo(options_of(arguments), open_display()))


def options_of(arguments: argparse.Namespace) -> DemoOptions:
    """The options, checked. Raise `UsageError`."""
    if arguments.size % PAGE_BYTES:
        raise UsageError(f"--size must be a multiple of {PAGE_BYTES}: memory consists of whole pages")
    if arguments.devices > DEVICES_MAX:
        raise UsageError(f"--devices is at most {DEVICES_MAX}")
    if arguments.downtime_limit_ms <= DOWNTIME_LIMIT_FLOOR_MS:
        raise UsageError(
            f"--downtime-limit-ms must be more than {DOWNTIME_LIMIT_FLOOR_MS:g}: so much is counted for stopping and "
            "starting alone, so a limit of that or less can never be met"
        )
    return DemoOptions(
        size=arguments.size,
        devices=arguments.devices,
        channels=arguments.channels,
        dirty_mib_per_s=arguments.dirty_mib_per_s,
        downtime_limit_s=arguments.downtime_limit_ms / 1000,
        deadline_s=arguments.deadline_s,
        device_setup_s=arguments.device_setup_s,
        explicit_switchover=not arguments.no_explicit_switchover,
        codec=arguments.codec,
    )


async def demo(options: DemoOptions, display: Display) -> Ending:
    """The whole demo: make the stage, migrate, compare."""
    began = time.monotonic()
    for line in introduction(options):
        display.note(line)
    async with AsyncExitStack() as stack:
        stage = await Stage.open(options, stack)
        display.note(f"copying while the workload (process {stage.workload.pid}) writes ...")
        try:
            report = await follow(stage.source, display, wording=WORDING)
        except MigrationInDoubtError:
            raise
        except (MigrationError, InterruptedByUserError) as error:
            ending = await _not_completed(stage, error)
        else:
            display.note("switched over; comparing both sides ...")
            comparison = await _compare(stage)
            ending = _completed(options, report, comparison, time.monotonic() - began)
        no_more_interruptions()
        return ending


def introduction(options: DemoOptions) -> list[str]:
    """What is going to happen, in a few lines."""
    names = device_names(options.devices)
    several = "s"[: len(names) != 1]
    devices = f" and {len(names)} emulated device{several} ({', '.join(names)})" if names else ""
    return [
        f"multifd demo: {format_bytes(options.size)} of memory{devices} move from one process to another,",
        f"over {options.channels} channels, while a workload writes to {options.dirty_mib_per_s:g} MiB of it a second.",
        f"It is stopped when what is left fits {options.downtime_limit_s * 1000:g} ms, and goes on at the destination.",
        "preparing: filling the source's memory, populating the destination's ...",
    ]


def _completed(options: DemoOptions, report: Report, comparison: Comparison, seconds: float) -> Ending:
    data, text = completed_json(report, comparison, seconds), completed_text(options, report, comparison)
    if comparison.verified:
        return Ending(ExitCode.COMPLETED, data, text)
    fault = "both sides differ after the migration: please report this as a bug of multifd"
    return Ending(ExitCode.FAILED, data | {"cause": fault}, text, fault)


async def _not_completed(stage: Stage, error: MigrationError | InterruptedByUserError) -> Ending:
    """The ending when the migration was called off: show that the source's workload runs on."""
    runs_on = await _runs_on(stage)
    deaths = [words for helper in (stage.workload, stage.destination) if (words := await helper.death())]
    ending = failed(error) if not deaths else _with_deaths(failed(error), deaths)
    if error.report is None:
        data = ending.data | {"verified": None, "source_runs_on": runs_on}
        return Ending(ending.code, data, fault=ending.fault)
    data = failed_json(error.report, runs_on=runs_on) | ending.data
    return Ending(ending.code, data, failed_text(error.report, runs_on=runs_on), ending.fault)


def _with_deaths(ending: Ending, deaths: list[str]) -> Ending:
    """The ending with what it comes from; what is otherwise done about such an error does not help then."""
    cause = f"{'; '.join(deaths)} ({ending.data['cause']})"
    data = {key: value for key, value in ending.data.items() if key != "hint"}
    return Ending(ending.code, data | {"cause": cause}, fault=cause)


async def _compare(stage: Stage) -> Comparison:
    try:
        return await stage.compare()
    except asyncio.CancelledError as error:
        raise InterruptedByUserError("interrupted while comparing; the migration itself had completed") from error


async def _runs_on(stage: Stage) -> bool:
    try:
        counter: int = (await stage.workload.ask(do="count"))["counter"]
        return await wait_for_writes(stage.workload, counter) > counter
    except CompanionError:  # it is the workload that died
        return False
