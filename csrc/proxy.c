/* Room:    the PROXY protocol and addresses in text.
 * Called:  by the Connection (fastserve/protocol/connection.pyx) and forwarded.pyx; by `make ctest` and the fuzzer.
 * Calls:   nobody.
 * Rules:   HAProxy's "The PROXY protocol", sections 2.1 (version 1: a line of text) and 2.2 (version 2: binary).
 */
#include "proxy.h"

/* ------------------------------------------------------------------------------------------------ addresses */

static int hex_digit(uint8_t c) {
  if (c >= '0' && c <= '9') return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* dec-octet four times: 0 to 255, without leading zeros, for "010" is eight to some and ten to others. */
static bool parse_ipv4(const uint8_t *p, const uint8_t *end, uint8_t *out) {
  for (int i = 0; i < 4; i++) {
    unsigned n = 0;
    const uint8_t *start;
    if (i > 0 && (p == end || *p++ != '.')) return false;
    for (start = p; p < end && p - start < 3 && *p >= '0' && *p <= '9'; p++) n = n * 10 + (unsigned)(*p - '0');
    if (p == start || n > 255 || (*start == '0' && p - start > 1)) return false;
    out[i] = (uint8_t)n;
  }
  return p == end;
}

static bool parse_ipv6(const uint8_t *p, const uint8_t *end, uint8_t *out) {
  uint8_t groups[16];
  unsigned used = 0, gap = 17; /* bytes written; where "::" stands */
  if (end - p >= 2 && p[0] == ':' && p[1] == ':') {
    gap = 0;
    p += 2;
  }
  while (p < end) {
    unsigned n = 0;
    const uint8_t *start = p;
    for (int digit; p < end && p - start < 4 && (digit = hex_digit(*p)) >= 0; p++) n = n << 4 | (unsigned)digit;
    if (p < end && *p == '.') { /* the last two groups as an IPv4address */
      if (used > 12 || !parse_ipv4(start, end, groups + used)) return false;
      used += 4;
      break;
    }
    if (p == start || used == 16) return false;
    groups[used++] = (uint8_t)(n >> 8);
    groups[used++] = (uint8_t)n;
    if (p == end) break;
    if (*p++ != ':') return false;
    if (p < end && *p == ':') {
      if (gap != 17) return false; /* once at most */
      gap = used;
      p++;
    } else if (p == end) {
      return false; /* a colon at the end */
    }
  }
  if (gap == 17) {
    if (used != 16) return false;
    gap = 16;
  } else if (used > 14) {
    return false; /* it stands for a group at least */
  }
  memset(out, 0, 16);
  memcpy(out, groups, gap);
  memcpy(out + 16 - (used - gap), groups + gap, used - gap);
  return true;
}

static void map_ipv4(fs_address *out) {
  memset(out->bytes, 0, 10);
  out->bytes[10] = out->bytes[11] = 0xff;
}

unsigned fs_address_parse(const uint8_t *p, size_t len, fs_address *out) {
  if (len < 2 || len > 45) return 0;
  if (memchr(p, ':', len) != NULL) return parse_ipv6(p, p + len, out->bytes) ? 6 : 0;
  if (!parse_ipv4(p, p + len, out->bytes + 12)) return 0;
  map_ipv4(out);
  return 4;
}

bool fs_address_within(const fs_address *address, const fs_address *network, unsigned bits) {
  unsigned whole = bits / 8, rest = bits % 8;
  FS_ASSERT(bits <= 128);
  if (memcmp(address->bytes, network->bytes, whole) != 0) return false;
  return rest == 0 || (uint8_t)(address->bytes[whole] ^ network->bytes[whole]) >> (8 - rest) == 0;
}

/* --------------------------------------------------------------------------------------- version 1: a line */

/* A word up to `stop`, behind which p then stands. NULL if there is none. */
static const uint8_t *word(const uint8_t **p, const uint8_t *end, uint8_t stop, size_t *len) {
  const uint8_t *start = *p, *found = memchr(start, stop, (size_t)(end - start));
  if (found == NULL || found == start) return NULL;
  *len = (size_t)(found - start);
  *p = found + 1;
  return start;
}

static bool port_of(const uint8_t *p, size_t len, uint16_t *out) {
  unsigned n = 0;
  if (p == NULL || len > 5 || (len > 1 && p[0] == '0')) return false;
  for (size_t i = 0; i < len; i++) {
    if (p[i] < '0' || p[i] > '9') return false;
    n = n * 10 + (unsigned)(p[i] - '0');
  }
  *out = (uint16_t)n;
  return n <= 65535;
}

/* "TCP4 src dst sport dport" between "PROXY " and CR; the CR serves as the end of the last word. */
static bool line(const uint8_t *p, const uint8_t *cr, fs_proxy *out) {
  const uint8_t *end = cr + 1, *text[4];
  size_t len[4];
  unsigned family;
  if (cr - p >= 7 && memcmp(p, "UNKNOWN", 7) == 0) return p + 7 == cr || p[7] == ' '; /* the rest is to be ignored */
  if (cr - p < 5 || memcmp(p, "TCP", 3) != 0 || p[4] != ' ' || (p[3] != '4' && p[3] != '6')) return false;
  family = (unsigned)(p[3] - '0');
  p += 5;
  for (int i = 0; i < 4; i++)
    if ((text[i] = word(&p, end, i < 3 ? ' ' : '\r', &len[i])) == NULL) return false;
  if (p != end) return false;
  if (fs_address_parse(text[0], len[0], &out->source) != family) return false;
  if (fs_address_parse(text[1], len[1], &out->destination) != family) return false;
  if (!port_of(text[2], len[2], &out->source_port) || !port_of(text[3], len[3], &out->destination_port)) return false;
  out->family = (uint8_t)family;
  return true;
}

static int32_t parse_v1(const uint8_t *data, size_t len, fs_proxy *out) {
  size_t look = len < FS_PROXY_V1_MAX ? len : FS_PROXY_V1_MAX;
  const uint8_t *cr = memchr(data, '\r', look);
  if (cr == NULL) return len < FS_PROXY_V1_MAX ? 0 : -1;
  if (!line(data + 6, cr, out)) return -1;
  if (cr + 1 == data + len) return cr + 2 <= data + FS_PROXY_V1_MAX ? 0 : -1;
  if (cr[1] != '\n' || cr + 2 > data + FS_PROXY_V1_MAX) return -1;
  return (int32_t)(cr + 2 - data);
}

/* ------------------------------------------------------------------------------------------ version 2: binary */

static const uint8_t SIGNATURE[12] = {'\r', '\n', '\r', '\n', 0, '\r', '\n', 'Q', 'U', 'I', 'T', '\n'};

FS_INLINE uint16_t big(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }

static int32_t parse_v2(const uint8_t *data, size_t len, fs_proxy *out) {
  const uint8_t *body = data + 16;
  size_t size, family, transport, need;
  if (len < 16) return 0;
  if (data[12] != 0x20 && data[12] != 0x21) return -1; /* version 2; LOCAL or PROXY */
  family = data[13] >> 4;
  transport = data[13] & 15;
  if (family > 3 || transport > 2) return -1; /* unassigned: "receivers must drop" */
  size = big(data + 14);
  if (len < 16 + size) return 0;
  /* LOCAL: the proxy speaks for itself. Datagrams and Unix sockets have no address that anybody here could use. */
  if (data[12] == 0x21 && transport == 1 && (family == 1 || family == 2)) {
    size_t each = family == 1 ? 4 : 16;
    need = 2 * each + 4;
    if (size < need) return -1;
    if (family == 1) {
      map_ipv4(&out->source);
      map_ipv4(&out->destination);
    }
    memcpy(out->source.bytes + 16 - each, body, each);
    memcpy(out->destination.bytes + 16 - each, body + each, each);
    out->source_port = big(body + 2 * each);
    out->destination_port = big(body + 2 * each + 2);
    out->family = family == 1 ? 4 : 6;
  }
  return (int32_t)(16 + size); /* with whatever follows the addresses (TLVs) */
}

int32_t fs_proxy_parse(const uint8_t *data, size_t len, fs_proxy *out) {
  static const uint8_t text[6] = {'P', 'R', 'O', 'X', 'Y', ' '};
  memset(out, 0, sizeof *out);
  if (len == 0) return 0;
  if (data[0] == 'P') {
    if (memcmp(data, text, len < 6 ? len : 6) != 0) return -1;
    return len < 6 ? 0 : parse_v1(data, len, out);
  }
  if (memcmp(data, SIGNATURE, len < 12 ? len : 12) != 0) return -1;
  return len < 12 ? 0 : parse_v2(data, len, out);
}
