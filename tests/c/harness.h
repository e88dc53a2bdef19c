/* Room:    what every test program here needs: checks, guard pages, a runner, the closing summary.
 * Called:  by test_*.c, each a program of its own linked with every file of csrc.
 * Calls:   fs_scan_choose, with the environment variable FASTSERVE_SIMD, before the first test.
 * Rules:   none.
 */
#ifndef FS_HARNESS_H
#define FS_HARNESS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* MAP_ANONYMOUS; so this header comes first in a test */
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../csrc/scan.h"

static unsigned long harness_passed, harness_failed;

FS_INLINE bool harness_count(bool good, const char *file, int line, const char *what) {
  if (FS_LIKELY(good)) {
    harness_passed++;
  } else if (harness_failed++ < 50) { /* one broken loop must not fill the screen */
    printf("%s:%d: %s\n", file, line, what);
  }
  return good;
}

/* Each yields whether the check held, for `if (!CHECK(...)) printf(...)`. */
#define CHECK(x) harness_count((x), __FILE__, __LINE__, #x)
#define CHECK_INT(actual, expected) \
  harness_int((long long)(actual), (long long)(expected), __FILE__, __LINE__, #actual " == " #expected)
#define CHECK_TEXT(p, len, text) harness_text((p), (len), (text), __FILE__, __LINE__, #p " is " #text)

__attribute__((unused)) static bool harness_int(long long actual, long long expected, const char *file, int line,
                                                const char *what) {
  bool good = harness_count(actual == expected, file, line, what);
  if (!good) printf("  is %lld, wanted %lld\n", actual, expected);
  return good;
}

__attribute__((unused)) static bool harness_text(const void *p, size_t len, const char *text, const char *file,
                                                 int line, const char *what) {
  bool good = harness_count(len == strlen(text) && (len == 0 || memcmp(p, text, len) == 0), file, line, what);
  if (!good) printf("  is \"%.*s\", wanted \"%s\"\n", (int)len, (const char *)p, text);
  return good;
}

/* --- guard pages: one arena of GUARD_BYTES with an unmapped page on either side --- */

enum { GUARD_BYTES = 1 << 20 };

static uint8_t *guard_arena(void) {
  static uint8_t *arena;
  if (arena != NULL) return arena;
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  uint8_t *map = mmap(NULL, GUARD_BYTES + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED || mprotect(map + page, GUARD_BYTES, PROT_READ | PROT_WRITE) != 0) abort();
  return arena = map + page;
}

/* A copy whose last byte touches an unmapped page: one byte read too far ends the program. Valid until the next call of
 * either function. With `data` NULL only the place is given. */
__attribute__((unused)) static uint8_t *guard_end(const void *data, size_t len) {
  if (len > GUARD_BYTES) abort();
  uint8_t *place = guard_arena() + GUARD_BYTES - len;
  if (data != NULL && len > 0) memcpy(place, data, len);
  return place;
}

/* A copy whose first byte follows an unmapped page. */
__attribute__((unused)) static uint8_t *guard_start(const void *data, size_t len) {
  if (len > GUARD_BYTES) abort();
  if (data != NULL && len > 0) memcpy(guard_arena(), data, len);
  return guard_arena();
}

/* --- the runner --- */

typedef struct {
  const char *name;
  void (*run)(void);
} harness_test;

#define HARNESS_MAIN(tests) \
  int main(void) { return harness_run((tests), sizeof(tests) / sizeof((tests)[0])); }

static int harness_run(const harness_test *tests, size_t count) {
  const char *level = getenv("FASTSERVE_SIMD");
  if (!fs_scan_choose(level)) {
    printf("0 passed, 0 failed (this processor has no level \"%s\")\n", level);
    return 0;
  }
  for (size_t i = 0; i < count; i++) {
    unsigned long before = harness_failed;
    tests[i].run();
    if (harness_failed > before) printf("FAILED: %s, level %s\n", tests[i].name, fs_scan->name);
  }
  printf("%lu passed, %lu failed\n", harness_passed, harness_failed);
  return harness_failed > 0;
}

#endif
