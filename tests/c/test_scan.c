/* Room:    tests of the byte kernels, all levels of this processor, against predicates written from the ABNF.
 * Called:  by `make ctest`.
 * Calls:   csrc/scan*.c.
 * Rules:   token (RFC 9110 5.6.2), field-value (RFC 9110 5.5), request-target bytes (RFC 9112 3.2); masking (RFC 6455 5.3).
 */
#include "harness.h"

static bool is_alpha(int c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }
static bool is_digit(int c) { return c >= '0' && c <= '9'; }
static bool is_vchar(int c) { return c >= 0x21 && c <= 0x7E; }

/* tchar = "!" / "#" / "$" / "%" / "&" / "'" / "*" / "+" / "-" / "." / "^" / "_" / "`" / "|" / "~" / DIGIT / ALPHA */
static bool want_token(int c) { return is_alpha(c) || is_digit(c) || (c != 0 && strchr("!#$%&'*+-.^_`|~", c) != NULL); }

/* VCHAR, but no fragment */
static bool want_target(int c) { return is_vchar(c) && c != '#'; }

/* field-vchar = VCHAR / obs-text; between them SP and HTAB; obs-text = %x80-FF */
static bool want_value(int c) { return is_vchar(c) || (c >= 0x80 && c <= 0xFF) || c == ' ' || c == '\t'; }

static bool want_ascii(int c) { return c < 0x80; }

static const struct {
  const char *name;
  bool (*want)(int c);
  const uint8_t *table;
  size_t kernel; /* where in fs_scan_kernels */
} classes[] = {
  {"token", want_token, fs_is_token, offsetof(fs_scan_kernels, token)},
  {"target", want_target, fs_is_target, offsetof(fs_scan_kernels, target)},
  {"value", want_value, fs_is_value, offsetof(fs_scan_kernels, value)},
  {"ascii", want_ascii, NULL, offsetof(fs_scan_kernels, ascii)},
};
enum { CLASSES = sizeof classes / sizeof classes[0], LONGEST = 80 };

static fs_scan_fn kernel_of(const fs_scan_kernels *level, int class) {
  fs_scan_fn kernel;
  memcpy(&kernel, (const char *)level + classes[class].kernel, sizeof kernel);
  return kernel;
}

static void tables(void) {
  for (int class = 0; class < CLASSES; class++) {
    if (classes[class].table == NULL) continue;
    for (int c = 0; c < 256; c++) {
      bool good = CHECK(classes[class].table[c] == classes[class].want(c));
      if (!good) printf("  %s, byte 0x%02X\n", classes[class].name, c);
    }
  }
}

static void levels(void) {
  CHECK(strcmp(fs_scan_level(0)->name, "swar") == 0);
  unsigned count = 0;
  const fs_scan_kernels *before = fs_scan;
  for (const fs_scan_kernels *level; (level = fs_scan_level(count)) != NULL; count++) {
    CHECK(fs_scan_choose(level->name) && fs_scan == level);
    for (unsigned k = 0; k < count; k++) CHECK(strcmp(level->name, fs_scan_level(k)->name) != 0);
  }
  CHECK(fs_scan_level(count + 1) == NULL && fs_scan_level(1000) == NULL);
  CHECK(fs_scan_choose(NULL) && fs_scan == fs_scan_level(count - 1));
  CHECK(fs_scan_choose("swar") && fs_scan_choose("") && fs_scan == fs_scan_level(count - 1));
  CHECK(!fs_scan_choose("avx1024") && !fs_scan_choose("SWAR") && fs_scan == fs_scan_level(count - 1));
  CHECK(fs_scan_choose(before->name) && fs_scan == before);
}

/* Every byte value at every position of every length up to 80, all other bytes good; `fill` is the good byte. */
static void every_byte_every_position(fs_scan_fn kernel, int class, uint8_t *text, int len, uint8_t fill) {
  memset(text, fill, (size_t)len);
  CHECK(kernel(text, text + len) == text + len);
  for (int at = 0; at < len; at++) {
    for (int c = 0; c < 256; c++) {
      text[at] = (uint8_t)c;
      const uint8_t *want = classes[class].want(c) ? text + len : text + at;
      if (FS_LIKELY(CHECK(kernel(text, text + len) == want))) continue;
      printf("  %s, byte 0x%02X at %d of %d, filled with 0x%02X\n", classes[class].name, c, at, len, fill);
    }
    text[at] = fill;
  }
}

static void each_level(void (*run)(const fs_scan_kernels *level)) {
  const fs_scan_kernels *level;
  for (unsigned i = 0; (level = fs_scan_level(i)) != NULL; i++) {
    unsigned long before = harness_failed;
    run(level);
    if (harness_failed > before) printf("  above: level %s\n", level->name);
  }
}

static void blocks_of(const fs_scan_kernels *level) {
  for (int class = 0; class < CLASSES; class++) {
    fs_scan_fn kernel = kernel_of(level, class);
    for (int len = 1; len <= LONGEST; len++) {
      every_byte_every_position(kernel, class, guard_end(NULL, (size_t)len), len, 'a');
      every_byte_every_position(kernel, class, guard_start(NULL, (size_t)len), len, '~');
    }
    const uint8_t *empty = guard_end(NULL, 0);
    CHECK(kernel(empty, empty) == empty);
    empty = guard_start(NULL, 0);
    CHECK(kernel(empty, empty) == empty);
  }
}

static void blocks(void) { each_level(blocks_of); }

static uint64_t random_state = 1;

static uint32_t random_below(uint32_t n) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)((random_state >> 33) % n);
}

/* Good bytes of all kinds, then none to three bytes of any kind: the first bad one counts. */
static void random_text(int class, uint8_t *text, size_t len) {
  for (size_t i = 0; i < len; i++) {
    do text[i] = (uint8_t)random_below(256);
    while (!classes[class].want(text[i]));
  }
  for (uint32_t n = len > 0 ? random_below(4) : 0; n > 0; n--) {
    uint32_t at = random_below((uint32_t)len);
    text[at] = (uint8_t)random_below(256);
  }
}

static void random_texts_of(const fs_scan_kernels *level) {
  for (int round = 0; round < 30000; round++) {
    int class = (int)random_below(CLASSES);
    size_t len = random_below(300);
    uint8_t *text = round & 1 ? guard_end(NULL, len) : guard_start(NULL, len);
    random_text(class, text, len);
    const uint8_t *want = text;
    while (want < text + len && classes[class].want(*want)) want++;
    CHECK(kernel_of(level, class)(text, text + len) == want);
  }
}

static void random_texts(void) { each_level(random_texts_of); }

/* Bad bytes on both sides of the span must not be seen. */
static void neighbours_of(const fs_scan_kernels *level) {
  uint8_t text[LONGEST + 64];
  for (int class = 0; class < CLASSES; class++) {
    for (int start = 0; start < 32; start++) {
      for (int len = 0; len <= LONGEST; len++) {
        memset(text, classes[class].want(0) ? 0x80 : 0, sizeof text);
        memset(text + start, 'z', (size_t)len);
        CHECK(kernel_of(level, class)(text + start, text + start + len) == text + start + len);
        CHECK(kernel_of(level, class)(text + start, text + sizeof text) == text + start + len);
      }
    }
  }
}

static void neighbours(void) { each_level(neighbours_of); }

/* Every length up to 200, in place and into another place, against the definition (RFC 6455 5.3); and whether the answer
 * "all ASCII" is true with none, and with each byte the only one that is not. */
static void masking_of(const fs_scan_kernels *level) {
  uint8_t plain[200], want[200], apart[202];
  for (size_t len = 0; len <= 200; len++) {
    uint32_t key = random_below(0xFFFFFFFF);
    uint8_t bytes[4];
    memcpy(bytes, &key, 4);
    for (size_t high = 0; high <= len; high++) { /* `high` == len: none is */
      for (size_t i = 0; i < len; i++) {
        want[i] = (uint8_t)(i == high ? 0x80 + random_below(128) : random_below(128));
        plain[i] = want[i] ^ bytes[i % 4];
      }
      uint8_t *in = len & 1 ? guard_end(plain, len) : guard_start(plain, len);
      memset(apart, 0xEE, sizeof apart);
      CHECK(level->mask(apart + 1, in, len, key) == (high == len));
      CHECK(memcmp(apart + 1, want, len) == 0 && apart[0] == 0xEE && apart[len + 1] == 0xEE);
      CHECK(level->mask(in, in, len, key) == (high == len));
      CHECK(memcmp(in, want, len) == 0);
    }
  }
}

static void masking(void) { each_level(masking_of); }

static const harness_test tests[] = {
  {"tables", tables},
  {"levels", levels},
  {"blocks", blocks},
  {"random texts", random_texts},
  {"neighbours", neighbours},
  {"masking", masking},
};
HARNESS_MAIN(tests)
