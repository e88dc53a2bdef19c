/* Room:    kernels for x86-64 with AVX2: 32 bytes a round.
 * Called:  through fs_scan.
 * Calls:   scan_sse42.c for spans shorter than 32 bytes.
 * Rules:   token (RFC 9110 5.6.2), field-value (RFC 9110 5.5), request-target bytes (RFC 9112 3.2);
 *          masking (RFC 6455 5.3).
 *
 * Nothing outside [p, end) is read: a span that is no multiple of 32 is finished by a block that ends at `end` and
 * overlaps bytes already found good. How each class is told apart is explained in scan_sse42.c; this is its wide twin.
 */
#include "scan.h"

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)

#include <immintrin.h>

#define ISA FS_TARGET("avx2")

extern const fs_scan_kernels fs_scan_avx2;
const uint8_t *fs_scan_sse42_token(const uint8_t *p, const uint8_t *end);
const uint8_t *fs_scan_sse42_target(const uint8_t *p, const uint8_t *end);
const uint8_t *fs_scan_sse42_value(const uint8_t *p, const uint8_t *end);
const uint8_t *fs_scan_sse42_ascii(const uint8_t *p, const uint8_t *end);
bool fs_scan_sse42_mask(uint8_t *out, const uint8_t *in, size_t len, uint32_t key);

typedef enum { TOKEN, TARGET, VALUE, ASCII } byte_class; /* always a constant: the branches on it vanish */

/* vpshufb looks up within each half of 16 bytes, so both halves hold the table. */
FS_INLINE ISA __m256i not_token(__m256i x) {
  const __m256i by_low = _mm256_broadcastsi128_si256(
    _mm_setr_epi8((char)0xE8, (char)0xFC, (char)0xF8, (char)0xFC, (char)0xFC, (char)0xFC, (char)0xFC, (char)0xFC,
                  (char)0xF8, (char)0xF8, (char)0xF4, 0x54, (char)0xD0, 0x54, (char)0xF4, 0x70));
  const __m256i by_high = _mm256_broadcastsi128_si256(
    _mm_setr_epi8(1, 2, 4, 8, 16, 32, 64, (char)0x80, 0, 0, 0, 0, 0, 0, 0, 0));
  __m256i high_nibbles = _mm256_and_si256(_mm256_srli_epi16(x, 4), _mm256_set1_epi8(0x0F));
  __m256i found = _mm256_and_si256(_mm256_shuffle_epi8(by_low, x), _mm256_shuffle_epi8(by_high, high_nibbles));
  return _mm256_cmpeq_epi8(found, _mm256_setzero_si256());
}

FS_INLINE ISA __m256i not_target(__m256i x) {
  __m256i outside = _mm256_or_si256(_mm256_cmpgt_epi8(_mm256_set1_epi8(0x21), x),
                                    _mm256_cmpeq_epi8(x, _mm256_set1_epi8(0x7F)));
  return _mm256_or_si256(outside, _mm256_cmpeq_epi8(x, _mm256_set1_epi8('#')));
}

FS_INLINE ISA __m256i not_value(__m256i x) {
  __m256i turned = _mm256_xor_si256(x, _mm256_set1_epi8((char)0x80));
  __m256i control = _mm256_cmpgt_epi8(_mm256_set1_epi8((char)(0x20 ^ 0x80)), turned);
  __m256i tab = _mm256_cmpeq_epi8(x, _mm256_set1_epi8('\t'));
  return _mm256_or_si256(_mm256_andnot_si256(tab, control), _mm256_cmpeq_epi8(x, _mm256_set1_epi8(0x7F)));
}

/* Bit i is set when byte i of the block at `p` is not of the class. */
FS_INLINE ISA uint32_t bad_bits_at(const uint8_t *p, byte_class class) {
  __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)p);
  if (class == TOKEN) return (uint32_t)_mm256_movemask_epi8(not_token(x));
  if (class == TARGET) return (uint32_t)_mm256_movemask_epi8(not_target(x));
  if (class == ASCII) return (uint32_t)_mm256_movemask_epi8(x);
  return (uint32_t)_mm256_movemask_epi8(not_value(x));
}

/* 32 bytes or more. */
FS_INLINE ISA const uint8_t *scan_long(const uint8_t *p, const uint8_t *end, byte_class class) {
  do {
    uint32_t bad = bad_bits_at(p, class);
    if (bad) return p + __builtin_ctz(bad);
    p += 32;
  } while (end - p >= 32);
  if (p == end) return end;
  uint32_t bad = bad_bits_at(end - 32, class);
  return bad ? end - 32 + __builtin_ctz(bad) : end;
}

static ISA const uint8_t *avx2_token(const uint8_t *p, const uint8_t *end) {
  return FS_UNLIKELY(end - p < 32) ? fs_scan_sse42_token(p, end) : scan_long(p, end, TOKEN);
}

static ISA const uint8_t *avx2_target(const uint8_t *p, const uint8_t *end) {
  return FS_UNLIKELY(end - p < 32) ? fs_scan_sse42_target(p, end) : scan_long(p, end, TARGET);
}

static ISA const uint8_t *avx2_value(const uint8_t *p, const uint8_t *end) {
  return FS_UNLIKELY(end - p < 32) ? fs_scan_sse42_value(p, end) : scan_long(p, end, VALUE);
}

static ISA const uint8_t *avx2_ascii(const uint8_t *p, const uint8_t *end) {
  return FS_UNLIKELY(end - p < 32) ? fs_scan_sse42_ascii(p, end) : scan_long(p, end, ASCII);
}

static ISA bool avx2_mask(uint8_t *out, const uint8_t *in, size_t len, uint32_t key) {
  if (len < 32) return fs_scan_sse42_mask(out, in, len, key);
  const __m256i keys = _mm256_set1_epi32((int)key);
  __m256i seen = _mm256_setzero_si256();
  for (; len >= 32; len -= 32, in += 32, out += 32) {
    __m256i x = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(const void *)in), keys);
    seen = _mm256_or_si256(seen, x);
    _mm256_storeu_si256((__m256i *)(void *)out, x);
  }
  return fs_mask_tail(out, in, len, key, _mm256_movemask_epi8(seen) ? UINT64_C(0x80) : 0);
}

const fs_scan_kernels fs_scan_avx2 = {"avx2", avx2_token, avx2_target, avx2_value, avx2_ascii, avx2_mask};

#endif
