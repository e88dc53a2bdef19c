"""Types of channel.pyx: what Python sees of it, which is the name."""

from fastserve.protocol.wire import Stream

class Channel(Stream): ...
