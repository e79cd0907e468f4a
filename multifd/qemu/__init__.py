"""QEMU's dialect above the engine: destination, source, saved machines, relay, inspection (proto/qemu.md)."""
