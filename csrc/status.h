/* One table of status codes and reason phrases (RFC 9110 section 15, IANA registry).
 *
 * Room:    names for numbers; `fs_status_reason` is what the status line prints.
 * Called:  by response.c and by the Python Response classes. Calls nobody.
 */
#ifndef FS_STATUS_H
#define FS_STATUS_H

#include "base.h"

/* The registered reason phrase of `status`, NUL-terminated; "" when the code is not registered. */
const char *fs_status_reason(unsigned status);

#endif
