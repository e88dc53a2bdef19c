/* Room:    tests of the pieces of a log line, against a slow and plain second version.
 * Called:  by `make ctest`.
 * Calls:   csrc/logline.c, csrc/decimal.c.
 * Rules:   RFC 8259 section 7.
 */
#include "harness.h"

#include "../../csrc/decimal.h"
#include "../../csrc/logline.h"

static size_t slow(uint8_t *out, const uint8_t *text, size_t len, bool json) {
  size_t n = 0;
  for (size_t i = 0; i < len; i++) {
    char piece[8];
    int size = 1;
    piece[0] = (char)text[i];
    if (text[i] < 32 || text[i] > 126 || text[i] == '"' || text[i] == '\\') {
      if (json && (text[i] == '"' || text[i] == '\\')) {
        size = snprintf(piece, sizeof piece, "\\%c", text[i]);
      } else {
        size = snprintf(piece, sizeof piece, json ? "\\u00%02x" : "\\x%02x", text[i]);
      }
    }
    memcpy(out + n, piece, (size_t)size);
    n += (size_t)size;
  }
  return n;
}

static void same(const uint8_t *text, size_t len) {
  uint8_t expected[6 * 64], got[6 * 64];
  const uint8_t *guarded = guard_end(text, len);
  for (int json = 0; json < 2; json++) {
    size_t want = slow(expected, text, len, json);
    size_t have = json ? fs_log_json(got, guarded, len) : fs_log_plain(got, guarded, len);
    CHECK(have == want);
    CHECK(memcmp(expected, got, want) == 0);
  }
}

static void test_every_byte_at_every_place(void) {
  uint8_t text[40];
  for (size_t len = 0; len <= sizeof text; len++) {
    memset(text, 'a', sizeof text);
    same(text, len);
    for (size_t at = 0; at < len; at++) {
      for (unsigned byte = 0; byte < 256; byte++) {
        text[at] = (uint8_t)byte;
        same(text, len);
        text[at] = 'a';
      }
    }
  }
}

static void test_neighbours(void) {
  /* Pairs of bytes at the edges of each class, in both orders, wherever two blocks meet. */
  static const uint8_t edges[] = {0x00, 0x1F, 0x20, 0x21, 0x22, 0x23, 0x5B, 0x5C, 0x5D, 0x7E, 0x7F, 0x80, 0x81, 0xFF};
  uint8_t text[35];
  for (size_t a = 0; a < sizeof edges; a++) {
    for (size_t b = 0; b < sizeof edges; b++) {
      for (size_t at = 0; at + 1 < sizeof text; at++) {
        memset(text, '~', sizeof text);
        text[at] = edges[a];
        text[at + 1] = edges[b];
        same(text, sizeof text);
      }
    }
  }
}

static void number(uint64_t n, const char *text) {
  uint8_t out[32];
  size_t len = fs_decimal(out, n);
  CHECK(len == strlen(text) && memcmp(out, text, len) == 0);
}

static void fixed(uint64_t n, unsigned decimals, const char *text) {
  uint8_t out[32];
  size_t len = fs_log_fixed(out, n, decimals);
  CHECK(len == strlen(text) && memcmp(out, text, len) == 0);
}

static void test_numbers(void) {
  number(0, "0");
  number(9, "9");
  number(10, "10");
  number(99, "99");
  number(100, "100");
  number(200, "200");
  number(999, "999");
  number(1000, "1000");
  number(1001, "1001");
  number(12345, "12345");
  for (uint64_t ten = 1, n = 0; n < 20; n++, ten *= 10) { /* each count of digits, at both of its ends */
    char text[32];
    snprintf(text, sizeof text, "%llu", (unsigned long long)ten);
    number(ten, text);
    snprintf(text, sizeof text, "%llu", (unsigned long long)(ten - 1));
    number(ten - 1, text);
  }
  number(UINT64_MAX, "18446744073709551615");
  fixed(0, 3, "0.000");
  fixed(1, 6, "0.000001");
  fixed(1234567, 6, "1.234567");
  fixed(45, 3, "0.045");
  fixed(1000, 3, "1.000");
  fixed(UINT64_MAX, 6, "18446744073709.551615");
}

/* A request line, a field that would forge, and a piece of every kind; the request ends at an unmapped page. */
static void line_of(const char *request, const fs_log_piece *pieces, size_t count, bool json, const char *expected) {
  fs_limits limits = FS_LIMITS_DEFAULT;
  fs_request_head head;
  fs_field fields[100];
  uint8_t out[4096], peer[32] = "192.0.2.7:4711", when[32] = "[now]", pid[16] = "<77>";
  const int64_t moments[4] = {1000000, 3000000, 0, 9000000};
  fs_log_text found[32] = {0};
  fs_log_facts facts = {
    .peer = {peer, 14}, .time = {when, 5}, .pid = {pid, 4}, .found = found, .status = 200,
    .body_bytes = 1234, .ns = 1234567891, .moments = moments, .json = json, .id = {(const uint8_t *)"a\"b-c", 5},
  };
  if (request != NULL) {
    size_t len = strlen(request);
    const uint8_t *data = guard_end(request, len);
    fs_request_head_init(&head);
    CHECK_INT(fs_request_head_parse(&head, data, len, fields, &limits), FS_DONE);
    facts.head = &head;
    facts.data = data;
    facts.fields = fields;
  }
  fs_log_room needs = fs_log_line_room(pieces, count, json);
  size_t room = needs.fixed + needs.each * ((request != NULL ? strlen(request) : 0) + 14 + 5 + 4 + 5);
  CHECK(room <= sizeof out);
  for (int quick = 0; quick <= fs_log_usual(pieces, count, json); quick++) { /* the default format's by either way */
    facts.usual = quick;
    memset(out, 0xEE, sizeof out);
    size_t len = fs_log_line(out, pieces, count, &facts);
    CHECK_TEXT(out, len, expected);
    CHECK(len + FS_LOG_SLACK <= room);
    for (size_t i = room; i < sizeof out; i++) {
      if (out[i] != 0xEE) {
        CHECK(out[i] == 0xEE);
        break;
      }
    }
  }
}

#define SLACK (const uint8_t *)"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
#define LITERAL(text_) {FS_LOG_LITERAL, sizeof(text_) - 1, (const uint8_t *)text_ "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", SLACK, 0, 0}
#define NAMED(text_) {FS_LOG_FIELD, sizeof(text_) - 1, (const uint8_t *)text_, SLACK, 0, 0}
#define KIND(kind_) {kind_, 0, NULL, SLACK, 0, 0}
#define BEFORE(kind_, text_) {kind_, 0, NULL, (const uint8_t *)text_ "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", sizeof(text_) - 1, 0}
#define LINE(request, json, expected, ...)                                          \
  do {                                                                              \
    const fs_log_piece pieces[] = {__VA_ARGS__};                                    \
    line_of(request, pieces, sizeof pieces / sizeof pieces[0], json, expected);     \
  } while (0)

static void test_usual(void) {
  fs_log_piece pieces[] = {KIND(FS_LOG_PEER), KIND(FS_LOG_REQUEST_LINE), KIND(FS_LOG_STATUS), KIND(FS_LOG_BYTES),
                           KIND(FS_LOG_MS_DECIMAL), KIND(FS_LOG_MS_DECIMAL)};
  CHECK(fs_log_usual(pieces, 5, false));
  CHECK(!fs_log_usual(pieces, 5, true));
  CHECK(!fs_log_usual(pieces, 4, false));
  CHECK(!fs_log_usual(pieces, 6, false));
  pieces[3].kind = FS_LOG_STATUS;
  CHECK(!fs_log_usual(pieces, 5, false));
}

static void test_lines(void) {
  const char *request = "GET /a%20b?q=\"1\" HTTP/1.1\r\nHost: a\r\nUser-Agent: x\"y\xe9\r\n\r\n";
  const fs_log_piece agent = NAMED("user-agent");
  LINE(request, false, "192.0.2.7:4711 - \"GET /a%20b?q=\\x221\\x22 HTTP/1.1\" 200 1234 1234.567ms\n", KIND(FS_LOG_PEER),
       LITERAL(" - \""), KIND(FS_LOG_REQUEST_LINE), LITERAL("\" "), KIND(FS_LOG_STATUS), LITERAL(" "), KIND(FS_LOG_BYTES),
       LITERAL(" "), KIND(FS_LOG_MS_DECIMAL), LITERAL("ms\n"));
  LINE(request, false, "GET|/a%20b|q=\\x221\\x22|HTTP/1.1|1.1|x\\x22y\\xe9|[now]|<77>|192.0.2.7|4711|-", KIND(FS_LOG_METHOD),
       LITERAL("|"), KIND(FS_LOG_PATH), LITERAL("|"), KIND(FS_LOG_QUERY), LITERAL("|"), KIND(FS_LOG_PROTOCOL), LITERAL("|"),
       KIND(FS_LOG_VERSION), LITERAL("|"), agent, LITERAL("|"), KIND(FS_LOG_TIME), LITERAL("|"), KIND(FS_LOG_PID), LITERAL("|"),
       KIND(FS_LOG_HOST), LITERAL("|"), KIND(FS_LOG_PORT), LITERAL("|"), KIND(FS_LOG_DASH));
  LINE(request, false, "1 1234 1234567 1.234567 2.000 - -", KIND(FS_LOG_S), LITERAL(" "), KIND(FS_LOG_MS), LITERAL(" "),
       KIND(FS_LOG_US), LITERAL(" "), KIND(FS_LOG_S_DECIMAL), LITERAL(" "), KIND(FS_LOG_QUEUE), LITERAL(" "),
       KIND(FS_LOG_HANDLER), LITERAL(" "), NAMED("referer"));
  LINE(request, true, "\"GET\" \"/a%20b\" \"q=\\\"1\\\"\" \"x\\\"y\\u00e9\" null null \"192.0.2.7\"", KIND(FS_LOG_METHOD),
       LITERAL(" "), KIND(FS_LOG_PATH), LITERAL(" "), KIND(FS_LOG_QUERY), LITERAL(" "), agent, LITERAL(" "), NAMED("referer"),
       LITERAL(" "), KIND(FS_LOG_FOUND), LITERAL(" "), KIND(FS_LOG_HOST));
  LINE(request, false, "a\\x22b-c, a long literal behind it|GET [200]", BEFORE(FS_LOG_ID, ", a long literal behind it|"),
       BEFORE(FS_LOG_METHOD, " ["), BEFORE(FS_LOG_STATUS, "]"));
  LINE(request, true, "{\"a\\\"b-c\":\"GET\"}", LITERAL("{"), BEFORE(FS_LOG_ID, ":"), BEFORE(FS_LOG_METHOD, "}"));
  LINE("GET /\\\"\\0123456789 HTTP/1.0\r\n\r\n", false, "GET /\\x5c\\x22\\x5c0123456789 HTTP/1.0", KIND(FS_LOG_REQUEST_LINE));
  LINE("GET /\" HTTP/1.0\r\n\r\n", false, "GET /\\x22 HTTP/1.0", KIND(FS_LOG_REQUEST_LINE));
  LINE("G / HTTP/1.0\r\n\r\n", false, "G / HTTP/1.0|", BEFORE(FS_LOG_REQUEST_LINE, "|"));
  LINE("G / HTTP/1.0\r\nA:\"\r\n\r\n", false, "G / HTTP/1.0|", BEFORE(FS_LOG_REQUEST_LINE, "|"));
  LINE("GET /23 HTTP/1.0\r\n\r\n", false, "GET /23 HTTP/1.0|", BEFORE(FS_LOG_REQUEST_LINE, "|"));
  LINE("GET /234 HTTP/1.0\r\n\r\n", false, "GET /234 HTTP/1.0|", BEFORE(FS_LOG_REQUEST_LINE, "|"));
  LINE("GET / HTTP/1.0\r\n\r\n", false, "\"GET / HTTP/1.0\" / HTTP/1.0", LITERAL("\""), KIND(FS_LOG_REQUEST_LINE),
       LITERAL("\" "), KIND(FS_LOG_PATH), LITERAL(" "), KIND(FS_LOG_PROTOCOL));
#define DEFAULT(request, expected)                                                                                          \
  LINE(request, false, expected, BEFORE(FS_LOG_PEER, " - \""), BEFORE(FS_LOG_REQUEST_LINE, "\" "), BEFORE(FS_LOG_STATUS, " "), \
       BEFORE(FS_LOG_BYTES, " "), BEFORE(FS_LOG_MS_DECIMAL, "ms, and what else there is to be said\n"))
  DEFAULT(request, "192.0.2.7:4711 - \"GET /a%20b?q=\\x221\\x22 HTTP/1.1\" 200 1234 1234.567ms, and what else there is to be said\n");
  DEFAULT("G / HTTP/1.0\r\n\r\n", "192.0.2.7:4711 - \"G / HTTP/1.0\" 200 1234 1234.567ms, and what else there is to be said\n");
  DEFAULT(NULL, "192.0.2.7:4711 - \"-\" 200 1234 1234.567ms, and what else there is to be said\n");
  LINE(NULL, false, "- - -  - -", KIND(FS_LOG_REQUEST_LINE), LITERAL(" "), KIND(FS_LOG_METHOD), LITERAL(" "), KIND(FS_LOG_PATH),
       LITERAL(" "), KIND(FS_LOG_QUERY), LITERAL(" "), KIND(FS_LOG_VERSION), LITERAL(" "), agent);
  LINE(NULL, true, "null null null", KIND(FS_LOG_METHOD), LITERAL(" "), KIND(FS_LOG_QUERY), LITERAL(" "), agent);
}

static const harness_test tests[] = {
  {"every_byte_at_every_place", test_every_byte_at_every_place},
  {"neighbours", test_neighbours},
  {"numbers", test_numbers},
  {"usual", test_usual},
  {"lines", test_lines},
};

HARNESS_MAIN(tests)
