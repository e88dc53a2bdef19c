/* Room:    kernels for AArch64 (Advanced SIMD): 16 bytes a round.
 * Called:  through fs_scan.
 * Calls:   nobody; reads the tables of scan.c for spans of one to three bytes.
 * Rules:   token (RFC 9110 5.6.2), field-value (RFC 9110 5.5), request-target bytes (RFC 9112 3.2);
 *          masking (RFC 6455 5.3).
 *
 * Nothing outside [p, end) is read; tails and short spans as in scan_sse42.c.
 * Little-endian only: the lowest bit must be the first byte.
 */
#include "scan.h"

#if (defined(__GNUC__) || defined(__clang__)) && defined(__aarch64__) && !defined(__AARCH64EB__)

#include <arm_neon.h>

extern const fs_scan_kernels fs_scan_neon;

typedef enum { TOKEN, TARGET, VALUE, ASCII } byte_class; /* always a constant: the branches on it vanish */

/* The tchar set as a bitmap of 16 x 8, see scan_sse42.c. tbl yields 0 for an index from 16 on: by_high has no entry for
 * the high nibbles of bytes from 0x80. */
static const uint8_t by_low[16] = {0xE8, 0xFC, 0xF8, 0xFC, 0xFC, 0xFC, 0xFC, 0xFC,
                                   0xF8, 0xF8, 0xF4, 0x54, 0xD0, 0x54, 0xF4, 0x70};
static const uint8_t by_high[16] = {1, 2, 4, 8, 16, 32, 64, 128, 0, 0, 0, 0, 0, 0, 0, 0};

FS_INLINE uint8x16_t not_token(uint8x16_t x) {
  uint8x16_t low = vqtbl1q_u8(vld1q_u8(by_low), vandq_u8(x, vdupq_n_u8(0x0F)));
  uint8x16_t high = vqtbl1q_u8(vld1q_u8(by_high), vshrq_n_u8(x, 4));
  return vceqzq_u8(vandq_u8(low, high));
}

/* x - 0x21, without a sign, is below 0x5E for 0x21 to 0x7E and for nothing else. */
FS_INLINE uint8x16_t not_target(uint8x16_t x) {
  uint8x16_t outside = vcgeq_u8(vsubq_u8(x, vdupq_n_u8(0x21)), vdupq_n_u8(0x5E));
  return vorrq_u8(outside, vceqq_u8(x, vdupq_n_u8('#')));
}

FS_INLINE uint8x16_t not_value(uint8x16_t x) {
  uint8x16_t control = vbicq_u8(vcltq_u8(x, vdupq_n_u8(0x20)), vceqq_u8(x, vdupq_n_u8('\t')));
  return vorrq_u8(control, vceqq_u8(x, vdupq_n_u8(0x7F)));
}

/* Bits 4i to 4i+3 are set when byte i is not of the class: shrn keeps the middle byte of each pair, so every byte of
 * the comparison leaves one nibble. */
FS_INLINE uint64_t bad_nibbles(uint8x16_t x, byte_class class) {
  uint8x16_t bad = class == TOKEN    ? not_token(x)
                   : class == TARGET ? not_target(x)
                   : class == ASCII  ? vcgeq_u8(x, vdupq_n_u8(0x80))
                                     : not_value(x);
  return vget_lane_u64(vreinterpret_u64_u8(vshrn_n_u16(vreinterpretq_u16_u8(bad), 4)), 0);
}

FS_INLINE size_t first_byte(uint64_t nibbles) { return (size_t)__builtin_ctzll(nibbles) >> 2; }

/* 0 to 15 bytes, from two halves of which the second ends at `end`; where they overlap both name the same byte. */
FS_INLINE const uint8_t *scan_short(const uint8_t *p, const uint8_t *end, byte_class class, const uint8_t *table) {
  size_t n = (size_t)(end - p);
  if (n >= 8) {
    uint64_t bad = bad_nibbles(vcombine_u8(vld1_u8(p), vld1_u8(end - 8)), class);
    if (!bad) return end;
    size_t i = first_byte(bad);
    return i < 8 ? p + i : end - 16 + i;
  }
  if (n >= 4) {
    uint32_t halves[2];
    memcpy(&halves[0], p, 4);
    memcpy(&halves[1], end - 4, 4);
    uint8x8_t x = vcreate_u8(halves[0] | (uint64_t)halves[1] << 32);
    uint64_t bad = bad_nibbles(vcombine_u8(x, x), class);
    if (!bad) return end;
    size_t i = first_byte(bad); /* below 8: the upper half repeats the lower */
    return i < 4 ? p + i : end - 8 + i;
  }
  while (p < end && (class == ASCII ? *p < 0x80 : table[*p])) p++;
  return p;
}

FS_INLINE const uint8_t *scan_span(const uint8_t *p, const uint8_t *end, byte_class class, const uint8_t *table) {
  if (FS_UNLIKELY(end - p < 16)) return scan_short(p, end, class, table);
  do {
    uint64_t bad = bad_nibbles(vld1q_u8(p), class);
    if (bad) return p + first_byte(bad);
    p += 16;
  } while (end - p >= 16);
  if (p == end) return end;
  uint64_t bad = bad_nibbles(vld1q_u8(end - 16), class);
  return bad ? end - 16 + first_byte(bad) : end;
}

static const uint8_t *neon_token(const uint8_t *p, const uint8_t *end) {
  return scan_span(p, end, TOKEN, fs_is_token);
}

static const uint8_t *neon_target(const uint8_t *p, const uint8_t *end) {
  return scan_span(p, end, TARGET, fs_is_target);
}

static const uint8_t *neon_value(const uint8_t *p, const uint8_t *end) {
  return scan_span(p, end, VALUE, fs_is_value);
}

static const uint8_t *neon_ascii(const uint8_t *p, const uint8_t *end) { return scan_span(p, end, ASCII, NULL); }

static bool neon_mask(uint8_t *out, const uint8_t *in, size_t len, uint32_t key) {
  const uint8x16_t keys = vreinterpretq_u8_u32(vdupq_n_u32(key));
  uint8x16_t seen = vdupq_n_u8(0);
  for (; len >= 16; len -= 16, in += 16, out += 16) {
    uint8x16_t x = veorq_u8(vld1q_u8(in), keys);
    seen = vorrq_u8(seen, x);
    vst1q_u8(out, x);
  }
  return fs_mask_tail(out, in, len, key, vmaxvq_u8(seen) & 0x80);
}

const fs_scan_kernels fs_scan_neon = {"neon", neon_token, neon_target, neon_value, neon_ascii, neon_mask};

#endif
