/* Room:    tests of the response bytes and of what is refused.
 * Called:  by `make ctest`.
 * Calls:   csrc/response.c.
 * Rules:   RFC 9112 sections 4, 5, 7.1, 11.1; RFC 9110 sections 5.1, 5.5, 8.6.
 */
#include "harness.h"

#include "../../csrc/response.h"

/* --- one call, as data, so that every call can be made at every capacity --- */

typedef enum { STATUS_LINE, FIELD, CONTENT_LENGTH, NUMBER, RAW, CHUNK, CHUNK_HEAD } kind;

typedef struct {
  kind kind;
  uint64_t number;         /* status, content length, size of a chunk head */
  const char *name, *text; /* text: value, reason, data; NULL for none */
  fs_error error;
  const char *wanted;
} call;

static size_t length(const char *text) { return text == NULL ? 0 : strlen(text); }

static fs_error make(fs_out *out, const call *c) {
  const uint8_t *name = (const uint8_t *)c->name, *text = (const uint8_t *)c->text;
  switch (c->kind) {
    case STATUS_LINE: return fs_response_status_line(out, (unsigned)c->number, text, length(c->text));
    case FIELD: return fs_response_field(out, name, length(c->name), text, length(c->text));
    case CONTENT_LENGTH: return fs_response_content_length(out, c->number);
    case NUMBER: return fs_response_number(out, c->number);
    case RAW: return fs_response_raw(out, text, length(c->text));
    case CHUNK: return fs_response_chunk(out, text, length(c->text));
    default: return fs_response_chunk_head(out, (size_t)c->number);
  }
}

/* Append at `used` into a buffer of `cap` that ends at a guard page. */
static void check_call(const call *c, size_t used, size_t cap) {
  uint8_t *data = guard_end(NULL, cap);
  memset(data, '.', cap);
  fs_out out = {data, used, cap};
  fs_error want = c->error;
  if (want == FS_E_NONE && cap - used < strlen(c->wanted)) want = FS_E_NO_SPACE;
  unsigned long before = harness_failed;
  CHECK_INT(make(&out, c), want);
  size_t written = want == FS_E_NONE ? strlen(c->wanted) : 0;
  if (CHECK_INT(out.len, used + written)) CHECK_TEXT(data + used, written, want == FS_E_NONE ? c->wanted : "");
  CHECK(out.data == data && out.cap == cap);
  for (size_t i = 0; i < cap; i++) { /* not a byte elsewhere */
    if (i < used || i >= used + written) CHECK_INT(data[i], '.');
  }
  if (harness_failed > before) printf("  wanted \"%s\", used %zu, cap %zu\n", c->wanted, used, cap);
}

static void check_calls(const call *calls, size_t count) {
  for (size_t i = 0; i < count; i++) {
    size_t whole = strlen(calls[i].wanted);
    for (size_t room = 0; room <= whole + 2; room++) check_call(&calls[i], 0, room), check_call(&calls[i], 7, 7 + room);
    check_call(&calls[i], 100, 400);
  }
}

#define CHECK_CALLS(calls) check_calls((calls), sizeof(calls) / sizeof((calls)[0]))

static void status_lines(void) {
  static const call calls[] = {
    {STATUS_LINE, 200, NULL, NULL, FS_E_NONE, "HTTP/1.1 200 OK\r\n"},
    {STATUS_LINE, 100, NULL, NULL, FS_E_NONE, "HTTP/1.1 100 Continue\r\n"},
    {STATUS_LINE, 431, NULL, NULL, FS_E_NONE, "HTTP/1.1 431 Request Header Fields Too Large\r\n"},
    {STATUS_LINE, 299, NULL, NULL, FS_E_NONE, "HTTP/1.1 299 \r\n"},
    {STATUS_LINE, 999, NULL, NULL, FS_E_NONE, "HTTP/1.1 999 \r\n"},
    {STATUS_LINE, 200, NULL, "", FS_E_NONE, "HTTP/1.1 200 \r\n"},
    {STATUS_LINE, 404, NULL, "Gone Fishing\t\xc3\xa9", FS_E_NONE, "HTTP/1.1 404 Gone Fishing\t\xc3\xa9\r\n"},
    {STATUS_LINE, 99, NULL, NULL, FS_E_STATUS, ""},
    {STATUS_LINE, 0, NULL, NULL, FS_E_STATUS, ""},
    {STATUS_LINE, 1000, NULL, NULL, FS_E_STATUS, ""},
    {STATUS_LINE, 0xFFFFFFFF, NULL, NULL, FS_E_STATUS, ""},
    {STATUS_LINE, 200, NULL, "OK\r\nx: y", FS_E_RESPONSE_REASON, ""},
    {STATUS_LINE, 200, NULL, "\n", FS_E_RESPONSE_REASON, ""},
    {STATUS_LINE, 200, NULL, "\x7f", FS_E_RESPONSE_REASON, ""},
  };
  CHECK_CALLS(calls);
}

static void fields(void) {
  static const call calls[] = {
    {FIELD, 0, "a", "b", FS_E_NONE, "a: b\r\n"},
    {FIELD, 0, "content-type", "text/html; charset=utf-8", FS_E_NONE, "content-type: text/html; charset=utf-8\r\n"},
    {FIELD, 0, "X-Y_z.1", "a \t b", FS_E_NONE, "X-Y_z.1: a \t b\r\n"},
    {FIELD, 0, "a", "", FS_E_NONE, "a: \r\n"},
    {FIELD, 0, "a", NULL, FS_E_NONE, "a: \r\n"},
    {FIELD, 0, "a", " \t \t", FS_E_NONE, "a: \r\n"},
    {FIELD, 0, "a", " \tb c\t ", FS_E_NONE, "a: b c\r\n"},
    {FIELD, 0, "a", "\xc3\xa9\xff\x80", FS_E_NONE, "a: \xc3\xa9\xff\x80\r\n"},
    {FIELD, 0, "a", "long enough that whole blocks are scanned, and then some more of it: 64 or so",
     FS_E_NONE, "a: long enough that whole blocks are scanned, and then some more of it: 64 or so\r\n"},
    {FIELD, 0, "", "b", FS_E_RESPONSE_FIELD_NAME, ""},
    {FIELD, 0, NULL, "b", FS_E_RESPONSE_FIELD_NAME, ""},
    {FIELD, 0, "a:", "b", FS_E_RESPONSE_FIELD_NAME, ""},
    {FIELD, 0, "a ", "b", FS_E_RESPONSE_FIELD_NAME, ""},
    {FIELD, 0, " a", "b", FS_E_RESPONSE_FIELD_NAME, ""},
    {FIELD, 0, "a\r\nb", "c", FS_E_RESPONSE_FIELD_NAME, ""},
    {FIELD, 0, "\xc3\xa9", "b", FS_E_RESPONSE_FIELD_NAME, ""},
    {FIELD, 0, "a", "b\r\nset-cookie: c", FS_E_RESPONSE_FIELD_VALUE, ""},
    {FIELD, 0, "a", "b\r\n c", FS_E_RESPONSE_FIELD_VALUE, ""}, /* folding is not written either */
    {FIELD, 0, "a", "b\n", FS_E_RESPONSE_FIELD_VALUE, ""},
    {FIELD, 0, "a", "\r", FS_E_RESPONSE_FIELD_VALUE, ""},
    {FIELD, 0, "a", "\x7f", FS_E_RESPONSE_FIELD_VALUE, ""},
    {FIELD, 0, "a b", "\n", FS_E_RESPONSE_FIELD_NAME, ""}, /* both wrong: the name first */
  };
  CHECK_CALLS(calls);
}

static void lengths_and_chunks(void) {
  static const call calls[] = {
    {CONTENT_LENGTH, 0, NULL, NULL, FS_E_NONE, "content-length: 0\r\n"},
    {CONTENT_LENGTH, 10, NULL, NULL, FS_E_NONE, "content-length: 10\r\n"},
    {CONTENT_LENGTH, 1234567890, NULL, NULL, FS_E_NONE, "content-length: 1234567890\r\n"},
    {CONTENT_LENGTH, UINT64_MAX, NULL, NULL, FS_E_NONE, "content-length: 18446744073709551615\r\n"},
    {NUMBER, 0, NULL, NULL, FS_E_NONE, "0"},
    {NUMBER, UINT64_MAX, NULL, NULL, FS_E_NONE, "18446744073709551615"},
    {RAW, 0, NULL, "any\r\nthing", FS_E_NONE, "any\r\nthing"},
    {RAW, 0, NULL, NULL, FS_E_NONE, ""},
    {RAW, 0, NULL, FS_LAST_CHUNK, FS_E_NONE, "0\r\n\r\n"},
    {CHUNK, 0, NULL, "a", FS_E_NONE, "1\r\na\r\n"},
    {CHUNK, 0, NULL, "0123456789", FS_E_NONE, "a\r\n0123456789\r\n"},
    {CHUNK, 0, NULL, "0123456789abcdef", FS_E_NONE, "10\r\n0123456789abcdef\r\n"},
    {CHUNK, 0, NULL, "", FS_E_NONE, ""},
    {CHUNK, 0, NULL, NULL, FS_E_NONE, ""},
    {CHUNK_HEAD, 1, NULL, NULL, FS_E_NONE, "1\r\n"},
    {CHUNK_HEAD, 500, NULL, NULL, FS_E_NONE, "1f4\r\n"},
    {CHUNK_HEAD, 0xABCDEF, NULL, NULL, FS_E_NONE, "abcdef\r\n"},
    {CHUNK_HEAD, SIZE_MAX, NULL, NULL, FS_E_NONE, sizeof(size_t) == 8 ? "ffffffffffffffff\r\n" : "ffffffff\r\n"},
    {CHUNK_HEAD, 0, NULL, NULL, FS_E_NONE, ""},
  };
  CHECK_CALLS(calls);
}

/* The reference, from the ABNF: tchar; HTAB, SP, VCHAR, obs-text. */
static bool is_tchar(int c) {
  return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z' && c < 128) ||
         (c != 0 && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static bool is_content(int c) { return c == '\t' || (c >= 0x20 && c != 0x7F); }

/* Every byte at every place of names, values and reasons of 1 to 40 bytes. */
static void every_byte(void) {
  uint8_t buffer[128];
  for (size_t len = 1; len <= 40; len++) {
    uint8_t *text = guard_end(NULL, len);
    memset(text, 'x', len);
    for (size_t at = 0; at < len; at++) {
      for (int c = 0; c < 256; c++) {
        fs_out out = {buffer, 0, sizeof buffer};
        text[at] = (uint8_t)c;
        const uint8_t *one = (const uint8_t *)"x";
        CHECK_INT(fs_response_field(&out, text, len, one, 1), is_tchar(c) ? FS_E_NONE : FS_E_RESPONSE_FIELD_NAME);
        CHECK_INT(fs_response_field(&out, one, 1, text, len), is_content(c) ? FS_E_NONE : FS_E_RESPONSE_FIELD_VALUE);
        out.len = 0;
        CHECK_INT(fs_response_status_line(&out, 200, text, len), is_content(c) ? FS_E_NONE : FS_E_RESPONSE_REASON);
      }
      text[at] = 'x';
    }
  }
}

static void every_status(void) {
  for (unsigned status = 0; status <= 1100; status++) {
    uint8_t buffer[64];
    char want[64];
    fs_out out = {buffer, 0, sizeof buffer};
    bool allowed = status >= 100 && status <= 999;
    CHECK_INT(fs_response_status_line(&out, status, (const uint8_t *)"R", 1), allowed ? FS_E_NONE : FS_E_STATUS);
    snprintf(want, sizeof want, "HTTP/1.1 %u R\r\n", status);
    CHECK_TEXT(buffer, out.len, allowed ? want : "");
  }
}

/* Lengths so large that a sum of them wraps. */
static void lengths_that_wrap(void) {
  uint8_t buffer[64] = {0};
  fs_out out = {buffer, 10, sizeof buffer};
  CHECK_INT(fs_response_raw(&out, buffer, SIZE_MAX), FS_E_NO_SPACE);
  CHECK_INT(fs_response_raw(&out, buffer, SIZE_MAX - 9), FS_E_NO_SPACE);
  CHECK_INT(fs_response_chunk(&out, buffer, SIZE_MAX), FS_E_NO_SPACE);
  CHECK_INT(fs_response_chunk(&out, buffer, SIZE_MAX - 19), FS_E_NO_SPACE);
  CHECK_INT(out.len, 10);
  fs_out none = {NULL, 0, 0};
  CHECK_INT(fs_response_raw(&none, NULL, 0), FS_E_NONE);
  CHECK_INT(fs_response_raw(&none, "a", 1), FS_E_NO_SPACE);
  CHECK_INT(fs_response_content_length(&none, 1), FS_E_NO_SPACE);
  CHECK_INT(none.len, 0);
}

static void whole_response(void) {
  uint8_t buffer[256];
  fs_out out = {buffer, 0, sizeof buffer};
  CHECK_INT(fs_response_status_line(&out, 200, NULL, 0), FS_E_NONE);
  const uint8_t *name = (const uint8_t *)"transfer-encoding", *value = (const uint8_t *)"chunked";
  CHECK_INT(fs_response_field(&out, name, 17, value, 7), FS_E_NONE);
  CHECK_INT(fs_response_raw(&out, "\r\n", 2), FS_E_NONE);
  CHECK_INT(fs_response_chunk(&out, "hello", 5), FS_E_NONE);
  CHECK_INT(fs_response_raw(&out, FS_LAST_CHUNK, 5), FS_E_NONE);
  CHECK_TEXT(buffer, out.len, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
}

static const harness_test tests[] = {
  {"status lines", status_lines},
  {"fields", fields},
  {"lengths and chunks", lengths_and_chunks},
  {"every byte", every_byte},
  {"every status", every_status},
  {"lengths that wrap", lengths_that_wrap},
  {"whole response", whole_response},
};
HARNESS_MAIN(tests)
