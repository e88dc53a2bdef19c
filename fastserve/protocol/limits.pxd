# Limits: the frozen numbers shared by all connections of a worker.
#
# Called by: Service, Connection, Exchange. Calls: core.pxd.
from libc.stdint cimport uint32_t, uint64_t
from fastserve.protocol.core cimport fs_limits


cdef class Limits:
    cdef fs_limits core                      # what the C core bounds
    # seconds; 0 means none
    cdef readonly double header_timeout      # first byte of a head to its end; also a new connection that says nothing
    cdef readonly double body_timeout        # without a byte of a body that is being read
    cdef readonly double write_timeout       # without progress of a response the peer does not take
    cdef readonly double request_timeout     # from a complete head to the end of its exchange
    cdef readonly double keep_alive_timeout  # idle between requests
    cdef readonly double linger_timeout      # after our last byte, before the socket is closed for good
    cdef readonly double ping_interval       # of WebSockets that say nothing
    cdef readonly double ping_timeout        # for any sign of life behind a ping
    cdef readonly double close_timeout       # for the answer to our close frame
    # bytes in a second, averaged over windows of `rate_grace` seconds, while bytes are owed; 0: none
    cdef readonly uint64_t rate_min
    cdef readonly double rate_grace
    # of one worker; 0: no such limit
    cdef readonly uint32_t concurrency_max   # requests in flight
    cdef readonly uint32_t connections_max
    cdef readonly uint32_t peer_connections_max  # of one address
    cdef readonly size_t buffers_max         # bytes of unparsed heads, unread bodies, pipelined requests
    cdef readonly double shed_after          # seconds that a request may have waited before its handler begins
    # bytes
    cdef readonly size_t body_buffer_max     # unread request body that is held before reading pauses
    cdef readonly size_t pipeline_bytes_max  # unread pipelined requests that are held before reading pauses
    cdef readonly size_t linger_bytes_max    # what a peer may still send to a connection that is being closed
    # WebSockets
    cdef readonly uint64_t message_bytes_max # of one message, decompressed; over it 1009
    cdef readonly uint32_t message_queue_max # messages the application has not taken, before reading pauses
    cdef readonly bint per_message_deflate   # agree to it
