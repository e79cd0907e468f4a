"""Bytes ⇄ messages, slot headers and preambles, as proto/ lays them down.

Does no I/O; knows no thread, clock or session.
"""
