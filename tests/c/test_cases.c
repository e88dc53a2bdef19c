/* Room:    the case book (tests/cases/) against the machine: whole, byte by byte, at every split, with bytes behind.
 * Called:  by `make ctest`; the table comes from `tests/cases/loader.py --c`.
 * Calls:   csrc/conn.c through events.h; each piece of input ends at a page that cannot be read.
 * Rules:   those each case names.
 */
#include "harness.h"

#include "cases.h"
#include "events.h"

enum { LONG_INPUT = 2000, LONG_SPLITS = 150 };

static fs_run run;

static size_t line_len(const char *p) {
  const char *end = strchr(p, '\n');
  return end == NULL ? strlen(p) : (size_t)(end - p) + 1;
}

static bool line_is(const char *line, const char *word) {
  size_t n = strlen(word);
  return strncmp(line, word, n) == 0 && (line[n] == ' ' || line[n] == '\n');
}

/* Does the story say what the book says? Host, path, query and fields are compared where the book writes them. */
static bool same_story(const char *is, const char *wanted) {
  bool fields_written = false;
  while (*is != '\0') {
    size_t n = line_len(is), m = line_len(wanted);
    if (line_is(is, "request_head")) fields_written = false;
    if (n == m && memcmp(is, wanted, n) == 0) {
      if (line_is(is, "field")) fields_written = true;
      wanted += m;
    } else if (line_is(is, "field")) {
      if (fields_written || line_is(wanted, "field")) return false;
    } else if (line_is(is, "host") || line_is(is, "path") || line_is(is, "query")) {
      if (strncmp(is, wanted, 4) == 0) return false;
    } else {
      return false;
    }
    is += n;
  }
  return *wanted == '\0';
}

static void report(const fs_case *c, const char *how, size_t at, const char *is) {
  if (harness_failed > 20) return;
  printf("  %s:%u: %s, %s %zu\n  is:\n%.2000s  wanted:\n%.2000s", c->file, c->line, c->name, how, at, is, c->events);
}

/* `first` bytes, then the rest; `first` == data_len: whole. */
static void split_at(const fs_case *c, size_t first) {
  const uint8_t *data = (const uint8_t *)c->data;
  run_init(&run, &c->limits);
  size_t used = run_feed(&run, guard_end(data, first), first);
  if (first < c->data_len) run_feed(&run, guard_end(data + used, c->data_len - used), c->data_len - used);
  const char *is = run_end(&run);
  if (!CHECK(same_story(is, c->events))) report(c, "split at", first, is);
  run_free(&run);
}

static void whole(void) {
  for (unsigned i = 0; i < fs_cases_len; i++) split_at(&fs_cases[i], fs_cases[i].data_len);
}

static void every_split(void) {
  for (unsigned i = 0; i < fs_cases_len; i++) {
    const fs_case *c = &fs_cases[i];
    size_t step = c->data_len <= LONG_INPUT ? 1 : c->data_len / LONG_SPLITS;
    for (size_t at = 0; at < c->data_len; at++) {
      bool near_end = at + 4 > c->data_len || at < 4;
      if (at % step == 0 || near_end) split_at(c, at);
    }
  }
}

/* Long inputs stay where they are and grow; all others are moved to the guard page at every byte. */
static void byte_by_byte(void) {
  for (unsigned i = 0; i < fs_cases_len; i++) {
    const fs_case *c = &fs_cases[i];
    const uint8_t *data = (const uint8_t *)c->data;
    size_t used = 0;
    run_init(&run, &c->limits);
    for (size_t n = 1; n <= c->data_len && !run.over; n++) {
      const uint8_t *piece = c->data_len <= LONG_INPUT ? guard_end(data + used, n - used) : data + used;
      used += run_feed(&run, piece, n - used);
    }
    const char *is = run_end(&run);
    if (!CHECK(same_story(is, c->events))) report(c, "byte by byte", 0, is);
    run_free(&run);
  }
}

/* What ended in a fault or a close does not change by what stands behind it. */
static void bytes_behind(void) {
  static const char *const tails[] = {"x", "\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "0\r\n\r\n", "\xff"};
  for (unsigned i = 0; i < fs_cases_len; i++) {
    const fs_case *c = &fs_cases[i];
    bool refused = strncmp(c->events, "error ", 6) == 0 || strstr(c->events, "\nerror ") != NULL;
    if (!refused && strstr(c->events, "\nclosed\n") == NULL) continue;
    for (size_t t = 0; t < sizeof tails / sizeof *tails; t++) {
      size_t more = strlen(tails[t]), len = c->data_len + more;
      uint8_t *place = guard_end(NULL, len);
      memcpy(place, c->data, c->data_len);
      memcpy(place + c->data_len, tails[t], more);
      run_init(&run, &c->limits);
      run_feed(&run, place, len);
      const char *is = run_end(&run);
      if (!CHECK(same_story(is, c->events))) report(c, "with bytes behind, number", t, is);
      run_free(&run);
    }
  }
}

/* The comparison itself. */
static void comparison(void) {
  CHECK(same_story("request_head x\nhost a\nfield a: b\nend_of_message\n", "request_head x\nend_of_message\n"));
  CHECK(same_story("request_head x\nhost a\n", "request_head x\nhost a\n"));
  CHECK(!same_story("request_head x\nhost a\n", "request_head x\nhost b\n"));
  CHECK(!same_story("request_head x\nhost a\n", "request_head x\nhost a\nquery b\n"));
  CHECK(!same_story("request_head x\nfield a: b\nfield c: d\n", "request_head x\nfield a: b\n"));
  CHECK(!same_story("request_head x\nfield a: b\nfield c: d\n", "request_head x\nfield c: d\n"));
  CHECK(!same_story("request_head x\nbody a\n", "request_head x\n"));
  CHECK(!same_story("request_head x\n", "request_head x\nneed_data\n"));
  CHECK(fs_cases_len >= 250);
}

static const harness_test tests[] = {
  {"comparison", comparison},       {"whole", whole},           {"every_split", every_split},
  {"byte_by_byte", byte_by_byte},   {"bytes_behind", bytes_behind},
};

HARNESS_MAIN(tests)
