# AccessLog: one line per exchange, written in batches off the hot path.
from fastserve.protocol.exchange cimport Exchange
from fastserve.protocol.hooks cimport Observer


cdef class AccessLog(Observer):
    cdef object _stream
    cdef object _loop
    cdef list _lines
    cdef object _handle
    cdef readonly unsigned long long dropped
