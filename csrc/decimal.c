/* Room:    decimal digits.
 * Called:  by response.c, logline.c.
 * Calls:   nobody.
 * Rules:   1*DIGIT, as RFC 9110 section 8.6 wants Content-Length.
 *
 * Two digits at a time; lengths, statuses and durations are mostly short, so up to three are looked up.
 */
#include "decimal.h"

const char fs_decimal_pairs[] =
  "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748495051525354555657585960"
  "616263646566676869707172737475767778798081828384858687888990919293949596979899";

#define TEN(before) before "0" before "1" before "2" before "3" before "4" before "5" before "6" before "7" before "8" before "9"
#define HUNDRED(h) TEN(h "0") TEN(h "1") TEN(h "2") TEN(h "3") TEN(h "4") TEN(h "5") TEN(h "6") TEN(h "7") TEN(h "8") TEN(h "9")
const char fs_decimal_triples[] = HUNDRED("0") HUNDRED("1") HUNDRED("2") HUNDRED("3") HUNDRED("4") HUNDRED("5") HUNDRED("6")
  HUNDRED("7") HUNDRED("8") HUNDRED("9");

size_t fs_decimal(uint8_t *out, uint64_t n) {
  if (n < 10) {
    out[0] = (uint8_t)('0' + n);
    return 1;
  }
  if (n < 100) {
    memcpy(out, fs_decimal_pairs + 2 * n, 2);
    return 2;
  }
  if (n < 1000) {
    memcpy(out, fs_decimal_triples + 3 * n, 3);
    return 3;
  }
  size_t len = 4;
  for (uint64_t above = 10000; n >= above; above *= 10) { /* written from the end: how many will there be? */
    len++;
    if (len == 20) break; /* ten more times would be more than 64 bits */
  }
  size_t at = len;
  while (n >= 10) {
    at -= 2;
    memcpy(out + at, fs_decimal_pairs + 2 * (n % 100), 2);
    n /= 100;
  }
  if (at > 0) out[0] = (uint8_t)('0' + n);
  return len;
}
