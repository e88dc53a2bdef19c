/* Room:    tests of the body decoders: any cut, any byte in any state, huge sizes, limits, many tiny chunks.
 * Called:  by `make ctest`.
 * Calls:   csrc/body.c.
 * Rules:   RFC 9112 sections 6.2, 7.1.
 */
#include "harness.h"

#include <time.h>

#include "../../csrc/body.h"

static const fs_limits limits = FS_LIMITS_DEFAULT;
static fs_field fields[100];
static fs_body body;
static fs_body_result result;

/* What one body gave. */
static struct {
  uint8_t data[1 << 20];
  size_t len;
  size_t used;      /* bytes of the input that were consumed */
  unsigned long calls;
  uint32_t trailers;
} got;

/* Decode `text`, delivered up to `first` and then step by step. As conn.c does: what is not consumed is shown again. */
static fs_body_answer decode(uint8_t framing, uint64_t length, const void *text, size_t len, size_t first, size_t step,
                             const fs_limits *with) {
  const uint8_t *data = text;
  fs_body_answer answer = FS_BODY_MORE;
  got.len = got.used = got.calls = got.trailers = 0;
  fs_body_init(&body, framing, length);
  for (size_t n = first < len ? first : len;; n = n + step < len ? n + step : len) {
    do {
      size_t given = n - got.used;
      const uint8_t *piece = given <= 4096 ? guard_end(data + got.used, given) : data + got.used;
      answer = fs_body_decode(&body, piece, given, fields, with, &result);
      got.calls++;
      if (!CHECK(result.consumed <= given)) abort();
      if (answer == FS_BODY_DATA) {
        if (!CHECK(result.data_len != 0 && result.data_off + result.data_len <= result.consumed)) abort();
        if (got.len + result.data_len <= sizeof got.data) memcpy(got.data + got.len, piece + result.data_off, result.data_len);
        got.len += result.data_len;
      }
      if (answer == FS_BODY_END) got.trailers = framing == FS_BODY_CHUNKED ? body.trailer.count : 0;
      got.used += result.consumed;
    } while (answer == FS_BODY_DATA);
    if (answer != FS_BODY_MORE || n == len) return answer;
  }
}

static fs_body_answer chunked(const char *text) {
  return decode(FS_BODY_CHUNKED, 0, text, strlen(text), SIZE_MAX, 1, &limits);
}

/* ------------------------------------------------------------------------------------------------ content-length */

static void length(void) {
  static const char text[] = "hello, worldGET / HTTP/1.1\r\n\r\n";
  for (size_t n = 0; n <= 12; n++) {
    for (size_t first = 0; first <= sizeof text; first++) {
      CHECK_INT(decode(FS_BODY_LENGTH, n, text, sizeof text - 1, first, 1, &limits), FS_BODY_END);
      CHECK(got.len == n && got.used == n && memcmp(got.data, text, n) == 0);
    }
  }
  CHECK_INT(decode(FS_BODY_LENGTH, 13, text, 12, 5, 1, &limits), FS_BODY_MORE);
  CHECK_INT(decode(FS_BODY_NONE, 0, text, 12, 12, 1, &limits), FS_BODY_END);
  CHECK_INT(got.used, 0);
}

static void length_beyond_all_memory(void) {
  static const uint64_t sizes[] = {INT64_MAX, UINT32_MAX, (uint64_t)UINT32_MAX + 1, (uint64_t)1 << 62};
  static uint8_t block[1 << 20];
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    fs_body_init(&body, FS_BODY_LENGTH, sizes[i]);
    for (int k = 1; k <= 10; k++) {
      CHECK_INT(fs_body_decode(&body, block, sizeof block, fields, &limits, &result), FS_BODY_DATA);
      CHECK(result.consumed == sizeof block && body.remaining == sizes[i] - (uint64_t)k * sizeof block);
    }
    body.remaining = 3; /* and at its end */
    CHECK_INT(fs_body_decode(&body, block, sizeof block, fields, &limits, &result), FS_BODY_DATA);
    CHECK_INT(result.consumed, 3);
    CHECK_INT(fs_body_decode(&body, block, sizeof block, fields, &limits, &result), FS_BODY_END);
    CHECK_INT(result.consumed, 0);
  }
}

/* ------------------------------------------------------------------------------------------------ chunked, any cut */

static const char full[] =
  "5\r\nhello\r\n1;a\r\n,\r\n0000000000000006 ; b = \"c\\\";\t\xff\" ;d=e\r\n world\r\nE;x=\"\"\r\n\r\n0\r\n\r\n0\r\n\r\nxx\r\n"
  "000;z\r\nA: b\r\nX-Long-Name:\t c d \r\n\r\nGET / HTTP/1.1\r\n\r\n";
static const char wanted[] = "hello, world\r\n0\r\n\r\n0\r\n\r\nxx";

static void check_full(size_t first, size_t step) {
  size_t len = sizeof full - 1;
  if (!CHECK_INT(decode(FS_BODY_CHUNKED, 0, full, len, first, step, &limits), FS_BODY_END))
    printf("  first %zu, step %zu: %s\n", first, step, fs_error_info(result.error)->name);
  CHECK_TEXT(got.data, got.len, wanted);
  CHECK_INT(got.used, len - strlen("GET / HTTP/1.1\r\n\r\n"));
  CHECK_INT(got.trailers, 2);
  CHECK_INT(body.total, got.len);
}

static void any_cut(void) {
  for (size_t first = 0; first <= sizeof full; first++) {
    for (size_t step = 1; step < 8; step++) check_full(first, step);
    check_full(first, sizeof full);
  }
}

/* Trailer offsets count from the input in which the section ends, wherever that input begins. */
static void trailer_offsets(void) {
  static const char text[] = "1\r\nx\r\n0\r\nA: b\r\nCd: ef\r\n\r\n";
  size_t len = sizeof text - 1;
  for (size_t first = 0; first <= len; first++) {
    size_t used = 0, n = first;
    fs_body_answer answer;
    fs_body_init(&body, FS_BODY_CHUNKED, 0);
    for (;;) {
      answer = fs_body_decode(&body, guard_end(text + used, n - used), n - used, fields, &limits, &result);
      if (answer == FS_BODY_END || !CHECK(answer != FS_BODY_ERROR)) break;
      used += result.consumed;
      if (answer == FS_BODY_MORE) n = len;
    }
    const char *input = text + used;
    CHECK(memcmp(input + fields[0].name, "A", 1) == 0 && memcmp(input + fields[0].value, "b", 1) == 0);
    CHECK(memcmp(input + fields[1].name, "Cd", 2) == 0 && memcmp(input + fields[1].value, "ef", 2) == 0);
    CHECK(fields[1].name_len == 2 && fields[1].value_len == 2);
  }
}

/* After its end a body stays ended, and takes nothing. */
static void ended(void) {
  CHECK_INT(chunked("0\r\n\r\n"), FS_BODY_END);
  CHECK_INT(fs_body_decode(&body, (const uint8_t *)"5\r\nhello", 8, fields, &limits, &result), FS_BODY_END);
  CHECK(result.consumed == 0 && result.data_len == 0);
}

/* ------------------------------------------------------------------------------------------------ any byte, any state */

static bool is_tchar(int c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         (c != 0 && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}
static bool is_hex(int c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
static bool is_text(int c) { return c == '\t' || (c >= 0x20 && c != 0x7f); }
static bool is_none(int c) { return c == -1; }
static bool is_any(int c) { return c >= 0; }

/* After `before`, which bytes may stand; the class, and single bytes beside it. `error` is what all others are, but LF and CR
 * where they have an error of their own. */
static const struct {
  const char *before;
  bool (*class)(int c);
  const char *also;
  fs_error error, lf, cr;
} places[] = {
  {"", is_hex, "", FS_E_CHUNK_SIZE, FS_E_CHUNK_SIZE, FS_E_CHUNK_SIZE},
  {"5", is_hex, "; \t\r", FS_E_CHUNK_SIZE, FS_E_LINE_END, FS_E_NONE},
  {"5 ", is_none, "; \t", FS_E_CHUNK_EXTENSION, FS_E_LINE_END, FS_E_CHUNK_EXTENSION},
  {"5;", is_tchar, " \t", FS_E_CHUNK_EXTENSION, FS_E_LINE_END, FS_E_CHUNK_EXTENSION},
  {"5; ", is_tchar, " \t", FS_E_CHUNK_EXTENSION, FS_E_LINE_END, FS_E_CHUNK_EXTENSION},
  {"5;a", is_tchar, "=; \t\r", FS_E_CHUNK_EXTENSION, FS_E_LINE_END, FS_E_NONE},
  {"5;a ", is_none, "=; \t", FS_E_CHUNK_EXTENSION, FS_E_LINE_END, FS_E_CHUNK_EXTENSION},
  {"5;a=", is_tchar, "\" \t", FS_E_CHUNK_EXTENSION, FS_E_LINE_END, FS_E_CHUNK_EXTENSION},
  {"5;a= ", is_tchar, "\" \t", FS_E_CHUNK_EXTENSION, FS_E_LINE_END, FS_E_CHUNK_EXTENSION},
  {"5;a=b", is_tchar, "; \t\r", FS_E_CHUNK_EXTENSION, FS_E_LINE_END, FS_E_NONE},
  {"5;a=b ", is_none, "; \t", FS_E_CHUNK_EXTENSION, FS_E_LINE_END, FS_E_CHUNK_EXTENSION},
  {"5;a=\"", is_text, "", FS_E_CHUNK_EXTENSION, FS_E_LINE_END, FS_E_CHUNK_EXTENSION},
  {"5;a=\"x", is_text, "", FS_E_CHUNK_EXTENSION, FS_E_LINE_END, FS_E_CHUNK_EXTENSION},
  {"5;a=\"\\", is_text, "", FS_E_CHUNK_EXTENSION, FS_E_LINE_END, FS_E_CHUNK_EXTENSION},
  {"5;a=\"\"", is_none, "; \t\r", FS_E_CHUNK_EXTENSION, FS_E_LINE_END, FS_E_NONE},
  {"5;a=\"\" ", is_none, "; \t", FS_E_CHUNK_EXTENSION, FS_E_LINE_END, FS_E_CHUNK_EXTENSION},
  {"5\r", is_none, "\n", FS_E_LINE_END, FS_E_NONE, FS_E_LINE_END},
  {"5;a\r", is_none, "\n", FS_E_LINE_END, FS_E_NONE, FS_E_LINE_END},
  {"5\r\n", is_any, "", FS_E_NONE, FS_E_NONE, FS_E_NONE},
  {"5\r\nhell", is_any, "", FS_E_NONE, FS_E_NONE, FS_E_NONE},
  {"5\r\nhello", is_none, "\r", FS_E_CHUNK_END, FS_E_CHUNK_END, FS_E_NONE},
  {"5\r\nhello\r", is_none, "\n", FS_E_CHUNK_END, FS_E_NONE, FS_E_CHUNK_END},
  {"5\r\nhello\r\n", is_hex, "", FS_E_CHUNK_SIZE, FS_E_CHUNK_SIZE, FS_E_CHUNK_SIZE},
  {"0\r", is_none, "\n", FS_E_LINE_END, FS_E_NONE, FS_E_LINE_END},
  {"0\r\n\r", is_none, "\n", FS_E_LINE_END, FS_E_NONE, FS_E_LINE_END},
  {"0\r\nA", is_tchar, ": \t", FS_E_FIELD_NAME, FS_E_FIELD_NAME, FS_E_FIELD_NAME},
  {"0\r\nA:", is_text, "\r", FS_E_FIELD_VALUE, FS_E_LINE_END, FS_E_NONE},
  {"0\r\nA:b", is_text, "\r", FS_E_FIELD_VALUE, FS_E_LINE_END, FS_E_NONE},
  {"0\r\nA:b\r", is_none, "\n", FS_E_LINE_END, FS_E_NONE, FS_E_LINE_END},
};

static void any_byte_in_any_state(void) {
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    size_t n = strlen(places[i].before);
    for (int c = 0; c < 256; c++) {
      uint8_t text[40];
      bool allowed = places[i].class(c) || (c != 0 && strchr(places[i].also, c) != NULL);
      fs_error error = c == '\n' ? places[i].lf : c == '\r' ? places[i].cr : places[i].error;
      memcpy(text, places[i].before, n);
      text[n] = (uint8_t)c;
      for (size_t first = 0; first <= n + 1; first += n + 1) { /* byte by byte, whole */
        fs_body_answer answer = decode(FS_BODY_CHUNKED, 0, text, n + 1, first, 1, &limits);
        bool good = allowed ? CHECK(answer != FS_BODY_ERROR) : CHECK(answer == FS_BODY_ERROR && result.error == error);
        if (!good) printf("  byte 0x%02x after \"%s\": %s\n", (unsigned)c, places[i].before, fs_error_info(result.error)->name);
      }
    }
  }
}

/* ------------------------------------------------------------------------------------------------ sizes and limits */

static void sizes(void) {
  static const struct {
    const char *text;
    uint64_t size; /* 0: refused */
  } rows[] = {
    {"1", 1}, {"a", 10}, {"F", 15}, {"10", 16}, {"0000000000000001", 1}, {"00000000000000001", 0},
    {"7fffffffffffffff", INT64_MAX}, {"7FFFFFFFFFFFFFFE", INT64_MAX - 1}, {"8000000000000000", 0},
    {"ffffffffffffffff", 0}, {"10000000000000000", 0}, {"0fffffffffffffff", 0x0fffffffffffffff},
    {"fffffffffffffff", 0x0fffffffffffffff}, {"123456789abcdef", 0x123456789abcdef},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char text[40];
    size_t n = (size_t)snprintf(text, sizeof text, "%s\r\n", rows[i].text);
    for (size_t first = 0; first <= n; first += n) {
      fs_body_answer answer = decode(FS_BODY_CHUNKED, 0, text, n, first, 1, &limits);
      if (rows[i].size == 0) CHECK(answer == FS_BODY_ERROR && result.error == FS_E_CHUNK_SIZE);
      else CHECK(answer == FS_BODY_MORE && body.remaining == rows[i].size && body.total == rows[i].size);
    }
  }
}

/* Sums of huge chunks cannot wrap, whatever the limit. */
static void huge_sums(void) {
  static const uint64_t maxima[] = {FS_UNLIMITED, INT64_MAX, (uint64_t)INT64_MAX + 5, 100};
  for (size_t i = 0; i < sizeof maxima / sizeof *maxima; i++) {
    fs_limits with = limits;
    with.body_bytes_max = maxima[i];
    uint64_t total = 0;
    fs_body_init(&body, FS_BODY_CHUNKED, 0);
    for (int k = 0; k < 4; k++) {
      const char *line = "7fffffffffffffff\r\n";
      bool fits = maxima[i] - total >= INT64_MAX;
      fs_body_answer answer = fs_body_decode(&body, (const uint8_t *)line, 18, fields, &with, &result);
      if (!fits) {
        CHECK(answer == FS_BODY_ERROR && result.error == FS_E_BODY_LENGTH);
        break;
      }
      CHECK_INT(answer, FS_BODY_MORE);
      total += INT64_MAX;
      CHECK(body.total == total);
      body.remaining = 1; /* as if all but one byte had come */
      CHECK_INT(fs_body_decode(&body, (const uint8_t *)"x", 1, fields, &with, &result), FS_BODY_DATA);
      CHECK_INT(fs_body_decode(&body, (const uint8_t *)"\r\n", 2, fields, &with, &result), FS_BODY_MORE);
      if (!CHECK(k < 3)) break;
    }
  }
}

static void judge_with(const char *text, const fs_limits *with, fs_error wanted_error) {
  for (size_t first = 0; first <= strlen(text); first++) {
    fs_body_answer answer = decode(FS_BODY_CHUNKED, 0, text, strlen(text), first, 1, with);
    bool good = wanted_error == FS_E_NONE ? CHECK(answer == FS_BODY_END)
                                          : CHECK(answer == FS_BODY_ERROR && result.error == wanted_error);
    if (!good) printf("  \"%s\": %s, wanted %s\n", text, fs_error_info(result.error)->name, fs_error_info(wanted_error)->name);
  }
}

static void limits_at_their_edges(void) {
  fs_limits with = limits;
  for (uint32_t max = 0; max < 12; max++) {
    with = limits;
    with.body_bytes_max = max;
    judge_with("3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n", &with, max < 7 ? FS_E_BODY_LENGTH : FS_E_NONE);
    with = limits;
    with.chunk_ext_bytes_max = max;
    judge_with("3;a\r\nabc\r\n0 ;bcd=e\r\n\r\n", &with, max < 9 ? FS_E_CHUNK_EXTENSION_LENGTH : FS_E_NONE);
    with = limits;
    with.trailer_bytes_max = max;
    judge_with("1\r\nx\r\n0\r\nA: b\r\n\r\n", &with, max < 8 ? FS_E_TRAILERS_LENGTH : FS_E_NONE);
    with = limits;
    with.fields_max = max;
    judge_with("1\r\nx\r\n0\r\nA:b\r\nC:d\r\nE:f\r\n\r\n", &with, max < 3 ? FS_E_FIELDS_COUNT : FS_E_NONE);
  }
}

/* ------------------------------------------------------------------------------------------------ many tiny chunks */

enum { CHUNKS = 500000 };

/* One byte in six: dear for the sender, cheap for us. Bounded in calls, and in processor time as far as that can be asked of
 * a build with sanitizers. */
static void half_a_million_chunks(void) {
  static uint8_t text[CHUNKS * 6 + 5];
  static const size_t reads[] = {sizeof text, 65536, 4095, 7};
  for (size_t i = 0; i < CHUNKS; i++) memcpy(text + i * 6, "1\r\nx\r\n", 6);
  memcpy(text + CHUNKS * 6, "0\r\n\r\n", 5);
  for (size_t i = 0; i < sizeof reads / sizeof *reads; i++) {
    clock_t start = clock();
    CHECK_INT(decode(FS_BODY_CHUNKED, 0, text, sizeof text, reads[i], reads[i], &limits), FS_BODY_END);
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    CHECK_INT(got.len, CHUNKS);
    CHECK_INT(got.used, sizeof text);
    CHECK(got.calls <= CHUNKS + sizeof text / reads[i] + 2);
    if (!CHECK(seconds < 1.0)) printf("  reads of %zu bytes: %.2f s\n", reads[i], seconds);
  }
}

static const harness_test tests[] = {
  {"length", length},
  {"length_beyond_all_memory", length_beyond_all_memory},
  {"any_cut", any_cut},
  {"trailer_offsets", trailer_offsets},
  {"ended", ended},
  {"any_byte_in_any_state", any_byte_in_any_state},
  {"sizes", sizes},
  {"huge_sums", huge_sums},
  {"limits_at_their_edges", limits_at_their_edges},
  {"half_a_million_chunks", half_a_million_chunks},
};

HARNESS_MAIN(tests)
