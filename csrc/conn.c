/* THE state machine of one server connection; see conn.h for the drawing and the contract.
 *
 * Room:    the table; one function that applies a row; the readers and writers that ask it.
 * Called:  by the Connection, fuzzers, C tests. Calls request.c, body.c.
 * Rules:   RFC 9112 sections 6.3, 9.3, 9.6; RFC 9110 sections 6.4.1, 8.6, 9.3.2, 9.3.6, 15.2, 15.3.5, 15.3.6, 15.4.5.
 */
#include "conn.h"

const char *const fs_side_state_name[4] = {"HEAD", "BODY", "DONE", "CLOSED"};

#define IN_HEAD FS_IN(FS_HEAD)
#define IN_BODY FS_IN(FS_BODY)
#define IN_DONE FS_IN(FS_DONE_STATE)
#define IN_CLOSED FS_IN(FS_CLOSED)

/* What may happen, in which states, and where it leads. An event without a row for the present states is a fault. */
const fs_conn_row fs_conn_table[] = {
    /* happening               reading from                      writing from                 reading to     writing to */
    {FS_ON_REQUEST_HEAD, IN_HEAD, IN_HEAD, FS_BODY, FS_STAY, "request_head",
     "a head announces a body; nothing is written before a request is known"},
    {FS_ON_REQUEST_HEAD_ONLY, IN_HEAD, IN_HEAD, FS_DONE_STATE, FS_STAY, "request_head (no body)",
     "a request without Content-Length and Transfer-Encoding has no body"},
    {FS_ON_END_OF_MESSAGE, IN_BODY, FS_ANY, FS_DONE_STATE, FS_STAY, "end_of_message",
     "whatever the response does, the body ends when its framing says so"},
    {FS_ON_SEND_1XX, IN_BODY | IN_DONE, IN_HEAD, FS_STAY, FS_HEAD, "send_1xx",
     "any number of interim responses before the final one"},
    {FS_ON_SEND_HEAD, IN_BODY | IN_DONE | IN_CLOSED, IN_HEAD, FS_STAY, FS_BODY, "send_head",
     "an answer may come before the body was read, and to a request that was refused"},
    {FS_ON_SEND_BODY, FS_ANY, IN_BODY, FS_STAY, FS_BODY, "send_body", ""},
    {FS_ON_SEND_END, FS_ANY, IN_BODY, FS_STAY, FS_DONE_STATE, "send_end", ""},
    {FS_ON_UPGRADE, IN_DONE, IN_DONE, FS_DONE_STATE, FS_DONE_STATE, "upgrade",
     "after 101, or 2xx to CONNECT, the bytes are someone else's"},
    {FS_ON_NEXT, IN_DONE, IN_DONE, FS_HEAD, FS_HEAD, "next", "both sides done and the connection persists"},
    {FS_ON_FINISH, IN_DONE | IN_CLOSED, IN_DONE, FS_CLOSED, FS_CLOSED, "finish",
     "both sides done and it does not persist"},
    {FS_ON_ERROR, IN_HEAD | IN_BODY, FS_ANY, FS_CLOSED, FS_STAY, "error",
     "after a fault no byte of the peer is believed; an answer may be written if none was begun"},
    {FS_ON_EOF, IN_HEAD | IN_BODY, FS_ANY, FS_CLOSED, FS_STAY, "eof", "the peer will send no more"},
    {FS_ON_CLOSE, FS_ANY, FS_ANY, FS_CLOSED, FS_CLOSED, "close", "the connection is over, whatever the state"},
};
const unsigned fs_conn_table_len = sizeof fs_conn_table / sizeof *fs_conn_table;

/* The table is in the order of the enum, so that a row is found by its index; checked by tests/c/test_conn.c. */
FS_INLINE const fs_conn_row *row_of(fs_conn_happening happening) { return &fs_conn_table[happening]; }

FS_INLINE bool allows(const fs_conn *conn, const fs_conn_row *row) {
  return (row->reading_from & FS_IN(conn->reading)) != 0 && (row->writing_from & FS_IN(conn->writing)) != 0 &&
         (!conn->upgraded || row->happening == FS_ON_CLOSE);
}

bool fs_conn_allows(const fs_conn *conn, fs_conn_happening happening) { return allows(conn, row_of(happening)); }

/* Apply a row, or say that there is none. The only place where `reading` and `writing` change. */
static bool apply(fs_conn *conn, fs_conn_happening happening) {
  const fs_conn_row *row = row_of(happening);
  if (FS_UNLIKELY(!allows(conn, row))) return false;
  if (row->reading_to != FS_STAY) conn->reading = row->reading_to;
  if (row->writing_to != FS_STAY) conn->writing = row->writing_to;
  return true;
}

void fs_conn_init(fs_conn *conn, const fs_limits *limits) {
  memset(conn, 0, sizeof *conn);
  conn->limits = limits;
  conn->keep_alive = true;
  fs_request_head_init(&conn->head);
}

/* ------------------------------------------------------------------------------------------------- reading */

void fs_conn_refuse(fs_conn *conn, fs_error error) {
  conn->error = error;
  /* RFC 9110 9.3.2: no content in an answer to HEAD, be it a refusal of its head. */
  if (conn->reading == FS_HEAD) conn->head_request = conn->head.method_id == FS_METHOD_HEAD;
  conn->keep_alive = false;
  apply(conn, FS_ON_ERROR);
}

static void receive_head(fs_conn *conn, const uint8_t *data, size_t len, fs_field *fields, fs_event *event) {
  fs_request_head *head = &conn->head;
  int answer = fs_request_head_parse(head, data, len, fields, conn->limits);
  if (answer == FS_MORE) return; /* FS_NEED_DATA, nothing consumed */
  if (FS_UNLIKELY(answer < 0)) {
    fs_conn_refuse(conn, (fs_error)-answer);
    event->type = FS_ERROR;
    return;
  }
  bool has_body = head->framing == FS_BODY_CHUNKED || head->content_length != 0;
  if (has_body) fs_body_init(&conn->body, head->framing, head->content_length);
  apply(conn, has_body ? FS_ON_REQUEST_HEAD : FS_ON_REQUEST_HEAD_ONLY);
  conn->keep_alive = head->keep_alive;
  conn->head_request = head->method_id == FS_METHOD_HEAD;
  conn->connect_request = head->method_id == FS_METHOD_CONNECT;
  event->type = FS_REQUEST_HEAD;
  event->consumed = head->end;
}

static void receive_body(fs_conn *conn, const uint8_t *data, size_t len, fs_field *fields, fs_event *event) {
  fs_body_result result;
  fs_body_answer answer = fs_body_decode(&conn->body, data, len, fields, conn->limits, &result);
  event->consumed = result.consumed;
  /* The response is out and nobody wants this body: it is read on only to save the connection, and only so far. Everything
   * counts, chunk framing and trailers included, so that the answer does not depend on how the bytes were cut. */
  if (conn->writing == FS_DONE_STATE && answer != FS_BODY_ERROR) {
    conn->drained += result.consumed;
    if (conn->drained > conn->limits->drain_bytes_max) {
      conn->keep_alive = false;
      apply(conn, FS_ON_CLOSE);
      event->type = FS_CLOSED_EVENT;
      return;
    }
  }
  switch (answer) {
    case FS_BODY_MORE:
      break; /* FS_NEED_DATA */
    case FS_BODY_DATA:
      event->type = FS_BODY_BYTES;
      event->data_off = result.data_off;
      event->data_len = result.data_len;
      break;
    case FS_BODY_END:
      apply(conn, FS_ON_END_OF_MESSAGE);
      event->type = FS_END_OF_MESSAGE;
      event->trailers = conn->body.framing == FS_BODY_CHUNKED ? conn->body.trailer.count : 0;
      return;
    case FS_BODY_ERROR:
      fs_conn_refuse(conn, result.error);
      event->type = FS_ERROR;
      return;
  }
}

void fs_conn_receive(fs_conn *conn, const uint8_t *data, size_t len, fs_field *fields, fs_event *event) {
  memset(event, 0, sizeof *event);
  if (FS_UNLIKELY(conn->upgraded)) {
    event->type = FS_UPGRADED;
    return;
  }
  switch (conn->reading) {
    case FS_HEAD:
      receive_head(conn, data, len, fields, event);
      return;
    case FS_BODY:
      receive_body(conn, data, len, fields, event);
      return;
    case FS_DONE_STATE:
      event->type = conn->writing == FS_DONE_STATE && !conn->keep_alive ? FS_CLOSED_EVENT : FS_PAUSED;
      return;
    default:
      event->type = conn->error != FS_E_NONE ? FS_ERROR : FS_CLOSED_EVENT;
      return;
  }
}

fs_error fs_conn_eof(fs_conn *conn, size_t buffered) {
  bool inside = conn->reading == FS_BODY || (conn->reading == FS_HEAD && buffered != 0 && fs_conn_head_begun(conn));
  if (!apply(conn, FS_ON_EOF)) return FS_E_NONE;
  conn->keep_alive = false;
  if (!inside) return FS_E_NONE;
  conn->error = FS_E_INCOMPLETE;
  return FS_E_INCOMPLETE;
}

fs_error fs_conn_limit_body(fs_conn *conn, uint64_t max) {
  if (conn->reading != FS_BODY) return FS_E_NONE;
  conn->body.max = max;
  if (conn->body.framing == FS_BODY_LENGTH && conn->body.remaining > max) {
    fs_conn_refuse(conn, FS_E_BODY_LENGTH);
    return FS_E_BODY_LENGTH;
  }
  return FS_E_NONE;
}

bool fs_conn_busy(const fs_conn *conn) {
  return (conn->reading == FS_BODY || conn->reading == FS_DONE_STATE) && conn->writing < FS_DONE_STATE;
}

bool fs_conn_body_pending(const fs_conn *conn) { return conn->reading == FS_BODY; }

bool fs_conn_head_begun(const fs_conn *conn) {
  return conn->reading == FS_HEAD && fs_request_head_begun(&conn->head);
}

uint32_t fs_conn_fields_needed(const fs_conn *conn) {
  if (conn->reading == FS_HEAD) return conn->head.lines.count;
  if (conn->reading == FS_BODY && conn->body.framing == FS_BODY_CHUNKED) return conn->body.trailer.count;
  return 0;
}

/* ------------------------------------------------------------------------------------------------- writing */

/* Was the request in hand (if its head was read at all) HTTP/1.1? A refused one is answered as such. */
FS_INLINE bool peer_is_http11(const fs_conn *conn) { return conn->head.version_minor > 0; }

fs_error fs_conn_send_1xx(fs_conn *conn, unsigned status) {
  if (status < 100 || status > 199 || status == 101) return FS_E_STATUS;
  /* RFC 9110 15.2: a server must not send a 1xx response to an HTTP/1.0 client. */
  if (!peer_is_http11(conn)) return FS_E_STATE;
  return apply(conn, FS_ON_SEND_1XX) ? FS_E_NONE : FS_E_STATE;
}

/* More unread body than we are willing to drain? Then the connection cannot persist behind this response. */
static bool body_beyond_drain(const fs_conn *conn) {
  return conn->reading == FS_BODY && conn->body.framing == FS_BODY_LENGTH &&
         conn->body.remaining > conn->limits->drain_bytes_max;
}

/* RFC 9112 6.3 and RFC 9110 8.6: how the length of this response's body is known to the peer. */
static void choose_framing(const fs_conn *conn, unsigned status, int64_t content_length, fs_response_plan *plan) {
  bool known = content_length >= 0;
  plan->content_length = known ? (uint64_t)content_length : 0;
  plan->body = !conn->head_request;
  if (status < 200 || status == 204 || (conn->connect_request && status < 300)) {
    plan->frame = FS_FRAME_NONE; /* 1xx, 204 and 2xx to CONNECT carry neither framing field */
    plan->body = false;
  } else if (status == 205) {
    plan->frame = FS_FRAME_LENGTH; /* RFC 9110 15.3.6: no content, and the peer must be able to tell */
    plan->content_length = 0;
    plan->body = false;
  } else if (status == 304) {
    plan->frame = known ? FS_FRAME_LENGTH : FS_FRAME_NONE; /* the length of what a 200 would have carried */
    plan->body = false;
  } else if (known) {
    plan->frame = FS_FRAME_LENGTH;
  } else if (peer_is_http11(conn)) {
    plan->frame = FS_FRAME_CHUNKED;
  } else if (conn->head_request) {
    plan->frame = FS_FRAME_NONE;
  } else {
    plan->frame = FS_FRAME_CLOSE; /* the end of the connection is the end of the body */
    plan->close = true;
  }
}

fs_error fs_conn_send_head(fs_conn *conn, unsigned status, int64_t content_length, bool close, bool upgrade,
                           fs_response_plan *plan) {
  bool takes_over = upgrade || (conn->connect_request && status >= 200 && status < 300);
  memset(plan, 0, sizeof *plan);
  if (status > 999 || (status < 200 && !(status == 101 && upgrade))) return FS_E_STATUS;
  /* RFC 9110 7.8: a server cannot switch to a protocol that the client did not offer. */
  if (upgrade && (status != 101 || !conn->head.upgrade)) return FS_E_STATUS;
  if (takes_over && conn->reading != FS_DONE_STATE) return FS_E_STATE;
  if (!apply(conn, FS_ON_SEND_HEAD)) return FS_E_STATE;
  choose_framing(conn, status, content_length, plan);
  plan->close = !takes_over && (plan->close || close || !conn->keep_alive || conn->reading == FS_CLOSED ||
                                body_beyond_drain(conn));
  plan->say_keep_alive = !plan->close && !takes_over && !peer_is_http11(conn);
  conn->keep_alive = !plan->close;
  conn->body_out = plan->body;
  conn->chunked_out = plan->body && plan->frame == FS_FRAME_CHUNKED;
  conn->length_out = plan->body && plan->frame == FS_FRAME_LENGTH;
  conn->owed = conn->length_out ? plan->content_length : 0;
  if (takes_over) {
    apply(conn, FS_ON_SEND_END);
    apply(conn, FS_ON_UPGRADE);
    conn->upgraded = true;
  }
  return FS_E_NONE;
}

fs_error fs_conn_send_body(fs_conn *conn, uint64_t len) {
  if (!allows(conn, row_of(FS_ON_SEND_BODY))) return FS_E_STATE;
  if (!conn->length_out) return FS_E_NONE;
  if (len > conn->owed) return FS_E_RESPONSE_TOO_LONG;
  conn->owed -= len;
  return FS_E_NONE;
}

fs_error fs_conn_send_end(fs_conn *conn) {
  if (conn->writing == FS_BODY && conn->length_out && conn->owed != 0) {
    fs_conn_close(conn);
    return FS_E_RESPONSE_TOO_SHORT;
  }
  return apply(conn, FS_ON_SEND_END) ? FS_E_NONE : FS_E_STATE;
}

bool fs_conn_next(fs_conn *conn) {
  if (!conn->keep_alive) {
    apply(conn, FS_ON_FINISH);
    return false;
  }
  if (!apply(conn, FS_ON_NEXT)) {
    if (conn->reading == FS_CLOSED) apply(conn, FS_ON_FINISH);
    return false;
  }
  fs_request_head_init(&conn->head);
  conn->body.framing = FS_BODY_NONE;
  conn->body.trailer.count = 0;
  conn->drained = 0;
  conn->owed = 0;
  conn->head_request = conn->connect_request = false;
  conn->chunked_out = conn->length_out = conn->body_out = false;
  return true;
}

void fs_conn_close(fs_conn *conn) {
  conn->keep_alive = false;
  apply(conn, FS_ON_CLOSE);
}

const char *fs_conn_word(const fs_conn *conn, uint64_t served) {
  if (conn->upgraded) return "upgraded";
  if (conn->reading == FS_CLOSED && conn->writing >= FS_DONE_STATE) return "closed";
  if (conn->reading == FS_HEAD && !fs_conn_head_begun(conn)) return served == 0 ? "new" : "idle";
  return "active";
}
