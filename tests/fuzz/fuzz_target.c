/* Fuzz target: request targets, hosts, percent-escapes.
 *
 * Room:    invariants, each in one sentence:
 *            - The parts of a target lie inside it, and put together again they are the target.
 *            - Each form is given only to the method it belongs to, and has the parts that form has.
 *            - A host that is accepted consists of bytes a host may have, and its port is a number a port can be.
 *            - An authority that is accepted inside a target is accepted as a host.
 *            - Decoding writes no more than it read, does the same in place, and agrees with a plain decoder.
 *            - No byte outside the input is read or written: buffers are mallocs of exactly their size.
 * Called:  by libFuzzer or main.c.
 */
#include "fuzz.h"

static bool inside(fs_span span, size_t len) { return span.off <= len && span.len <= len - span.off; }

static void target(const uint8_t *p, size_t len, bool connect, bool options) {
  fs_target t;
  fs_error error = fs_target_parse(p, len, connect, options, &t);
  RUN_MUST(error == FS_E_NONE || error == FS_E_TARGET_FORM || error == FS_E_TARGET_URI || error == FS_E_TARGET_AUTHORITY);
  if (error != FS_E_NONE) return;
  RUN_MUST(len != 0 && inside(t.scheme, len) && inside(t.authority, len) && inside(t.path, len) && inside(t.query, len));
  RUN_MUST((t.form == FS_TARGET_AUTHORITY) == connect);
  size_t path_end = t.path.off + t.path.len;
  switch (t.form) {
    case FS_TARGET_AUTHORITY:
      RUN_MUST(t.authority.off == 0 && t.authority.len == len && t.path.len == 0 && !t.has_query);
      RUN_MUST(fs_host_valid(p, len));
      return;
    case FS_TARGET_ASTERISK:
      RUN_MUST(options && len == 1 && p[0] == '*' && t.path.len == 1 && !t.has_query);
      return;
    case FS_TARGET_ORIGIN:
      RUN_MUST(p[0] == '/' && t.path.off == 0 && t.path.len != 0 && t.authority.len == 0 && t.scheme.len == 0);
      break;
    default:
      RUN_MUST(t.form == FS_TARGET_ABSOLUTE && t.scheme.off == 0 && (t.scheme.len == 4 || t.scheme.len == 5));
      RUN_MUST(memcmp(p + t.scheme.len, "://", 3) == 0 && t.authority.off == t.scheme.len + 3);
      RUN_MUST(fs_host_valid(p + t.authority.off, t.authority.len));
      RUN_MUST(t.path.off == t.authority.off + t.authority.len && (t.path.len == 0 || p[t.path.off] == '/'));
  }
  RUN_MUST(memchr(p + t.path.off, '?', t.path.len) == NULL);
  RUN_MUST(t.has_percent == (t.path.len != 0 && memchr(p + t.path.off, '%', t.path.len) != NULL));
  if (t.has_query) RUN_MUST(p[path_end] == '?' && t.query.off == path_end + 1 && t.query.off + t.query.len == len);
  else RUN_MUST(path_end == len && t.query.len == 0);
}

static void host(const uint8_t *p, size_t len) {
  if (!fs_host_valid(p, len)) return;
  RUN_MUST(len != 0 && p[0] != ':');
  for (size_t i = 0; i < len; i++)
    RUN_MUST(p[i] > 0x20 && p[i] < 0x7f && strchr("\"#/<>?@\\^`{|}", p[i]) == NULL);
  const uint8_t *close = memchr(p, ']', len);
  RUN_MUST((p[0] == '[') == (close != NULL));
  const uint8_t *rest = close == NULL ? p : close + 1;
  const uint8_t *colon = memchr(rest, ':', len - (size_t)(rest - p));
  if (close != NULL) RUN_MUST(rest == p + len || rest == colon);
  if (colon == NULL) return;
  unsigned long port = 0;
  for (const uint8_t *q = colon + 1; q < p + len; q++) {
    RUN_MUST(*q >= '0' && *q <= '9');
    port = port > 65535 ? port : port * 10 + (*q - '0');
  }
  RUN_MUST(port <= 65535);
  uint8_t *name = exactly(p, (size_t)(colon - p)); /* valid without its port as well */
  RUN_MUST(fs_host_valid(name, (size_t)(colon - p)));
  drop(name, (size_t)(colon - p));
}

static int hex(uint8_t c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static void escapes(const uint8_t *p, size_t len) {
  uint8_t *plain = malloc(len + 1), *out = exactly(p, len), *same = exactly(p, len);
  if (plain == NULL) abort();
  size_t n = 0;
  for (size_t i = 0; i < len; n++) {
    bool escape = p[i] == '%' && i + 2 < len && hex(p[i + 1]) >= 0 && hex(p[i + 2]) >= 0;
    plain[n] = escape ? (uint8_t)(hex(p[i + 1]) * 16 + hex(p[i + 2])) : p[i];
    i += escape ? 3 : 1;
  }
  RUN_MUST(fs_percent_decode(p, len, out) == n && (n == 0 || memcmp(out, plain, n) == 0));
  RUN_MUST(fs_percent_decode(same, len, same) == n && (n == 0 || memcmp(same, plain, n) == 0));
  free(plain);
  drop(out, len);
  drop(same, len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_dice dice = dice_from(data, size);
  dice_kernels(&dice);
  uint8_t *copy = exactly(data, size);
  host(copy, size);
  escapes(copy, size);
  drop(copy, size);
  /* fs_target_parse() is given what the scan has let through; of a whole request, what follows the method. */
  const uint8_t *space = memchr(data, ' ', size);
  for (int part = 0; part < 2; part++) {
    const uint8_t *start = part == 0 || space == NULL ? data : space + 1;
    size_t len = (size_t)(fs_scan->target(start, data + size) - start);
    copy = exactly(start, len);
    target(copy, len, false, false);
    target(copy, len, false, true);
    target(copy, len, true, false);
    host(copy, len);
    drop(copy, len);
  }
  return 0;
}
