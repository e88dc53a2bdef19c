"""Trust and Forwarded: whom we take for a proxy of ours, and what it says of the client behind it.

Room:    floor 1, station 4 (exchange). A connection asks once whether its peer is trusted; a request on a trusted connection
         is looked through for the fields when somebody asks who the client is.
Called:  by Service (makes Trust), Connection (asks it), Exchange (forwarded_of). Calls the C core (proxy.c, target.c).
Rules:   RFC 7239 sections 4 to 6 (Forwarded); for X-Forwarded-*, which no RFC describes, what proxies do.

Whose word counts. Each proxy adds at the right, so the list is read from there: as long as an address is a trusted one, the
entry before it was written by a proxy of ours. The first that is not trusted is the client; what stands before it, anybody
may have written. An entry that is no address ("unknown", "_hidden") ends the walk: the client is the last one known.

The id of a request is one word, of the last proxy's: two fields of that name contradict each other, and neither is taken.
"""

import ipaddress
import socket

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcpy

from fastserve.protocol.core cimport (
    FS_FIELD_COUNT, FS_FIELD_FORWARDED, FS_FIELD_UNKNOWN, FS_FIELD_X_FORWARDED_FOR, FS_FIELD_X_FORWARDED_HOST,
    FS_FIELD_X_FORWARDED_PORT, FS_FIELD_X_FORWARDED_PREFIX, FS_FIELD_X_FORWARDED_PROTO, fs_address_parse, fs_address_within,
    fs_field_id, fs_host_valid, fs_text_equal,
)

__all__ = ["FIELDS", "Trust"]

FIELDS = {
    "x-forwarded-for": BY_FOR,
    "x-forwarded-proto": BY_PROTO,
    "x-forwarded-host": BY_HOST,
    "x-forwarded-port": BY_PORT,
    "x-forwarded-prefix": BY_PREFIX,
    "forwarded": BY_FORWARDED,
}

cdef enum:
    SEEN_MAX = 1024       # peers whose trust is remembered
    ELEMENTS_MAX = 64     # that are looked at: more proxies than that nobody has
    PREFIX_MAX = 1024
    ID_MAX = 128          # bytes of a request's id: those of nginx have 32, a UUID has 36


cdef uint8_t SAYS[256]   # number of a field's name -> ForwardedField, 0 for the others
assert <int>FS_FIELD_COUNT <= 256
SAYS[<int>FS_FIELD_X_FORWARDED_FOR] = BY_FOR
SAYS[<int>FS_FIELD_X_FORWARDED_PROTO] = BY_PROTO
SAYS[<int>FS_FIELD_X_FORWARDED_HOST] = BY_HOST
SAYS[<int>FS_FIELD_X_FORWARDED_PORT] = BY_PORT
SAYS[<int>FS_FIELD_X_FORWARDED_PREFIX] = BY_PREFIX
SAYS[<int>FS_FIELD_FORWARDED] = BY_FORWARDED


# ------------------------------------------------------------------------------------------------------- whom to trust


cdef class Trust:
    """peers: addresses, networks (CIDR), "unix", or "*" for everyone. fields: names of FIELDS that are believed.
    proxy_protocol: these peers begin each connection with a PROXY protocol header. request_id: the field in which they say the
    id of a request. ValueError says what is wrong."""

    def __cinit__(self, peers=(), fields=(), *, bint proxy_protocol=False, str request_id=None):
        cdef Network *network
        cdef bytes packed
        self._seen = {}
        self.proxy_protocol = proxy_protocol
        if request_id is not None:
            self.request_id = request_id.lower().encode("ascii")
            self._request_id = fs_field_id(<const uint8_t *>PyBytes_AS_STRING(self.request_id),
                                           PyBytes_GET_SIZE(self.request_id))
        for name in fields:
            if name not in FIELDS:
                raise ValueError(f"not one of {', '.join(FIELDS)}: {name!r}")
            self.fields |= FIELDS[name]
        if self.fields & BY_FORWARDED and self.fields & (BY_FOR | BY_PROTO | BY_HOST | BY_PORT):
            # A proxy that writes the one passes the other on as the client sent it.
            raise ValueError("either forwarded, or x-forwarded-for and its like: a client could send those that its proxy does not")
        texts = list(peers)
        self._networks = <Network *>calloc(len(texts) + 1, sizeof(Network))
        if self._networks == NULL:
            raise MemoryError
        for text in texts:
            if text == "*":
                self.everyone = True
                continue
            if text == "unix":
                self.unix = True
                continue
            try:
                found = ipaddress.ip_network(text, strict=False)
            except ValueError:
                raise ValueError(f"an address, a network such as 10.0.0.0/8, 'unix' or '*', not {text!r}") from None
            network = &self._networks[self._count]
            packed = found.network_address.packed
            if found.version == 4:
                packed = b"\0" * 10 + b"\xff\xff" + packed
            memcpy(network.address.bytes, PyBytes_AS_STRING(packed), 16)
            network.bits = found.prefixlen + (96 if found.version == 4 else 0)
            self._count += 1

    def __dealloc__(self):
        free(self._networks)

    cdef bint address(self, const fs_address *address) noexcept:
        cdef int i
        if self.everyone:
            return True
        for i in range(self._count):
            if fs_address_within(address, &self._networks[i].address, self._networks[i].bits):
                return True
        return False

    cdef bint peer(self, object peername) except -1:
        cdef fs_address address
        cdef bytes text
        if self.everyone:
            return True
        if not isinstance(peername, tuple):
            return self.unix and peername is not None   # a Unix socket's peer: "" or its path
        host = (<tuple>peername)[0]
        known = self._seen.get(host)
        if known is None:
            text = (<str>host).partition("%")[0].encode()   # a link-local address with its zone
            known = fs_address_parse(<const uint8_t *>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), &address) != 0 \
                and self.address(&address)
            if len(self._seen) >= SEEN_MAX:
                self._seen.clear()
            self._seen[host] = known
        return known

    def trusts(self, peername) -> bool:
        """Is this peer believed? `peername`: as getpeername() says it."""
        return self.peer(peername)


cdef tuple proxied_address(uint8_t family, const fs_address *address, uint16_t port):
    cdef bytes packed = PyBytes_FromStringAndSize(<const char *>address.bytes, 16)
    if family == 4:
        return socket.inet_ntop(socket.AF_INET, packed[12:]), port
    return socket.inet_ntop(socket.AF_INET6, packed), port, 0, 0


# ---------------------------------------------------------------------------------------------------- what is said


cdef struct Entry:
    const uint8_t *p
    Py_ssize_t n


cdef inline Entry _stripped(const uint8_t *p, const uint8_t *end) noexcept:
    cdef Entry entry
    while p < end and (p[0] == 32 or p[0] == 9):
        p += 1
    while end > p and ((end - 1)[0] == 32 or (end - 1)[0] == 9):
        end -= 1
    entry.p = p
    entry.n = end - p
    return entry


cdef Py_ssize_t _count_of(const uint8_t *data, const fs_field *fields, uint32_t count, unsigned id) noexcept:
    # Entries of all fields of this name: RFC 9110 section 5.3, they are one list.
    cdef Py_ssize_t total = 0
    cdef uint32_t i, k
    for i in range(count):
        if fields[i].id == id:
            total += 1
            for k in range(fields[i].value_len):
                total += data[fields[i].value + k] == 44
    return total


cdef bint _nth(const uint8_t *data, const fs_field *fields, uint32_t count, unsigned id, Py_ssize_t n, Entry *out) noexcept:
    # The n-th entry from the right, 0 is the last one.
    cdef uint32_t i = count
    cdef const uint8_t *start
    cdef const uint8_t *end
    cdef const uint8_t *p
    while i > 0:
        i -= 1
        if fields[i].id != id:
            continue
        start = data + fields[i].value
        end = start + fields[i].value_len
        while True:
            p = end
            while p > start and (p - 1)[0] != 44:
                p -= 1
            if n == 0:
                out[0] = _stripped(p, end)
                return True
            n -= 1
            if p == start:
                break
            end = p - 1
    return False


cdef bint _node(Entry entry, Entry *host, uint16_t *port, fs_address *address) noexcept:
    """An address with or without a port: 1.2.3.4, 1.2.3.4:5, ::1, [::1], [::1]:5. False: it is none."""
    cdef const uint8_t *p = entry.p
    cdef const uint8_t *end = p + entry.n
    cdef const uint8_t *colon
    cdef unsigned number = 0
    port[0] = 0
    host[0] = entry
    if entry.n == 0:
        return False
    if p[0] == 91:
        colon = <const uint8_t *>memchr(p, 93, entry.n)
        if colon == NULL:
            return False
        host.p = p + 1
        host.n = colon - p - 1
        if memchr(host.p, 58, host.n) == NULL:
            return False   # brackets are for IPv6
        p = colon + 1
    else:
        colon = <const uint8_t *>memchr(p, 58, entry.n)
        if colon == NULL or memchr(colon + 1, 58, end - colon - 1) != NULL:
            p = end   # no colon, or several: an IPv6 address has no port without brackets
        else:
            host.n = colon - p
            p = colon
    if fs_address_parse(host.p, host.n, address) == 0:
        return False
    if p == end:
        return True
    if p[0] != 58 or end - p < 2:
        return False
    p += 1
    if p[0] == 95:
        return True   # RFC 7239 section 6: an obfuscated port
    if end - p > 5:
        return False
    while p < end:
        if not 48 <= p[0] <= 57:
            return False
        number = number * 10 + p[0] - 48
        p += 1
    if number > 65535:
        return False
    port[0] = number
    return True


cdef str _scheme(Entry entry):
    if fs_text_equal(entry.p, entry.n, b"https", 5) or fs_text_equal(entry.p, entry.n, b"wss", 3):
        return "https"
    if fs_text_equal(entry.p, entry.n, b"http", 4) or fs_text_equal(entry.p, entry.n, b"ws", 2):
        return "http"
    return None


cdef str _prefix(Entry entry):
    # A path, as root_path is one: "/shop". "//evil" would be another host in a redirect.
    cdef Py_ssize_t i
    cdef Py_ssize_t n = entry.n
    while n > 0 and entry.p[n - 1] == 47:
        n -= 1
    if n < 2 or n > PREFIX_MAX or entry.p[0] != 47 or entry.p[1] == 47:
        return None
    for i in range(n):
        if not 33 <= entry.p[i] <= 126 or entry.p[i] == 34 or entry.p[i] == 35 or entry.p[i] == 60 or entry.p[i] == 62 \
                or entry.p[i] == 63 or entry.p[i] == 92:
            return None
    return PyBytes_FromStringAndSize(<const char *>entry.p, n).decode("ascii")


cdef bytes _with_port(const uint8_t *host, Py_ssize_t length, unsigned port, str scheme):
    # The host with another port; without one where the scheme means it.
    cdef bytes whole = PyBytes_FromStringAndSize(<const char *>host, length)
    cdef object name = whole
    if b":" in whole.rpartition(b"]")[2]:
        name = whole.rpartition(b":")[0]
    if port == (443 if scheme == "https" else 80):
        return name
    return name + b":%d" % port


cdef Forwarded forwarded_of(Trust trust, const uint8_t *data, const fs_field *fields, uint32_t count,
                            const uint8_t *own, Py_ssize_t own_length):
    # Asked for each request of a trusted peer that has any of these fields.
    cdef unsigned said = 0
    cdef const fs_field *field = fields
    cdef const fs_field *last = fields + count
    while field != last:
        said |= SAYS[field.id]
        field += 1
    said &= trust.fields
    if said == 0:
        return None
    return _read(trust, said, data, fields, count, own, own_length)


cdef bytes said_id(Trust trust, const uint8_t *data, const fs_field *fields, uint32_t count):
    cdef const fs_field *found = NULL
    cdef const uint8_t *p
    cdef uint32_t i
    if trust.request_id is None:
        return None
    for i in range(count):
        if fields[i].id == trust._request_id and (fields[i].id != FS_FIELD_UNKNOWN or fs_text_equal(
                data + fields[i].name, fields[i].name_len, PyBytes_AS_STRING(trust.request_id),
                PyBytes_GET_SIZE(trust.request_id))):
            if found != NULL:
                return None
            found = &fields[i]
    if found == NULL or not 0 < found.value_len <= ID_MAX:
        return None
    p = data + found.value
    for i in range(found.value_len):
        if not 33 <= p[i] <= 126:
            return None
    return PyBytes_FromStringAndSize(<const char *>p, found.value_len)


cdef Forwarded _read(Trust trust, unsigned said, const uint8_t *data, const fs_field *fields, uint32_t count,
                     const uint8_t *own, Py_ssize_t own_length):
    cdef Forwarded found = Forwarded.__new__(Forwarded)
    cdef Entry entry, host
    cdef fs_address address
    cdef uint16_t port = 0
    cdef Py_ssize_t hops = 0       # entries of X-Forwarded-For
    cdef Py_ssize_t hop = 0        # the one of our client, counted from the right
    cdef Py_ssize_t n
    if said & BY_FORWARDED:
        _read_forwarded(trust, found, data, fields, count)
    if said & BY_FOR:
        hops = _count_of(data, fields, count, FS_FIELD_X_FORWARDED_FOR)
        for n in range(min(hops, ELEMENTS_MAX)):
            if not _nth(data, fields, count, FS_FIELD_X_FORWARDED_FOR, n, &entry) \
                    or not _node(entry, &host, &port, &address):
                break
            hop = n
            found.client = (PyBytes_FromStringAndSize(<const char *>host.p, host.n).decode("ascii"), port)
            if not trust.address(&address):
                break
    # A field with an entry for each hop is read at the client's; otherwise the last entry is our own proxy's word.
    if said & BY_PROTO:
        n = _count_of(data, fields, count, FS_FIELD_X_FORWARDED_PROTO)
        if _nth(data, fields, count, FS_FIELD_X_FORWARDED_PROTO, hop if n == hops else 0, &entry):
            found.scheme = _scheme(entry)
    if said & BY_HOST:
        n = _count_of(data, fields, count, FS_FIELD_X_FORWARDED_HOST)
        if _nth(data, fields, count, FS_FIELD_X_FORWARDED_HOST, hop if n == hops else 0, &entry) and entry.n \
                and fs_host_valid(entry.p, entry.n):
            found.host = PyBytes_FromStringAndSize(<const char *>entry.p, entry.n)
    if said & BY_PORT:
        n = _count_of(data, fields, count, FS_FIELD_X_FORWARDED_PORT)
        if _nth(data, fields, count, FS_FIELD_X_FORWARDED_PORT, hop if n == hops else 0, &entry) and 0 < entry.n < 6:
            text = PyBytes_FromStringAndSize(<const char *>entry.p, entry.n)
            if text.isdigit() and 0 < int(text) < 65536:
                if found.host is not None:
                    found.host = _with_port(<const uint8_t *>PyBytes_AS_STRING(found.host), PyBytes_GET_SIZE(found.host),
                                            int(text), found.scheme)
                elif own_length:
                    found.host = _with_port(own, own_length, int(text), found.scheme)
    if said & BY_PREFIX:
        if _nth(data, fields, count, FS_FIELD_X_FORWARDED_PREFIX, 0, &entry):
            found.prefix = _prefix(entry)
    return found


cdef int _read_forwarded(Trust trust, Forwarded found, const uint8_t *data, const fs_field *fields, uint32_t count) except -1:
    """RFC 7239: the element that says `for` the client says its scheme and host too. Broken syntax: nothing is believed."""
    cdef list elements = []
    cdef uint32_t i
    cdef Entry entry, host
    cdef fs_address address
    cdef uint16_t port = 0
    cdef dict element
    cdef dict chosen = None
    cdef bytes text
    for i in range(count):
        if fields[i].id == FS_FIELD_FORWARDED:
            more = _elements(PyBytes_FromStringAndSize(<const char *>data + fields[i].value, fields[i].value_len))
            if more is None:
                return 0
            elements += more
    for element in reversed(elements[-ELEMENTS_MAX:]):
        chosen = element
        text = element.get(b"for", b"")
        entry.p = <const uint8_t *>PyBytes_AS_STRING(text)
        entry.n = PyBytes_GET_SIZE(text)
        if not _node(entry, &host, &port, &address):
            break
        found.client = (PyBytes_FromStringAndSize(<const char *>host.p, host.n).decode("ascii"), port)
        if not trust.address(&address):
            break
    if chosen is None:
        return 0
    text = chosen.get(b"proto", b"")
    entry.p = <const uint8_t *>PyBytes_AS_STRING(text)
    entry.n = PyBytes_GET_SIZE(text)
    found.scheme = _scheme(entry)
    text = chosen.get(b"host", b"")
    if text and fs_host_valid(<const uint8_t *>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text)):
        found.host = text
    return 0


cdef bint _is_token(uint8_t c) noexcept:
    # RFC 9110 section 5.6.2; and ":", "[", "]", which senders leave unquoted in node names.
    return 48 <= c <= 57 or 65 <= c <= 91 or 93 <= c <= 122 or c in b"!#$%&'*+-.|~:"


cdef list _elements(bytes text):
    """[{name in lower case: value}], or None if it is not RFC 7239 section 4's syntax."""
    cdef list elements = []
    cdef dict element = {}
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t n = len(text)
    cdef Py_ssize_t start
    cdef bytearray quoted
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(text)
    while True:
        while i < n and (p[i] == 32 or p[i] == 9):
            i += 1
        start = i
        while i < n and _is_token(p[i]) and p[i] != 58 and p[i] != 91 and p[i] != 93:
            i += 1
        if i > start:
            name = text[start:i].lower()
            if i == n or p[i] != 61 or name in element:   # "Each parameter MUST NOT occur more than once per field-value"
                return None
            i += 1
            if i < n and p[i] == 34:
                quoted = bytearray()
                i += 1
                while i < n and p[i] != 34:
                    if p[i] == 92:
                        i += 1
                        if i == n:
                            return None
                    quoted.append(p[i])
                    i += 1
                if i == n:
                    return None
                i += 1
                element[name] = bytes(quoted)
            else:
                start = i
                while i < n and _is_token(p[i]):
                    i += 1
                if i == start:
                    return None
                element[name] = text[start:i]
        while i < n and (p[i] == 32 or p[i] == 9):
            i += 1
        if i == n or p[i] == 44:
            if element:
                elements.append(element)
            if i == n:
                return elements
            element = {}
        elif p[i] != 59:
            return None
        i += 1
