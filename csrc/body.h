/* Body decoders: content-length and chunked, incremental at any byte, with every overhead bounded.
 *
 * Room:    RFC 9112 sections 6 and 7.1. Hands out slices of the caller's buffer; copies nothing.
 * Called:  by conn.c. Calls request.c (field lines of the trailer section), scan.c.
 */
#ifndef FS_BODY_H
#define FS_BODY_H

#include "base.h"
#include "errors.h"
#include "request.h"

typedef struct {
  uint8_t framing;       /* fs_body_framing */
  uint8_t state;         /* position inside the chunked coding; see the enum in body.c */
  uint8_t digits;        /* hex digits of the chunk size seen so far */
  uint32_t ext_bytes;    /* chunk-extension bytes of this body so far */
  uint64_t remaining;    /* bytes left of the body (length) or of the chunk (chunked) */
  uint64_t total;        /* decoded bytes announced so far */
  uint64_t max;          /* decoded bytes of this very body, beside the limit for all; FS_UNLIMITED for none */
  fs_field_lines trailer;
} fs_body;

typedef enum {
  FS_BODY_MORE,     /* all of the input was used, or is the beginning of a trailer section (keep what was not consumed) */
  FS_BODY_DATA,     /* `data` holds decoded bytes */
  FS_BODY_END,      /* the message is complete; trailers, if any, are in `fields` */
  FS_BODY_ERROR,
} fs_body_answer;

typedef struct {
  size_t consumed;  /* bytes of the input that are used up, whatever the answer */
  size_t data_off;  /* FS_BODY_DATA: where in the input */
  size_t data_len;
  fs_error error;   /* FS_BODY_ERROR */
} fs_body_result;

/* Content-length body of `length` bytes, or chunked. */
void fs_body_init(fs_body *body, uint8_t framing, uint64_t length);

/* Decode the next piece of [data, data+len). Call again with the rest after FS_BODY_DATA. While a trailer section is
 * incomplete the unconsumed bytes must be presented again, with more behind them; offsets of trailer fields count from
 * that input. */
fs_body_answer fs_body_decode(fs_body *body, const uint8_t *data, size_t len, fs_field *fields, const fs_limits *limits,
                              fs_body_result *result);

#endif
