/* Room:    kernels for x86-64 with SSE4.2 (SSSE3's pshufb is what they need): 16 bytes a round.
 * Called:  through fs_scan; by scan_avx2.c for what is shorter than its block.
 * Calls:   nobody; reads the tables of scan.c for spans of one to three bytes.
 * Rules:   token (RFC 9110 5.6.2), field-value (RFC 9110 5.5), request-target bytes (RFC 9112 3.2);
 *          masking (RFC 6455 5.3).
 *
 * Nothing outside [p, end) is read. A span that is no multiple of the block is finished by a block that ends at `end`
 * and overlaps bytes already found good; a span shorter than a block is put together from two overlapping halves.
 */
#include "scan.h"

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)

#include <immintrin.h>

#define ISA FS_TARGET("sse4.2")

extern const fs_scan_kernels fs_scan_sse42;
const uint8_t *fs_scan_sse42_token(const uint8_t *p, const uint8_t *end);
const uint8_t *fs_scan_sse42_target(const uint8_t *p, const uint8_t *end);
const uint8_t *fs_scan_sse42_value(const uint8_t *p, const uint8_t *end);
const uint8_t *fs_scan_sse42_ascii(const uint8_t *p, const uint8_t *end);
bool fs_scan_sse42_mask(uint8_t *out, const uint8_t *in, size_t len, uint32_t key);

typedef enum { TOKEN, TARGET, VALUE, ASCII } byte_class; /* always a constant: the branches on it vanish */

/* The tchar set as a bitmap of 16 x 8: by_low[low nibble] has bit h set when the byte 16 * h + low is a tchar,
 * by_high[high nibble] is that bit. pshufb yields 0 for an index with bit 7 set, so no byte from 0x80 is a token. */
FS_INLINE ISA __m128i not_token(__m128i x) {
  const __m128i by_low =
    _mm_setr_epi8((char)0xE8, (char)0xFC, (char)0xF8, (char)0xFC, (char)0xFC, (char)0xFC, (char)0xFC, (char)0xFC,
                  (char)0xF8, (char)0xF8, (char)0xF4, 0x54, (char)0xD0, 0x54, (char)0xF4, 0x70);
  const __m128i by_high = _mm_setr_epi8(1, 2, 4, 8, 16, 32, 64, (char)0x80, 0, 0, 0, 0, 0, 0, 0, 0);
  __m128i high_nibbles = _mm_and_si128(_mm_srli_epi16(x, 4), _mm_set1_epi8(0x0F));
  __m128i found = _mm_and_si128(_mm_shuffle_epi8(by_low, x), _mm_shuffle_epi8(by_high, high_nibbles));
  return _mm_cmpeq_epi8(found, _mm_setzero_si128());
}

/* Signed compare: bytes from 0x80 are negative, hence below 0x21 like the controls and SP. */
FS_INLINE ISA __m128i not_target(__m128i x) {
  __m128i outside = _mm_or_si128(_mm_cmplt_epi8(x, _mm_set1_epi8(0x21)), _mm_cmpeq_epi8(x, _mm_set1_epi8(0x7F)));
  return _mm_or_si128(outside, _mm_cmpeq_epi8(x, _mm_set1_epi8('#')));
}

/* Signed compare again, with the sign turned: x ^ 0x80 is ordered as x is without a sign. */
FS_INLINE ISA __m128i not_value(__m128i x) {
  __m128i turned = _mm_xor_si128(x, _mm_set1_epi8((char)0x80));
  __m128i control = _mm_cmplt_epi8(turned, _mm_set1_epi8((char)(0x20 ^ 0x80)));
  __m128i tab = _mm_cmpeq_epi8(x, _mm_set1_epi8('\t'));
  return _mm_or_si128(_mm_andnot_si128(tab, control), _mm_cmpeq_epi8(x, _mm_set1_epi8(0x7F)));
}

/* Bit i is set when byte i is not of the class. */
FS_INLINE ISA unsigned bad_bits(__m128i x, byte_class class) {
  if (class == TOKEN) return (unsigned)_mm_movemask_epi8(not_token(x));
  if (class == TARGET) return (unsigned)_mm_movemask_epi8(not_target(x));
  if (class == ASCII) return (unsigned)_mm_movemask_epi8(x);
  return (unsigned)_mm_movemask_epi8(not_value(x));
}

FS_INLINE ISA unsigned bad_bits_at(const uint8_t *p, byte_class class) {
  return bad_bits(_mm_loadu_si128((const __m128i *)(const void *)p), class);
}

/* 0 to 15 bytes. The second half ends at `end`: bit 8 + i (or 4 + i) stands for its byte i. Where the halves overlap
 * the lower bit is found first, and both name the same byte. */
FS_INLINE ISA const uint8_t *scan_short(const uint8_t *p, const uint8_t *end, byte_class class, const uint8_t *table) {
  size_t n = (size_t)(end - p);
  if (n >= 8) {
    int64_t low, high;
    memcpy(&low, p, 8);
    memcpy(&high, end - 8, 8);
    unsigned bad = bad_bits(_mm_set_epi64x(high, low), class);
    if (!bad) return end;
    unsigned i = (unsigned)__builtin_ctz(bad);
    return i < 8 ? p + i : end - 16 + i;
  }
  if (n >= 4) {
    int32_t low, high;
    memcpy(&low, p, 4);
    memcpy(&high, end - 4, 4);
    unsigned bad = bad_bits(_mm_set_epi32(0, 0, high, low), class) & 0xFF;
    if (!bad) return end;
    unsigned i = (unsigned)__builtin_ctz(bad);
    return i < 4 ? p + i : end - 8 + i;
  }
  while (p < end && (class == ASCII ? *p < 0x80 : table[*p])) p++;
  return p;
}

FS_INLINE ISA const uint8_t *scan_span(const uint8_t *p, const uint8_t *end, byte_class class, const uint8_t *table) {
  if (FS_UNLIKELY(end - p < 16)) return scan_short(p, end, class, table);
  do {
    unsigned bad = bad_bits_at(p, class);
    if (bad) return p + __builtin_ctz(bad);
    p += 16;
  } while (end - p >= 16);
  if (p == end) return end;
  unsigned bad = bad_bits_at(end - 16, class);
  return bad ? end - 16 + __builtin_ctz(bad) : end;
}

ISA const uint8_t *fs_scan_sse42_token(const uint8_t *p, const uint8_t *end) {
  return scan_span(p, end, TOKEN, fs_is_token);
}

ISA const uint8_t *fs_scan_sse42_target(const uint8_t *p, const uint8_t *end) {
  return scan_span(p, end, TARGET, fs_is_target);
}

ISA const uint8_t *fs_scan_sse42_value(const uint8_t *p, const uint8_t *end) {
  return scan_span(p, end, VALUE, fs_is_value);
}

ISA const uint8_t *fs_scan_sse42_ascii(const uint8_t *p, const uint8_t *end) {
  return scan_span(p, end, ASCII, NULL);
}

/* A block that overlapped the one before would be masked twice where `out` is `in`: the tail goes by words. */
ISA bool fs_scan_sse42_mask(uint8_t *out, const uint8_t *in, size_t len, uint32_t key) {
  const __m128i keys = _mm_set1_epi32((int)key);
  __m128i seen = _mm_setzero_si128();
  for (; len >= 16; len -= 16, in += 16, out += 16) {
    __m128i x = _mm_xor_si128(_mm_loadu_si128((const __m128i *)(const void *)in), keys);
    seen = _mm_or_si128(seen, x);
    _mm_storeu_si128((__m128i *)(void *)out, x);
  }
  return fs_mask_tail(out, in, len, key, _mm_movemask_epi8(seen) ? UINT64_C(0x80) : 0);
}

const fs_scan_kernels fs_scan_sse42 = {"sse42",             fs_scan_sse42_token, fs_scan_sse42_target,
                                       fs_scan_sse42_value, fs_scan_sse42_ascii, fs_scan_sse42_mask};

#endif
