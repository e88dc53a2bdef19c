# Headers: case-insensitive, ordered, lazy over the parsed offsets.
#
# Called by: Request, Response, the wings, users. Calls: core.pxd.
from libc.stdint cimport uint8_t, uint32_t
from fastserve.protocol.core cimport fs_field


cdef class Headers:
    cdef list _items                 # list of (bytes name in lower case, bytes value); None until somebody asked
    cdef object _owner               # bytes: keeps `_data` alive
    cdef const uint8_t *_data
    cdef fs_field *_fields           # ours, or borrowed from `_keeper`
    cdef uint32_t _count
    cdef object _keeper              # the object whose memory `_fields` is; None if it is ours
    cdef bint _ours                  # `_fields` is freed with us

    # A view of `count` fields. `over` borrows the array: `keeper` must own it. `adopt` takes a malloc'ed one and frees
    # it.
    @staticmethod
    cdef Headers over(object keeper, object owner, const uint8_t *data, fs_field *fields, uint32_t count)
    @staticmethod
    cdef Headers adopt(object owner, const uint8_t *data, fs_field *fields, uint32_t count)
    cdef list items_(self)           # the list, made if need be
    cdef bytes find(self, bytes name)      # first value of a lower-case name, or None
    cdef list find_all(self, bytes name)   # all values of a lower-case name


cdef class MutableHeaders(Headers):
    cdef int put(self, bytes name, bytes value) except -1     # replace all of that (lower-case, checked) name by one
    cdef int drop(self, bytes name) except -1


cdef bytes field_name(unsigned field_id)     # the interned lower-case name of a FS_FIELD_ number
cdef bytes name_of(object key)               # lower-case bytes of a str or bytes name, None if it cannot be a name
cdef bytes checked_name(object key)          # the same for sending; ValueError unless it is a token
cdef bytes checked_value(object value)       # latin-1 bytes for sending; ValueError for CR, LF, NUL
cdef list raw_headers(object headers)        # mapping or iterable of pairs -> checked list of (name, value)
