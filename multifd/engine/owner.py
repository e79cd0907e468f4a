"""The owner of the state: what runs on it and can be stopped. The engine calls these on its loop; they may await, not
block.
"""

from __future__ import annotations


class Owner:
    """Whoever writes to the state: a guest, a worker process, a thread. This base class is the owner of data that
    nobody writes.

    At the source: `stop`, `release` if there is one, and `start` if the migration is called off after `stop`. At the
    destination: `prepare`, and `start`, once, after COMMIT. Any exception fails the migration: before COMMIT the
    source's owner runs on; if the destination's `start` raises it must not be running, and the source's goes on.
    """

    async def stop(self) -> None:
        """Stop. When it returns nobody writes to the blocks or touches the devices any more."""

    async def start(self) -> None:
        """Run (again).

        At the destination it is cancelled if it takes more than `OWNER_DEADLINE_S`: the migration has failed then, and
        the owner must not be running when this ends. Whoever has a helper thread do the work waits for that thread,
        and undoes what it did.
        """

    async def prepare(self) -> None:
        """At the destination: all state has arrived; make it last (flush it to disk, say). LOADED is sent when this
        returns.
        """

    async def release(self) -> None:
        """At the source: the destination has everything; give up the right to run. For an owner whose right is somebody
        else's to give: the last moment at which this side can say no. COMMIT is sent when it returns; if it raises, or
        takes more than `RELEASE_DEADLINE_S`, COMMIT is not sent, and `start` is called.
        """

    async def throttle(self, level: float) -> None:
        """Slow down: 0 is full speed, 1 is standing still. Called when memory gets dirty faster than the link takes it,
        and with 0 at the end.
        """
