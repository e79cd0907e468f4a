"""The engine: the only place with threads, sockets, asyncio and the clock. Control plane: the loop. Data plane: a
worker thread a channel.
"""
