/* Decimal digits of a number.
 *
 * Room:    one function.
 * Called:  by response.c (Content-Length), logline.c. Calls nobody.
 */
#ifndef FS_DECIMAL_H
#define FS_DECIMAL_H

#include "base.h"

/* "00" to "99". */
extern const char fs_decimal_pairs[];

/* The digits of `n` at `out`. Room: 20 bytes. Returns how many there are. */
size_t fs_decimal(uint8_t *out, uint64_t n);

#endif
