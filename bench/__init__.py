"""Measurements, run by hand: `python -m bench throughput`. Uses the public API as a user would."""
