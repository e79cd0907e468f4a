"""The machines, sans-IO: no socket, thread or clock; time is an argument. Transitions are tables (`states`), decisions
are pure functions.
"""
