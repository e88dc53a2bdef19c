"""Types of channel.pyx: what Python sees of it, which is the name."""

from fastserve.protocol.timers import Expiring

class Channel(Expiring): ...
