# Trust: which peers are proxies of ours. Forwarded: what such a proxy says of the client of one request.
#
# Called by: Service and Connection (whom to trust), Exchange (what is said). Calls: core.pxd.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from fastserve.protocol.core cimport fs_address, fs_field

# Fields that are believed.
cdef enum ForwardedField:
    BY_FOR = 1
    BY_PROTO = 2
    BY_HOST = 4
    BY_PORT = 8
    BY_PREFIX = 16
    BY_FORWARDED = 32


cdef struct Network:
    fs_address address
    unsigned bits


cdef class Trust:
    # Whom to believe, and which fields of theirs. Made once, read by all connections.
    cdef bint everyone
    cdef bint unix
    cdef unsigned fields            # ForwardedField, ORed; 0: no field is read
    cdef readonly bint proxy_protocol
    cdef bytes request_id           # the field in which they say the id of a request, in lower case; None: in none
    cdef unsigned _request_id       # its number in the core's table, or FS_FIELD_UNKNOWN
    cdef Network *_networks
    cdef int _count
    cdef dict _seen                 # host of a peer -> was it trusted? Bounded.

    cdef bint address(self, const fs_address *address) noexcept
    cdef bint peer(self, object peername) except -1  # as getpeername() says it


cdef class Forwarded:
    # None, or empty, where nothing was said: the connection's own holds.
    cdef tuple client               # (host, port); port 0 if unknown
    cdef str scheme                 # "http" or "https"
    cdef bytes host                 # as a Host field would say it
    cdef str prefix                 # "/shop": what the proxy cut off the path


# None: none of the fields that are believed is there. `own`: the Host of the request.
cdef Forwarded forwarded_of(Trust trust, const uint8_t *data, const fs_field *fields, uint32_t count,
                            const uint8_t *own, Py_ssize_t own_length)
# What a field of theirs says is the id of this request; None: none does, or nothing that could be one.
cdef bytes said_id(Trust trust, const uint8_t *data, const fs_field *fields, uint32_t count)
cdef tuple proxied_address(uint8_t family, const fs_address *address, uint16_t port)   # as getpeername() says it
