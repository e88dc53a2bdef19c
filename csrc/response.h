/* Response bytes: status line, fields, chunk framing, into the caller's buffer.
 *
 * Room:    the only place that writes HTTP; it refuses what would let a response be split (RFC 9112 section 11.1).
 * Called:  by the Exchange. Calls scan.c (is this a name, is this a value), status.c.
 *
 * All functions append at out->len and return FS_E_NONE, or leave `out` as it was and name the fault.
 */
#ifndef FS_RESPONSE_H
#define FS_RESPONSE_H

#include "base.h"
#include "errors.h"

typedef struct {
  uint8_t *data; /* the caller's */
  size_t len;    /* bytes written so far */
  size_t cap;
} fs_out;

/* "HTTP/1.1 200 OK\r\n"; with `reason` NULL the registered phrase. Status 100 to 999. Room: 15 + reason bytes. */
fs_error fs_response_status_line(fs_out *out, unsigned status, const uint8_t *reason, size_t reason_len);

/* "name: value\r\n"; the name must be a token, the value without controls but HTAB. Leading and trailing SP and HTAB of the
 * value are dropped (RFC 9110 5.5). Room: name + value + 4 bytes. */
fs_error fs_response_field(fs_out *out, const uint8_t *name, size_t name_len, const uint8_t *value, size_t value_len);

/* "content-length: N\r\n". Room: 38 bytes. */
fs_error fs_response_content_length(fs_out *out, uint64_t n);

/* "N", decimal. Room: 20 bytes. */
fs_error fs_response_number(fs_out *out, uint64_t n);

/* Text that needs no check: constant lines, the cached Date line, the empty line, a body. */
fs_error fs_response_raw(fs_out *out, const void *text, size_t len);

/* Frame of one chunk: hex size CRLF, data, CRLF. Room: len + 20 bytes. `len` of 0 writes nothing (it would end the body). */
fs_error fs_response_chunk(fs_out *out, const void *data, size_t len);

/* Only the size line of a chunk ("1f4\r\n"), for data that goes out from elsewhere. Room: 18 bytes. */
fs_error fs_response_chunk_head(fs_out *out, size_t len);

#define FS_LAST_CHUNK "0\r\n\r\n"

#endif
