"""The `multifd` command: the parser of all subcommands, and what every one of them does at its end."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NoReturn

from multifd.cli import demo, qemu, receive, send
from multifd.cli.ending import EXIT_CODES_HELP, Ending, ExitCode, InterruptedByUserError, UsageError, failed
from multifd.cli.names import printable
from multifd.cli.running import ignore_signals
from multifd.errors import MultifdError

COMMANDS = (demo, send, receive, qemu)


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print and exit, so that `--json` holds for wrong arguments too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = _Parser(
        prog="multifd",
        description="Move live state (memory and devices) between processes and hosts\nover several channels.",
        epilog=EXIT_CODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"multifd {version('multifd')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_command(commands)
    return parser


def run(arguments: Sequence[str]) -> Ending:
    """Run the command that `arguments` ask for. Every failure becomes an ending."""
    try:
        parsed = build_parser().parse_args(arguments)
        ending = parsed.run(parsed)
        assert isinstance(ending, Ending)
        return ending
    except (MultifdError, UsageError, InterruptedByUserError, OSError, KeyboardInterrupt) as error:
        return failed(error)
    except Exception as error:  # a bug: say where
        traceback.print_exc()
        return failed(MultifdError(f"{type(error).__name__}: {error}"))


def finish(ending: Ending, *, as_json: bool) -> ExitCode:
    """Print the ending: the object or the report to stdout, the sentence to stderr."""
    if as_json:
        print(json.dumps(ending.data), flush=True)  # noqa: T201
    elif ending.text:
        print(ending.text, flush=True)  # noqa: T201
    if ending.fault:
        print(f"multifd: {printable(ending.fault)}", file=sys.stderr, flush=True)  # noqa: T201
    return ending.code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `multifd` with `arguments` (those of the process) and return its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given:
        build_parser().print_help(sys.stderr)
        return ExitCode.USAGE
    options = itertools.takewhile(lambda argument: argument != "--", given)
    ending = run(given)
    ignore_signals()  # also where there was no event loop: nothing may change an ending that is known
    return finish(ending, as_json="--json" in options)


if __name__ == "__main__":
    sys.exit(main())
