/* Room:    what the fuzz targets share: pieces of exactly their size, choices drawn from the input itself, limits.
 * Called:  by fuzz_*.c. Calls tests/c/events.h, whose RUN_MUST ends the program when an invariant does not hold.
 */
#ifndef FS_FUZZ_H
#define FS_FUZZ_H

#include "../c/events.h"

#include "../../csrc/scan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A copy with nothing behind it, so that AddressSanitizer sees a read too far. The caller frees it. */
__attribute__((unused)) static uint8_t *exactly(const uint8_t *data, size_t len) {
  uint8_t *copy = malloc(len == 0 ? 1 : len);
  if (copy == NULL) abort();
  if (len != 0) memcpy(copy, data, len);
  return len == 0 ? copy + 1 : copy; /* of nothing, not even the first byte can be read */
}

__attribute__((unused)) static void drop(uint8_t *copy, size_t len) { free(len == 0 ? copy - 1 : copy); }

/* Choices are a function of the input: the same file always does the same. */
typedef struct {
  uint64_t state;
} fuzz_dice;

__attribute__((unused)) static fuzz_dice dice_from(const uint8_t *data, size_t len) {
  fuzz_dice dice = {UINT64_C(0xcbf29ce484222325)};
  for (size_t i = 0; i < len; i++) dice.state = (dice.state ^ data[i]) * UINT64_C(0x100000001b3);
  return dice;
}

__attribute__((unused)) static size_t dice_below(fuzz_dice *dice, size_t n) {
  dice->state += UINT64_C(0x9e3779b97f4a7c15);
  uint64_t z = dice->state;
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return n == 0 ? 0 : (size_t)((z ^ (z >> 31)) % n);
}

/* The defaults, or something tight where edges are near. */
__attribute__((unused)) static fs_limits dice_limits(fuzz_dice *dice) {
  fs_limits limits = FS_LIMITS_DEFAULT;
  if (dice_below(dice, 2) == 0) return limits;
  if (dice_below(dice, 2) == 0) limits.request_line_bytes_max = (uint32_t)dice_below(dice, 64);
  if (dice_below(dice, 2) == 0) limits.head_bytes_max = (uint32_t)dice_below(dice, 256);
  if (dice_below(dice, 2) == 0) limits.fields_max = (uint32_t)dice_below(dice, 8);
  if (dice_below(dice, 2) == 0) limits.leading_crlf_max = (uint32_t)dice_below(dice, 4);
  if (dice_below(dice, 2) == 0) limits.body_bytes_max = dice_below(dice, 32);
  if (dice_below(dice, 2) == 0) limits.chunk_ext_bytes_max = (uint32_t)dice_below(dice, 16);
  if (dice_below(dice, 2) == 0) limits.trailer_bytes_max = (uint32_t)dice_below(dice, 48);
  if (dice_below(dice, 2) == 0) limits.drain_bytes_max = (uint32_t)dice_below(dice, 48);
  return limits;
}

/* Each way of feeding an input takes kernels of its own: they have to agree as well. FASTSERVE_SIMD forces one. */
__attribute__((unused)) static void dice_kernels(fuzz_dice *dice) {
  const char *forced = getenv("FASTSERVE_SIMD");
  if (forced != NULL && *forced != '\0') {
    RUN_MUST(fs_scan_choose(forced));
    return;
  }
  unsigned count = 0;
  while (fs_scan_level(count) != NULL) count++;
  RUN_MUST(fs_scan_choose(fs_scan_level((unsigned)dice_below(dice, count))->name));
}

/* How an input is cut: whole, byte by byte (in steps if it is long), or at places the dice choose. */
typedef enum { CUT_NOT, CUT_BYTES, CUT_DICE, CUT_DICE_AGAIN, CUTS } fuzz_cut;

__attribute__((unused)) static size_t next_cut(fuzz_cut how, size_t at, size_t len, fuzz_dice *dice) {
  size_t step = len - at;
  if (how == CUT_BYTES) step = len <= 512 ? 1 : 1 + len / 512;
  if (how >= CUT_DICE) step = 1 + dice_below(dice, dice_below(dice, 4) == 0 ? 3 : len);
  return at + step < len ? at + step : len;
}

__attribute__((unused)) static void must_be_same(const char *a, const char *b) {
  if (strcmp(a, b) == 0) return;
  fprintf(stderr, "cut differently, the same bytes tell different stories:\n--- whole\n%s--- cut\n%s", a, b);
  run_broken("the same story however the bytes are cut", __FILE__, __LINE__);
}

#endif
