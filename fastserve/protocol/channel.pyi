"""Types of channel.pyx: what Python sees of it, which is the names."""

from fastserve.protocol.timers import Expiring
from fastserve.protocol.wire import Stream

class Tunnel(Expiring): ...
class Channel(Stream): ...
