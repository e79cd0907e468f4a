"""However a command ends: its exit code, one sentence, and one JSON object if that was asked for."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from multifd.cli import demo
from multifd.cli import main as main_module
from multifd.cli.ending import EXIT_CODES_HELP, Ending, ExitCode
from multifd.cli.main import main

ANY_PORT = "tcp://127.0.0.1:0"


@pytest.fixture(autouse=True)
def signals_afterwards() -> Iterator[None]:
    """A process that runs `main` ends after it, and ignores signals meanwhile; this one goes on."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `multifd` with these arguments."""
    code = main([str(argument) for argument in arguments])
    return (code, *capsys.readouterr())


def check_usage(capsys: pytest.CaptureFixture[str], arguments: tuple[str | Path, ...], words: str) -> None:
    code, out, said = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert words in said.splitlines()[-1]
    code, out, said = run(capsys, arguments[0], "--json", *arguments[1:])
    assert code == 2
    assert json.loads(out)["outcome"] == "usage"
    assert words in json.loads(out)["cause"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--size", "5"), "multiple of 4096"),
        (("--size", "0"), "more than zero"),
        (("--size", "64TiB"), "smaller --size"),
        (("--channels", "65"), "1 to 64"),
        (("--downtime-limit-ms", "5"), "can never be met"),
        (("--devices", "65"), "at most 64"),
        (("--codec", "gzip"), "none, zstd, lz4, zstd:1 to zstd:9, auto"),
        (("--bogus",), "unrecognized"),
        (("--js",), "unrecognized"),
    ],
)
def test_a_demo_that_makes_no_sense(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str) -> None:
    """Told before anything is started."""
    check_usage(capsys, ("demo", *arguments), words)


def test_files_that_can_not_be_sent(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Told before anything is connected."""
    (tmp_path / "deep").mkdir()
    for path in (tmp_path / "same", tmp_path / "deep" / "same", Path(os.fsdecode(bytes(tmp_path) + b"/\xff"))):
        path.touch()
    to = ("send", "--to", f"unix://{tmp_path}/nobody")
    check_usage(capsys, (*to, tmp_path / "same", tmp_path / "deep" / "same"), "same name")
    check_usage(capsys, (*to, tmp_path), "it is a directory")
    check_usage(capsys, (*to, tmp_path / "missing"), "No such file")
    check_usage(capsys, (*to, "/dev/null"), "not a regular file")
    check_usage(capsys, (*to, Path(os.fsdecode(bytes(tmp_path) + b"/\xff"))), "not valid UTF-8")
    check_usage(capsys, ("send", "--to", "nowhere", tmp_path / "same"), "an address is")
    check_usage(capsys, to, "FILE")


def test_a_directory_that_is_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Told before anybody can connect."""
    check_usage(capsys, ("receive", "--listen", ANY_PORT, "--into", tmp_path / "missing"), "is not a directory")


def test_an_address_that_is_taken(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Here: by a file."""
    (tmp_path / "taken").touch()
    code, out, said = run(capsys, "receive", "--json", "--listen", f"unix://{tmp_path}/taken", "--into", tmp_path)
    assert code == 1
    assert json.loads(out)["outcome"] == "failed"
    assert "take another address or port" in json.loads(out)["hint"]
    assert said.startswith(f"multifd: can't listen on unix://{tmp_path}/taken: ")
    assert said.rstrip().endswith(json.loads(out)["hint"])


@pytest.mark.parametrize(
    ("address", "words"),
    [("tcp://192.0.2.1:0", "an address of this host"), ("unix://{}/no/socket", "make the socket's directory")],
)
def test_an_address_that_is_none_of_ours(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, address: str, words: str
) -> None:
    """Each has its own way out."""
    code, _, said = run(capsys, "receive", "--listen", address.format(tmp_path), "--into", tmp_path)
    assert code == 1
    assert words in said


def test_json_after_the_end_of_options_is_a_file_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """`--` ends the options."""
    code, out, said = run(capsys, "send", "--to", f"unix://{tmp_path}/nobody", "--", "--json")
    assert (code, out) == (2, "")
    assert "--json: No such file" in said


def test_no_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """And prints what there is."""
    code, out, said = run(capsys)
    assert (code, out) == (2, "")
    assert EXIT_CODES_HELP in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_the_end_changes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """While the ending is printed it is known."""
    monkeypatch.setattr(demo, "run", lambda _arguments: Ending(ExitCode.COMPLETED, {}, "a table"))
    finish = main_module.finish

    def interrupted(ending: Ending, *, as_json: bool) -> ExitCode:
        os.kill(os.getpid(), number)
        return finish(ending, as_json=as_json)

    monkeypatch.setattr(main_module, "finish", interrupted)
    assert run(capsys, "demo")[:2] == (0, "a table\n")


@pytest.mark.parametrize("command", [(), ("demo",), ("send",), ("receive",)])
def test_help_lists_the_exit_codes(capsys: pytest.CaptureFixture[str], command: tuple[str, ...]) -> None:
    """Of every command."""
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert EXIT_CODES_HELP in out
    assert not command or "\nexample:\n  multifd " in out


@pytest.mark.parametrize("command", [(), ("demo",), ("send",), ("receive",)])
def test_help_fits_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """As long as a terminal has so many."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 80] == []


def test_the_ending_of_a_command_is_what_the_process_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Report to stdout for people, object for programs; the sentence to stderr, without control characters."""
    ending = Ending(ExitCode.FAILED, {"outcome": "failed"}, "a table", "it \x1bfailed")
    monkeypatch.setattr(demo, "run", lambda _arguments: ending)
    assert run(capsys, "demo") == (1, "a table\n", "multifd: it \\x1bfailed\n")
    assert run(capsys, "demo", "--json") == (1, '{"outcome": "failed"}\n', "multifd: it \\x1bfailed\n")


def test_a_bug_is_an_ending_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a traceback for whoever mends it."""

    def broken(_arguments: object) -> Ending:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(demo, "run", broken)
    code, out, said = run(capsys, "demo", "--json")
    assert code == 1
    assert json.loads(out) == {"outcome": "failed", "cause": "ZeroDivisionError: oops"}
    assert "Traceback" in said
    assert said.splitlines()[-1] == "multifd: ZeroDivisionError: oops"
