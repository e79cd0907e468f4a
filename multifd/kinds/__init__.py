"""Slot kinds: tie what is moved (memory, device state) to slots. Each module knows one kind's meta, and nothing of
channels or the session.
"""
