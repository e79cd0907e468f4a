"""QEMUs that something is tried with: the newest in `make test`, all of them in `make interop`."""

from __future__ import annotations

import pytest

VERSIONS = ("11.1", *(pytest.param(version, marks=pytest.mark.interop) for version in ("7.2", "10.0")))
"""For `parametrize`."""
