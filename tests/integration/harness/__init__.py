"""Two processes, real sockets, and somebody in between: what the tests of a migration's end are made with."""
