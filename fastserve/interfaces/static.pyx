"""Static folders: files below a prefix, for an App (`app.static`) and before any application (`--static`).

Room:    floor 2, station 5 (handle). A path becomes a file here, or nothing; what is sent of the file is files.pyx's.
Called:  by native.pyx; by Connection through the door Handler, before the application's own. Calls files.pxd, the kernel.
Rules:   RFC 9110 sections 9.3.7 (OPTIONS), 10.2.1 (Allow), 12.5.3 (Accept-Encoding), 12.5.5 (Vary), 15.5.6 (405);
         RFC 3986 section 2.2 ("%2F" is not a separator).

Theory of operation. The path is split at its slashes as they were sent and then decoded, segment by segment. What cannot be
a plain name below the root is not there: separators and NUL in any spelling, empty segments, dot segments, names that begin
with a dot. The rest is opened by openat2(RESOLVE_BENEATH): the kernel itself refuses a path that leaves the root by a link,
with no moment between a check and the use. All refusals are the same 404, so that nobody learns what lies outside.

A file that was found is kept open for a while with the fields of its answer, at most ENTRIES_MAX of them. The kernel is asked
again and again whether that file is what is at its path (one fstatat, at most once in a millisecond); which compressed
siblings there are is looked at again after a second. What nobody has asked for in KEEP_S is closed.
"""

import asyncio
import logging
import os
from asyncio import CancelledError
from errno import EIO, EMFILE, ENFILE, ENOMEM, ENOSYS, EXDEV

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint8_t

from fastserve.protocol.core cimport (
    FS_FIELD_ACCEPT_ENCODING, FS_METHOD_CONNECT, FS_METHOD_GET, FS_METHOD_HEAD, FS_METHOD_OPTIONS, FS_TARGET_ASTERISK,
    FS_TARGET_AUTHORITY, fs_request_head,
)
from fastserve.protocol.exchange cimport HEAD_AT, Call, Exchange
from fastserve.protocol.files cimport (
    FileAnswer,
    accepted_codings, conditions_of, etag_of, field_of, http_date, is_folder, is_regular, judge, open_file, opened, send_answer, unchanged,
)
from fastserve.protocol.hooks cimport Handler
from fastserve.protocol.request cimport path_bytes
from fastserve.protocol.response cimport FileResponse, Response, type_of_name
from fastserve.protocol.timers cimport precise_now
from fastserve.protocol.wire cimport OpenFile

from fastserve.errors import ClientDisconnected, ConfigError, HTTPException

__all__ = ["Static", "StaticHandler"]

logger = logging.getLogger("fastserve.error")

cdef enum:
    ENTRIES_MAX = 128     # files kept open per folder
    KEEP_S = 10           # after which a file that nobody asks for is closed

cdef int64_t SEEN_NS = 1000000       # that a file is still the same: under load this saves 5 % of a request
cdef int64_t FRESH_NS = 1000000000   # what is known of siblings, and of the root, is believed so long

cdef bytes TEXT = b"text/plain; charset=utf-8"
cdef bytes ALLOW = b"GET, HEAD, OPTIONS"
# In the order we choose when the client has no preference: what is usually smallest comes first.
cdef tuple SIBLINGS = ((b"br", b".br"), (b"zstd", b".zst"), (b"gzip", b".gz"))
cdef tuple CODINGS = tuple([coding for coding, _ in SIBLINGS])
# There is nothing at that path, for whoever asks. Other errors (no descriptors, a broken disk) are ours, and a 500.
cdef frozenset OURS = frozenset((EIO, EMFILE, ENFILE, ENOMEM))


class Cold(Exception):
    """The disk has to be asked, which is for a thread."""


cdef object COLD = Cold()


cdef bytes path_of(Exchange exchange):
    cdef fs_request_head *head = exchange.head()
    if exchange.data == NULL:
        return exchange.request().raw_path
    if head.parts.path.len == 0:
        return b"/"   # absolute-form without a path (RFC 9110 section 4.2.3)
    return PyBytes_FromStringAndSize(
        <const char *>exchange.data + head.target.off + head.parts.path.off, head.parts.path.len
    )


cdef bytes _plain(bytes tail, bint escaped):
    """The path below the root that a tail names, still with its leading slash; None if it can be none."""
    cdef list segments = tail[1:].split(b"/")
    cdef Py_ssize_t last = len(segments) - 1
    cdef Py_ssize_t i
    cdef bytes segment
    if not tail:
        return tail   # the prefix itself, without a slash
    for i in range(last + 1):
        segment = segments[i]
        if escaped and b"%" in segment:
            segment = segments[i] = path_bytes(<const uint8_t *>PyBytes_AS_STRING(segment), PyBytes_GET_SIZE(segment))
        if not segment:
            if i != last:
                return None
        elif b"/" in segment or b"\\" in segment or b"\0" in segment:
            return None
        elif segment[0] == 46 and not (i == 0 and segment == b".well-known"):   # RFC 8615 names the one exception
            return None
    return b"/" + b"/".join(segments)


cdef class Entry:
    """A file that was found."""


cdef class Static:
    """The files of `directory` below `prefix` ("" or "/text").

    index: name of the file that a folder is answered with; None: folders are not there. max_age: seconds of Cache-Control;
    None: no such field. precompressed: `name.br`, `name.zst` and `name.gz` stand in for `name`. etag: send ETag.
    ConfigError if the directory is none.
    """

    def __init__(self, str prefix not None, directory, *, index="index.html", max_age=None, precompressed=True, etag=True):
        prefix = prefix.removesuffix("/")
        if prefix and not prefix.startswith("/"):
            raise ConfigError(f"a static prefix begins with '/', {prefix!r} does not", exit_code=3)
        if any([c in prefix for c in "{}?#%\\"]) or "//" in prefix or not prefix.isprintable():
            raise ConfigError(f"a static prefix is plain text, {prefix!r} is not", exit_code=3)
        self.directory = os.path.abspath(os.fsdecode(directory))
        if not os.path.isdir(self.directory):
            raise ConfigError(f"static {prefix or '/'}: {self.directory} is no directory", exit_code=3)
        if index is not None and (not index or "/" in index or "\0" in index):
            raise ConfigError(f"static {prefix or '/'}: the index is the name of a file, not {index!r}", exit_code=3)
        if max_age is not None and not 0 <= max_age < 1 << 31:
            raise ConfigError(f"static {prefix or '/'}: max_age is seconds, not {max_age!r}", exit_code=3)
        self.prefix = prefix
        self.raw_prefix = prefix.encode("utf-8")
        self.segments = self.raw_prefix.split(b"/")[1:]
        self.directory_path = os.fsencode(self.directory)
        self.index = os.fsencode(index) if index is not None else None
        self.cache_control = b"public, max-age=%d" % int(max_age) if max_age is not None else None
        self.precompressed = precompressed
        self.tags = etag
        self.entries = {}
        self.tasks = set()

    def close(self):
        """Close the files that are kept open."""
        if self.sweep is not None:
            self.sweep.cancel()
            self.sweep = None
        self.entries.clear()
        self.root = None

    def __repr__(self):
        return f"<Static {self.prefix or '/'}={self.directory}>"

    # --- from a path to a file ---

    cdef bytes tail_of(self, bytes path, bint escaped):
        cdef Py_ssize_t n = PyBytes_GET_SIZE(self.raw_prefix)
        cdef list segments
        if not escaped:
            # to the end of a segment: "/static" takes "/static" and "/static/x", not "/statical"
            if path.startswith(self.raw_prefix) and (PyBytes_GET_SIZE(path) == n or path[n] == 47):
                return path[n:]
            return None
        segments = path[1:].split(b"/")
        n = len(self.segments)
        for i in range(n):
            if i >= len(segments) or path_bytes(
                <const uint8_t *>PyBytes_AS_STRING(segments[i]), PyBytes_GET_SIZE(segments[i])
            ) != self.segments[i]:
                return None
        return b"/" + b"/".join(segments[n:]) if len(segments) > n else b""

    cdef object find(self, Exchange exchange, bytes path):
        """The Entry at a path of ours; None: nothing is there. COLD: the disk has to be asked, with find_later()."""
        cdef bint escaped = b"%" in path
        cdef bytes tail = self.tail_of(path, escaped)
        cdef int64_t now = exchange.moments[<int>HEAD_AT]
        cdef Entry entry
        if now == 0:
            now = precise_now()   # an exchange of the bridge
        if escaped:
            tail = _plain(tail, True)
            if tail is None:
                return None
        entry = <Entry>self.entries.get(tail)
        if entry is not None:
            if now - entry.loaded_at < FRESH_NS and now - self.root_at < FRESH_NS and self.root is not None \
                    and (now - entry.seen_at < SEEN_NS or unchanged(self.root.fd, entry.path, entry.file)):
                if now - entry.seen_at >= SEEN_NS:
                    entry.seen_at = now
                entry.used_at = now
                return entry
            del self.entries[tail]
        elif not escaped:
            tail = _plain(tail, False)
            if tail is None:
                return None
        found = self.load(tail, True)
        if type(found) is Entry:
            self._keep(tail, <Entry>found)
        return found

    async def find_later(self, bytes path):
        """The same in a thread."""
        cdef bint escaped = b"%" in path
        cdef bytes tail = _plain(self.tail_of(path, escaped), escaped)
        found = await asyncio.get_running_loop().run_in_executor(None, self._load_in_thread, tail)
        if found is not None:
            self._keep(tail, found)
        return found

    def _load_in_thread(self, bytes tail):
        return self.load(tail, False)

    cdef object load(self, bytes tail, bint now):
        cdef bint folder = tail.endswith(b"/")   # "/x/" names a folder, and so does the root
        cdef bytes path = tail.strip(b"/") or b"."
        cdef OpenFile file, root
        cdef Entry entry, other
        cdef int64_t moment = precise_now()
        if not self._root_is_there(moment):
            return None
        root = self.root
        found = self._open(path, now)
        if found is None:
            self._root_is_there(0)
            if self.root is not root:
                found = self._open(path, now)   # it was made anew
        if found is None or found is COLD:
            return found
        file = <OpenFile>found
        if is_folder(file):
            if self.index is None:
                return None
            path = self.index if path == b"." else path + b"/" + self.index
            found = self._open(path, now)
            if found is None or found is COLD:
                return found
            file = <OpenFile>found
            if not is_regular(file):
                return None
            if not folder:
                entry = Entry.__new__(Entry)   # its relative links would lead astray: it is asked to come again
                return entry
        elif folder or not is_regular(file):
            return None
        entry = self._entry(file, path, None)
        entry.loaded_at = entry.seen_at = entry.used_at = moment
        if self.precompressed and not path.endswith((b".br", b".gz", b".zst")):
            for coding, suffix in SIBLINGS:
                found = self._open(path + suffix, now)
                if found is COLD:
                    return COLD
                if found is not None and is_regular(<OpenFile>found):
                    other = self._entry(<OpenFile>found, path, coding)
                    other.path = path + suffix
                    if entry.variants is None:
                        entry.variants = []
                        entry.headers.append((b"vary", b"accept-encoding"))
                    entry.variants.append((coding, other))
        return entry

    cdef object _open(self, bytes path, bint now):
        # OpenFile, None (nothing there, or nothing of ours), or COLD.
        cdef OpenFile root = self.root   # held: another thread may find a new one
        cdef int fd
        if root is None:
            return None
        fd = open_file(root.fd, path, now, True)
        if fd >= 0:
            return opened(fd)
        if fd == -EAGAIN and now:
            return COLD
        if -fd == EXDEV or -fd == ENOSYS:
            # It left the root on its way, as an absolute link does even if it comes back; or there is no openat2.
            return COLD if now else self._open_resolved(path)
        if -fd in OURS:
            raise OSError(-fd, os.strerror(-fd), os.fsdecode(path))
        return None

    def _open_resolved(self, bytes path):
        """Resolve the links, see that the end is below the root, and go there without following any."""
        root = os.path.realpath(self.directory_path)
        real = os.path.realpath(os.path.join(root, path))
        below = os.path.relpath(real, root)
        if below == b".." or below.startswith(b"../"):
            return None
        fd = None
        try:
            fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for segment in below.split(b"/"):
                if segment != b".":
                    inner = os.open(segment, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
                    os.close(fd)
                    fd = inner
        except OSError as error:
            if fd is not None:
                os.close(fd)
            if error.errno in OURS:
                raise
            return None
        return opened(fd)

    cdef bint _root_is_there(self, int64_t now) except -1:
        # The folder may have been moved away and made anew, as build tools do. now 0: look, whenever that was last done.
        cdef int fd
        if self.root is not None and now and now - self.root_at < FRESH_NS:
            return True
        fd = open_file(-1, self.directory_path, False, True)
        if fd < 0:
            if -fd in OURS:
                raise OSError(-fd, os.strerror(-fd), self.directory)
            self.root = None
            self.entries.clear()
            return False
        found = opened(fd)
        if self.root is None or (<OpenFile>found).ino != self.root.ino or (<OpenFile>found).dev != self.root.dev:
            self.root = found
            self.entries.clear()
        self.root_at = now if now else precise_now()
        return True

    cdef Entry _entry(self, OpenFile file, bytes path, bytes coding):
        cdef Entry entry = Entry.__new__(Entry)
        entry.file = file
        entry.path = path
        entry.last_modified = http_date(file.mtime_ns // 1000000000)
        entry.headers = [(b"content-type", type_of_name(path)), (b"last-modified", entry.last_modified)]
        if self.tags:
            entry.etag = etag_of(file, b"-" + coding if coding is not None else b"")
            entry.headers.append((b"etag", entry.etag))
        entry.headers.append((b"accept-ranges", b"bytes"))
        if self.cache_control is not None:
            entry.headers.append((b"cache-control", self.cache_control))
        if coding is not None:
            entry.headers.append((b"content-encoding", coding))
            entry.headers.append((b"vary", b"accept-encoding"))
        return entry

    cdef int _keep(self, bytes tail, Entry entry) except -1:
        if entry.file is None:
            return 0
        if len(self.entries) >= ENTRIES_MAX:
            del self.entries[next(iter(self.entries))]   # the one that was opened first
        self.entries[tail] = entry
        if self.sweep is None:
            self.sweep = asyncio.get_running_loop().call_later(KEEP_S, self._sweep)
        return 0

    def _sweep(self):
        cdef int64_t limit = precise_now() - <int64_t>KEEP_S * 1000000000
        for tail, entry in list(self.entries.items()):
            if (<Entry>entry).used_at < limit:
                del self.entries[tail]
        self.sweep = None
        if self.entries:
            self.sweep = asyncio.get_running_loop().call_later(KEEP_S, self._sweep)

    cdef Entry _chosen(self, Exchange exchange, Entry entry):
        # The variant this client wants.
        cdef bytes value
        if entry.variants is None:
            return entry
        value = field_of(exchange, FS_FIELD_ACCEPT_ENCODING, b"accept-encoding")
        if value is None:
            return entry
        for coding in accepted_codings(value, CODINGS):
            for known, other in entry.variants:
                if known == coding and self.root is not None \
                        and unchanged(self.root.fd, (<Entry>other).path, (<Entry>other).file):
                    return <Entry>other
        return entry

    # --- answering ---

    cdef int serve(self, Exchange exchange) except -1:
        """Answer it. Faults are answered, not raised."""
        cdef object found
        cdef bytes path = path_of(exchange)
        try:
            found = self.find(exchange, path)
            if found is COLD:
                exchange.keep_head()
                return self._later(exchange, _find_and_reply(self, exchange, path))
            return self.reply(exchange, <Entry>found)
        except OSError as error:
            logger.error("static %s: %s", os.fsdecode(path), error)
            return exchange.fail(500)

    cdef int reply(self, Exchange exchange, Entry entry) except -1:
        cdef unsigned method = exchange.head().method_id
        cdef FileAnswer answer
        if entry is None:
            return exchange.send_simple(404, TEXT, b"Not Found")
        if method != FS_METHOD_GET and method != FS_METHOD_HEAD:
            if method == FS_METHOD_OPTIONS:
                return exchange.send(204, [(b"allow", ALLOW)], b"")
            return exchange.send(405, [(b"allow", ALLOW), (b"content-type", TEXT)], b"Method Not Allowed")
        if entry.file is None:
            return exchange.send(307, [(b"location", _with_slash(exchange))], b"")
        entry = self._chosen(exchange, entry)
        answer = judge(conditions_of(exchange), entry.file, 200, entry.headers, entry.etag, entry.last_modified, True,
                       method == FS_METHOD_GET)
        if answer.status == 200:
            if entry.lines is None:
                entry.lines = b"".join([name + b": " + value + b"\r\n" for name, value in entry.headers])
            answer.lines = entry.lines
        going = send_answer(exchange, answer)
        return 0 if going is None else self._later(exchange, going)

    cdef int _later(self, Exchange exchange, object coroutine) except -1:
        cdef StaticCall call = StaticCall.__new__(StaticCall)
        call.task = asyncio.get_running_loop().create_task(_driven(exchange, coroutine))
        exchange.call = call
        self.tasks.add(call.task)
        call.task.add_done_callback(self.tasks.discard)
        return 0

    def cancel(self):
        """Cancel what is still being sent."""
        for task in list(self.tasks):
            task.cancel()


cdef class StaticCall(Call):
    # A file that is on its way, where the kernel cannot send it.
    cdef object task

    cdef int disconnected(self, Exchange exchange) except -1:
        self.task.cancel()
        return 0


cdef bytes _with_slash(Exchange exchange):
    # Relative (RFC 3986 section 4.2), for a proxy may have cut off what is before it. "./": a colon makes no scheme of it.
    cdef bytes path = path_of(exchange)
    cdef bytes query = exchange.request().query_string
    return b"./" + path[path.rfind(b"/") + 1:] + b"/" + (b"?" + query if query else b"")


async def _find_and_reply(Static folder, Exchange exchange, bytes path):
    folder.reply(exchange, await folder.find_later(path))


async def _driven(Exchange exchange, object coroutine):
    try:
        await coroutine
    except (CancelledError, ClientDisconnected):
        exchange.cut()
    except Exception:
        logger.exception("a static file could not be sent")
        exchange.fail(500)


async def static_response(Static folder, Exchange exchange):
    """What a request gets, as a Response, for middleware to see. HTTPException 404 or 405."""
    cdef bytes path = path_of(exchange)
    cdef object found = folder.find(exchange, path)
    cdef unsigned method = exchange.head().method_id
    cdef Entry entry
    cdef FileResponse response
    if found is COLD:
        found = await folder.find_later(path)
    if found is None:
        raise HTTPException(404)
    entry = <Entry>found
    if method == FS_METHOD_OPTIONS:
        return Response(b"", 204, {"allow": ALLOW.decode()})
    if method != FS_METHOD_GET and method != FS_METHOD_HEAD:
        raise HTTPException(405, None, {"allow": ALLOW.decode()})
    if entry.file is None:
        return Response(b"", 307, {"location": _with_slash(exchange).decode("latin-1")})
    entry = folder._chosen(exchange, entry)
    response = FileResponse(os.path.join(folder.directory, os.fsdecode(entry.path)))
    response._raw = list(entry.headers)
    response.file = entry.file
    return response


cdef class StaticHandler(Handler):
    """Answers what is below the prefixes of `folders`, and leaves the rest to `inner`."""

    def __init__(self, Handler inner not None, folders):
        self.inner = inner
        self.folders = sorted(folders, key=_depth, reverse=True)

    cdef int handle(self, Exchange exchange) except -1:
        cdef fs_request_head *head = exchange.head()
        cdef Static folder
        cdef bytes path
        if head.method_id != FS_METHOD_CONNECT and head.parts.form != FS_TARGET_ASTERISK \
                and head.parts.form != FS_TARGET_AUTHORITY:
            path = path_of(exchange)
            for folder in self.folders:
                if folder.tail_of(path, head.parts.has_percent) is not None:
                    return folder.serve(exchange)
        return self.inner.handle(exchange)

    async def wait_idle(self):
        await self.inner.wait_idle()

    def cancel(self):
        for folder in self.folders:
            folder.cancel()
        self.inner.cancel()

    def close(self):
        for folder in self.folders:
            folder.close()
        self.inner.close()


def _depth(Static folder):
    return len(folder.segments)
