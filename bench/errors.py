"""What a bench says in place of a figure: one sentence, for people."""


class BenchError(Exception):
    """The measurement can't be made, or gave a wrong result."""
