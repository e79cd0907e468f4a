"""Devices: the interface, and emulated ones that behave as real ones do. Knows nothing of the protocol or the engine."""

from multifd.device.interface import Device, DeviceState, Pending, Phase
from multifd.device.emulated import EmulatedDevice, EmulatedOptions

__all__ = ["Device", "DeviceState", "EmulatedDevice", "EmulatedOptions", "Pending", "Phase"]
