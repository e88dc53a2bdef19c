/* Room:    the four forms of a request target, host syntax, percent-decoding.
 * Called:  by request.c (form, authority, Host check) and by the Request (decoding).
 * Calls:   nobody.
 * Rules:   RFC 9112 section 3.2; RFC 9110 sections 4.2 and 7.2; RFC 3986 sections 2.1, 3.1, 3.2.2, 3.2.3.
 */
#include "target.h"
#include "block.h"

enum { NAME = 1, HEX = 2, DIGIT = 4, SCHEME = 8 };

/* NAME: unreserved and sub-delims (reg-name without pct-encoded). HEX: HEXDIG of either case. DIGIT. SCHEME: what may
 * follow the first letter of a scheme. */
static const uint8_t classes[256] = {
   0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,
   0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,
   0,  1,  0,  0,  1,  0,  1,  1,  1,  1,  1,  9,  1,  9,  9,  0,
  15, 15, 15, 15, 15, 15, 15, 15, 15, 15,  0,  1,  0,  1,  0,  0,
   0, 11, 11, 11, 11, 11, 11,  9,  9,  9,  9,  9,  9,  9,  9,  9,
   9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  0,  0,  0,  0,  1,
   0, 11, 11, 11, 11, 11, 11,  9,  9,  9,  9,  9,  9,  9,  9,  9,
   9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  9,  0,  0,  0,  1,  0,
};

FS_INLINE bool is(uint8_t c, unsigned class) { return (classes[c] & class) != 0; }

/* The value of a HEXDIG: letters are 0x41 or 0x61 onwards, and 9 more than their low nibble. */
FS_INLINE uint8_t hex_value(uint8_t c) { return (uint8_t)((c & 0x0F) + (c >> 6) * 9); }

FS_INLINE bool is_escape(const uint8_t *p, const uint8_t *end) {
  return end - p >= 3 && p[0] == '%' && is(p[1], HEX) && is(p[2], HEX);
}

static fs_span span_of(const uint8_t *base, const uint8_t *from, const uint8_t *to) {
  return (fs_span){.off = (uint32_t)(from - base), .len = (uint32_t)(to - from)};
}

/* --- hosts --- */

/* RFC 3986 3.2.2: dec-octet is 0 to 255 without leading zeros. Returns the byte after it, NULL if there is none. */
static const uint8_t *skip_octet(const uint8_t *p, const uint8_t *end) {
  const uint8_t *start = p;
  unsigned n = 0;
  while (p < end && p - start < 3 && is(*p, DIGIT)) n = n * 10 + (unsigned)(*p++ - '0');
  if (p == start || n > 255 || (*start == '0' && p - start > 1)) return NULL;
  return p;
}

/* RFC 3986 3.2.2: IPv4address = dec-octet "." dec-octet "." dec-octet "." dec-octet */
static bool is_ipv4(const uint8_t *p, const uint8_t *end) {
  for (int i = 0; i < 4; i++) {
    if (i > 0 && (p == end || *p++ != '.')) return false;
    p = skip_octet(p, end);
    if (p == NULL) return false;
  }
  return p == end;
}

/* RFC 3986 3.2.2, IPv6address: eight h16 groups, of which "::" stands for at least one and occurs once at most; the
 * last two may be written as an IPv4address. Zone identifiers are no part of it. */
static bool is_ipv6(const uint8_t *p, const uint8_t *end) {
  unsigned groups = 0;
  bool elided = false;
  if (end - p >= 2 && p[0] == ':' && p[1] == ':') {
    elided = true;
    p += 2;
    if (p == end) return true;
  }
  for (;;) { /* at the start of a group */
    const uint8_t *start = p;
    while (p < end && p - start < 4 && is(*p, HEX)) p++;
    if (p < end && *p == '.') {
      groups += 2;
      return is_ipv4(start, end) && (elided ? groups < 8 : groups == 8);
    }
    if (p == start || ++groups > 8) return false;
    if (p == end) return elided ? groups < 8 : groups == 8;
    if (*p++ != ':' || p == end) return false;
    if (*p != ':') continue;
    if (elided) return false;
    elided = true;
    if (++p == end) return groups < 8;
  }
}

/* RFC 3986 3.2.2: IPvFuture = "v" 1*HEXDIG "." 1*( unreserved / sub-delims / ":" ) */
static bool is_ip_future(const uint8_t *p, const uint8_t *end) {
  if (p == end || (*p | 0x20) != 'v') return false;
  const uint8_t *version = ++p;
  while (p < end && is(*p, HEX)) p++;
  if (p == version || p == end || *p++ != '.' || p == end) return false;
  while (p < end && (*p == ':' || is(*p, NAME))) p++;
  return p == end;
}

/* The byte after a non-empty host, NULL if there is none. RFC 9110 4.2.1: "A recipient that processes such a URI
 * reference [with an empty host] MUST reject it as invalid." An IPv4address is a reg-name too, so it needs no rule of
 * its own. */
static const uint8_t *skip_host(const uint8_t *p, const uint8_t *end) {
  const uint8_t *start = p;
  if (p < end && *p == '[') {
    const uint8_t *close = memchr(p, ']', (size_t)(end - p));
    if (close == NULL || !(is_ipv6(p + 1, close) || is_ip_future(p + 1, close))) return NULL;
    return close + 1;
  }
  for (;;) {
    while (p < end && is(*p, NAME)) p++;
    if (!is_escape(p, end)) break;
    p += 3;
  }
  return p == start ? NULL : p;
}

/* RFC 3986 3.2.3: port = *DIGIT. The number, 0 for no digits; above 65535 when it is none. */
static uint32_t port_value(const uint8_t *p, const uint8_t *end) {
  uint32_t port = 0;
  for (; p < end && port <= 65535; p++) {
    if (!is(*p, DIGIT)) return UINT32_MAX;
    port = port * 10 + (uint32_t)(*p - '0');
  }
  return port;
}

/* Nothing but letters, digits, "-", "." and ":", as nearly every host is? `colon`: is there one? Shorter ones are not worth it. */
FS_INLINE bool is_usual(const uint8_t *p, size_t len, bool *colon) {
  fs_block other = {0}, colons = {0}, bytes;
  if (len < 8) return false;
  for (size_t i = 0; i < len; i += 16) {
    if (len <= 16) bytes = fs_block_ends(p, len);
    else bytes = fs_block_load(p + (i + 16 <= len ? i : len - 16)); /* the last block overlaps the one before */
    other |= ~(fs_block_between(bytes | 0x20, 'a', 'z') | (fs_block_between(bytes, '-', ':') & ~fs_block_equal(bytes, '/')));
    colons |= fs_block_equal(bytes, ':');
  }
  *colon = fs_block_any(colons);
  return !fs_block_any(other);
}

bool fs_host_valid(const uint8_t *p, size_t len) {
  bool colon;
  if (len == 0) return false; /* and `p` may be NULL */
  const uint8_t *end = p + len;
  if (FS_LIKELY(is_usual(p, len, &colon))) {
    if (!colon) return true;
    const uint8_t *first = memchr(p, ':', len);
    return first != p && port_value(first + 1, end) <= 65535;
  }
  p = skip_host(p, end);
  if (p == NULL) return false;
  return p == end || (*p == ':' && port_value(p + 1, end) <= 65535);
}

/* --- targets --- */

/* RFC 9112 3.2.3: authority-form = uri-host ":" port. RFC 9110 9.3.6: "A server MUST reject a CONNECT request that
 * targets an empty or invalid port number". */
static fs_error parse_authority_form(const uint8_t *p, size_t len, fs_target *out) {
  const uint8_t *end = p + len;
  const uint8_t *colon = skip_host(p, end);
  if (colon == NULL || colon == end || *colon != ':') return FS_E_TARGET_AUTHORITY;
  uint32_t port = port_value(colon + 1, end);
  if (port == 0 || port > 65535) return FS_E_TARGET_AUTHORITY;
  out->form = FS_TARGET_AUTHORITY;
  out->authority = span_of(p, p, end);
  return FS_E_NONE;
}

/* path [ "?" query ]; `p` is where the path starts, `base` where the target does. */
static void split_path(const uint8_t *base, const uint8_t *p, const uint8_t *end, fs_target *out) {
  const uint8_t *path_end = end;
  if (p < end) {
    const uint8_t *mark = memchr(p, '?', (size_t)(end - p));
    if (mark != NULL) {
      out->has_query = true;
      out->query = span_of(base, mark + 1, end);
      path_end = mark;
    }
    out->has_percent = memchr(p, '%', (size_t)(path_end - p)) != NULL;
  }
  out->path = span_of(base, p, path_end);
}

/* RFC 3986 3.1: scheme = ALPHA *( ALPHA / DIGIT / "+" / "-" / "." ). Its length when "://" follows, else 0. */
static size_t scheme_length(const uint8_t *p, size_t len) {
  size_t n = 0;
  while (n < len && is(p[n], SCHEME)) n++;
  if (n == 0 || len - n < 3 || memcmp(p + n, "://", 3) != 0) return 0;
  uint8_t first = p[0] | 0x20;
  return first >= 'a' && first <= 'z' ? n : 0;
}

/* RFC 9110 4.2.3: "The scheme and host are case-insensitive". The other schemes are not ours to serve. */
static bool is_http_scheme(const uint8_t *p, size_t len) {
  uint8_t lower[5];
  if (len != 4 && len != 5) return false;
  for (size_t i = 0; i < len; i++) lower[i] = p[i] | 0x20; /* letters fold; nothing else in a scheme becomes one */
  return memcmp(lower, "https", len) == 0;
}

/* RFC 9112 3.2.2. fs_host_valid refuses '@': RFC 9110 4.2.4 has a recipient look for userinfo and "treat its
 * presence as an error". */
static fs_error parse_absolute_form(const uint8_t *p, size_t len, size_t scheme_len, fs_target *out) {
  const uint8_t *end = p + len;
  const uint8_t *authority = p + scheme_len + 3;
  const uint8_t *path = authority;
  while (path < end && *path != '/' && *path != '?') path++;
  if (!is_http_scheme(p, scheme_len)) return FS_E_TARGET_URI;
  if (!fs_host_valid(authority, (size_t)(path - authority))) return FS_E_TARGET_URI;
  out->form = FS_TARGET_ABSOLUTE;
  out->scheme = span_of(p, p, p + scheme_len);
  out->authority = span_of(p, authority, path);
  split_path(p, path, end, out);
  return FS_E_NONE;
}

/* Each form is known by the method and by how it begins. RFC 9112 3.2.3: authority-form "is only used for CONNECT
 * requests"; 3.2.4: asterisk-form "is only used for a server-wide OPTIONS request". */
fs_error fs_target_parse(const uint8_t *p, size_t len, bool connect, bool options, fs_target *out) {
  *out = (fs_target){.form = FS_TARGET_ORIGIN};
  if (len == 0) return connect ? FS_E_TARGET_AUTHORITY : FS_E_TARGET_FORM;
  if (FS_UNLIKELY(connect)) return parse_authority_form(p, len, out);
  if (FS_LIKELY(p[0] == '/')) {
    split_path(p, p, p + len, out);
    return FS_E_NONE;
  }
  if (len == 1 && p[0] == '*') {
    if (!options) return FS_E_TARGET_FORM;
    out->form = FS_TARGET_ASTERISK;
    out->path.len = 1;
    return FS_E_NONE;
  }
  size_t scheme_len = scheme_length(p, len);
  if (scheme_len == 0) return FS_E_TARGET_FORM;
  return parse_absolute_form(p, len, scheme_len, out);
}

/* --- percent-decoding --- */

/* RFC 3986 2.4: "Implementations must not percent-encode or decode the same string more than once": one pass, and what
 * it writes is not looked at again. The write never overtakes the read, so `out` may be `p`. */
size_t fs_percent_decode(const uint8_t *p, size_t len, uint8_t *out) {
  if (len == 0) return 0;
  const uint8_t *end = p + len;
  const uint8_t *first = memchr(p, '%', len);
  size_t written = first == NULL ? len : (size_t)(first - p);
  memmove(out, p, written);
  p += written;
  while (p < end) {
    if (is_escape(p, end)) {
      out[written++] = (uint8_t)(hex_value(p[1]) << 4 | hex_value(p[2]));
      p += 3;
    } else {
      out[written++] = *p++;
    }
  }
  return written;
}
