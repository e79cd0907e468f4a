"""multifd: move live state (memory and devices) between processes and hosts over N channels."""

from multifd.device import Device, DeviceState, EmulatedDevice, EmulatedOptions, Pending, Phase
from multifd.engine.destination import Destination
from multifd.engine.listener import Listener, listen
from multifd.engine.options import DestinationOptions, GiveUp, OnRearm, SourceOptions
from multifd.engine.owner import Owner
from multifd.engine.source import Source
from multifd.engine.tls import Tls
from multifd.errors import (
    CredentialsError,
    MigrationCancelledError,
    MigrationError,
    MigrationFailedError,
    MigrationInDoubtError,
    MigrationRefusedError,
    MultifdError,
    RemoteProtocolError,
    StorageError,
    TransportError,
)
from multifd.memory import Block, BufferBlock, FileBlock, SoftwareTracker, StaticTracker, Tracker
from multifd.slot import Feed, Slot, SlotKind
from multifd.stats import Outcome, Progress, Report

__version__ = "0.1.0"

__all__ = [
    "Block",
    "BufferBlock",
    "CredentialsError",
    "Destination",
    "DestinationOptions",
    "Device",
    "DeviceState",
    "EmulatedDevice",
    "EmulatedOptions",
    "Feed",
    "FileBlock",
    "GiveUp",
    "Listener",
    "MigrationCancelledError",
    "MigrationError",
    "MigrationFailedError",
    "MigrationInDoubtError",
    "MigrationRefusedError",
    "MultifdError",
    "OnRearm",
    "Outcome",
    "Owner",
    "Pending",
    "Phase",
    "Progress",
    "RemoteProtocolError",
    "Report",
    "Slot",
    "SlotKind",
    "SoftwareTracker",
    "Source",
    "SourceOptions",
    "StaticTracker",
    "StorageError",
    "Tls",
    "Tracker",
    "TransportError",
    "listen",
]
