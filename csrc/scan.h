/* The three questions asked of bytes, answered many bytes at a time.
 *
 * Room:    a table of three function pointers per instruction set, chosen once at run time.
 * Called:  by request.c, body.c, response.c, target.c. Calls scan_swar.c, scan_sse42.c, scan_avx2.c, scan_neon.c.
 * Rules:   token (RFC 9110 5.6.2), field-value (RFC 9110 5.5), request-target bytes (RFC 9112 3.2, as browsers send them).
 *
 * Every kernel has the same contract: return the first byte in [p, end) that is NOT of the class, or `end`.
 * A kernel never reads outside [p, end).
 */
#ifndef FS_SCAN_H
#define FS_SCAN_H

#include "base.h"

typedef const uint8_t *(*fs_scan_fn)(const uint8_t *p, const uint8_t *end);

typedef struct {
  const char *name;  /* "swar", "sse42", "avx2", "neon" */
  fs_scan_fn token;  /* tchar: letters, digits and !#$%&'*+-.^_`|~ */
  fs_scan_fn target; /* 0x21-0x7E except '#' */
  fs_scan_fn value;  /* HTAB, 0x20-0x7E, 0x80-0xFF: everything but controls and DEL */
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

#endif
