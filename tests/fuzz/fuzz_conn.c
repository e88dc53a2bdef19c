/* Fuzz target: a whole connection, both sides of it, as a script.
 *
 * Room:    the input is what the peer sends, with operations in it: the byte 0xFE, then a letter (modulo the number of
 *          operations) and its operands, one byte each.
 *            0  nothing but the end of a fragment        4  send_end, and on to the next request
 *            1  send_head: status, length, flags         5  the peer sends no more
 *            2  send a 1xx: status                       6  a deadline passes
 *            3  send_body: length                        7  write a response: room, and what it consists of
 *          Without any operation each request is answered, when it is whole or as soon as its head is there, with 200 or by
 *          taking the connection over: so the case book's files are scripts as they are.
 *          Invariants, each in one sentence:
 *            - The story is the same whole and however else the fragments are cut.
 *            - Consumed never exceeds given; offsets lie inside the input; no byte outside it is read.
 *            - No pair of states appears that the table does not lead to.
 *            - After a fault or a close nothing more is consumed.
 *            - Nothing is sent that the rules forbid: one final head per request, 1xx only before it and never to 1.0, chunked
 *              never to 1.0, no body where there is none, never more than was declared, no next before both sides are done.
 *            - Writing never leaves its buffer, writes all or nothing, and never a line end of the application's.
 * Called:  by libFuzzer or main.c.
 */
#include "fuzz.h"

#include "../../csrc/response.h"

enum { OPERATION = 0xFE, OPERATIONS = 8 };

typedef struct {
  fs_run run;
  uint8_t *pending; /* what the peer has sent and the machine has not used up */
  size_t pending_len, pending_cap;
  enum { SCRIPTED, WHEN_WHOLE, AT_ONCE } answers; /* without operations: when a message is complete, or at its head */
  bool deaf;        /* no more fragments are taken: eof */
  /* an account of our own, kept without looking at the machine's states */
  bool in_hand;     /* a head was read, and next() has not succeeded since */
  bool whole;       /* its message is complete */
  bool refused;     /* the peer broke a rule, or a deadline passed */
  bool head_sent, end_sent;
  bool last;        /* the response in hand says close */
  uint64_t declared, given;
  fs_response_plan plan;
} session;

/* --- states --- */

static void check_states(const session *s) {
  /* pairs that exist; see reachable_states in tests/c/test_conn.c */
  static const char *const exist[4] = {"x...", "xxx.", "xxx.", "xxxx"};
  const fs_conn *conn = &s->run.conn;
  RUN_MUST(conn->reading <= FS_CLOSED && conn->writing <= FS_CLOSED);
  RUN_MUST(exist[conn->reading][conn->writing] == 'x');
  RUN_MUST(!conn->upgraded || conn->reading == conn->writing);
  RUN_MUST(fs_conn_body_pending(conn) == (conn->reading == FS_BODY));
  RUN_MUST(!fs_conn_busy(conn) || (s->in_hand && !s->end_sent));
  RUN_MUST(fs_conn_word(conn, 1) != NULL);
  RUN_MUST(!(conn->reading == FS_HEAD && conn->writing == FS_HEAD) || !s->in_hand);
}

/* --- sending --- */

static void send_head(session *s, unsigned status, int64_t length, bool close, bool upgrade) {
  fs_conn *conn = &s->run.conn;
  fs_response_plan *plan = &s->plan;
  bool connect = conn->connect_request, head_request = conn->head_request;
  bool http11 = conn->head.version_minor > 0; /* also of a request that was refused behind its request line */
  fs_error error = fs_conn_send_head(conn, status, length, close, upgrade, plan);
  story_add(&s->run.story, "send_head %u: %s frame %d close %d\n", status, fs_error_info(error)->name, plan->frame, plan->close);
  if (error != FS_E_NONE) return;
  RUN_MUST((s->in_hand || s->refused || s->deaf) && !s->head_sent);
  RUN_MUST(status >= 200 || (status == 101 && upgrade && conn->head.upgrade));
  RUN_MUST(status <= 999);
  if (plan->frame == FS_FRAME_CHUNKED) RUN_MUST(http11 && length < 0);
  if (plan->frame == FS_FRAME_CLOSE) RUN_MUST(plan->close && length < 0);
  if (plan->body && plan->frame == FS_FRAME_LENGTH) RUN_MUST(length >= 0 && plan->content_length == (uint64_t)length);
  if (status == 204 || status == 101) RUN_MUST(plan->frame == FS_FRAME_NONE && !plan->body);
  if (status == 205 || status == 304 || head_request) RUN_MUST(!plan->body);
  if (connect && status < 300) RUN_MUST(plan->frame == FS_FRAME_NONE && !plan->body && conn->upgraded);
  if (conn->upgraded) RUN_MUST(s->whole && (status == 101 || connect));
  if (plan->body) RUN_MUST(plan->frame != FS_FRAME_NONE);
  if (close || s->refused) RUN_MUST(plan->close || conn->upgraded);
  if (plan->say_keep_alive) RUN_MUST(!plan->close && !http11);
  if (s->in_hand && !conn->head.keep_alive) RUN_MUST(plan->close || conn->upgraded);
  s->head_sent = true;
  s->end_sent = conn->upgraded;
  s->last = plan->close;
  s->given = 0;
  s->declared = plan->body && plan->frame == FS_FRAME_LENGTH ? plan->content_length : UINT64_MAX;
}

static void send_1xx(session *s, unsigned status) {
  fs_error error = fs_conn_send_1xx(&s->run.conn, status);
  story_add(&s->run.story, "send_1xx %u: %s\n", status, fs_error_info(error)->name);
  if (error != FS_E_NONE) return;
  RUN_MUST(s->in_hand && !s->refused && !s->head_sent && s->run.conn.head.version_minor > 0);
  RUN_MUST(status >= 100 && status < 200 && status != 101);
}

static void send_body(session *s, uint64_t len) {
  fs_error error = fs_conn_send_body(&s->run.conn, len);
  story_add(&s->run.story, "send_body: %s\n", fs_error_info(error)->name);
  RUN_MUST(error == FS_E_NONE || error == FS_E_STATE || error == FS_E_RESPONSE_TOO_LONG);
  if (error != FS_E_NONE) return;
  RUN_MUST(s->head_sent && !s->end_sent);
  RUN_MUST(s->declared == UINT64_MAX || len <= s->declared - s->given);
  if (s->declared != UINT64_MAX) s->given += len;
}

static void send_end(session *s) {
  fs_error error = fs_conn_send_end(&s->run.conn);
  story_add(&s->run.story, "send_end: %s\n", fs_error_info(error)->name);
  if (error == FS_E_RESPONSE_TOO_SHORT) {
    RUN_MUST(s->declared != UINT64_MAX && s->given < s->declared && !s->run.conn.keep_alive);
    s->run.over = true;
  }
  if (error != FS_E_NONE) return;
  RUN_MUST(s->head_sent && !s->end_sent);
  RUN_MUST(s->declared == UINT64_MAX || s->given == s->declared);
  s->end_sent = true;
}

static void next(session *s) {
  if (!fs_conn_next(&s->run.conn)) return;
  RUN_MUST(s->in_hand && s->whole && s->end_sent && !s->last && !s->refused);
  story_add(&s->run.story, "next\n");
  s->in_hand = s->whole = s->head_sent = s->end_sent = false;
}

/* --- reading --- */

/* An answer of the driver's own: takes the connection over where that is asked for and may be, else an empty 200. */
static void answer(session *s) {
  fs_conn *conn = &s->run.conn;
  if (s->answers == AT_ONCE && conn->head.upgrade) send_head(s, 101, -1, false, true);
  if (!s->head_sent && (s->answers == AT_ONCE || !conn->connect_request)) send_head(s, 200, 0, false, false);
  if (!s->head_sent) send_head(s, 501, 0, false, false);
  RUN_MUST(s->head_sent);
  if (conn->upgraded) return;
  send_end(s);
  next(s);
}

static void head_there(session *s) {
  s->in_hand = true;
  if (s->answers == AT_ONCE) answer(s);
}

static void message_whole(session *s) {
  s->whole = true;
  if (s->run.conn.writing != FS_DONE_STATE) story_add(&s->run.story, "end_of_message\n");
  if (s->answers == WHEN_WHOLE) answer(s);
}

/* One look at all that is pending, until the machine wants something else. */
static void look(session *s) {
  fs_run *run = &s->run;
  size_t len = s->pending_len, used = 0;
  uint8_t *data = exactly(s->pending, len);
  for (bool more = true; more && !run->over;) {
    fs_event event;
    const uint8_t *p = data + used;
    bool dropping = run->conn.writing == FS_DONE_STATE; /* nobody wants the body any more: only whether it ends counts */
    fs_conn_receive(&run->conn, p, len - used, run->fields, &event);
    run_check(run, &event, len - used);
    switch (event.type) {
      case FS_REQUEST_HEAD:
        RUN_MUST(!s->in_hand && !s->refused);
        story_head(&run->story, p, len - used, &run->conn.head, run->fields);
        s->whole = !fs_conn_body_pending(&run->conn);
        head_there(s);
        if (s->in_hand && s->whole) message_whole(s);
        break;
      case FS_BODY_BYTES:
        RUN_MUST(s->in_hand && !s->whole);
        if (!dropping) story_data(&run->story, p + event.data_off, event.data_len);
        break;
      case FS_END_OF_MESSAGE:
        RUN_MUST(s->in_hand && !s->whole && event.trailers <= run->limits.fields_max);
        story_body(&run->story);
        if (!dropping) story_fields(&run->story, "trailer", p, event.consumed, run->fields, event.trailers);
        message_whole(s);
        if (dropping && s->end_sent) next(s);
        break;
      case FS_ERROR: /* what is dropped may meet a fault or the limit first, depending on the cut: over either way */
        s->refused = true;
        run->over = true;
        run->story.body_len = 0;
        if (dropping) story_add(&run->story, "over\n");
        else story_add(&run->story, "error %s\n", fs_error_info(run->conn.error)->name);
        break;
      case FS_CLOSED_EVENT:
        run->over = true;
        story_add(&run->story, "over\n");
        break;
      case FS_NEED_DATA:
        if (s->deaf && fs_conn_eof(&run->conn, len - used - event.consumed) == FS_E_INCOMPLETE) {
          story_body(&run->story);
          story_add(&run->story, "incomplete\n");
        }
        more = false;
        break;
      default: /* FS_PAUSED, FS_UPGRADED */
        more = false;
    }
    used += event.consumed;
    check_states(s);
  }
  if (run->over) run_check_over(run, data + used, len - used);
  drop(data, len);
  if (used != 0) memmove(s->pending, s->pending + used, len - used);
  s->pending_len = len - used;
}

static void fragment(session *s, const uint8_t *data, size_t len, fuzz_cut how, fuzz_dice *dice) {
  if (s->deaf || s->run.conn.upgraded) return;
  for (size_t at = 0; at < len && !s->run.over;) {
    size_t n = next_cut(how, at, len, dice) - at;
    if (s->pending_cap < s->pending_len + n) {
      s->pending_cap = (s->pending_len + n) * 2;
      s->pending = realloc(s->pending, s->pending_cap);
      if (s->pending == NULL) abort();
    }
    memcpy(s->pending + s->pending_len, data + at, n);
    s->pending_len += n;
    at += n;
    look(s);
  }
}

/* --- writing bytes --- */

/* What was written must be a line (or nothing), with no line end inside it. */
static void check_line(fs_error error, const fs_out *out, size_t before) {
  RUN_MUST(out->len <= out->cap && out->len >= before);
  if (error != FS_E_NONE) {
    RUN_MUST(out->len == before);
    return;
  }
  RUN_MUST(out->len - before >= 2 && memcmp(out->data + out->len - 2, "\r\n", 2) == 0);
  for (size_t i = before; i + 2 < out->len; i++) RUN_MUST(out->data[i] != '\r' && out->data[i] != '\n' && out->data[i] != 0);
}

static void write_response(session *s, size_t room, unsigned status, const uint8_t *text, size_t len) {
  uint8_t *place = exactly(NULL, 0), *words = exactly(text, len);
  drop(place, 0);
  place = malloc(room + 1);
  if (place == NULL) abort();
  fs_out out = {place, 0, room};
  size_t name = len == 0 ? 0 : words[0] % len;
  size_t before = out.len;
  check_line(fs_response_status_line(&out, status, len % 2 ? words : NULL, len % 2 ? len : 0), &out, before);
  before = out.len;
  check_line(fs_response_field(&out, words, name, words + name, len - name), &out, before);
  before = out.len;
  check_line(fs_response_content_length(&out, (uint64_t)status << len % 50), &out, before);
  before = out.len;
  RUN_MUST(fs_response_chunk(&out, words, len) == FS_E_NONE ? out.len <= room : out.len == before);
  before = out.len;
  RUN_MUST(fs_response_chunk_head(&out, len) == FS_E_NONE ? out.len <= room : out.len == before);
  before = out.len;
  RUN_MUST(fs_response_raw(&out, words, len) == FS_E_NONE ? out.len == before + len : out.len == before);
  RUN_MUST(out.len <= room);
  story_add(&s->run.story, "write: %zu bytes\n", out.len);
  free(place);
  drop(words, len);
}

/* --- the script --- */

static const unsigned statuses[] = {200, 204, 205, 304, 404, 500, 101, 100, 103, 199, 0, 999, 1000, 299, 413, 301};

static unsigned operand(const uint8_t *data, size_t size, size_t *at) { return *at < size ? data[(*at)++] : 0; }

static void operate(session *s, const uint8_t *data, size_t size, size_t *at) {
  switch (operand(data, size, at) % OPERATIONS) {
    case 1: {
      unsigned status = statuses[operand(data, size, at) % 16], length = operand(data, size, at), flags = operand(data, size, at);
      int64_t declared = length == 255 ? -1 : length == 254 ? INT64_MAX : (int64_t)length;
      send_head(s, status, declared, (flags & 1) != 0, (flags & 2) != 0);
      break;
    }
    case 2:
      send_1xx(s, statuses[operand(data, size, at) % 16]);
      break;
    case 3: {
      unsigned length = operand(data, size, at);
      send_body(s, length == 255 ? UINT64_MAX : length);
      break;
    }
    case 4:
      send_end(s);
      next(s);
      break;
    case 5:
      if (s->deaf) break;
      s->deaf = true;
      break;
    case 6: {
      bool busy_reading = s->run.conn.reading <= FS_BODY && !s->run.conn.upgraded;
      if (!busy_reading) break; /* no deadline is running */
      fs_conn_refuse(&s->run.conn, s->run.conn.reading == FS_HEAD ? FS_E_HEAD_TIMEOUT : FS_E_BODY_TIMEOUT);
      s->refused = s->run.over = true;
      s->run.story.body_len = 0;
      story_add(&s->run.story, "deadline\n");
      break;
    }
    case 7: {
      size_t room = operand(data, size, at), len = operand(data, size, at);
      if (len > size - *at) len = size - *at;
      write_response(s, room, statuses[room % 16], data + *at, len);
      *at += len;
      break;
    }
    default:
      break;
  }
  check_states(s);
  if (!s->run.over) look(s);
}

static void play(session *s, fuzz_cut how, bool at_once, fuzz_dice *dice, const uint8_t *data, size_t size,
                 const fs_limits *limits) {
  memset(s, 0, sizeof *s);
  run_init(&s->run, limits);
  dice_kernels(dice);
  if (size == 0 || memchr(data, OPERATION, size) == NULL) s->answers = at_once ? AT_ONCE : WHEN_WHOLE;
  for (size_t at = 0; at < size;) {
    const uint8_t *mark = memchr(data + at, OPERATION, size - at);
    size_t end = mark == NULL ? size : (size_t)(mark - data);
    fragment(s, data + at, end - at, how, dice);
    at = end + 1;
    if (mark != NULL) operate(s, data, size, &at);
  }
  story_body(&s->run.story);
  story_add(&s->run.story, "%s %s/%s keep_alive %d\n", fs_conn_word(&s->run.conn, 1),
            s->run.over ? "-" : fs_side_state_name[s->run.conn.reading],
            s->run.over ? "-" : fs_side_state_name[s->run.conn.writing], s->run.conn.keep_alive);
  fs_conn_close(&s->run.conn);
  RUN_MUST(s->run.conn.reading == FS_CLOSED && s->run.conn.writing == FS_CLOSED && !s->run.conn.keep_alive);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_dice dice = dice_from(data, size);
  fs_limits limits = dice_limits(&dice);
  bool at_once = dice_below(&dice, 2) == 0;
  session whole, cut;
  play(&whole, CUT_NOT, at_once, &dice, data, size, &limits);
  for (int how = CUT_BYTES; how < CUTS; how++) {
    play(&cut, (fuzz_cut)how, at_once, &dice, data, size, &limits);
    must_be_same(whole.run.story.text, cut.run.story.text);
    run_free(&cut.run);
    free(cut.pending);
  }
  run_free(&whole.run);
  free(whole.pending);
  return 0;
}
