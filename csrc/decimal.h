/* Decimal digits of a number.
 *
 * Room:    one function, and the tables it reads.
 * Called:  by response.c (Content-Length), logline.c. Calls nobody.
 */
#ifndef FS_DECIMAL_H
#define FS_DECIMAL_H

#include "base.h"

/* "00" to "99", and "000" to "999" (a byte more may be read behind the last). */
extern const char fs_decimal_pairs[], fs_decimal_triples[];

/* The digits of `n` at `out`. Room: 20 bytes. Returns how many there are. */
size_t fs_decimal(uint8_t *out, uint64_t n);

#endif
