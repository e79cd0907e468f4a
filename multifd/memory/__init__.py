"""Memory: blocks, dirty trackers, and populating memory ahead of data. Knows nothing of slots, the protocol or the
engine.
"""

from multifd.errors import TrackingError
from multifd.memory.block import Block, BufferBlock
from multifd.memory.file import FileBlock
from multifd.memory.kernel import KernelTracker, Registration, register
from multifd.memory.software import SoftwareTracker
from multifd.memory.tracker import StaticTracker, Tracker

__all__ = [
    "Block",
    "BufferBlock",
    "FileBlock",
    "KernelTracker",
    "Registration",
    "SoftwareTracker",
    "StaticTracker",
    "Tracker",
    "TrackingError",
    "register",
]
