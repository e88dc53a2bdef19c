/* The request head: request line and field lines in one pass, with the facts that frame the message.
 *
 * Room:    bytes -> offsets into the caller's buffer. Judges syntax first, then framing, then support.
 * Called:  by conn.c (heads), body.c (trailer sections share the field-line parser). Calls scan.c, target.c.
 * Rules:   RFC 9112 sections 2, 3, 5, 6, 9.3; RFC 9110 sections 5, 7.2, 8.6, 10.1.1.
 *
 * Three answers: done (n bytes), need more, a named error. "Need more" keeps its place: the next call looks only at bytes it
 * has not seen, so a head that comes byte by byte costs O(n). The answer depends on the bytes alone, never on how they
 * were cut into reads.
 */
#ifndef FS_REQUEST_H
#define FS_REQUEST_H

#include "base.h"
#include "errors.h"
#include "field_names.h" /* FS_FIELD_HOST ...: made from field_names.txt by field_names.py */
#include "target.h"

/* One field line. Offsets count from the buffer passed to the parser. 16 bytes. */
typedef struct {
  uint32_t name;
  uint32_t value;
  uint32_t value_len; /* without surrounding SP and HTAB */
  uint16_t name_len;
  uint16_t id; /* fs_field_name; FS_FIELD_UNKNOWN for names not in the table */
} fs_field;

typedef enum { FS_METHOD_OTHER, FS_METHOD_GET, FS_METHOD_HEAD, FS_METHOD_POST, FS_METHOD_PUT, FS_METHOD_DELETE,
               FS_METHOD_CONNECT, FS_METHOD_OPTIONS, FS_METHOD_TRACE, FS_METHOD_PATCH, FS_METHOD_COUNT } fs_method;

typedef enum { FS_BODY_NONE, FS_BODY_LENGTH, FS_BODY_CHUNKED } fs_body_framing;

/* The field-line parser: used for heads and for trailer sections. Borrowed: `fields` (the caller's array). */
typedef struct {
  uint8_t state;   /* where in a line the scan stopped */
  uint32_t pos;    /* first byte not yet looked at */
  uint32_t mark;   /* start of the name or value being read */
  uint32_t count;  /* complete fields */
  fs_field now;    /* the field being read */
} fs_field_lines;

typedef struct {
  /* --- valid once parsing is done --- */
  uint32_t start;      /* first byte of the method: after skipped empty lines */
  uint32_t end;        /* one past the empty line */
  fs_span method;
  fs_span target;      /* raw, as sent */
  fs_target parts;     /* spans count from target.off */
  fs_span host;        /* the authority the application sees: the target's in absolute-form, else Host's value */
  uint32_t fields_count;
  uint64_t content_length; /* with framing FS_BODY_LENGTH */
  uint8_t method_id;   /* fs_method */
  uint8_t version_major, version_minor; /* as sent; 1.x above 1.1 is served as 1.1 */
  uint8_t framing;     /* fs_body_framing */
  bool keep_alive;     /* the peer wants the connection to persist (RFC 9112 9.3) */
  bool expect_continue;/* 100-continue is wanted: HTTP/1.1 and a body is announced */
  bool upgrade;        /* HTTP/1.1, Upgrade field, and the upgrade connection option */
  bool forwarded;      /* a Forwarded or X-Forwarded-* field is there: who believes its sender looks at it */
  /* --- while parsing --- */
  uint8_t state;
  uint8_t leading;     /* empty lines skipped */
  uint32_t mark;
  fs_field_lines lines;
} fs_request_head;

enum { FS_DONE = 1, FS_MORE = 0 }; /* and below zero: -(fs_error) */

/* Prepare for a new head. */
void fs_request_head_init(fs_request_head *head);

/* Parse [data, data+len), which must begin with the same bytes as the call before. `fields` has room for
 * limits->fields_max entries and keeps its content between calls for one head. FS_DONE: head->end bytes were used.
 * FS_MORE. Or -(fs_error). */
int fs_request_head_parse(fs_request_head *head, const uint8_t *data, size_t len, fs_field *fields, const fs_limits *limits);

/* Has the first byte of a method been seen? (Skipped empty lines do not begin a head.) */
bool fs_request_head_begun(const fs_request_head *head);

/* Lines of fields up to and including the empty line; `pos` starts where the first line does. FS_DONE leaves lines->pos past
 * the empty line. No byte at or beyond `limit` is looked at; -(over) is the answer when the section does not end before. */
void fs_field_lines_init(fs_field_lines *lines, uint32_t pos);
int fs_field_lines_parse(fs_field_lines *lines, const uint8_t *data, size_t len, size_t limit, fs_error over, fs_field *fields,
                         uint32_t fields_max);

/* May a trailer field of this name be passed on? False for framing, routing, authentication, request modifiers and content
 * description (RFC 9110 6.5.1). */
bool fs_trailer_allowed(uint16_t id);

/* Case-insensitive equality of [p, p+len) with the lower-case NUL-terminated `text` of that length. */
bool fs_text_equal(const uint8_t *p, size_t len, const char *text, size_t text_len);

/* The name of a method by id ("GET"); NULL for FS_METHOD_OTHER. */
const char *fs_method_name(unsigned id);

#endif
