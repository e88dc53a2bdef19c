/* Room:    seconds since the epoch -> IMF-fixdate text; arithmetic only.
 * Called:  by the Service, when the second changes.
 * Calls:   nobody.
 * Rules:   RFC 9110 section 5.6.7: "An HTTP-date value represents time as an instance of Coordinated Universal Time".
 */
#include "date.h"

typedef struct {
  unsigned year, month, day; /* month and day from 1 */
} civil_date;

/* Days since 1970-01-01 -> Gregorian date. Years are counted from 1 March, so that the leap day is the last of its year
 * and every month's first day is a linear function of its number; eras of 400 years have 146097 days. */
static civil_date civil_from_days(uint32_t days_since_epoch) {
  uint32_t days = days_since_epoch + 719468; /* since 0000-03-01 */
  uint32_t era = days / 146097;
  uint32_t of_era = days % 146097;
  uint32_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
  uint32_t of_year = of_era - (365 * year + year / 4 - year / 100);
  uint32_t month = (5 * of_year + 2) / 153; /* 0 is March */
  civil_date date;
  date.day = of_year - (153 * month + 2) / 5 + 1;
  date.month = month < 10 ? month + 3 : month - 9;
  date.year = year + era * 400 + (date.month <= 2);
  return date;
}

static void put_two(uint8_t *out, unsigned n) {
  out[0] = (uint8_t)('0' + n / 10);
  out[1] = (uint8_t)('0' + n % 10);
}

void fs_date_format(int64_t seconds, uint8_t *out) {
  FS_ASSERT(seconds >= 0 && seconds <= INT64_C(253402300799)); /* 9999-12-31 23:59:59 */
  uint32_t days = (uint32_t)(seconds / 86400);
  uint32_t clock = (uint32_t)(seconds % 86400);
  civil_date date = civil_from_days(days);
  memcpy(out, "xxx, 00 xxx 0000 00:00:00 GMT", FS_DATE_LEN);
  memcpy(out, &"ThuFriSatSunMonTueWed"[3 * (days % 7)], 3); /* 1970-01-01 was a Thursday */
  put_two(out + 5, date.day);
  memcpy(out + 8, &"JanFebMarAprMayJunJulAugSepOctNovDec"[3 * (date.month - 1)], 3);
  put_two(out + 12, date.year / 100);
  put_two(out + 14, date.year % 100);
  put_two(out + 17, clock / 3600);
  put_two(out + 20, clock / 60 % 60);
  put_two(out + 23, clock % 60);
}
