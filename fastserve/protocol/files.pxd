# Files: opening, conditional requests, ranges, and the sending of what was chosen. One machinery for FileResponse, static
# folders and ASGI's path send.
#
# Called by: the wings. Calls: Exchange, Wire's OpenFile, core.pxd.
from libc.stdint cimport int64_t, uint64_t
from fastserve.protocol.exchange cimport Exchange
from fastserve.protocol.response cimport FileResponse
from fastserve.protocol.wire cimport OpenFile


cdef class Conditions:
    # The request fields that decide what is sent of a file, each joined if it came more than once; None: not there.
    cdef bytes if_match, if_none_match, if_modified_since, if_unmodified_since
    cdef bytes if_range, range


cdef class FileAnswer:
    # What is sent, decided; and while it is being sent, how far that is.
    cdef OpenFile file             # None: `text` is the body
    cdef unsigned status
    cdef list headers              # all but Content-Length,
    cdef bytes lines               # and the same, written before; None: they were not
    cdef int64_t length            # of the body
    cdef list parts                # of (bytes before, offset, count), the last of them perhaps without bytes of the file
    cdef bytes text
    cdef object path               # where another server may open the same file, if it can send it better; None: it may not
    cdef Py_ssize_t part           # the one that is being sent,
    cdef int64_t at, left          # from here, so much of it
    cdef bint opened               # its `before` is out
    cdef bint cold                 # what comes next is not in memory: it is to be read by a thread

    cdef bint advance(self, Exchange exchange) except? False
    cdef int fed(self, Exchange exchange, bytes block) except -1

# A descriptor, or -errno. `folder`: what a relative path starts from, below which it must stay; -1: any path.
# `now`: -EAGAIN if the kernel would have to wait for the disk. `reads`: False opens it only to be looked at.
cdef int open_file(int folder, bytes path, bint now, bint reads) noexcept
cdef OpenFile opened(int fd)                                # with what fstat() says of it
cdef bint is_regular(OpenFile file) noexcept
cdef bint is_folder(OpenFile file) noexcept
cdef bint unchanged(int folder, bytes path, OpenFile file) noexcept   # is that file still what is at this path?

cdef Conditions conditions_of(Exchange exchange)           # None if there is none
cdef bytes field_of(Exchange exchange, unsigned field_id, bytes name)
cdef bytes etag_of(OpenFile file, bytes suffix)
cdef bytes http_date(int64_t seconds)
# `headers` of the 200, validators included. `safe`: GET or HEAD. `get`: ranges count.
cdef FileAnswer judge(Conditions asked, OpenFile file, unsigned status, list headers, bytes etag, bytes last_modified,
                      bint safe, bint get)
cdef FileAnswer answer_of(Exchange exchange, FileResponse response, OpenFile file)
cpdef tuple accepted_codings(bytes value, tuple offered)
cdef object send_answer(Exchange exchange, FileAnswer answer)   # None, or a coroutine that goes on
