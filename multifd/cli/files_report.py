"""What `send` and `receive` say at their end. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from multifd.cli.ending import Ending, ExitCode
from multifd.cli.names import printable
from multifd.cli.sizes import format_bytes
from multifd.stats import Report


def files_ending(done: str, files: Mapping[str, int], report: Report) -> Ending:
    """The ending of a completed transfer. `files`: name → bytes; `done`: what was done with them, in one word. The rate
    is that of the link: payload on the wire over time.
    """
    length = sum(files.values())
    rate = report.bytes_sent / report.elapsed_s if report.elapsed_s > 0 else 0.0  # a hole is not sent
    data = report.to_json() | {
        "files": [{"name": name, "bytes": size} for name, size in files.items()],
        "bytes": length,
        "seconds": round(report.elapsed_s, 3),
        "bytes_per_s": round(rate),
    }
    lines = [f"{done} {printable(name)}, {format_bytes(size)}" for name, size in files.items()]
    several = "1 file" if len(files) == 1 else f"{len(files)} files"
    wire = f"{format_bytes(report.bytes_sent)} on the wire"
    tls = f", {report.security}" if report.security not in ("", "plain") else ""
    lines.append(f"{several}, {length} bytes; {wire} in {report.elapsed_s:.2f} s, {format_bytes(rate)}/s{tls}")
    return Ending(ExitCode.COMPLETED, data, "\n".join(lines))
