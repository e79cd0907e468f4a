"""Memory: blocks, dirty trackers, and populating memory ahead of data. Knows nothing of slots, the protocol or the engine."""

from multifd.memory.block import Block, BufferBlock, FileBlock
from multifd.memory.tracker import StaticTracker, SoftwareTracker, Tracker

__all__ = ["Block", "BufferBlock", "FileBlock", "SoftwareTracker", "StaticTracker", "Tracker"]
