"""The tests of the guide for QEMU's developers pass, as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from multifd.testing.binaries import VARIABLE, QemuBinary
from multifd.testing.pytest_plugin import QemuOf

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "testing-qemu.md"
FILE = re.compile(r"^```python file=(\w+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INI = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
DEADLINE_S = 60.0  # a guard against hanging, far above what is needed


@pytest.mark.slow
@pytest.mark.parametrize("all_versions", [False, pytest.param(True, marks=pytest.mark.interop)], ids=["one", "all"])
def test_the_guides_tests_pass(
    tmp_path: Path, qemu_versions: tuple[QemuBinary, ...], qemu_of: QemuOf, all_versions: bool
) -> None:
    """Five tests in forty lines, in a project that has nothing but them."""
    binaries = qemu_versions if all_versions else [qemu_of("10.0")]
    for name, text in FILE.findall(GUIDE.read_text(encoding="utf-8")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text(INI, encoding="utf-8")
    paths = os.pathsep.join(str(binary.path) for binary in binaries)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=tmp_path, capture_output=True, text=True,
        timeout=DEADLINE_S, env=os.environ | {VARIABLE: paths}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    passed = 4 * len(binaries) + ("10.0" in map(str, binaries))
    assert f"{passed} passed" in done.stdout.splitlines()[-1]
