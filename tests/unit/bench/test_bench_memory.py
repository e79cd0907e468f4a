"""What a process is told to have used."""

from __future__ import annotations

import os
import time

from bench.memory import cpu_s_of


def test_processor_time_of_a_process_is_told() -> None:
    """Of this one it is what the kernel says of it otherwise."""
    before = time.process_time()
    assert before <= cpu_s_of(os.getpid()) <= time.process_time()
