"""Files: opening them, what a conditional or partial request gets of one, and its way into an Exchange.

Room:    floor 1. Whoever has an open file and the fields of a 200 (FileResponse, a static folder) asks `judge` what this
         request gets of it, and gives that to `send_answer`.
Called:  by the wings. Calls Exchange; the kernel for opening and reading.
Rules:   RFC 9110 sections 8.8 (validators), 13.1 and 13.2.2 (preconditions and their order), 14 (ranges), 15.3.7 (206),
         15.4.5 (304), 15.5.13 (412), 15.5.17 (416).

Theory of operation. On our own wire a file is sent by sendfile() and nothing here waits. Elsewhere (TLS, transports, the
bridge) it is read in blocks: what is in memory at once, by preadv2(RWF_NOWAIT), and only what is not by a thread. Opening is
the same: openat2(RESOLVE_CACHED) answers from the kernel's memory or says that it would have to wait; then a thread does it.
So a slow disk holds up its own requests and not the loop; only sendfile() itself reads what is not in memory while the
loop waits, as in nginx.

A file may change while it is sent. What was promised is its size when it was opened: of one that grows no more is sent, one
that became shorter ends the connection, and one that was removed or replaced is still open and is sent as it was.
"""

import asyncio
import logging
import os
import re
import secrets
import time
from calendar import timegm
from datetime import datetime
from email.utils import parsedate

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, EINVAL, ENOSYS, EPERM, errno
from libc.stdint cimport uint8_t, uint32_t

from fastserve.protocol.core cimport (
    FS_DATE_LEN, FS_FIELD_IF_MATCH, FS_FIELD_IF_MODIFIED_SINCE, FS_FIELD_IF_NONE_MATCH, FS_FIELD_IF_RANGE,
    FS_FIELD_IF_UNMODIFIED_SINCE, FS_FIELD_RANGE, FS_METHOD_GET, FS_METHOD_HEAD, fs_date_format, fs_field,
)
from fastserve.protocol.headers cimport Headers
from fastserve.protocol.response cimport FileResponse

logger = logging.getLogger("fastserve.error")

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/stat.h>
    #include <sys/uio.h>
    #include <unistd.h>
    #ifdef __linux__
    #include <sys/syscall.h>
    #ifndef SYS_openat2
    #define SYS_openat2 437 /* one number on every architecture */
    #endif
    #endif
    #ifndef O_PATH
    #define O_PATH O_RDONLY
    #endif

    typedef struct { int64_t size, mtime_ns, ctime_ns; uint64_t dev, ino; uint32_t mode; } fs_facts;

    static void fs_facts_of(const struct stat *st, fs_facts *facts) {
      facts->size = st->st_size;
    #ifdef __APPLE__
      facts->mtime_ns = st->st_mtimespec.tv_sec * INT64_C(1000000000) + st->st_mtimespec.tv_nsec;
      facts->ctime_ns = st->st_ctimespec.tv_sec * INT64_C(1000000000) + st->st_ctimespec.tv_nsec;
    #else
      facts->mtime_ns = st->st_mtim.tv_sec * INT64_C(1000000000) + st->st_mtim.tv_nsec;
      facts->ctime_ns = st->st_ctim.tv_sec * INT64_C(1000000000) + st->st_ctim.tv_nsec;
    #endif
      facts->dev = (uint64_t)st->st_dev;
      facts->ino = (uint64_t)st->st_ino;
      facts->mode = (uint32_t)st->st_mode;
    }

    static int fs_facts_open(int fd, fs_facts *facts) {
      struct stat st;
      if (fstat(fd, &st) != 0) return -errno;
      fs_facts_of(&st, facts);
      return 0;
    }

    static int fs_facts_at(int folder, const char *path, fs_facts *facts) {
      struct stat st;
      if (fstatat(folder, path, &st, 0) != 0) return -errno;
      fs_facts_of(&st, facts);
      return 0;
    }

    static int fs_is_regular(uint32_t mode) { return S_ISREG(mode); }
    static int fs_is_folder(uint32_t mode) { return S_ISDIR(mode); }

    /* openat2(2): 8 is RESOLVE_BENEATH, 2 RESOLVE_NO_MAGICLINKS, 0x20 RESOLVE_CACHED. A FIFO must not hold us, a terminal not
       become ours. */
    static int fs_open2(int folder, const char *path, int beneath, int cached, int reads) {
    #ifdef __linux__
      struct { uint64_t flags, mode, resolve; } how;
      long fd;
      how.flags = reads ? O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY : O_PATH | O_CLOEXEC;
      how.mode = 0;
      how.resolve = (uint64_t)((beneath ? 8 | 2 : 0) | (cached ? 0x20 : 0));
      fd = syscall(SYS_openat2, folder, path, &how, sizeof how);
      return fd < 0 ? -errno : (int)fd;
    #else
      (void)folder; (void)path; (void)beneath; (void)cached; (void)reads;
      return -ENOSYS;
    #endif
    }

    static int fs_open_plain(const char *path) {
      int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
      return fd < 0 ? -errno : fd;
    }

    static ssize_t fs_read_now(int fd, void *to, size_t size, int64_t at) {
    #if defined(__linux__) && defined(RWF_NOWAIT)
      struct iovec piece = {to, size};
      return preadv2(fd, &piece, 1, (off_t)at, RWF_NOWAIT);
    #else
      (void)fd; (void)to; (void)size; (void)at;
      errno = EAGAIN;
      return -1;
    #endif
    }
    """
    ctypedef struct fs_facts:
        int64_t size, mtime_ns, ctime_ns
        uint64_t dev, ino
        uint32_t mode
    int AT_FDCWD
    int fs_facts_open(int fd, fs_facts *facts) nogil
    int fs_facts_at(int folder, const char *path, fs_facts *facts) nogil
    bint fs_is_regular(uint32_t mode) nogil
    bint fs_is_folder(uint32_t mode) nogil
    int fs_open2(int folder, const char *path, bint beneath, bint cached, bint reads) nogil
    int fs_open_plain(const char *path) nogil
    ssize_t fs_read_now(int fd, void *to, size_t size, int64_t at) nogil

cdef extern from "unistd.h" nogil:
    int c_close "close"(int fd)

cdef enum:
    BLOCK = 131072        # of a file that is read instead of sent by the kernel
    TURN = 8              # such blocks to one peer before others get their turn
    CODINGS_MAX = 64      # values of Accept-Encoding that are remembered
    RANGES_MAX = 16       # of one request; Apache stops at 200, nginx nowhere. More is no download: the whole file is sent
    PART_OVERHEAD = 128   # bytes that a part of its own costs at least: ranges with a smaller gap become one (RFC 9110 14.2)

cdef bytes TEXT = b"text/plain; charset=utf-8"

# RFC 9110 section 8.8.3: etagc is what may stand between the quotes.
ETAG = re.compile(rb'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
# RFC 9110 section 5.6.7: the three forms of a date, of which the last two are obsolete.
DATE = re.compile(
    rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT"
    rb"|[A-Z][a-z]{5,8}, \d\d-[A-Z][a-z]{2}-\d\d \d\d:\d\d:\d\d GMT"
    rb"|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}"
)

cdef bint have_openat2 = True
cdef bint have_cached = True   # RESOLVE_CACHED, of Linux 5.12


# ------------------------------------------------------------------------------------------------------ opening


cdef int open_file(int folder, bytes path, bint now, bint reads) noexcept:
    global have_openat2, have_cached
    cdef int fd
    cdef bint beneath = folder >= 0
    cdef const char *name = PyBytes_AS_STRING(path)
    cdef bint cached
    cdef int again = 0
    while have_openat2:
        cached = now and have_cached
        if now:
            fd = fs_open2(folder if beneath else AT_FDCWD, name, beneath, cached, reads)
        else:
            with nogil:
                fd = fs_open2(folder if beneath else AT_FDCWD, name, beneath, False, reads)
        if fd == -EINVAL and cached:
            have_cached = False    # older than 5.12: opened here and now, as nginx does it
            continue
        if fd == -ENOSYS or (fd == -EPERM and not _allows_openat2()):
            have_openat2 = False   # older than 5.6, or a sandbox that does not know it
            break
        if fd == -EAGAIN and not now and again < 8:
            again += 1             # something was renamed while a link's ".." was followed
            continue
        return fd
    if beneath:
        return -ENOSYS
    with nogil:
        fd = fs_open_plain(name)
    return fd


cdef bint _allows_openat2() noexcept:
    # EPERM may be said of the file, or, by an old seccomp filter, of the call.
    cdef int fd = fs_open2(AT_FDCWD, b"/", False, False, False)
    if fd >= 0:
        c_close(fd)
    return fd >= 0


cdef OpenFile opened(int fd):
    cdef OpenFile file = OpenFile.over(fd)
    cdef fs_facts facts
    cdef int error = fs_facts_open(fd, &facts)   # which fills them, or says why not
    if error != 0:
        raise OSError(-error, os.strerror(-error))
    file.size = facts.size
    file.mtime_ns = facts.mtime_ns
    file.ctime_ns = facts.ctime_ns
    file.dev = facts.dev
    file.ino = facts.ino
    file.mode = facts.mode
    return file


cdef bint is_regular(OpenFile file) noexcept:
    return fs_is_regular(file.mode)


cdef bint is_folder(OpenFile file) noexcept:
    return fs_is_folder(file.mode)


cdef bint unchanged(int folder, bytes path, OpenFile file) noexcept:
    cdef fs_facts facts
    return fs_facts_at(folder, PyBytes_AS_STRING(path), &facts) == 0 and facts.ino == file.ino and facts.dev == file.dev \
        and facts.mtime_ns == file.mtime_ns and facts.ctime_ns == file.ctime_ns and facts.size == file.size


def open_regular(path, bint now=False):
    """The regular file at `path` (str, bytes or PathLike), open. None if `now`, and the disk must be asked. OSError."""
    cdef bytes name = os.fsencode(path)
    cdef int fd
    cdef OpenFile file
    if b"\0" in name:
        raise ValueError("a path holds NUL")
    fd = open_file(-1, name, now, True)
    if fd == -EAGAIN and now:
        return None
    if fd < 0:
        raise OSError(-fd, os.strerror(-fd), os.fsdecode(name))
    file = opened(fd)
    if not is_regular(file):
        raise OSError(f"{os.fsdecode(name)!r} is not a regular file")
    return file


# ------------------------------------------------------------------------------- what the request says of it


cdef bytes field_of(Exchange exchange, unsigned field_id, bytes name):
    """The value of a field, several joined; None: it is not there."""
    cdef const uint8_t *data = exchange.data
    cdef fs_field *fields = exchange.fields
    cdef bytes found = None
    cdef bytes value
    cdef uint32_t i
    if data == NULL or exchange._request is not None:
        values = exchange.request().headers_().find_all(name)
        return b", ".join(values) if values else None
    for i in range(exchange.head().fields_count):
        if fields[i].id == field_id:
            value = PyBytes_FromStringAndSize(<const char *>data + fields[i].value, fields[i].value_len)
            found = value if found is None else found + b", " + value
    return found


cdef Conditions conditions_of(Exchange exchange):
    cdef Conditions asked
    cdef const uint8_t *data = exchange.data
    cdef fs_field *fields = exchange.fields
    cdef uint32_t i
    cdef unsigned known
    cdef bint any = False
    if data != NULL and exchange._request is None:
        for i in range(exchange.head().fields_count):
            known = fields[i].id
            if known == FS_FIELD_IF_MATCH or known == FS_FIELD_IF_NONE_MATCH or known == FS_FIELD_IF_MODIFIED_SINCE \
                    or known == FS_FIELD_IF_UNMODIFIED_SINCE or known == FS_FIELD_RANGE:
                any = True
                break
        if not any:
            return None   # most requests
    asked = Conditions.__new__(Conditions)
    asked.if_match = field_of(exchange, FS_FIELD_IF_MATCH, b"if-match")
    asked.if_none_match = field_of(exchange, FS_FIELD_IF_NONE_MATCH, b"if-none-match")
    asked.if_modified_since = field_of(exchange, FS_FIELD_IF_MODIFIED_SINCE, b"if-modified-since")
    asked.if_unmodified_since = field_of(exchange, FS_FIELD_IF_UNMODIFIED_SINCE, b"if-unmodified-since")
    asked.range = field_of(exchange, FS_FIELD_RANGE, b"range")
    asked.if_range = field_of(exchange, FS_FIELD_IF_RANGE, b"if-range")
    return asked


cdef bytes etag_of(OpenFile file, bytes suffix):
    # Strong (RFC 9110 section 8.8.1): nanoseconds and size. No inode: the servers of a cluster have to agree.
    return b'"%x-%x%b"' % (file.mtime_ns, file.size, suffix)


cdef bytes http_date(int64_t seconds):
    cdef uint8_t text[64]
    fs_date_format(max(0, seconds), text)
    return PyBytes_FromStringAndSize(<const char *>text, FS_DATE_LEN)


cdef dict _codings = {}


cpdef tuple accepted_codings(bytes value, tuple offered):
    """Of these content codings those that an Accept-Encoding takes rather than none, the best first; in the order offered
    where it has no preference (RFC 9110 section 12.5.3)."""
    cdef tuple found = _codings.get((value, offered))
    cdef dict weights
    if found is not None:
        return found
    weights = {}
    for element in value.lower().split(b","):
        coding, *parameters = [part.strip() for part in element.split(b";")]
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith(b"q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        if coding == b"x-gzip":
            coding = b"gzip"   # section 8.4.1.3: the same
        if coding:
            weights[coding] = weight if 0.0 <= weight <= 1.0 else 0.0
    others = weights.get(b"*", 0.0)
    plain = weights.get(b"identity", 0.0)
    ranked = [(-weights.get(coding, others), index, coding) for index, coding in enumerate(offered)]
    found = tuple([coding for weight, _, coding in sorted(ranked) if weight < 0.0 and -weight >= plain])
    if len(_codings) >= CODINGS_MAX:
        _codings.clear()
    _codings[(value, offered)] = found
    return found


cdef int64_t _date(bytes text) except -2:
    # Seconds; -1: it is no date, and the field is to be ignored (RFC 9110 sections 13.1.3 and 13.1.4).
    text = text.strip()
    if not DATE.fullmatch(text):
        return -1
    parts = parsedate(text.decode("ascii"))
    if parts is None:
        return -1
    try:
        datetime(*parts[:5])   # timegm() takes a 99th of November
        return max(-1, timegm(parts))
    except (ValueError, OverflowError):
        return -1


cdef bint _matches(bytes listed, bytes etag, bint weakly) except -1:
    """Is `etag` in that list, or the list `*`? The strong comparison takes no weak one (RFC 9110 section 8.8.3.2)."""
    if listed.strip() == b"*":
        return True
    if etag is None:
        return False
    weak = etag.startswith(b"W/")
    if weak and not weakly:
        return False
    opaque = etag[2:] if weak else etag
    for found in ETAG.finditer(listed):
        if found[2] == opaque and (weakly or not found[1]):
            return True
    return False


cdef bint _in_range_of(bytes validator, bytes etag, bytes last_modified, int64_t mtime) except -1:
    """RFC 9110 section 13.1.5: does If-Range name what we have? Then the range counts, otherwise the whole is sent."""
    validator = validator.strip()
    if validator.startswith((b'"', b"W/")):
        return etag is not None and validator == etag and not etag.startswith(b"W/")
    # A date is a strong validator only if the file cannot have changed twice in that second (section 8.8.2.2).
    return last_modified is not None and _date(validator) == _date(last_modified) >= 0 and time.time() - mtime >= 2


cdef list ranges_of(bytes text, int64_t size):
    """[(first, end), ...] of a Range field: in the order asked for, clipped, overlapping ones joined.

    None: it is to be ignored (another unit, not well formed, too many). Empty: none of it can be satisfied.
    """
    cdef list found = []
    cdef list joined
    cdef int64_t first, end
    unit, equals, specs = text.partition(b"=")
    if unit.strip().lower() != b"bytes" or not equals or specs.count(b",") > RANGES_MAX * 4:
        return None
    count = 0
    for spec in specs.split(b","):
        spec = spec.strip(b" \t")
        if not spec:
            continue   # RFC 9110 section 5.6.1.2: empty elements of a list mean nothing
        count += 1
        low, dash, high = spec.partition(b"-")
        if count > RANGES_MAX or not dash or not (low or high) or (low and not low.isdigit()) \
                or (high and not high.isdigit()):
            return None
        low, high = low.lstrip(b"0") or low[:1], high.lstrip(b"0") or high[:1]
        if low and high and (len(low), low) > (len(high), high):
            return None   # "invalid" in the words of section 14.1.2
        if not low:
            # "-5": the last five bytes; of an empty file these are all, which no Content-Range can say
            if high == b"0":
                continue
            if size == 0:
                return None
            end = size
            first = 0 if len(high) > 18 or int(high) >= size else size - int(high)
        else:
            if len(low) > 18 or int(low) >= size:
                continue
            first = int(low)
            end = size if not high or len(high) > 18 or int(high) >= size else int(high) + 1
        found.append((first, end, count))
    if count == 0:
        return None
    if len(found) < 2:
        return [(first, end) for first, end, _ in found]
    joined = []
    before = None
    for part in sorted(found):
        if before is not None and part[0] <= before[1] + PART_OVERHEAD:
            part = (before[0], max(part[1], before[1]), min(part[2], before[2]))
            joined.pop()
        joined.append(part)
        before = part
    joined.sort(key=lambda part: part[2])
    return [(first, end) for first, end, _ in joined]


# ---------------------------------------------------------------------------------------------- the judgement


cdef FileAnswer _answer(OpenFile file, unsigned status, list headers, int64_t offset, int64_t count):
    cdef FileAnswer answer = FileAnswer.__new__(FileAnswer)
    answer.file = file
    answer.status = status
    answer.headers = headers
    answer.length = count
    answer.parts = [(None, offset, count)]
    return answer


cdef FileAnswer _words(unsigned status, list headers, bytes text):
    cdef FileAnswer answer = FileAnswer.__new__(FileAnswer)
    answer.status = status
    answer.headers = headers
    answer.text = text
    return answer


cdef FileAnswer judge(Conditions asked, OpenFile file, unsigned status, list headers, bytes etag, bytes last_modified,
                      bint safe, bint get):
    cdef int64_t mtime = file.mtime_ns // 1000000000
    cdef int64_t since
    cdef int64_t size = file.size
    cdef list ranges
    if asked is None or status != 200:
        # RFC 9110 section 13.2.1: preconditions are for what would have been a success
        return _answer(file, status, headers, 0, size)
    modified = _date(last_modified) if last_modified is not None else -1
    if asked.if_match is not None:
        if not _matches(asked.if_match, etag, False):
            return _words(412, [(b"content-type", TEXT)], b"Precondition Failed")
    elif asked.if_unmodified_since is not None and modified >= 0:
        since = _date(asked.if_unmodified_since)
        if since >= 0 and modified > since:
            return _words(412, [(b"content-type", TEXT)], b"Precondition Failed")
    if asked.if_none_match is not None:
        if _matches(asked.if_none_match, etag, True):
            if not safe:
                return _words(412, [(b"content-type", TEXT)], b"Precondition Failed")
            return _words(304, _not_modified(headers), b"")
    elif asked.if_modified_since is not None and safe and modified >= 0:
        since = _date(asked.if_modified_since)
        if modified <= since:
            return _words(304, _not_modified(headers), b"")
    if asked.range is None or not get or (
        asked.if_range is not None and not _in_range_of(asked.if_range, etag, last_modified, mtime)
    ):
        return _answer(file, status, headers, 0, size)
    ranges = ranges_of(asked.range, size)
    if ranges is None:
        return _answer(file, status, headers, 0, size)
    if not ranges:
        return _words(416, [(b"content-type", TEXT), (b"content-range", b"bytes */%d" % size)], b"Range Not Satisfiable")
    if len(ranges) == 1:
        first, end = ranges[0]
        return _answer(file, 206, headers + [(b"content-range", b"bytes %d-%d/%d" % (first, end - 1, size))],
                       first, end - first)
    return _multipart(file, headers, ranges)


cdef FileAnswer answer_of(Exchange exchange, FileResponse response, OpenFile file):
    """What this request gets of a FileResponse whose file is open."""
    cdef list headers = []
    cdef bytes etag = None, last_modified = None
    cdef bint ranged = False
    cdef unsigned method = exchange.head().method_id
    cdef FileAnswer answer
    for name, value in response._raw:
        if name == b"etag":
            etag = value
        elif name == b"last-modified":
            last_modified = value
        elif name == b"accept-ranges":
            ranged = True
        elif name == b"content-length":
            continue   # the file knows
        headers.append((name, value))
    if last_modified is None:
        last_modified = http_date(file.mtime_ns // 1000000000)
        headers.append((b"last-modified", last_modified))
    if etag is None:
        etag = etag_of(file, b"")
        headers.append((b"etag", etag))
    if not ranged and response.status_code == 200:
        headers.append((b"accept-ranges", b"bytes"))
    answer = judge(conditions_of(exchange), file, response.status_code, headers, etag, last_modified,
                   method == FS_METHOD_GET or method == FS_METHOD_HEAD, method == FS_METHOD_GET)
    if response.file is None:
        answer.path = response.path
    return answer


cdef list _not_modified(list headers):
    # RFC 9110 section 15.4.5: what a cache updates, and nothing that describes a body that is not there
    return [
        field for field in headers
        if (not (<bytes>field[0]).startswith(b"content-") or field[0] == b"content-location") and field[0] != b"accept-ranges"
    ]


cdef FileAnswer _multipart(OpenFile file, list headers, list ranges):
    """RFC 9110 section 14.6: several ranges, each a part with its own head."""
    cdef bytes boundary = secrets.token_hex(16).encode()
    cdef bytes kind = b""
    cdef bytes before
    cdef list parts = []
    cdef int64_t length = 0
    cdef FileAnswer answer
    for name, value in headers:
        if name == b"content-type":
            kind = b"content-type: " + value + b"\r\n"
    for first, end in ranges:
        before = b"%b--%b\r\n%bcontent-range: bytes %d-%d/%d\r\n\r\n" % (
            b"\r\n" if parts else b"", boundary, kind, first, end - 1, file.size
        )
        parts.append((before, first, end - first))
        length += len(before) + end - first
    before = b"\r\n--%b--\r\n" % boundary
    parts.append((before, 0, 0))
    answer = _answer(file, 206, [field for field in headers if field[0] != b"content-type"], 0, 0)
    answer.headers.append((b"content-type", b"multipart/byteranges; boundary=" + boundary))
    answer.parts = parts
    answer.length = length + len(before)
    return answer


# ------------------------------------------------------------------------------------------- station 6: respond


cdef class Conditions:
    """What a request says about the state of the file it wants."""


cdef class FileAnswer:
    """What a request gets of a file."""

    cdef bint advance(self, Exchange exchange) except? False:
        """Send what can be sent at once. True: that was all. False: wait for room, or, if `cold`, for the disk."""
        cdef int turn = 0
        cdef bytes block
        cdef tuple part
        self.cold = False
        while self.part < len(self.parts):
            if not self.opened:
                part = self.parts[self.part]
                self.opened = True
                self.at, self.left = part[1], part[2]
                if part[0] is not None:
                    exchange.write(part[0])
                if self.left and exchange.send_open(self.file, self.at, self.left):
                    self.left = 0
            while self.left > 0:
                if turn == TURN or not exchange.writable():
                    return False
                block = _read_now(self.file.fd, min(self.left, BLOCK), self.at)
                if block is None:
                    self.cold = True
                    return False
                self.fed(exchange, block)
                if exchange.ended:
                    return True
                turn += 1
            self.opened = False
            self.part += 1
        exchange.end()
        return True

    cdef int fed(self, Exchange exchange, bytes block) except -1:
        if PyBytes_GET_SIZE(block) == 0:
            logger.error("a file became shorter while it was sent; the connection was cut")
            return exchange.cut()
        self.at += PyBytes_GET_SIZE(block)
        self.left -= PyBytes_GET_SIZE(block)
        return exchange.write(block)


cdef bytes _read_now(int fd, size_t size, int64_t at):
    # None: it is not in memory, or this kind of file cannot say.
    cdef bytes block = PyBytes_FromStringAndSize(NULL, size)
    cdef ssize_t got = fs_read_now(fd, PyBytes_AS_STRING(block), size, at)
    if got < 0:
        return None
    return block if <size_t>got == size else block[:got]


cdef object send_answer(Exchange exchange, FileAnswer answer):
    """Start the response and send what can be sent at once; None if that was all of it. Errors as Exchange.start()."""
    if answer.file is None:
        exchange.send(answer.status, answer.headers, answer.text)
        return None
    if answer.path is not None and len(answer.parts) == 1 and answer.length == answer.file.size \
            and exchange.send_path(answer.status, answer.headers, answer.path, answer.length):
        return None
    if answer.lines is not None:
        exchange.start_ready(answer.status, answer.headers, answer.lines, answer.length)
    else:
        exchange.start(answer.status, answer.headers, answer.length)
    if not exchange.plan.body:
        exchange.end()
        return None
    return None if answer.advance(exchange) else _go_on(exchange, answer)


async def _go_on(Exchange exchange, FileAnswer answer):
    loop = asyncio.get_running_loop()
    while not exchange.ended:
        if answer.cold:
            block = await loop.run_in_executor(None, os.pread, answer.file.fd, min(answer.left, BLOCK), answer.at)
            if exchange.ended:
                return
            answer.fed(exchange, block)
        elif exchange.writable():
            await asyncio.sleep(0)   # others first
        else:
            await exchange.drained()
        if exchange.ended or answer.advance(exchange):
            return
