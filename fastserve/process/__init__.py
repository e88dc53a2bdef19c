"""Floor 3: processes, signals, sockets, configuration. The control plane: it may log, raise and allocate.

Called by: cli.py, testing.py, the lazy names of fastserve/__init__.py. Calls: interfaces, telemetry, protocol.
Read in this order: config, sources, importer, sockets, shared, server, worker, talk, child, watch,
blackbox, zygote, systemd, upgrade, supervisor, reload, run.
"""
