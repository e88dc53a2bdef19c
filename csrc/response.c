/* Room:    status lines, field lines and chunk frames, appended to the caller's buffer.
 * Called:  by the Exchange.
 * Calls:   scan.c (is this a name, is this a value), decimal.c, status.c.
 * Rules:   RFC 9112 sections 4, 5, 7.1 and 11.1 (response splitting); RFC 9110 sections 5.1, 5.5, 8.6, 15.
 *
 * Faults of the text are named before want of space, so the answer does not depend on the buffer.
 */
#include "response.h"
#include "decimal.h"
#include "scan.h"
#include "status.h"

/* Append `len` bytes that are known to fit; memcpy must not see the NULL of an empty span. */
FS_INLINE void put(fs_out *out, const void *text, size_t len) {
  if (len > 0) memcpy(out->data + out->len, text, len);
  out->len += len;
}

/* Is there room for a + b + c bytes? Asked by subtraction: a sum could wrap. */
FS_INLINE bool fits(const fs_out *out, size_t a, size_t b, size_t c) {
  size_t room = out->cap - out->len;
  if (a > room) return false;
  room -= a;
  return b <= room && c <= room - b;
}

static bool is_value(const uint8_t *p, size_t len) {
  if (len == 0) return true;
  return fs_scan->value(p, p + len) == p + len;
}

/* RFC 9112 4: status-line = HTTP-version SP status-code SP [ reason-phrase ]; "A server MUST send the space that
 * separates the status-code from the reason-phrase even when the reason-phrase is absent". RFC 9110 15 makes codes
 * three digits. */
fs_error fs_response_status_line(fs_out *out, unsigned status, const uint8_t *reason, size_t reason_len) {
  if (status < 100 || status > 999) return FS_E_STATUS;
  if (reason == NULL) {
    const char *registered = fs_status_reason(status);
    reason = (const uint8_t *)registered;
    reason_len = strlen(registered);
  } else if (!is_value(reason, reason_len)) {
    return FS_E_RESPONSE_REASON; /* reason-phrase = 1*( HTAB / SP / VCHAR / obs-text ): the bytes of a field value */
  }
  if (!fits(out, 15, reason_len, 0)) return FS_E_NO_SPACE;
  const char digits[4] = {(char)('0' + status / 100), (char)('0' + status / 10 % 10), (char)('0' + status % 10), ' '};
  put(out, "HTTP/1.1 ", 9);
  put(out, digits, 4);
  put(out, reason, reason_len);
  put(out, "\r\n", 2);
  return FS_E_NONE;
}

/* RFC 9110 5.5: "A field value does not include leading or trailing whitespace." */
fs_error fs_response_field(fs_out *out, const uint8_t *name, size_t name_len, const uint8_t *value, size_t value_len) {
  if (name_len == 0 || fs_scan->token(name, name + name_len) != name + name_len) return FS_E_RESPONSE_FIELD_NAME;
  while (value_len > 0 && (value[0] == ' ' || value[0] == '\t')) value++, value_len--;
  while (value_len > 0 && (value[value_len - 1] == ' ' || value[value_len - 1] == '\t')) value_len--;
  if (!is_value(value, value_len)) return FS_E_RESPONSE_FIELD_VALUE;
  if (!fits(out, name_len, value_len, 4)) return FS_E_NO_SPACE;
  put(out, name, name_len);
  put(out, ": ", 2);
  put(out, value, value_len);
  put(out, "\r\n", 2);
  return FS_E_NONE;
}

fs_error fs_response_number(fs_out *out, uint64_t n) {
  uint8_t digits[20];
  return fs_response_raw(out, digits, fs_decimal(digits, n));
}

/* RFC 9110 8.6: Content-Length = 1*DIGIT */
fs_error fs_response_content_length(fs_out *out, uint64_t n) {
  uint8_t digits[20];
  size_t count = fs_decimal(digits, n);
  if (!fits(out, 16, count, 2)) return FS_E_NO_SPACE;
  put(out, "content-length: ", 16);
  put(out, digits, count);
  put(out, "\r\n", 2);
  return FS_E_NONE;
}

fs_error fs_response_raw(fs_out *out, const void *text, size_t len) {
  if (!fits(out, len, 0, 0)) return FS_E_NO_SPACE;
  put(out, text, len);
  return FS_E_NONE;
}

/* RFC 9112 7.1: chunk-size = 1*HEXDIG. Fills the end of `text` with the line; returns where it starts. */
static size_t size_line(size_t n, uint8_t text[18]) {
  size_t start = 16;
  text[16] = '\r';
  text[17] = '\n';
  do {
    text[--start] = (uint8_t)"0123456789abcdef"[n & 0x0F];
    n >>= 4;
  } while (n > 0);
  return start;
}

/* RFC 9112 7.1: chunk = chunk-size [ chunk-ext ] CRLF chunk-data CRLF; and last-chunk = 1*("0") ..., which is why a
 * chunk of no bytes is not written. */
fs_error fs_response_chunk(fs_out *out, const void *data, size_t len) {
  if (len == 0) return FS_E_NONE;
  uint8_t line[18];
  size_t start = size_line(len, line);
  if (!fits(out, sizeof line - start, len, 2)) return FS_E_NO_SPACE;
  put(out, line + start, sizeof line - start);
  put(out, data, len);
  put(out, "\r\n", 2);
  return FS_E_NONE;
}

fs_error fs_response_chunk_head(fs_out *out, size_t len) {
  if (len == 0) return FS_E_NONE; /* "0\r\n" would be the last chunk */
  uint8_t line[18];
  size_t start = size_line(len, line);
  if (!fits(out, sizeof line - start, 0, 0)) return FS_E_NO_SPACE;
  put(out, line + start, sizeof line - start);
  return FS_E_NONE;
}
