/* Room:    decimal digits.
 * Called:  by response.c, logline.c.
 * Calls:   nobody.
 * Rules:   1*DIGIT, as RFC 9110 section 8.6 wants Content-Length.
 *
 * Two digits at a time; lengths and durations are mostly short, so the last steps are plain.
 */
#include "decimal.h"

const char fs_decimal_pairs[] =
  "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748495051525354555657585960"
  "616263646566676869707172737475767778798081828384858687888990919293949596979899";

size_t fs_decimal(uint8_t *out, uint64_t n) {
  if (n < 10) {
    out[0] = (uint8_t)('0' + n);
    return 1;
  }
  if (n < 100) {
    memcpy(out, fs_decimal_pairs + 2 * n, 2);
    return 2;
  }
  uint8_t digits[20];
  size_t start = sizeof digits;
  while (n >= 100) {
    start -= 2;
    memcpy(digits + start, fs_decimal_pairs + 2 * (n % 100), 2);
    n /= 100;
  }
  if (n >= 10) {
    start -= 2;
    memcpy(digits + start, fs_decimal_pairs + 2 * n, 2);
  } else {
    digits[--start] = (uint8_t)('0' + n);
  }
  memcpy(out, digits + start, sizeof digits - start);
  return sizeof digits - start;
}
