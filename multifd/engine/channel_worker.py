"""What both ends of a data channel have in common: a worker thread that owns a connection."""

from __future__ import annotations

import abc
import threading

from multifd import limits
from multifd.engine.transport import DataSocket


class ChannelWorker(abc.ABC):
    """One end of data channel `number`. `doing` names its thread."""

    def __init__(self, number: int, connection: DataSocket, *, doing: str) -> None:
        self.number = number
        self.congestion_control = connection.congestion_control
        """What is really in use."""
        self._socket = connection
        self._thread = threading.Thread(target=self._run, name=f"multifd-{doing}-{number}", daemon=True)

    @abc.abstractmethod
    def _run(self) -> None:
        """*worker*: until the channel ends; raises nothing."""

    def start(self) -> None:
        """*loop*: begin."""
        self._thread.start()

    def cancel(self, *, orderly: bool = False) -> None:
        """*loop*: end now, wherever it is; `orderly`: it has nothing to do any more, and the peer may be told so."""
        if not orderly:
            self._socket.shut()

    def join(self) -> bool:
        """*pool*: wait until the worker has ended, and close the connection. False if it did not within
        `CLOSE_DEADLINE_S`: it hangs in what a user gave.
        """
        if self._thread.ident is not None:
            self._thread.join(limits.CLOSE_DEADLINE_S)
        has_ended = not self._thread.is_alive()
        if not has_ended:
            self._socket.shut()  # no last words: they would use TLS's session beside the worker
        self._socket.close()
        return has_ended
