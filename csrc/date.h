/* IMF-fixdate text from seconds since the epoch (RFC 9110 section 5.6.7).
 *
 * Room:    arithmetic only; the caller keeps the clock and caches the text for a second.
 * Called:  by the Service, when the second changes. Calls nobody.
 */
#ifndef FS_DATE_H
#define FS_DATE_H

#include "base.h"

#define FS_DATE_LEN 29 /* "Sun, 06 Nov 1994 08:49:37 GMT" */

/* Write FS_DATE_LEN bytes, no NUL. `seconds` from 1970 to 9999. */
void fs_date_format(int64_t seconds, uint8_t *out);

#endif
