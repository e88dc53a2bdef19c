/* Room:    tests of the frame reader, the head writer, incremental UTF-8 and the close codes.
 * Called:  by `make ctest`.
 * Calls:   csrc/websocket.c, at every SIMD level.
 * Rules:   RFC 6455 sections 5, 7.4, 8.1; RFC 7692 section 6; RFC 3629.
 */
#include "harness.h"

#include "../../csrc/websocket.h"

enum { MAX = 70000 };

static uint64_t random_state = 7;

static uint32_t random_below(uint32_t n) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)((random_state >> 33) % n);
}

/* A client's frame: the head as fs_ws_head writes it, MASK set, a key, the payload masked. */
static size_t frame(uint8_t *out, unsigned opcode, bool final, bool compressed, const void *payload, size_t len) {
  size_t n = fs_ws_head(out, opcode, final, compressed, len);
  out[1] |= 0x80;
  uint32_t key = random_below(0xFFFFFFFF);
  memcpy(out + n, &key, 4);
  n += 4;
  uint8_t bytes[4];
  memcpy(bytes, &key, 4);
  for (size_t i = 0; i < len; i++) out[n + i] = ((const uint8_t *)payload)[i] ^ bytes[i % 4];
  return n + len;
}

/* What came of some bytes, as one text: "text 5 hello | ping 0 | error opcode". */
typedef struct {
  char told[512];
  size_t told_len;
  uint8_t message[MAX + 16];
  size_t message_len;
  bool compressed;
} log_of;

static void tell(log_of *log, const char *word, const uint8_t *data, size_t len) {
  log->told_len += (size_t)snprintf(log->told + log->told_len, sizeof log->told - log->told_len, "%s%s %zu %.*s",
                                    log->told_len ? " | " : "", word, len, (int)(len < 24 ? len : 24), (const char *)data);
}

/* Feed `data`, at each call only what was not consumed and `step` bytes more; every copy ends at a guard page. */
static void feed(fs_ws *ws, const uint8_t *data, size_t len, size_t step, log_of *log) {
  memset(log, 0, sizeof *log);
  size_t start = 0, end = 0;
  for (;;) {
    end = end + step < len ? end + step : len;
    for (;;) {
      fs_ws_event event;
      size_t have = end - start;
      const uint8_t *p = guard_end(data + start, have);
      fs_ws_receive(ws, p, have, &event);
      CHECK(event.consumed <= have);
      if (event.type == FS_WS_DATA) {
        CHECK(event.data_off + event.data_len == event.consumed);
        if (event.first) {
          log->message_len = 0;
          log->compressed = event.compressed;
        }
        CHECK(log->message_len + event.data_len <= MAX);
        fs_ws_unmask(log->message + log->message_len, p + event.data_off, event.data_len, event.key);
        log->message_len += event.data_len;
        if (event.last)
          tell(log, event.opcode == FS_WS_TEXT ? (event.compressed ? "text*" : "text") : "binary", log->message,
               log->message_len);
      } else if (event.type == FS_WS_CONTROL) {
        tell(log, event.opcode == FS_WS_PING ? "ping" : event.opcode == FS_WS_PONG ? "pong" : "close", ws->control,
             ws->control_len);
      } else if (event.type == FS_WS_ERROR) {
        tell(log, fs_ws_error_info(ws->error)->name, NULL, 0);
        return;
      }
      start += event.consumed;
      if (event.type == FS_WS_NEED_DATA) {
        CHECK(end - start <= 13); /* never more than a head is left */
        break;
      }
      if (event.type == FS_WS_OVER || (start == end && !ws->in_frame && event.consumed == 0)) break;
    }
    if (end == len) return;
  }
}

/* --- the cases: frames in, what is told out --- */

typedef struct {
  const char *name, *bytes; /* hex; without a key: written unmasked */
  const char *told;
} wire_case;

/* 37fa213d is the key of RFC 6455 5.7; 00000000 is a key, too. */
static const wire_case cases[] = {
  {"a masked text, the example of RFC 6455 5.7", "81 85 37fa213d 7f9f4d5158", "text 5 Hello"},
  {"an empty text", "81 80 00000000", "text 0 "},
  {"an empty binary", "82 80 00000000", "binary 0 "},
  {"a text in fragments", "01 83 00000000 48656c 80 82 00000000 6c6f", "text 5 Hello"},
  {"a ping between fragments", "01 83 00000000 48656c 89 81 00000000 21 80 82 00000000 6c6f", "ping 1 ! | text 5 Hello"},
  {"empty fragments", "01 80 00000000 00 80 00000000 80 80 00000000", "text 0 "},
  {"a pong nobody asked for", "8a 80 00000000", "pong 0 "},
  {"close without a code", "88 80 00000000", "close 0 "},
  {"nothing is read behind close", "88 80 00000000 81 81 00000000 21", "close 0 "},
  {"close inside a message", "01 80 00000000 88 80 00000000", "close 0 "},
  {"RSV1 without an extension", "c1 80 00000000", "reserved_bits 0 "},
  {"RSV2", "a1 80 00000000", "reserved_bits 0 "},
  {"RSV3", "91 80 00000000", "reserved_bits 0 "},
  {"RSV1 on a ping", "c9 80 00000000", "reserved_bits 0 "},
  {"reserved data opcode 3", "83 80 00000000", "opcode 0 "},
  {"reserved data opcode 7", "87 80 00000000", "opcode 0 "},
  {"reserved control opcode 11", "8b 80 00000000", "opcode 0 "},
  {"reserved control opcode 15", "8f 80 00000000", "opcode 0 "},
  {"the opcode is judged with the first byte", "83", "opcode 0 "},
  {"an unmasked frame", "81 00", "unmasked 0 "},
  {"a ping in fragments", "09 80 00000000", "control_fragmented 0 "},
  {"a ping of 126 bytes", "89 fe 007e", "control_length 0 "},
  {"16 bits for 125", "81 fe 007d", "length 0 "},
  {"64 bits for 65535", "81 ff 000000000000ffff", "length 0 "},
  {"the highest bit of 64", "81 ff 8000000000000000", "length 0 "},
  {"a second text inside a message", "01 80 00000000 81 80 00000000", "inside_message 0 "},
  {"a binary inside a text", "01 80 00000000 82 80 00000000", "inside_message 0 "},
  {"a continuation of nothing", "80 80 00000000", "no_message 0 "},
  {"a continuation behind a whole message", "81 80 00000000 80 80 00000000", "text 0  | no_message 0 "},
  {"close with half a code", "88 81 00000000 03", "close_length 0 "},
  {"close with code 1005", "88 82 00000000 03ed", "close_code 0 "},
  {"close with code 999", "88 82 00000000 03e7", "close_code 0 "},
  {"close with a reason that is not UTF-8", "88 84 00000000 03e8 c328", "close_reason 0 "},
  {"close with a reason that stops inside a character", "88 83 00000000 03e8 c3", "close_reason 0 "},
  {"more than the limit, told from the head", "82 ff 0000000000011171", "too_big 0 "},
  {"fragments that together are more", "02 ff 0000000000011170", ""},
};

static size_t unhex(const char *text, uint8_t *out) {
  size_t n = 0;
  unsigned byte;
  for (const char *p = text; *p;) {
    if (*p == ' ') p++;
    else if (sscanf(p, "%2x", &byte) == 1) out[n++] = (uint8_t)byte, p += 2;
  }
  return n;
}

static void wire(void) {
  static log_of log;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    uint8_t bytes[128];
    size_t len = unhex(cases[i].bytes, bytes);
    for (size_t step = 1; step <= len; step++) { /* byte by byte, ..., whole */
      fs_ws ws;
      fs_ws_init(&ws, MAX, false);
      feed(&ws, bytes, len, step, &log);
      if (!CHECK(strcmp(log.told, cases[i].told) == 0))
        printf("  %s, %zu bytes at a time: \"%s\", wanted \"%s\"\n", cases[i].name, step, log.told, cases[i].told);
    }
  }
}

static void limit_over_fragments(void) {
  static log_of log;
  uint8_t bytes[64];
  fs_ws ws;
  fs_ws_init(&ws, 5, false);
  size_t len = frame(bytes, FS_WS_BINARY, false, false, "abc", 3);
  size_t two = frame(bytes + len, FS_WS_CONTINUATION, true, false, "de", 2);
  feed(&ws, bytes, len + two, len + two, &log);
  CHECK_TEXT(log.told, log.told_len, "binary 5 abcde");
  fs_ws_init(&ws, 4, false);
  feed(&ws, bytes, len + two, len + two, &log);
  CHECK_TEXT(log.told, log.told_len, "too_big 0 ");
  fs_ws_init(&ws, UINT64_MAX, false); /* no limit does not overflow */
  feed(&ws, bytes, len + two, 1, &log);
  CHECK_TEXT(log.told, log.told_len, "binary 5 abcde");
  fs_ws_init(&ws, 0, false);
  feed(&ws, bytes, len, len, &log);
  CHECK_TEXT(log.told, log.told_len, "too_big 0 ");
}

static void compressed(void) {
  static log_of log;
  uint8_t bytes[64];
  fs_ws ws;
  fs_ws_init(&ws, MAX, true);
  size_t len = frame(bytes, FS_WS_TEXT, false, true, "ab", 2);
  len += frame(bytes + len, FS_WS_CONTINUATION, true, false, "c", 1);
  len += frame(bytes + len, FS_WS_TEXT, true, false, "plain", 5);
  feed(&ws, bytes, len, 3, &log);
  CHECK_TEXT(log.told, log.told_len, "text* 3 abc | text 5 plain");
  /* RFC 7692 6.1: RSV1 on the first frame only. */
  fs_ws_init(&ws, MAX, true);
  len = frame(bytes, FS_WS_TEXT, false, true, "ab", 2);
  len += frame(bytes + len, FS_WS_CONTINUATION, true, true, "c", 1);
  feed(&ws, bytes, len, len, &log);
  CHECK_TEXT(log.told, log.told_len, "reserved_bits 0 ");
}

/* Every length around the three forms of the length, whole and in pieces of several sizes. */
static void lengths(void) {
  static const size_t around[] = {0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 124, 125, 126, 127, 128, 255, 256, 1000, 65534,
                                  65535, 65536, 65537, 69999, 70000};
  static const size_t steps[] = {1 << 20, 1, 13, 4096};
  static uint8_t payload[MAX], bytes[MAX + 32];
  static log_of log;
  for (size_t i = 0; i < MAX; i++) payload[i] = (uint8_t)random_below(256);
  for (size_t i = 0; i < sizeof around / sizeof *around; i++) {
    for (size_t s = 0; s < sizeof steps / sizeof *steps; s++) {
      if (around[i] > 2000 && steps[s] < 100) continue; /* quadratic in this test's own copies */
      fs_ws ws;
      fs_ws_init(&ws, MAX, false);
      size_t len = frame(bytes, FS_WS_BINARY, true, false, payload, around[i]);
      feed(&ws, bytes, len, steps[s], &log);
      CHECK_INT(log.message_len, around[i]);
      CHECK(memcmp(log.message, payload, around[i]) == 0);
      CHECK(strncmp(log.told, "binary ", 7) == 0);
    }
  }
}

static void heads(void) {
  uint8_t out[FS_WS_HEAD_MAX];
  CHECK_INT(fs_ws_head(out, FS_WS_TEXT, true, false, 125), 2);
  CHECK(out[0] == 0x81 && out[1] == 125);
  CHECK_INT(fs_ws_head(out, FS_WS_BINARY, false, true, 126), 4);
  CHECK(out[0] == 0x42 && out[1] == 126 && out[2] == 0 && out[3] == 126);
  CHECK_INT(fs_ws_head(out, FS_WS_BINARY, true, false, 65535), 4);
  CHECK_INT(fs_ws_head(out, FS_WS_BINARY, true, false, 65536), 10);
  CHECK(memcmp(out, "\x82\x7f\0\0\0\0\0\1\0\0", 10) == 0);
}

static void close_codes(void) {
  for (unsigned code = 0; code <= 65535; code++) {
    bool want = (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);
    CHECK(fs_ws_close_code_valid(code) == want);
  }
}

/* UTF-8 by its definition: decode what the lead byte promises, refuse what is shorter to write, surrogates, beyond 10FFFF. */
static bool want_utf8(const uint8_t *p, size_t len) {
  while (len) {
    unsigned n = p[0] < 0x80 ? 1 : p[0] >> 5 == 6 ? 2 : p[0] >> 4 == 14 ? 3 : p[0] >> 3 == 30 ? 4 : 0;
    if (n == 0 || n > len) return false;
    uint32_t c = n == 1 ? p[0] : p[0] & (0x7Fu >> n);
    for (unsigned i = 1; i < n; i++) {
      if (p[i] >> 6 != 2) return false;
      c = c << 6 | (p[i] & 0x3F);
    }
    if (c < (n == 2 ? 0x80u : n == 3 ? 0x800u : n == 4 ? 0x10000u : 0u) || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF))
      return false;
    p += n;
    len -= n;
  }
  return true;
}

static bool is_utf8(const uint8_t *p, size_t len, size_t cut) {
  fs_utf8 utf8 = {0, 0, 0};
  return fs_utf8_check(&utf8, p, cut) && fs_utf8_check(&utf8, p + cut, len - cut) && utf8.missing == 0;
}

/* Every string of one and two bytes, every lead byte with edge bytes behind it, each cut everywhere. */
static void utf8(void) {
  static const uint8_t edges[] = {0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xE0, 0xF0, 0xFF};
  enum { N = sizeof edges };
  uint8_t s[4];
  for (unsigned a = 0; a < 256; a++) {
    s[0] = (uint8_t)a;
    CHECK(is_utf8(s, 1, 0) == want_utf8(s, 1));
    for (unsigned b = 0; b < 256; b++) {
      s[1] = (uint8_t)b;
      CHECK(is_utf8(s, 2, 0) == want_utf8(s, 2) && is_utf8(s, 2, 1) == want_utf8(s, 2));
    }
    for (unsigned i = 0; i < N * N * N; i++) {
      s[1] = edges[i % N], s[2] = edges[i / N % N], s[3] = edges[i / N / N];
      for (size_t len = 3; len <= 4; len++)
        for (size_t cut = 0; cut <= len; cut++)
          if (!CHECK(is_utf8(s, len, cut) == want_utf8(s, len)))
            printf("  %02x %02x %02x %02x, %zu bytes cut at %zu\n", s[0], s[1], s[2], s[3], len, cut);
    }
  }
}

/* Long text of all kinds of characters, sometimes with one byte changed, cut at random, at a guard page. */
static void utf8_random(void) {
  static const char *const kinds[] = {"a", "the quick brown fox jumps over", "\xC3\xBC", "\xE4\xB8\x96\xE7\x95\x8C", "\xF0\x9F\x98\x80"};
  uint8_t text[400];
  for (int round = 0; round < 20000; round++) {
    size_t len = 0;
    while (len < 300 && random_below(20)) {
      const char *kind = kinds[random_below(5)];
      memcpy(text + len, kind, strlen(kind));
      len += strlen(kind);
    }
    if (len && random_below(2)) text[random_below((uint32_t)len)] = (uint8_t)random_below(256);
    const uint8_t *p = guard_end(text, len);
    CHECK(is_utf8(p, len, random_below((uint32_t)len + 1)) == want_utf8(p, len));
  }
}

/* A fault is told as soon as it cannot be mended: RFC 6455 8.1 lets us fail at once. */
static void utf8_fails_early(void) {
  fs_utf8 state = {0, 0, 0};
  CHECK(fs_utf8_check(&state, (const uint8_t *)"\xED", 1) && state.missing == 2);
  CHECK(!fs_utf8_check(&state, (const uint8_t *)"\xA0", 1));
}

static void table(void) {
  bool seen[16] = {false};
  for (unsigned i = 0; i < fs_ws_table_len; i++) {
    CHECK(fs_ws_table[i].opcode < 16 && !seen[fs_ws_table[i].opcode]);
    seen[fs_ws_table[i].opcode] = true;
    CHECK(!(fs_ws_table[i].from & (1u << FS_WS_ENDED)));
  }
  for (int i = 0; i < FS_WS_E_COUNT; i++) {
    const fs_ws_error_row *row = fs_ws_error_info((fs_ws_error)i);
    CHECK(i == 0 ? row->code == 0 : fs_ws_close_code_valid(row->code) && row->text[0] && row->rule[0]);
  }
}

static const harness_test tests[] = {
  {"wire", wire},
  {"limit over fragments", limit_over_fragments},
  {"compressed", compressed},
  {"lengths", lengths},
  {"heads", heads},
  {"close codes", close_codes},
  {"utf8", utf8},
  {"utf8 random", utf8_random},
  {"utf8 fails early", utf8_fails_early},
  {"table", table},
};
HARNESS_MAIN(tests)
