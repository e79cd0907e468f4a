"""What `send` and `receive` say at their end. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from multifd.cli.ending import Ending, ExitCode
from multifd.cli.names import printable
from multifd.cli.sizes import format_bytes
from multifd.stats import Report


def files_ending(done: str, files: Mapping[str, int], report: Report) -> Ending:
    """The ending of a completed transfer. `files`: name → bytes; `done`: what was done with them, in one word."""
    length = sum(files.values())
    rate = length / report.elapsed_s if report.elapsed_s > 0 else 0.0
    data = report.to_json() | {
        "files": [{"name": name, "bytes": size} for name, size in files.items()],
        "bytes": length,
        "seconds": round(report.elapsed_s, 3),
        "bytes_per_s": round(rate),
    }
    lines = [f"{done} {printable(name)}, {format_bytes(size)}" for name, size in files.items()]
    several = "1 file" if len(files) == 1 else f"{len(files)} files"
    on_the_wire = f", {format_bytes(report.bytes_sent)} on the wire" if report.bytes_sent < length else ""
    lines.append(f"{several}, {length} bytes in {report.elapsed_s:.2f} s, {format_bytes(rate)}/s{on_the_wire}")
    return Ending(ExitCode.COMPLETED, data, "\n".join(lines))
