# Response: the value a handler returns. The head is written by Exchange.
#
# Called by: the native wing (reads `status_code`, `_raw`, `_body`), users. Calls: headers.pxd.


cdef class Response:
    cdef public int status_code
    cdef public object media_type
    cdef object _headers             # MutableHeaders over `_raw`, made when asked for
    cdef list _raw                   # list of (bytes name in lower case, bytes value): what is sent
    cdef object _body                # bytes; None for streams
    cdef list raw_headers_(self)
    cdef int _begin(self, object status_code, object headers, object media_type, object own_media_type) except -1


cdef class StreamingResponse(Response):
    cdef public object body_iterator   # an iterator or asynchronous iterator of bytes or str


cdef class FileResponse(Response):
    cdef public object path          # str, bytes or PathLike
    cdef public object filename
    cdef object file                 # OpenFile: it is open already (a static folder's); None: it is opened when it is sent


cdef class EventSourceResponse(StreamingResponse):
    pass


cdef class PlainTextResponse(Response):
    pass


cdef class HTMLResponse(Response):
    pass


cdef class JSONResponse(Response):
    pass


cdef class RedirectResponse(Response):
    pass


cdef bytes type_of_name(object name)              # bytes of a Content-Type, guessed from the end of a file's name
cdef bytes content_type_of(object media_type)     # bytes of a Content-Type; "; charset=utf-8" is added to text/*
