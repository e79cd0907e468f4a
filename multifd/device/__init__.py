"""Devices: the interface, and emulated ones that behave as real ones do. Knows nothing of protocol or engine."""

from multifd.device.emulated import EmulatedDevice
from multifd.device.emulated_options import EmulatedOptions, Step
from multifd.device.interface import Device, DeviceState, Pending, Phase

__all__ = ["Device", "DeviceState", "EmulatedDevice", "EmulatedOptions", "Pending", "Phase", "Step"]
