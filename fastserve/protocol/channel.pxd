# Channel: all that an Exchange may ask of its connection. Abstract, so that nothing below needs Connection and an Exchange
# can be tested on a fake one.
#
# Implemented by: Connection. Called by: Exchange.
from libc.stdint cimport uint8_t, uint64_t, int64_t
from fastserve.protocol.forwarded cimport Trust
from fastserve.protocol.timers cimport Expiring
from fastserve.protocol.wire cimport Stream
from fastserve.protocol.core cimport fs_out, fs_conn, fs_response_plan


cdef class Tunnel(Expiring):
    # What takes a connection over after 101: what is received then is its own, and nothing of it is parsed again.
    # Implemented by: WebSocket. Called by: Connection, which holds it while the exchange that was upgraded is in hand.
    cdef Py_ssize_t received(self, const uint8_t *data, size_t length) except -1   # bytes used; the rest comes again, and more
    cdef bint full(self) except -1                    # nothing more is taken at present: pause reading
    cdef int ended(self) except -1                    # FIN: the peer will send no more
    cdef int lost(self) except -1                     # the connection is gone
    cdef int retire(self) except -1                   # the server is going


cdef class Channel(Stream):
    cdef fs_conn conn                      # the state machine; the Exchange asks it before it writes
    cdef Tunnel tunnel                     # after an upgrade: who reads here; None otherwise
    cdef list default_fields               # [(name, value)] of every final response that does not set them; None: none
    cdef bytes id_field                    # where ASGI and WSGI applications find the id of a request; None: nowhere
    cdef bytes peer_text                   # "address:port", for whoever writes it often; None until it is asked for
    cdef Trust trust                       # the peer is a proxy of ours, and these of its fields are believed; None: it is not
    cdef object facts                      # what a wing wants to find again at the next request of this connection; or None
    # --- writing ---
    cdef fs_out *out(self, size_t room) except NULL   # the write buffer, with at least `room` bytes free
    cdef int put(self, object data) except -1         # queue a bytes-like object behind what is in the buffer
    cdef const uint8_t *common_lines(self, size_t *length) noexcept  # "date: ...\r\nserver: ...\r\n"; the date line, if any, is first
    cdef bint takes_files(self) except -1             # may put() be given a FilePiece?
    # "HTTP/1.1 200 OK\r\n" to "content-length: " with these lines and this type, ready made; NULL: there is none
    cdef const uint8_t *simple_head(self, unsigned status, bytes content_type, size_t *length) noexcept
    cdef bint closing(self) except -1                 # this response should be the last one here
    cdef int flush(self) except -1                    # hand all of it to the wire (put off while a batch is being read)
    cdef bint writable(self) except -1                # False: the peer does not take what we have; wait for drained()
    cdef object drained(self)                         # Future, done when writing may go on; raises ClientDisconnected
    # --- reading ---
    cdef int read_on(self) except -1                  # the body buffer has room again
    cdef int upgraded(self) except -1                 # `tunnel` was set: it gets what is unread
    cdef int tunnel_on(self) except -1                # the tunnel has room again
    # --- the end of an exchange ---
    cdef int exchange_ended(self) except -1           # both sides done, or reading must be drained: what next?
    cdef int cut(self) except -1                      # close now, without a clean end of the response
    # --- facts of the transport, and of what surrounds it ---
    cdef object host(self)                            # the Service
    cdef object info(self, str name)                  # get_extra_info: peername, sockname, ssl_object ...
