/* Room:    tests of IMF-fixdate.
 * Called:  by `make ctest`.
 * Calls:   csrc/date.c; the C library's gmtime_r is the other opinion.
 * Rules:   RFC 9110 section 5.6.7.
 */
#include "harness.h"

#include <time.h>

#include "../../csrc/date.h"

static const struct {
  int64_t seconds;
  const char *text;
} known[] = {
  {0, "Thu, 01 Jan 1970 00:00:00 GMT"},
  {784111777, "Sun, 06 Nov 1994 08:49:37 GMT"}, /* the example of RFC 9110 5.6.7 */
  {951782400, "Tue, 29 Feb 2000 00:00:00 GMT"},
  {951868799, "Tue, 29 Feb 2000 23:59:59 GMT"},
  {951868800, "Wed, 01 Mar 2000 00:00:00 GMT"},
  {1709164800, "Thu, 29 Feb 2024 00:00:00 GMT"},
  {2147483647, "Tue, 19 Jan 2038 03:14:07 GMT"},
  {2147483648, "Tue, 19 Jan 2038 03:14:08 GMT"},
  {4107542399, "Sun, 28 Feb 2100 23:59:59 GMT"}, /* 2100 is no leap year */
  {4107542400, "Mon, 01 Mar 2100 00:00:00 GMT"},
  {4294967296, "Sun, 07 Feb 2106 06:28:16 GMT"},
  {253402300799, "Fri, 31 Dec 9999 23:59:59 GMT"},
};

static void check_date(int64_t seconds, const char *text) {
  uint8_t *out = guard_end(NULL, FS_DATE_LEN);
  fs_date_format(seconds, out);
  if (!CHECK_TEXT(out, FS_DATE_LEN, text)) printf("  %lld\n", (long long)seconds);
}

static void known_dates(void) {
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) check_date(known[i].seconds, known[i].text);
}

static void check_against_libc(int64_t seconds) {
  char text[64];
  struct tm tm;
  time_t t = (time_t)seconds;
  gmtime_r(&t, &tm);
  strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &tm); /* the C locale: setlocale is never called */
  check_date(seconds, text);
}

/* The first and the last second of each day until 2400, then a coprime stride until 9999. */
static void every_day(void) {
  for (int64_t day = 0; day < 157055; day++) {
    check_against_libc(day * 86400);
    check_against_libc(day * 86400 + 86399);
  }
  for (int64_t seconds = 13569465600; seconds <= 253402300799; seconds += 7654321) check_against_libc(seconds);
}

static void every_second_of_a_day(void) {
  for (int64_t second = 0; second < 86400; second++) check_against_libc(1700006400 + second);
}

static const harness_test tests[] = {
  {"known dates", known_dates},
  {"every day", every_day},
  {"every second of a day", every_second_of_a_day},
};
HARNESS_MAIN(tests)
