/* The questions asked of bytes, answered many bytes at a time, and the one thing done to them: masking.
 *
 * Room:    a table of three function pointers per instruction set, chosen once at run time.
 * Called:  by request.c, body.c, response.c, target.c, websocket.c. Calls scan_swar.c, scan_sse42.c, scan_avx2.c, scan_neon.c.
 * Rules:   token (RFC 9110 5.6.2), field-value (RFC 9110 5.5), request-target bytes (RFC 9112 3.2, as browsers send them);
 *          masking (RFC 6455 5.3).
 *
 * Every scanning kernel has the same contract: return the first byte in [p, end) that is NOT of the class, or `end`.
 * A kernel never reads or writes outside what it is given.
 */
#ifndef FS_SCAN_H
#define FS_SCAN_H

#include "base.h"

typedef const uint8_t *(*fs_scan_fn)(const uint8_t *p, const uint8_t *end);

/* out[i] = in[i] ^ byte (i mod 4) of `key`, whose bytes are in memory order. `out` is `in`, or does not overlap it.
 * True if every byte written is ASCII: whoever unmasks text gets that answer for nothing. */
typedef bool (*fs_mask_fn)(uint8_t *out, const uint8_t *in, size_t len, uint32_t key);

typedef struct {
  const char *name;  /* "swar", "sse42", "avx2", "neon" */
  fs_scan_fn token;  /* tchar: letters, digits and !#$%&'*+-.^_`|~ */
  fs_scan_fn target; /* 0x21-0x7E except '#' */
  fs_scan_fn value;  /* HTAB, 0x20-0x7E, 0x80-0xFF: everything but controls and DEL */
  fs_scan_fn ascii;  /* 0x00-0x7F */
  fs_mask_fn mask;
} fs_scan_kernels;

/* The table in use. Portable kernels until fs_scan_choose() was called. */
extern const fs_scan_kernels *fs_scan;

/* Choose kernels: the named level, or the best this processor has when `name` is NULL or empty.
 * False when the level is unknown or this processor lacks it (the table is then left as it was). */
bool fs_scan_choose(const char *name);

/* The i-th level compiled in and usable on this processor, portable first; NULL past the end. */
const fs_scan_kernels *fs_scan_level(unsigned i);

/* Character classes as 256-entry tables, for single bytes. */
extern const uint8_t fs_is_token[256];
extern const uint8_t fs_is_target[256];
extern const uint8_t fs_is_value[256];

/* The end of a masking that was begun a multiple of four bytes before: 0 to 7 whole words of four bytes, and what is left.
 * `seen` is the OR of all bytes written so far. Here because every kernel ends with it. */
FS_INLINE bool fs_mask_tail(uint8_t *out, const uint8_t *in, size_t len, uint32_t key, uint64_t seen) {
  uint8_t bytes[4];
  for (; len >= 4; len -= 4, in += 4, out += 4) {
    uint32_t word;
    memcpy(&word, in, 4);
    word ^= key;
    seen |= word;
    memcpy(out, &word, 4);
  }
  memcpy(bytes, &key, 4);
  for (size_t i = 0; i < len; i++) seen |= out[i] = in[i] ^ bytes[i];
  return (seen & UINT64_C(0x8080808080808080)) == 0;
}

#endif
