"""The limit on open files, raised as far as the system lets us: one descriptor a file, and shells start with 1024."""

from __future__ import annotations

import resource


def allow_many_files() -> None:
    """Raise the soft limit to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
