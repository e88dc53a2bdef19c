/* THE state machine of one server connection. It alone decides what is legal next.
 *
 * Room:    two states (reading, writing), keep_alive, upgraded; bytes in, events out; what we send, judged before it is sent.
 * Called:  by the Connection (fastserve/protocol/connection.pyx), the fuzzers, the C tests. Calls request.c, body.c.
 * Rules:   RFC 9112 sections 6, 9; RFC 9110 sections 6.4.1, 9.3.2, 9.3.6, 15.
 *
 *              reading                               writing
 *      +----> HEAD --request_head--> BODY     +----> HEAD --send_head---> BODY
 *      |        | (no body)           |       |       | ^                  |
 *      |        +-------> DONE <------+       |       +-+ send_1xx         | send_end
 *      |                   |  end_of_message  |                            v
 *      |                   |                  |      DONE <----------------+
 *      +--- both DONE, keep_alive: next ------+--------+
 *
 *      error, eof            -> reading CLOSED  (an answer may still be written)
 *      not keep_alive, next  -> CLOSED / CLOSED
 *      101, or 2xx to CONNECT-> upgraded: both DONE for ever, the bytes are someone else's
 *
 * Two rules. Everything that affects what is legal lives in the table in conn.c. No other flag may influence it; what the
 * peer *wants* (Expect) and what we *choose* (how much unread body we drain) is policy and stays outside.
 */
#ifndef FS_CONN_H
#define FS_CONN_H

#include "base.h"
#include "body.h"
#include "errors.h"
#include "request.h"

typedef enum { FS_HEAD, FS_BODY, FS_DONE_STATE, FS_CLOSED } fs_side_state;

/* Things that happen to a connection; the rows of the table. */
typedef enum {
  FS_ON_REQUEST_HEAD,      /* a head with a body behind it was read */
  FS_ON_REQUEST_HEAD_ONLY, /* a head without body was read */
  FS_ON_END_OF_MESSAGE,    /* the last byte of the body was read */
  FS_ON_SEND_1XX,
  FS_ON_SEND_HEAD,
  FS_ON_SEND_BODY,
  FS_ON_SEND_END,
  FS_ON_UPGRADE,           /* 101 to an upgrade request, or 2xx to CONNECT, was sent */
  FS_ON_NEXT,              /* both sides are done and the connection persists */
  FS_ON_FINISH,            /* both sides are done and it does not */
  FS_ON_ERROR,             /* the peer broke a rule, or a deadline passed */
  FS_ON_EOF,               /* the peer will send no more */
  FS_ON_CLOSE,             /* we are done with this connection, whatever the state */
  FS_ON_COUNT
} fs_conn_happening;

#define FS_ANY 0x0f
#define FS_IN(state) (1u << (state))
#define FS_STAY 0xff

typedef struct {
  uint8_t happening;
  uint8_t reading_from, writing_from; /* sets of fs_side_state: FS_IN(..) | FS_IN(..) */
  uint8_t reading_to, writing_to;     /* fs_side_state or FS_STAY */
  const char *name;
  const char *why;
} fs_conn_row;

extern const fs_conn_row fs_conn_table[];
extern const unsigned fs_conn_table_len;
extern const char *const fs_side_state_name[4];

/* What fs_conn_receive() reports. */
typedef enum {
  FS_NEED_DATA,      /* drop `consumed` bytes, keep the rest, come back with more behind it */
  FS_PAUSED,         /* the request in hand is not answered yet; the next one waits (pipelining) */
  FS_REQUEST_HEAD,   /* conn->head and the fields are valid until the caller drops the bytes */
  FS_BODY_BYTES,     /* [data_off, data_off+data_len) of the input */
  FS_END_OF_MESSAGE, /* not reported for a request without body: see fs_conn_body_pending() */
  FS_UPGRADED,       /* the input is not HTTP any more */
  FS_ERROR,          /* conn->error says which; nothing more is read */
  FS_CLOSED_EVENT,   /* nothing more is read */
} fs_event_type;

typedef struct {
  fs_event_type type;
  size_t consumed;
  size_t data_off, data_len;
  uint32_t trailers; /* FS_END_OF_MESSAGE: trailer fields in `fields`, offsets counted from this input */
} fs_event;

/* How a response is framed; filled by fs_conn_send_head(). */
typedef enum { FS_FRAME_NONE, FS_FRAME_LENGTH, FS_FRAME_CHUNKED, FS_FRAME_CLOSE } fs_frame;

typedef struct {
  uint8_t frame;           /* the framing field to write: none, Content-Length, Transfer-Encoding: chunked, or none and close */
  bool body;               /* body bytes are sent (false: HEAD, 1xx, 204, 304, 205, 2xx to CONNECT) */
  bool close;              /* write "connection: close" and close afterwards */
  bool say_keep_alive;     /* write "connection: keep-alive" (HTTP/1.0 peers want to hear it) */
  uint64_t content_length; /* with FS_FRAME_LENGTH */
} fs_response_plan;

typedef struct {
  const fs_limits *limits;  /* borrowed, outlives the connection */
  uint8_t reading, writing; /* fs_side_state */
  bool keep_alive;
  bool upgraded;
  bool head_request;        /* the request in hand is a HEAD */
  bool connect_request;
  bool chunked_out;         /* the response in hand goes out chunked */
  bool length_out;          /* ... or with a declared length, of which `owed` bytes are missing */
  bool body_out;            /* body bytes reach the wire */
  fs_error error;
  uint64_t owed;
  uint64_t drained;         /* unread body bytes dropped since the response ended */
  fs_request_head head;
  fs_body body;
} fs_conn;

void fs_conn_init(fs_conn *conn, const fs_limits *limits);

/* --- reading --- */

/* One step. [data, data+len) is everything received and not yet consumed. `fields` as for fs_request_head_parse(): it must
 * keep its content while a head or a trailer section is incomplete (fs_conn_fields_needed()). */
void fs_conn_receive(fs_conn *conn, const uint8_t *data, size_t len, fs_field *fields, fs_event *event);

/* The peer will send no more; `buffered` bytes of it are still unconsumed. FS_E_NONE: between messages. FS_E_INCOMPLETE:
 * inside one. The reading side is closed if nothing more can be made of the bytes. */
fs_error fs_conn_eof(fs_conn *conn, size_t buffered);

/* A deadline passed, or the driver refuses for a reason of its own; the reading side is closed, an answer may be written. */
void fs_conn_refuse(fs_conn *conn, fs_error error);

/* The body of the request whose head was just read, of which no byte was decoded yet, may have this many bytes. FS_E_BODY_LENGTH:
 * it declares more, and the reading side is closed as by fs_conn_refuse(). */
fs_error fs_conn_limit_body(fs_conn *conn, uint64_t max);

/* Is a request in hand (its head read, its response not ended)? */
bool fs_conn_busy(const fs_conn *conn);
/* Does more of the request in hand have to come? */
bool fs_conn_body_pending(const fs_conn *conn);
/* Number of `fields` entries that must survive until the next call (a head or trailer section is half read). */
uint32_t fs_conn_fields_needed(const fs_conn *conn);
/* Has reading of a head begun (at least one byte of it was seen)? */
bool fs_conn_head_begun(const fs_conn *conn);

/* --- writing: each is judged here before bytes are made --- */

/* 100, 102, 103 ...: 101 is refused here. FS_E_STATE for HTTP/1.0 peers and after the head. */
fs_error fs_conn_send_1xx(fs_conn *conn, unsigned status);

/* The final head. `content_length` < 0: not known. `close`: the caller wants the connection closed afterwards. 101 only with
 * `upgrade` (the application takes the connection), which is refused unless the request asked for it. */
fs_error fs_conn_send_head(fs_conn *conn, unsigned status, int64_t content_length, bool close, bool upgrade,
                           fs_response_plan *plan);

/* `len` more body bytes. FS_E_RESPONSE_TOO_LONG: none of them may be sent. */
fs_error fs_conn_send_body(fs_conn *conn, uint64_t len);

/* No more body. FS_E_RESPONSE_TOO_SHORT: the connection must be cut, the peer must not take it for whole. */
fs_error fs_conn_send_end(fs_conn *conn);

/* Both sides done: true and ready for the next head, or false (the connection is over, or not done yet). */
bool fs_conn_next(fs_conn *conn);

/* Whatever the state: over. */
void fs_conn_close(fs_conn *conn);

/* May `happening` happen now? (The table, asked without being applied.) */
bool fs_conn_allows(const fs_conn *conn, fs_conn_happening happening);

/* The five words of operators: "new", "active", "idle", "upgraded", "closed". `served`: requests answered so far. */
const char *fs_conn_word(const fs_conn *conn, uint64_t served);

#endif
