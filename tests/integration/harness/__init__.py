"""Two processes, real sockets, and somebody in between: what the integration tests of a migration's end are made with."""
