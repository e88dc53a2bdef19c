/* Room:    portable kernels: eight bytes in a 64-bit word where arithmetic can tell, else a table, four bytes a round.
 * Called:  through fs_scan, on processors without a better level.
 * Calls:   nobody; reads the tables of scan.c.
 * Rules:   token (RFC 9110 5.6.2), field-value (RFC 9110 5.5), request-target bytes (RFC 9112 3.2);
 *          masking (RFC 6455 5.3).
 */
#include "scan.h"

extern const fs_scan_kernels fs_scan_swar;

#define ONES UINT64_C(0x0101010101010101)
#define HIGH (ONES * 0x80)

FS_INLINE uint64_t load64(const uint8_t *p) {
  uint64_t word;
  memcpy(&word, p, 8);
  return word;
}

/* Non-zero if and only if some byte is below n (n <= 0x80). Which bit is set does not matter here: borrows run upwards,
 * so only the lowest set bit could be trusted, and only with little-endian loads. */
FS_INLINE uint64_t any_below(uint64_t word, unsigned n) { return (word - ONES * n) & ~word & HIGH; }

FS_INLINE uint64_t any_equal(uint64_t word, unsigned c) { return any_below(word ^ (ONES * c), 1); }

FS_INLINE const uint8_t *by_table(const uint8_t *p, const uint8_t *end, const uint8_t *table) {
  while (end - p >= 4) {
    if (!table[p[0]]) return p;
    if (!table[p[1]]) return p + 1;
    if (!table[p[2]]) return p + 2;
    if (!table[p[3]]) return p + 3;
    p += 4;
  }
  while (p < end && table[*p]) p++;
  return p;
}

/* tchar is no range: arithmetic would cost more than the table. */
static const uint8_t *swar_token(const uint8_t *p, const uint8_t *end) { return by_table(p, end, fs_is_token); }

static const uint8_t *swar_target(const uint8_t *p, const uint8_t *end) {
  for (; end - p >= 8; p += 8) {
    uint64_t word = load64(p);
    uint64_t bad = (word & HIGH) | any_below(word, 0x21) | any_equal(word, 0x7F) | any_equal(word, '#');
    if (bad) return by_table(p, end, fs_is_target);
  }
  return by_table(p, end, fs_is_target);
}

/* HTAB is below SP and yet allowed: a word with one is looked at byte by byte, and the loop goes on. */
static const uint8_t *swar_value(const uint8_t *p, const uint8_t *end) {
  for (; end - p >= 8; p += 8) {
    uint64_t word = load64(p);
    if (FS_LIKELY(!(any_below(word, 0x20) | any_equal(word, 0x7F)))) continue;
    const uint8_t *stop = by_table(p, p + 8, fs_is_value);
    if (stop < p + 8) return stop;
  }
  return by_table(p, end, fs_is_value);
}

static const uint8_t *swar_ascii(const uint8_t *p, const uint8_t *end) {
  for (; end - p >= 8; p += 8) {
    if (load64(p) & HIGH) break;
  }
  while (p < end && *p < 0x80) p++;
  return p;
}

/* The key twice is the key of eight bytes. */
static bool swar_mask(uint8_t *out, const uint8_t *in, size_t len, uint32_t key) {
  uint64_t keys = key | (uint64_t)key << 32, seen = 0;
  for (; len >= 8; len -= 8, in += 8, out += 8) {
    uint64_t word = load64(in) ^ keys;
    seen |= word;
    memcpy(out, &word, 8);
  }
  return fs_mask_tail(out, in, len, key, seen);
}

const fs_scan_kernels fs_scan_swar = {"swar", swar_token, swar_target, swar_value, swar_ascii, swar_mask};
