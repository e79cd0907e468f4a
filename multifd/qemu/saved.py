"""Saved machines: a folder that holds a whole virtual machine in a form that QEMU loads as well
(docs/guides/saved-machines.md). The names to import.
"""

from multifd.qemu.saved_reader import SavedBlock, SavedMachine
from multifd.qemu.saved_writer import SavingMachine

__all__ = ["SavedBlock", "SavedMachine", "SavingMachine"]
