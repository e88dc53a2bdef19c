/* Sixteen bytes at a time, for texts that are short and nearly always plain.
 *
 * Room:    shared by the files that judge such texts; scan.h is for long ones, with the best instructions of the processor.
 * Called:  by target.c, logline.c. Calls nobody.
 *
 * Vectors of C: SSE2 and NEON have them, and for anything else the compiler makes words of them. A comparison gives all ones
 * for a byte of which it holds. Bytes are signed: what is beyond ASCII is below 0.
 */
#ifndef FS_BLOCK_H
#define FS_BLOCK_H

#include "base.h"

typedef int8_t fs_block __attribute__((vector_size(16)));

FS_INLINE fs_block fs_block_load(const uint8_t *text) {
  fs_block bytes;
  memcpy(&bytes, text, sizeof bytes);
  return bytes;
}

/* The first and the last eight of 8 to 16 bytes. */
FS_INLINE fs_block fs_block_ends(const uint8_t *text, size_t len) {
  fs_block bytes;
  memcpy(&bytes, text, 8);
  memcpy((uint8_t *)&bytes + 8, text + len - 8, 8);
  return bytes;
}

FS_INLINE void fs_block_store(uint8_t *out, fs_block bytes) { memcpy(out, &bytes, sizeof bytes); }

FS_INLINE fs_block fs_block_equal(fs_block bytes, char c) { return (fs_block)(bytes == (int8_t)c); }

FS_INLINE fs_block fs_block_between(fs_block bytes, char first, char last) {
  return (fs_block)(bytes >= (int8_t)first) & (fs_block)(bytes <= (int8_t)last);
}

FS_INLINE bool fs_block_any(fs_block found) {
  uint64_t halves[2];
  memcpy(halves, &found, sizeof found);
  return (halves[0] | halves[1]) != 0;
}

#endif
