# Static: a folder of files below a prefix. StaticHandler: such folders before any application.
#
# Called by: native.pyx (`app.static`), server.py (`--static`), Connection through the door Handler. Calls: files.pxd.
from libc.stdint cimport int64_t, uint64_t
from fastserve.protocol.exchange cimport Exchange
from fastserve.protocol.hooks cimport Handler
from fastserve.protocol.wire cimport OpenFile


cdef class Entry:
    # A file that was found, open, with the fields of its 200.
    cdef OpenFile file             # None: a folder that was asked for without its slash
    cdef bytes path                # relative to the root
    cdef list headers
    cdef bytes lines               # `headers`, written once
    cdef bytes etag, last_modified
    cdef list variants             # of (coding, Entry): the same, compressed
    cdef int64_t loaded_at         # siblings were looked for,
    cdef int64_t seen_at           # it was last seen to be what is at its path,
    cdef int64_t used_at           # and asked for


cdef class Static:
    cdef readonly str directory, prefix
    cdef bytes raw_prefix          # "" takes everything
    cdef readonly list segments    # of the prefix, bytes
    cdef bytes index, directory_path
    cdef bint precompressed, tags
    cdef bytes cache_control
    cdef OpenFile root
    cdef int64_t root_at           # when it was last seen to be what is at `directory`
    cdef dict entries              # decoded tail of the path -> Entry
    cdef object sweep              # handle of the timer that closes what nobody asks for
    cdef set tasks

    cdef bytes tail_of(self, bytes path, bint escaped)      # what is behind the prefix; None: not ours
    cdef object find(self, Exchange exchange, bytes path)   # Entry, None (404) or Cold
    cdef object load(self, bytes tail, bint now)
    cdef object _open(self, bytes path, bint now)
    cdef bint _root_is_there(self, int64_t now) except -1
    cdef Entry _entry(self, OpenFile file, bytes path, bytes coding)
    cdef int _keep(self, bytes tail, Entry entry) except -1
    cdef Entry _chosen(self, Exchange exchange, Entry entry)
    cdef int serve(self, Exchange exchange) except -1
    cdef int reply(self, Exchange exchange, Entry entry) except -1
    cdef int _later(self, Exchange exchange, object coroutine) except -1


cdef class StaticHandler(Handler):
    cdef Handler inner
    cdef list folders              # the longest prefix first


cdef bytes path_of(Exchange exchange)     # as sent, without the query
