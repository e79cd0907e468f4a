"""tests/fetch-qemu.sh leaves whole QEMUs or none, says what is missing and why, and never fails."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "fetch-qemu.sh"
SUITES = ["bookworm", "bookworm-backports", "trixie-backports"]
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEADLINE_S = 30.0  # a guard against hanging: nothing here is fetched

needs_debian = pytest.mark.skipif(
    not KEYS.exists() or not shutil.which("dpkg-deb"), reason="fetches only where there are Debian's keys and dpkg"
)

APT_FAILS = "echo 'E: no such mirror' >&2; exit 100"
# The state of apt lies below what `Dir=` says; the "package" is an archive that `DPKG` below hands on as it is.
APT_FETCHES = """
for word in "$@"; do case $word in Dir=*) apt=${word#Dir=};; esac; done
libraries=$apt/made/usr/lib/some-linux-gnu
mkdir -p $libraries
printf '#!/bin/sh\\necho "QEMU emulator version 7.2.1 (fake)"\\n' >$libraries/ld-linux-some.so.2
chmod +x $libraries/ld-linux-some.so.2
tar -c -C "$apt/made" -f "$apt/var/cache/apt/archives/qemu.deb" ./usr
"""
DPKG = 'cat "$2"'


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder with the script where it belongs."""
    (tmp_path / "tests").mkdir()
    shutil.copy(SCRIPT, tmp_path / "tests")
    return tmp_path


def command(repository: Path, name: str, body: str) -> None:
    """Put a command of our own before those of the machine."""
    path = repository / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


def begin(repository: Path, path: str | None = None) -> subprocess.Popen[str]:
    search = path or f"{repository / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        [repository / "tests" / SCRIPT.name], cwd=repository, text=True, start_new_session=True,
        stdout=subprocess.PIPE, env=os.environ | {"PATH": search},
    )  # fmt: skip


def run(repository: Path, path: str | None = None) -> list[str]:
    """What it prints; it ends well in any case."""
    with begin(repository, path) as script:
        printed, _ = script.communicate(timeout=DEADLINE_S)
    assert script.returncode == 0
    return printed.splitlines()


def left(repository: Path) -> set[str]:
    """What is in the cache, without logs and the lock."""
    return {path.name for path in (repository / ".qemu").iterdir() if path.suffix != ".log"} - {"lock"}


def in_session(leader: int) -> list[int]:
    """All processes of a session that run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state, _parent, _group, session = path.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(path.parent.name))
    return found


@needs_debian
def test_what_can_not_be_had_is_said_with_its_reason(repository: Path) -> None:
    """The last words of apt are in the line, and nothing is left."""
    command(repository, "apt-get", APT_FAILS)
    lines = run(repository)
    assert lines[:3] == [f"fetching QEMU of Debian {suite}" for suite in SUITES]
    for suite, line in zip(SUITES, lines[3:], strict=True):
        assert line.startswith(f"QEMU of Debian {suite} is missing: tests/interop/ runs without that version.")
        assert line.endswith("E: no such mirror")
    assert left(repository) == set()


@needs_debian
def test_what_is_there_is_left_alone(repository: Path) -> None:
    """The first run makes programs that run, the second one prints nothing and fetches nothing."""
    command(repository, "apt-get", APT_FETCHES)
    command(repository, "dpkg-deb", DPKG)
    assert run(repository)[3:] == [f"QEMU of Debian {suite}: 7.2.1 (fake)" for suite in SUITES]
    assert left(repository) == set(SUITES)
    command(repository, "apt-get", APT_FAILS)
    assert run(repository) == []
    shutil.rmtree(repository / ".qemu" / SUITES[1])
    assert run(repository)[:1] == [f"fetching QEMU of Debian {SUITES[1]}"]
    assert left(repository) == {SUITES[0], SUITES[2]}


@needs_debian
def test_what_does_not_run_is_not_kept(repository: Path) -> None:
    """A tree without a loader in it is no QEMU, however many packages came."""
    command(repository, "apt-get", APT_FETCHES.replace("ld-linux-some", "other"))
    command(repository, "dpkg-deb", DPKG)
    assert "is missing" in run(repository)[3]
    assert left(repository) == set()


@needs_debian
def test_one_that_was_killed_does_not_look_whole(repository: Path) -> None:
    """Killed in the middle of a download it leaves half of something, which the next run throws away."""
    command(repository, "apt-get", "exec sleep 600")
    with begin(repository) as script:
        assert script.stdout is not None
        assert "fetching" in script.stdout.readline()
        while not list(repository.glob(".qemu/*.partial/apt/etc/apt/sources.list")):
            assert script.poll() is None
        while pids := in_session(script.pid):  # those that begin meanwhile as well
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    assert left(repository) & set(SUITES) == set()
    command(repository, "apt-get", APT_FETCHES)
    command(repository, "dpkg-deb", DPKG)
    run(repository)
    assert left(repository) == set(SUITES)


def test_a_machine_without_apt_is_told_so(repository: Path) -> None:
    """One line that names what there is not, and what can be done."""
    tools = repository / "bin"
    tools.mkdir()
    for tool in ("bash", "env", "dirname"):
        found = shutil.which(tool)
        assert found is not None
        (tools / tool).symlink_to(found)
    (line,) = run(repository, path=str(tools))
    assert "there is no apt-get" in line
    assert "MULTIFD_QEMU" in line
