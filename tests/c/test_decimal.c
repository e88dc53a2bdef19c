/* Room:    tests of decimal digits, against snprintf.
 * Called:  by `make ctest`.
 * Calls:   csrc/decimal.c.
 * Rules:   RFC 9110 section 8.6 (1*DIGIT).
 */
#include "harness.h"

#include "../../csrc/decimal.h"

static void number(uint64_t n) {
  char expected[24];
  uint8_t out[32];
  int want = snprintf(expected, sizeof expected, "%llu", (unsigned long long)n);
  memset(out, 0xEE, sizeof out);
  size_t len = fs_decimal(out, n);
  CHECK_TEXT(out, len, expected);
  CHECK(out[want] == 0xEE);
}

static void test_around_each_power(void) {
  uint64_t power = 1;
  for (int i = 0; i < 20; i++, power *= 10) {
    for (uint64_t d = 0; d < 3; d++) number(power - 1 + d);
  }
  number(UINT64_MAX);
}

static void test_the_short_ones(void) {
  for (uint64_t n = 0; n < 20000; n++) number(n);
}

static const harness_test tests[] = {
  {"around_each_power", test_around_each_power},
  {"the_short_ones", test_the_short_ones},
};

HARNESS_MAIN(tests)
