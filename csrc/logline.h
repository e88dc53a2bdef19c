/* A line of an access log: text that cannot break out of its line or its quotes, and numbers.
 *
 * Room:    what telemetry writes of a request; here because it runs once per request.
 * Called:  by the access log. Calls decimal.c, request.c (comparison of names).
 *
 * A format is a list of pieces. What a piece stands for is in the facts; whoever asks for a line has filled them in, and made
 * the room that fs_log_line_room() names.
 */
#ifndef FS_LOGLINE_H
#define FS_LOGLINE_H

#include "base.h"
#include "request.h"

/* Text is copied in blocks of sixteen bytes: that many bytes behind it are read, and written, without meaning. */
enum { FS_LOG_SLACK = 16 };

typedef enum {
  FS_LOG_LITERAL,
  FS_LOG_PEER,         /* address:port */
  FS_LOG_HOST,         /* the address alone */
  FS_LOG_PORT,
  FS_LOG_DASH,
  FS_LOG_FOUND,        /* what the caller looked up */
  FS_LOG_TIME,
  FS_LOG_PID,
  FS_LOG_REQUEST_LINE, /* as it was sent */
  FS_LOG_METHOD,
  FS_LOG_PATH,
  FS_LOG_QUERY,
  FS_LOG_PROTOCOL,     /* HTTP/1.1 */
  FS_LOG_VERSION,      /* 1.1 */
  FS_LOG_STATUS,
  FS_LOG_BYTES,
  FS_LOG_BYTES_OR_DASH,
  FS_LOG_S,            /* durations, whole numbers */
  FS_LOG_MS,
  FS_LOG_US,
  FS_LOG_S_DECIMAL,    /* 1.234567 */
  FS_LOG_MS_DECIMAL,   /* 1234.567 */
  FS_LOG_QUEUE,        /* spans between moments, as FS_LOG_MS_DECIMAL */
  FS_LOG_HANDLER,
  FS_LOG_SENDING,
  FS_LOG_ID,           /* of the request */
  FS_LOG_FIELD         /* first field of the request with the name in `text`, lower case */
} fs_log_kind;

typedef struct {
  const uint8_t *p; /* NULL: not there */
  uint32_t len;
} fs_log_text;

typedef struct {
  uint32_t kind;
  uint32_t len;
  const uint8_t *text; /* literal, FS_LOG_SLACK bytes readable behind it; or a name */
  const uint8_t *tail; /* a literal that stands behind it, readable alike even where it has no bytes. Half of all pieces */
  uint32_t tail_len;   /* are literals: so they cost no turn of their own */
  uint32_t found;      /* FS_LOG_FOUND: its place in facts->found */
} fs_log_piece;

typedef struct {
  const fs_request_head *head; /* NULL: refused before it was a request */
  const uint8_t *data;         /* its offsets count from here; may be NULL when `head` is */
  const fs_field *fields;      /* NULL: the caller looks fields up */
  fs_log_text peer;            /* address:port, or a name; FS_LOG_SLACK bytes readable behind it */
  fs_log_text time, pid;       /* ready to be copied */
  fs_log_text id;              /* visible ASCII */
  const fs_log_text *found;    /* what was looked up */
  unsigned status;
  uint64_t body_bytes;
  uint64_t ns;                 /* from the head to the last byte */
  const int64_t *moments;      /* four of them, in order; 0 if not taken */
  bool json;                   /* strings in quotes, null for what is not there */
  bool usual;                  /* fs_log_usual() of the pieces: no kind has to be looked at */
} fs_log_facts;

/* Bytes that a line of these pieces may take at most, slack included: `fixed`, and for each byte of the head, the peer, the
 * time, the process id, the request's id and the texts found `each` more. */
typedef struct {
  size_t fixed, each;
} fs_log_room;

fs_log_room fs_log_line_room(const fs_log_piece *pieces, size_t count, bool json);

/* Are these the pieces of the default format: peer, request line, status, bytes, duration, and not json? */
bool fs_log_usual(const fs_log_piece *pieces, size_t count, bool json);

/* Write it: one piece at least. Returns its length. */
size_t fs_log_line(uint8_t *out, const fs_log_piece *pieces, size_t count, const fs_log_facts *facts);

/* Bytes of `text` as they are, but "\", the double quote, controls, DEL and everything beyond ASCII as \xHH (plain), or as
 * RFC 8259 section 7 has it: \", \\ and \u00HH (json; a byte beyond ASCII is taken for latin-1).
 * Room: 4 * len (plain), 6 * len (json). `out` and `text` do not overlap. Returns the bytes written. */
size_t fs_log_plain(uint8_t *out, const uint8_t *text, size_t len);
size_t fs_log_json(uint8_t *out, const uint8_t *text, size_t len);

/* n / 10^decimals with all its decimals: (1234567, 6) is "1.234567". `decimals` is 3 or 6. Room: 24 bytes. */
size_t fs_log_fixed(uint8_t *out, uint64_t n, unsigned decimals);

#endif
