"""Limits: the frozen numbers shared by all connections of a worker.

Room:    floor 1. Given once, never changed, read by C without a look-up.
Called:  by Service, Connection, Exchange. Calls core.pxd.
"""

from fastserve.protocol.core cimport FS_UNLIMITED


cdef class Limits:
    """Every bound a peer meets. Bytes, counts and seconds; 0 seconds means no such deadline.

    request_line_bytes_max: method, target and version together; over it 414.
    head_bytes_max, fields_max: the whole head, and its fields; over it 431.
    body_bytes_max: decoded request body; over it 413. None: unlimited.
    header_timeout: from the first byte of a head to its last, and for a new connection that says nothing; 408, or silence.
    body_timeout: without a byte of a body that is being read; 408.
    write_timeout: without the peer taking anything of a response.
    request_timeout: from a complete head to the end of its exchange; 503. 0, the default: a handler may take its time.
    rate_min: bytes a second that a peer has to send of a body that is waited for, and to take of a response that is held for
    it, averaged over windows of rate_grace seconds; 408, or a reset. Nothing is asked of it while it owes nothing.
    concurrency_max: requests in flight in this worker; over it 503. connections_max: idle ones are closed to stay below it,
    then nothing is accepted. peer_connections_max: the same for one address (an IPv6 /64). 0: no limit.
    buffers_max: bytes of unparsed heads, unread bodies and pipelined requests of all connections together; over it reading
    pauses, and the largest of the oldest unfinished heads are refused (408). 0: no limit.
    shed_after: seconds that a request may have waited, in the kernel or for a thread, before its handler begins; over it 503.
    keep_alive_timeout: idle between requests; closed in silence. 75 s, as nginx: longer than the usual balancer's 60 s.
    linger_timeout: how long a connection we close is still read, so that the peer sees our answer and not a reset.
    message_bytes_max: one WebSocket message, decompressed; over it 1009. message_queue_max: messages that wait for the
    application before reading pauses. ping_interval, ping_timeout: a WebSocket that was silent so long is asked, and closed
    (1011) if it stays silent. close_timeout: for the answer to our close frame. per_message_deflate: agree to RFC 7692.
    """

    def __cinit__(self, *, uint32_t request_line_bytes_max=8192, uint32_t head_bytes_max=65536, uint32_t fields_max=100,
                  uint32_t leading_crlf_max=4, body_bytes_max=None, uint32_t chunk_ext_bytes_max=16384,
                  uint32_t trailer_bytes_max=16384, uint32_t drain_bytes_max=65536, double header_timeout=15.0,
                  double body_timeout=30.0, double write_timeout=30.0, double keep_alive_timeout=75.0,
                  double linger_timeout=5.0, size_t body_buffer_max=65536, size_t pipeline_bytes_max=65536,
                  double request_timeout=0.0, uint64_t rate_min=240, double rate_grace=30.0, uint32_t concurrency_max=0,
                  uint32_t connections_max=0, uint32_t peer_connections_max=0, size_t buffers_max=8388608,
                  double shed_after=0.0, size_t linger_bytes_max=16777216, uint64_t message_bytes_max=16777216, uint32_t message_queue_max=32,
                  double ping_interval=20.0, double ping_timeout=20.0, double close_timeout=10.0,
                  bint per_message_deflate=True):
        for name, value in (("request_line_bytes_max", request_line_bytes_max), ("head_bytes_max", head_bytes_max),
                            ("fields_max", fields_max), ("body_buffer_max", body_buffer_max),
                            ("pipeline_bytes_max", pipeline_bytes_max), ("message_bytes_max", message_bytes_max),
                            ("message_queue_max", message_queue_max)):
            if value == 0:
                raise ValueError(f"{name} must be at least 1")
        for name, seconds in (("header_timeout", header_timeout), ("body_timeout", body_timeout),
                              ("write_timeout", write_timeout), ("keep_alive_timeout", keep_alive_timeout),
                              ("request_timeout", request_timeout), ("rate_grace", rate_grace), ("shed_after", shed_after),
                              ("linger_timeout", linger_timeout), ("ping_interval", ping_interval),
                              ("ping_timeout", ping_timeout), ("close_timeout", close_timeout)):
            if not 0 <= seconds <= 1e9:
                raise ValueError(f"{name} must be between 0 and 1e9 seconds")
        if head_bytes_max > 1 << 30 or fields_max > 65535:
            raise ValueError("head_bytes_max is at most 1 GiB, fields_max at most 65535")
        self.core.request_line_bytes_max = request_line_bytes_max
        self.core.head_bytes_max = head_bytes_max
        self.core.fields_max = fields_max
        self.core.leading_crlf_max = leading_crlf_max
        self.core.body_bytes_max = FS_UNLIMITED if body_bytes_max is None else <uint64_t>body_bytes_max
        self.core.chunk_ext_bytes_max = chunk_ext_bytes_max
        self.core.trailer_bytes_max = trailer_bytes_max
        self.core.drain_bytes_max = drain_bytes_max
        self.header_timeout = header_timeout
        self.body_timeout = body_timeout
        self.write_timeout = write_timeout
        self.keep_alive_timeout = keep_alive_timeout
        self.linger_timeout = linger_timeout
        self.request_timeout = request_timeout
        self.rate_min = rate_min
        self.rate_grace = rate_grace
        self.concurrency_max = concurrency_max
        self.connections_max = connections_max
        self.peer_connections_max = peer_connections_max
        self.buffers_max = buffers_max
        self.shed_after = shed_after
        self.body_buffer_max = body_buffer_max
        self.pipeline_bytes_max = pipeline_bytes_max
        self.linger_bytes_max = linger_bytes_max
        if message_bytes_max > 1 << 40:
            raise ValueError("message_bytes_max is at most 1 TiB")
        self.message_bytes_max = message_bytes_max
        self.message_queue_max = message_queue_max
        self.ping_interval = ping_interval
        self.ping_timeout = ping_timeout
        self.close_timeout = close_timeout
        self.per_message_deflate = per_message_deflate

    @property
    def body_bytes_max(self) -> int | None:
        """Decoded bytes of a request body, or None."""
        return None if self.core.body_bytes_max == FS_UNLIMITED else self.core.body_bytes_max

    @property
    def head_bytes_max(self) -> int:
        """Bytes of a request head, first line to empty line."""
        return self.core.head_bytes_max
