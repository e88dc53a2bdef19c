/* Room:    tests of the request head: offsets, facts, limits, and the price of a head that comes byte by byte.
 * Called:  by `make ctest`. What is refused and why is the case book's matter (test_cases.c).
 * Calls:   csrc/request.c.
 * Rules:   RFC 9112 sections 2.2, 3, 5, 6, 9.3.
 */
#include "harness.h"

#include "../../csrc/request.h"

static const fs_limits limits = FS_LIMITS_DEFAULT;
static fs_field fields[100];
static fs_request_head head;

static int parse_with(const void *data, size_t len, const fs_limits *with) {
  fs_request_head_init(&head);
  return fs_request_head_parse(&head, guard_end(data, len), len, fields, with);
}

static int parse(const char *text) { return parse_with(text, strlen(text), &limits); }

/* The same head, one byte more at each call; the input stands before a guard page each time. */
static int parse_slowly(const void *data, size_t len, const fs_limits *with) {
  int answer = FS_MORE;
  fs_request_head_init(&head);
  for (size_t n = 0; n <= len && answer == FS_MORE; n++)
    answer = fs_request_head_parse(&head, guard_end(data, n), n, fields, with);
  return answer;
}

static bool span_is(const char *data, fs_span span, const char *text) {
  return span.len == strlen(text) && memcmp(data + span.off, text, span.len) == 0;
}

static bool name_is(const char *data, const fs_field *field, const char *text) {
  return span_is(data, (fs_span){field->name, field->name_len}, text);
}

static bool value_is(const char *data, const fs_field *field, const char *text) {
  return span_is(data, (fs_span){field->value, field->value_len}, text);
}

/* ------------------------------------------------------------------------------------------------ offsets */

static void check_offsets(const char *text, size_t skipped) {
  CHECK_INT(head.start, skipped);
  CHECK_INT(head.end, strlen(text));
  CHECK(span_is(text, head.method, "POST") && head.method.off == skipped);
  CHECK(span_is(text, head.target, "/a/b?c=d"));
  CHECK_INT(head.parts.path.off, 0);
  CHECK_INT(head.parts.path.len, 4);
  CHECK(head.parts.has_query);
  CHECK_INT(head.parts.query.off, 5);
  CHECK_INT(head.parts.query.len, 3);
  CHECK(span_is(text, head.host, "a.example:80"));
  CHECK_INT(head.fields_count, 5);
  CHECK(name_is(text, &fields[0], "hOsT") && value_is(text, &fields[0], "a.example:80"));
  CHECK(name_is(text, &fields[1], "X-Empty") && value_is(text, &fields[1], ""));
  CHECK(name_is(text, &fields[2], "X-Spaces") && value_is(text, &fields[2], ""));
  CHECK(name_is(text, &fields[3], "Content-Length") && value_is(text, &fields[3], "17"));
  CHECK(name_is(text, &fields[4], "!") && value_is(text, &fields[4], "x \t y"));
  CHECK_INT(fields[0].id, FS_FIELD_HOST);
  CHECK_INT(fields[1].id, FS_FIELD_UNKNOWN);
  CHECK_INT(fields[3].id, FS_FIELD_CONTENT_LENGTH);
  CHECK_INT(fields[4].id, FS_FIELD_UNKNOWN);
  CHECK_INT(head.framing, FS_BODY_LENGTH);
  CHECK_INT(head.content_length, 17);
  CHECK_INT(head.method_id, FS_METHOD_POST);
  CHECK_INT(head.version_major, 1);
  CHECK_INT(head.version_minor, 1);
  CHECK(head.keep_alive && !head.expect_continue && !head.upgrade);
}

#define PLAIN \
  "POST /a/b?c=d HTTP/1.1\r\nhOsT: a.example:80\r\nX-Empty:\r\nX-Spaces: \t \r\nContent-Length:17\r\n!:\tx \t y\t \r\n\r\n"

static void offsets(void) {
  static const char *const texts[] = {PLAIN, "\r\n" PLAIN, "\r\n\r\n\r\n\r\n" PLAIN};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    size_t skipped = strlen(texts[i]) - strlen(PLAIN);
    CHECK_INT(parse(texts[i]), FS_DONE);
    check_offsets(texts[i], skipped);
    CHECK_INT(parse_slowly(texts[i], strlen(texts[i]), &limits), FS_DONE);
    check_offsets(texts[i], skipped);
  }
}

/* The bytes of a body or of the next request are not looked at. */
static void bytes_behind(void) {
  static const char text[] = PLAIN "GET / HTTP/1.1\n\xff";
  CHECK_INT(parse_with(text, sizeof text, &limits), FS_DONE);
  CHECK_INT(head.end, strlen(PLAIN));
}

/* Two cuts anywhere give what none gives. */
static void every_two_cuts(void) {
  size_t len = strlen(PLAIN);
  for (size_t first = 0; first <= len; first++) {
    for (size_t second = first; second <= len; second++) {
      fs_request_head_init(&head);
      int a = fs_request_head_parse(&head, guard_end(PLAIN, first), first, fields, &limits);
      if (first == len) continue;
      int b = fs_request_head_parse(&head, guard_end(PLAIN, second), second, fields, &limits);
      if (second == len) CHECK(a == FS_MORE && b == FS_DONE);
      else CHECK(a == FS_MORE && b == FS_MORE);
      if (second == len) continue;
      CHECK(fs_request_head_parse(&head, guard_end(PLAIN, len), len, fields, &limits) == FS_DONE);
      CHECK(head.end == len && head.fields_count == 5 && head.content_length == 17);
    }
  }
}

/* ------------------------------------------------------------------------------------------------ facts */

static void methods(void) {
  static const struct {
    const char *method;
    unsigned id;
  } rows[] = {
    {"GET", FS_METHOD_GET},         {"HEAD", FS_METHOD_HEAD},     {"POST", FS_METHOD_POST},   {"PUT", FS_METHOD_PUT},
    {"DELETE", FS_METHOD_DELETE},   {"TRACE", FS_METHOD_TRACE},   {"PATCH", FS_METHOD_PATCH}, {"OPTIONS", FS_METHOD_OPTIONS},
    {"CONNECT", FS_METHOD_CONNECT}, {"get", FS_METHOD_OTHER},     {"Get", FS_METHOD_OTHER},   {"GE", FS_METHOD_OTHER},
    {"GETT", FS_METHOD_OTHER},      {"connect", FS_METHOD_OTHER}, {"G", FS_METHOD_OTHER},     {"PROPFIND", FS_METHOD_OTHER},
    {"OPTIONX", FS_METHOD_OTHER},   {"DELETF", FS_METHOD_OTHER},  {"PATCG", FS_METHOD_OTHER}, {"!#$%&'*+-.^_`|~0", FS_METHOD_OTHER},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char text[100];
    snprintf(text, sizeof text, "%s %s HTTP/1.1\r\nHost: a\r\n\r\n", rows[i].method,
             rows[i].id == FS_METHOD_CONNECT ? "a:1" : "/");
    CHECK_INT(parse(text), FS_DONE);
    CHECK_INT(head.method_id, rows[i].id);
    CHECK(span_is(text, head.method, rows[i].method));
    if (rows[i].id != FS_METHOD_OTHER) CHECK(strcmp(fs_method_name(rows[i].id), rows[i].method) == 0);
  }
  CHECK(fs_method_name(FS_METHOD_OTHER) == NULL && fs_method_name(FS_METHOD_COUNT) == NULL);
}

/* RFC 9112 9.3, RFC 9110 7.8 and 10.1.1: what version and fields say together. k keep-alive, e expect, u upgrade. */
static void facts(void) {
  static const struct {
    const char *version, *lines, *wanted;
  } rows[] = {
    {"1.1", "", "k"},
    {"1.0", "", ""},
    {"1.1", "Connection: close\r\n", ""},
    {"1.0", "Connection: keep-alive\r\n", "k"},
    {"1.0", "Connection: Keep-Alive, close\r\n", ""},
    {"1.1", "Connection: x, ,\tCLOSE ,y\r\n", ""},
    {"1.1", "Connection: closed\r\nConnection: xclose\r\n", "k"},
    {"1.1", "Connection: a\r\nConnection: close\r\n", ""},
    {"1.1", "Connection: upgrade\r\nUpgrade: x\r\n", "ku"},
    {"1.1", "Connection: upgrade\r\n", "k"},
    {"1.1", "Upgrade: x\r\n", "k"},
    {"1.1", "Connection: upgrade\r\nUpgrade:\r\n", "k"},
    {"1.0", "Connection: upgrade\r\nUpgrade: x\r\n", ""},
    {"1.1", "Expect: 100-Continue\r\nContent-Length: 1\r\n", "ke"},
    {"1.1", "Expect: 100-continue\r\nContent-Length: 0\r\n", "k"},
    {"1.1", "Expect: 100-continue\r\n", "k"},
    {"1.1", "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", "ke"},
    {"1.0", "Expect: 100-continue\r\nContent-Length: 1\r\n", ""},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char text[200], got[4] = "";
    snprintf(text, sizeof text, "GET / HTTP/%s\r\nHost: a\r\n%s\r\n", rows[i].version, rows[i].lines);
    if (!CHECK_INT(parse(text), FS_DONE)) printf("%s", text);
    if (head.keep_alive) strcat(got, "k");
    if (head.expect_continue) strcat(got, "e");
    if (head.upgrade) strcat(got, "u");
    if (!CHECK_TEXT(got, strlen(got), rows[i].wanted)) printf("%s", text);
  }
}

/* Every known name in a head, in both cases, and unknown ones beside them. */
static void field_ids(void) {
  static const struct {
    const char *name;
    unsigned id;
  } rows[] = {
    {"host", FS_FIELD_HOST},   {"te", FS_FIELD_TE},     {"user-agent", FS_FIELD_USER_AGENT}, {"accept", FS_FIELD_ACCEPT},
    {"cookie", FS_FIELD_COOKIE}, {"via", FS_FIELD_VIA}, {"upgrade", FS_FIELD_UPGRADE},       {"expect", FS_FIELD_EXPECT},
    {"hos", FS_FIELD_UNKNOWN}, {"hostt", FS_FIELD_UNKNOWN}, {"x", FS_FIELD_UNKNOWN}, {"transfer_encoding", FS_FIELD_UNKNOWN},
    {"content-lengtH", FS_FIELD_CONTENT_LENGTH}, {"TRANSFER-ENCODING", FS_FIELD_TRANSFER_ENCODING},
    {"access-control-request-headers", FS_FIELD_ACCESS_CONTROL_REQUEST_HEADERS}, {"set-cookie", FS_FIELD_SET_COOKIE},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char text[200];
    /* HTTP/2.0 is refused only when the head is whole, so that values need not make sense. */
    snprintf(text, sizeof text, "GET / HTTP/2.0\r\n%s: ?\r\n\r\n", rows[i].name);
    CHECK_INT(parse(text), -FS_E_VERSION_UNSUPPORTED);
    if (!CHECK_INT(fields[0].id, rows[i].id)) printf("  %s\n", rows[i].name);
  }
}

static void text_equal(void) {
  const uint8_t *p = (const uint8_t *)"Chunked";
  CHECK(fs_text_equal(p, 7, "chunked", 7) && !fs_text_equal(p, 6, "chunked", 7) && !fs_text_equal(p, 7, "chunkee", 7));
  CHECK(fs_text_equal(p, 0, "", 0));
  CHECK(!fs_text_equal((const uint8_t *)"chun\x0b" "ed", 7, "chunked", 7)); /* 'K' & ~0x40: only letters fold */
  CHECK(!fs_text_equal((const uint8_t *)"100\x0d" "continue", 12, "100-continue", 12));

  /* every byte at every place of every length, against the definition: short texts, whole words and their overlap */
  const char text[] = "content-length-abcxyz[{@`";
  uint8_t bytes[sizeof text];
  unsigned wrong = 0;
  for (size_t len = 1; len < sizeof text; len++) {
    for (size_t at = 0; at < len; at++) {
      for (unsigned c = 0; c < 256; c++) {
        bool same;
        memcpy(bytes, text, len);
        bytes[at] = (uint8_t)c;
        same = c == (uint8_t)text[at] || (c >= 'A' && c <= 'Z' && c + 32 == (uint8_t)text[at]);
        wrong += fs_text_equal(bytes, len, text, len) != same;
      }
    }
  }
  CHECK_INT(wrong, 0);
}

static void begun(void) {
  fs_request_head_init(&head);
  CHECK(!fs_request_head_begun(&head));
  for (size_t n = 0; n <= 6; n++) {
    CHECK_INT(fs_request_head_parse(&head, (const uint8_t *)"\r\n\r\nGE", n, fields, &limits), FS_MORE);
    CHECK(fs_request_head_begun(&head) == (n > 4));
  }
}

/* ------------------------------------------------------------------------------------------------ limits */

/* Both ways of feeding agree; returns the answer. */
static int judge(const char *text, size_t len, const fs_limits *with) {
  int whole = parse_with(text, len, with);
  int slow = parse_slowly(text, len, with);
  CHECK_INT(slow, whole);
  return whole;
}

static char big[400000];

/* One byte below, at, and beyond each limit. */
static void limit_of_the_request_line(void) {
  fs_limits tight = limits;
  const char *text = "GET /abc HTTP/1.1\r\nHost: a\r\n\r\n"; /* a line of 17 bytes */
  for (uint32_t max = 0; max < 25; max++) {
    tight.request_line_bytes_max = max;
    CHECK_INT(judge(text, strlen(text), &tight), max < 17 ? -FS_E_TARGET_LENGTH : FS_DONE);
    /* leading empty lines are not part of it */
    size_t n = (size_t)snprintf(big, sizeof big, "\r\n\r\n%s", text);
    CHECK_INT(judge(big, n, &tight), max < 17 ? -FS_E_TARGET_LENGTH : FS_DONE);
  }
  /* the limit is met at once, in whatever part of the line: no byte beyond it is needed or judged */
  tight.request_line_bytes_max = 10;
  CHECK_INT(judge("GETTTTTTTT", 10, &tight), FS_MORE);
  CHECK_INT(judge("GETTTTTTTTT", 11, &tight), -FS_E_TARGET_LENGTH);
  CHECK_INT(judge("GETTTTTTTT\x01", 11, &tight), -FS_E_TARGET_LENGTH);
  CHECK_INT(judge("GETTTTTTT\x01", 10, &tight), -FS_E_METHOD);
  CHECK_INT(judge("GET / HTTP\x01", 11, &tight), -FS_E_TARGET_LENGTH);
}

static void limit_of_the_head(void) {
  fs_limits tight = limits;
  const char *text = "GET / HTTP/1.1\r\nHost: a\r\nX: yz\r\n\r\n";
  uint32_t len = (uint32_t)strlen(text);
  for (uint32_t max = 0; max < len + 5; max++) {
    tight.head_bytes_max = max;
    CHECK_INT(judge(text, len, &tight), max < len ? -FS_E_HEAD_LENGTH : FS_DONE);
    size_t n = (size_t)snprintf(big, sizeof big, "\r\n%s", text);
    CHECK_INT(judge(big, n, &tight), max < len ? -FS_E_HEAD_LENGTH : FS_DONE);
    /* a fault beyond the limit is not seen before the limit is */
    n = (size_t)snprintf(big, sizeof big, "GET / HTTP/1.1\r\nHost: a\r\n\x01");
    CHECK_INT(judge(big, n, &tight), max < n ? -FS_E_HEAD_LENGTH : -FS_E_FIELD_NAME);
  }
}

static void limit_of_the_fields(void) {
  fs_limits tight = limits;
  const char *text = "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nC: d\r\nE: f\r\n\r\n";
  for (uint32_t max = 0; max < 7; max++) {
    tight.fields_max = max;
    CHECK_INT(judge(text, strlen(text), &tight), max < 4 ? -FS_E_FIELDS_COUNT : FS_DONE);
  }
  tight.fields_max = 0;
  CHECK_INT(judge("GET / HTTP/1.0\r\n\r\n", 18, &tight), FS_DONE);
}

static void limit_of_the_empty_lines(void) {
  fs_limits tight = limits;
  static const uint32_t maxima[] = {0, 1, 4, 254, 255, 256, 300, 1000, 100000};
  for (size_t i = 0; i < sizeof maxima / sizeof *maxima; i++) {
    tight.leading_crlf_max = maxima[i];
    /* whatever the limit, endless empty lines end: they are kept in memory until a head is whole */
    for (size_t n = 0; n < 100100; n++) memcpy(big + 2 * n, "\r\n", 2);
    CHECK_INT(parse_with(big, 2 * 100100, &tight), -FS_E_LEADING_CRLF);
    for (uint32_t n = 0; n <= maxima[i] && n < 200; n++) {
      memcpy(big + (size_t)2 * n, "GET / HTTP/1.0\r\n\r\n", 18);
      CHECK_INT(parse_with(big, 2 * n + 18, &tight), FS_DONE);
      CHECK_INT(head.start, 2 * n);
      memcpy(big + (size_t)2 * n, "\r\n", 2);
    }
  }
}

static void limit_of_a_name(void) {
  fs_limits wide = limits;
  wide.head_bytes_max = 1 << 20;
  static const struct {
    size_t len;
    int answer;
  } rows[] = {{65534, FS_DONE}, {65535, FS_DONE}, {65536, -FS_E_HEAD_LENGTH}, {70000, -FS_E_HEAD_LENGTH}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    size_t n = (size_t)snprintf(big, sizeof big, "GET / HTTP/1.0\r\n");
    memset(big + n, 'a', rows[i].len);
    memcpy(big + n + rows[i].len, ": b\r\n\r\n", 7);
    CHECK_INT(parse_with(big, n + rows[i].len + 7, &wide), rows[i].answer);
    if (rows[i].answer == FS_DONE) CHECK_INT(fields[0].name_len, rows[i].len);
  }
}

/* ------------------------------------------------------------------------------------------------ O(n) */

static const fs_scan_kernels *real;
static size_t looked_at; /* bytes the kernels were shown and passed over, and the one they stopped at */
static size_t calls;

static const uint8_t *counted(fs_scan_fn kernel, const uint8_t *p, const uint8_t *end) {
  const uint8_t *stop = kernel(p, end);
  looked_at += (size_t)(stop - p) + (stop != end);
  calls++;
  return stop;
}
static const uint8_t *count_token(const uint8_t *p, const uint8_t *end) { return counted(real->token, p, end); }
static const uint8_t *count_target(const uint8_t *p, const uint8_t *end) { return counted(real->target, p, end); }
static const uint8_t *count_value(const uint8_t *p, const uint8_t *end) { return counted(real->value, p, end); }

enum { HEAD_LEN = 65536 };

/* A head of 64 KiB, one byte at a time. Two proofs that nothing is looked at twice: the kernels count what they scan, and
 * all bytes before the word in hand are overwritten with NUL until the head is whole: one of them read again is a fault. */
static void slow_head_of(const char *what, size_t len) {
  static const fs_scan_kernels counting = {"counting", count_token, count_target, count_value, NULL, NULL};
  static uint8_t copy[HEAD_LEN];
  fs_limits wide = limits;
  wide.request_line_bytes_max = HEAD_LEN;
  real = fs_scan;
  fs_scan = &counting;
  looked_at = calls = 0;
  memcpy(copy, big, len);
  fs_request_head_init(&head);
  int answer = FS_MORE;
  size_t wiped = 0;
  for (size_t n = 1; n < len && answer == FS_MORE; n++) {
    answer = fs_request_head_parse(&head, copy, n, fields, &wide);
    size_t word = head.lines.state == 0 && head.lines.count == 0 ? head.mark : head.lines.mark;
    /* a name that is complete is kept as an offset; its bytes are needed once more, for Host and the like, at the end */
    while (wiped < word && wiped < n) copy[wiped++] = 0;
  }
  CHECK_INT(answer, FS_MORE);
  memcpy(copy, big, len);
  CHECK_INT(fs_request_head_parse(&head, copy, len, fields, &wide), FS_DONE);
  CHECK_INT(head.end, len);
  if (!CHECK(looked_at <= 2 * len + 1000)) printf("  %s: %zu bytes looked at in a head of %zu\n", what, looked_at, len);
  CHECK(calls <= 2 * len + 1000);
  fs_scan = real;
}

static size_t fill(size_t at, const char *text) {
  memcpy(big + at, text, strlen(text));
  return at + strlen(text);
}

static void slow_heads_cost_no_more(void) {
  size_t n;
  { /* one long target */
    n = fill(0, "GET /");
    memset(big + n, 'a', HEAD_LEN);
    n = fill(HEAD_LEN - 24, " HTTP/1.1\r\nHost: aa\r\n\r\n") ;
    slow_head_of("target", n);
  }
  { /* one long value, one of spaces before and one of spaces behind a byte */
    static const char *const begins[] = {"X: b", "X:", "X: b"};
    static const char bytes[] = {'c', ' ', ' '};
    for (int i = 0; i < 3; i++) {
      n = fill(0, "GET / HTTP/1.1\r\nHost: a\r\n");
      n = fill(n, begins[i]);
      memset(big + n, bytes[i], HEAD_LEN);
      n = fill(HEAD_LEN - 4, "\r\n\r\n");
      slow_head_of("value", n);
    }
  }
  { /* one long name */
    n = fill(0, "GET / HTTP/1.1\r\nHost: a\r\n");
    memset(big + n, 'c', HEAD_LEN);
    n = fill(HEAD_LEN - 6, ":\r\n\r\n");
    slow_head_of("name", n);
  }
  { /* 100 fields */
    n = fill(0, "GET / HTTP/1.1\r\nHost: a\r\n");
    for (int i = 0; i < 99; i++) {
      n = fill(n, "X-Name: ");
      memset(big + n, 'v', 640);
      n = fill(n + 640, " \t\r\n");
    }
    n = fill(n, "\r\n");
    CHECK(n <= HEAD_LEN && n > HEAD_LEN - 2000);
    slow_head_of("fields", n);
  }
}

/* ------------------------------------------------------------------------------------------------ field lines alone */

static void field_lines(void) {
  fs_field_lines lines;
  const char *text = "A: b\r\nCd:e\r\n\r\nrest";
  size_t end = strlen(text) - 4;
  for (size_t limit = 0; limit < end + 5; limit++) {
    for (int slow = 0; slow < 2; slow++) {
      int answer = FS_MORE;
      fs_field_lines_init(&lines, 0);
      for (size_t n = slow ? 0 : end + 4; n <= end + 4 && answer == FS_MORE; n++)
        answer = fs_field_lines_parse(&lines, guard_end(text, n), n, limit, FS_E_TRAILERS_LENGTH, fields, 2);
      CHECK_INT(answer, limit < end ? -FS_E_TRAILERS_LENGTH : FS_DONE);
      if (answer == FS_DONE) CHECK(lines.pos == end && lines.count == 2 && name_is(text, &fields[1], "Cd"));
    }
  }
  fs_field_lines_init(&lines, 0);
  CHECK_INT(fs_field_lines_parse(&lines, (const uint8_t *)text, end, end, FS_E_TRAILERS_LENGTH, fields, 1), -FS_E_FIELDS_COUNT);
  fs_field_lines_init(&lines, 6); /* may begin anywhere */
  CHECK_INT(fs_field_lines_parse(&lines, (const uint8_t *)text, end, end, FS_E_TRAILERS_LENGTH, fields, 1), FS_DONE);
  CHECK(value_is(text, &fields[0], "e"));
}

/* RFC 9110 6.5.1: framing, routing, authentication, modifiers and content description stay out of trailers. */
static void trailers_allowed(void) {
  static const uint16_t refused[] = {
    FS_FIELD_HOST, FS_FIELD_CONNECTION, FS_FIELD_CONTENT_LENGTH, FS_FIELD_TRANSFER_ENCODING, FS_FIELD_EXPECT, FS_FIELD_UPGRADE,
    FS_FIELD_TE, FS_FIELD_TRAILER, FS_FIELD_AUTHORIZATION, FS_FIELD_COOKIE, FS_FIELD_SET_COOKIE, FS_FIELD_CONTENT_TYPE,
    FS_FIELD_CONTENT_ENCODING, FS_FIELD_CONTENT_RANGE, FS_FIELD_RANGE, FS_FIELD_MAX_FORWARDS, FS_FIELD_CACHE_CONTROL,
    FS_FIELD_IF_MATCH, FS_FIELD_FORWARDED, FS_FIELD_X_FORWARDED_FOR, FS_FIELD_KEEP_ALIVE, FS_FIELD_PROXY_AUTHORIZATION,
  };
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) CHECK(!fs_trailer_allowed(refused[i]));
  CHECK(fs_trailer_allowed(FS_FIELD_UNKNOWN) && fs_trailer_allowed(FS_FIELD_X_REQUEST_ID));
}

static const harness_test tests[] = {
  {"offsets", offsets},
  {"bytes_behind", bytes_behind},
  {"every_two_cuts", every_two_cuts},
  {"methods", methods},
  {"facts", facts},
  {"field_ids", field_ids},
  {"text_equal", text_equal},
  {"begun", begun},
  {"limit_of_the_request_line", limit_of_the_request_line},
  {"limit_of_the_head", limit_of_the_head},
  {"limit_of_the_fields", limit_of_the_fields},
  {"limit_of_the_empty_lines", limit_of_the_empty_lines},
  {"limit_of_a_name", limit_of_a_name},
  {"slow_heads_cost_no_more", slow_heads_cost_no_more},
  {"field_lines", field_lines},
  {"trailers_allowed", trailers_allowed},
};

HARNESS_MAIN(tests)
