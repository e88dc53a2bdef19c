"""Floor 3, beside process/: the lens from outside. Reads what a running server, or a file, has recorded of its requests.

Called by: cli.py, testing/. Calls: process.lensfile, telemetry, protocol. No worker imports it: it costs them nothing.
"""
