"""Devices: the interface, and emulated ones that behave as real ones do. Knows nothing of protocol or engine."""

from multifd.device.emulated import EmulatedDevice
from multifd.device.emulated_options import EmulatedOptions, Step
from multifd.device.interface import FLUSH, Device, DeviceState, Pending, Phase, Say

__all__ = ["FLUSH", "Device", "DeviceState", "EmulatedDevice", "EmulatedOptions", "Pending", "Phase", "Say", "Step"]
