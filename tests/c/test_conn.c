/* Room:    tests of the machine of one connection: its table, and what it says in the situations that matter.
 * Called:  by `make ctest`. What bytes are refused is the case book's matter (test_cases.c).
 * Calls:   csrc/conn.c.
 * Rules:   RFC 9112 sections 6.3, 7.1, 9.3, 9.6; RFC 9110 sections 6.4.1, 7.8, 8.6, 9.3.2, 9.3.6, 10.1.1, 15.
 */
#include "harness.h"

#include "../../csrc/conn.h"

static fs_limits limits;
static fs_field fields[100];
static fs_conn conn;
static fs_event event;
static fs_response_plan plan;

/* The bytes the peer has sent so far; the machine has used up `used` of them. */
static char sent[1 << 18];
static size_t sent_len, used;

static void begin(void) {
  limits = (fs_limits)FS_LIMITS_DEFAULT;
  sent_len = used = 0;
  fs_conn_init(&conn, &limits);
}

/* One step of reading, with `more` behind what is left. */
static fs_event_type receive(const char *more) {
  memcpy(sent + sent_len, more, strlen(more));
  sent_len += strlen(more);
  size_t len = sent_len - used;
  fs_conn_receive(&conn, guard_end(sent + used, len), len, fields, &event);
  CHECK(event.consumed <= len);
  used += event.consumed;
  return event.type;
}

static void expect_states(int reading, int writing, int line) {
  bool good = CHECK(conn.reading == reading && conn.writing == writing);
  if (!good)
    printf("  line %d: %s/%s, wanted %s/%s\n", line, fs_side_state_name[conn.reading], fs_side_state_name[conn.writing],
           fs_side_state_name[reading], fs_side_state_name[writing]);
}
#define STATES(reading, writing) expect_states(reading, writing, __LINE__)

static fs_error send_head(unsigned status, int64_t length) {
  return fs_conn_send_head(&conn, status, length, false, false, &plan);
}

/* A whole answer with nothing in it. */
static void answer(void) {
  CHECK_INT(send_head(200, 0), FS_E_NONE);
  CHECK_INT(fs_conn_send_end(&conn), FS_E_NONE);
}

#define GET "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
#define GET10 "GET / HTTP/1.0\r\n\r\n"
#define GET10_KEEP "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
#define HEAD "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
#define POST5 "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
#define POST_CHUNKED "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

/* ------------------------------------------------------------------------------------------------ the table */

static void order_of_the_table(void) {
  CHECK_INT(fs_conn_table_len, FS_ON_COUNT);
  for (unsigned i = 0; i < fs_conn_table_len; i++) {
    const fs_conn_row *row = &fs_conn_table[i];
    CHECK_INT(row->happening, i); /* row_of() in conn.c relies on it */
    CHECK(row->reading_from != 0 && row->reading_from <= FS_ANY && row->writing_from != 0 && row->writing_from <= FS_ANY);
    CHECK(row->reading_to <= FS_CLOSED || row->reading_to == FS_STAY);
    CHECK(row->writing_to <= FS_CLOSED || row->writing_to == FS_STAY);
    CHECK(row->name != NULL && *row->name != '\0' && row->why != NULL);
  }
}

/* The same once more, written as one sees it: for each happening four groups (reading HEAD, BODY, DONE, CLOSED) of four
 * letters (writing HEAD, BODY, DONE, CLOSED): x where it may happen; then where it leads. */
static const struct {
  fs_conn_happening happening;
  const char *allowed;
  int reading_to, writing_to; /* -1: stays */
} drawing[] = {
  {FS_ON_REQUEST_HEAD, "x... .... .... ....", FS_BODY, -1},
  {FS_ON_REQUEST_HEAD_ONLY, "x... .... .... ....", FS_DONE_STATE, -1},
  {FS_ON_END_OF_MESSAGE, ".... xxxx .... ....", FS_DONE_STATE, -1},
  {FS_ON_SEND_1XX, ".... x... x... ....", -1, FS_HEAD},
  {FS_ON_SEND_HEAD, ".... x... x... x...", -1, FS_BODY},
  {FS_ON_SEND_BODY, ".x.. .x.. .x.. .x..", -1, FS_BODY},
  {FS_ON_SEND_END, ".x.. .x.. .x.. .x..", -1, FS_DONE_STATE},
  {FS_ON_UPGRADE, ".... .... ..x. ....", FS_DONE_STATE, FS_DONE_STATE},
  {FS_ON_NEXT, ".... .... ..x. ....", FS_HEAD, FS_HEAD},
  {FS_ON_FINISH, ".... .... ..x. ..x.", FS_CLOSED, FS_CLOSED},
  {FS_ON_ERROR, "xxxx xxxx .... ....", FS_CLOSED, -1},
  {FS_ON_EOF, "xxxx xxxx .... ....", FS_CLOSED, -1},
  {FS_ON_CLOSE, "xxxx xxxx xxxx xxxx", FS_CLOSED, FS_CLOSED},
};

static bool drawn(fs_conn_happening happening, int reading, int writing) {
  return drawing[happening].allowed[reading * 5 + writing] == 'x';
}

static void set_states(int reading, int writing) {
  begin();
  conn.reading = (uint8_t)reading;
  conn.writing = (uint8_t)writing;
}

static void every_combination(void) {
  for (int reading = 0; reading < 4; reading++) {
    for (int writing = 0; writing < 4; writing++) {
      for (int happening = 0; happening < FS_ON_COUNT; happening++) {
        const fs_conn_row *row = &fs_conn_table[happening];
        bool by_row = (row->reading_from & FS_IN(reading)) != 0 && (row->writing_from & FS_IN(writing)) != 0;
        CHECK_INT(drawing[happening].happening, happening);
        set_states(reading, writing);
        bool good = CHECK(fs_conn_allows(&conn, (fs_conn_happening)happening) == by_row) &&
                    CHECK(by_row == drawn((fs_conn_happening)happening, reading, writing));
        if (!good) printf("  %s in %s/%s\n", row->name, fs_side_state_name[reading], fs_side_state_name[writing]);
        conn.upgraded = true; /* then the bytes are someone else's: it can only end */
        CHECK(fs_conn_allows(&conn, (fs_conn_happening)happening) == (happening == FS_ON_CLOSE));
      }
    }
  }
  for (int i = 0; i < FS_ON_COUNT; i++) {
    int reading_to = fs_conn_table[i].reading_to, writing_to = fs_conn_table[i].writing_to;
    CHECK_INT(reading_to == FS_STAY ? -1 : reading_to, drawing[i].reading_to);
    CHECK_INT(writing_to == FS_STAY ? -1 : writing_to, drawing[i].writing_to);
  }
}

/* Where the rows lead to from the beginning: no pair of states but these. A connection whose reading is ahead of its
 * writing by a whole message does not exist, nor one that writes before a request is known. */
static void reachable_states(void) {
  bool seen[4][4] = {{false}};
  seen[FS_HEAD][FS_HEAD] = true;
  for (bool more = true; more;) {
    more = false;
    for (int at = 0; at < 16; at++) {
      int reading = at / 4, writing = at % 4;
      if (!seen[reading][writing]) continue;
      for (int i = 0; i < FS_ON_COUNT; i++) {
        if (!drawn((fs_conn_happening)i, reading, writing)) continue;
        int to_reading = drawing[i].reading_to < 0 ? reading : drawing[i].reading_to;
        int to_writing = drawing[i].writing_to < 0 ? writing : drawing[i].writing_to;
        if (seen[to_reading][to_writing]) continue;
        seen[to_reading][to_writing] = more = true;
      }
    }
  }
  static const char *const wanted[4] = {"x...", "xxx.", "xxx.", "xxxx"};
  for (int at = 0; at < 16; at++) CHECK(seen[at / 4][at % 4] == (wanted[at / 4][at % 4] == 'x'));
}

/* What we may send, asked of the functions themselves in each pair of states: allowed if and only if its row says so, and
 * then it leads where the row leads; refused, it changes neither state. */
static void every_function_asks_the_table(void) {
  for (int at = 0; at < 16; at++) {
    int reading = at / 4, writing = at % 4;
    bool good = true;
    set_states(reading, writing);
    conn.head.version_minor = 1;
    good &= CHECK((fs_conn_send_1xx(&conn, 103) == FS_E_NONE) == drawn(FS_ON_SEND_1XX, reading, writing));
    STATES(reading, writing);
    set_states(reading, writing);
    good &= CHECK((send_head(200, -1) == FS_E_NONE) == drawn(FS_ON_SEND_HEAD, reading, writing));
    STATES(reading, drawn(FS_ON_SEND_HEAD, reading, writing) ? FS_BODY : writing);
    set_states(reading, writing);
    good &= CHECK((fs_conn_send_body(&conn, 10) == FS_E_NONE) == drawn(FS_ON_SEND_BODY, reading, writing));
    STATES(reading, writing);
    set_states(reading, writing);
    good &= CHECK((fs_conn_send_end(&conn) == FS_E_NONE) == drawn(FS_ON_SEND_END, reading, writing));
    STATES(reading, drawn(FS_ON_SEND_END, reading, writing) ? FS_DONE_STATE : writing);
    set_states(reading, writing);
    good &= CHECK(fs_conn_next(&conn) == drawn(FS_ON_NEXT, reading, writing));
    set_states(reading, writing);
    conn.keep_alive = false;
    good &= CHECK(!fs_conn_next(&conn));
    if (drawn(FS_ON_FINISH, reading, writing)) STATES(FS_CLOSED, FS_CLOSED);
    else STATES(reading, writing);
    set_states(reading, writing);
    fs_conn_refuse(&conn, FS_E_HEAD_TIMEOUT);
    STATES(drawn(FS_ON_ERROR, reading, writing) ? FS_CLOSED : reading, writing);
    good &= CHECK(!conn.keep_alive && conn.error == FS_E_HEAD_TIMEOUT);
    set_states(reading, writing);
    fs_conn_eof(&conn, 0);
    STATES(drawn(FS_ON_EOF, reading, writing) ? FS_CLOSED : reading, writing);
    set_states(reading, writing);
    fs_conn_close(&conn);
    STATES(FS_CLOSED, FS_CLOSED);
    good &= CHECK(!conn.keep_alive);
    if (!good) printf("  in %s/%s\n", fs_side_state_name[reading], fs_side_state_name[writing]);
  }
}

/* ------------------------------------------------------------------------------------------------ one after another */

static void one_request(void) {
  begin();
  CHECK(!fs_conn_busy(&conn) && strcmp(fs_conn_word(&conn, 0), "new") == 0);
  CHECK_INT(receive(""), FS_NEED_DATA);
  CHECK_INT(receive("GET / HTT"), FS_NEED_DATA);
  CHECK(fs_conn_head_begun(&conn) && !fs_conn_busy(&conn) && strcmp(fs_conn_word(&conn, 0), "active") == 0);
  CHECK_INT(used, 0);
  CHECK_INT(receive("P/1.1\r\nHost: a\r\n\r\n"), FS_REQUEST_HEAD);
  CHECK_INT(used, strlen(GET));
  STATES(FS_DONE_STATE, FS_HEAD);
  CHECK(fs_conn_busy(&conn) && !fs_conn_body_pending(&conn) && strcmp(fs_conn_word(&conn, 0), "active") == 0);
  CHECK_INT(receive(""), FS_PAUSED);
  CHECK(!fs_conn_next(&conn)); /* not answered yet */
  STATES(FS_DONE_STATE, FS_HEAD);
  CHECK_INT(send_head(200, 5), FS_E_NONE);
  CHECK(plan.frame == FS_FRAME_LENGTH && plan.content_length == 5 && plan.body && !plan.close && !plan.say_keep_alive);
  CHECK(fs_conn_busy(&conn));
  CHECK_INT(fs_conn_send_body(&conn, 2), FS_E_NONE);
  CHECK_INT(fs_conn_send_body(&conn, 3), FS_E_NONE);
  CHECK_INT(fs_conn_send_end(&conn), FS_E_NONE);
  STATES(FS_DONE_STATE, FS_DONE_STATE);
  CHECK(!fs_conn_busy(&conn) && fs_conn_next(&conn));
  STATES(FS_HEAD, FS_HEAD);
  CHECK(strcmp(fs_conn_word(&conn, 1), "idle") == 0);
}

static void pipelining(void) {
  begin();
  CHECK_INT(receive(GET POST5 "hello" GET HEAD "GE"), FS_REQUEST_HEAD);
  CHECK_INT(receive(""), FS_PAUSED);
  CHECK_INT(event.consumed, 0);
  answer();
  CHECK_INT(receive(""), FS_PAUSED); /* until the driver says so */
  CHECK(fs_conn_next(&conn));
  CHECK_INT(receive(""), FS_REQUEST_HEAD);
  STATES(FS_BODY, FS_HEAD);
  CHECK_INT(receive(""), FS_BODY_BYTES);
  CHECK_INT(event.data_len, 5);
  CHECK_INT(receive(""), FS_END_OF_MESSAGE);
  CHECK_INT(receive(""), FS_PAUSED);
  answer();
  CHECK(fs_conn_next(&conn));
  CHECK_INT(receive(""), FS_REQUEST_HEAD);
  answer();
  CHECK(fs_conn_next(&conn));
  CHECK_INT(receive(""), FS_REQUEST_HEAD);
  CHECK(conn.head_request);
  answer();
  CHECK(fs_conn_next(&conn) && !conn.head_request);
  CHECK_INT(receive(""), FS_NEED_DATA);
  CHECK_INT(sent_len - used, 2);
}

static void close_is_the_last(void) {
  begin();
  CHECK_INT(receive("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" GET), FS_REQUEST_HEAD);
  CHECK_INT(send_head(200, 0), FS_E_NONE);
  CHECK(plan.close && !plan.say_keep_alive);
  CHECK_INT(fs_conn_send_end(&conn), FS_E_NONE);
  CHECK_INT(receive(""), FS_CLOSED_EVENT);
  CHECK(!fs_conn_next(&conn));
  STATES(FS_CLOSED, FS_CLOSED);
  CHECK_INT(receive(""), FS_CLOSED_EVENT);
  CHECK_INT(event.consumed, 0);
  CHECK(strcmp(fs_conn_word(&conn, 1), "closed") == 0);
  begin(); /* we may close as well */
  receive(GET GET);
  CHECK_INT(fs_conn_send_head(&conn, 200, 0, true, false, &plan), FS_E_NONE);
  CHECK(plan.close);
  CHECK_INT(fs_conn_send_end(&conn), FS_E_NONE);
  CHECK(!fs_conn_next(&conn));
  STATES(FS_CLOSED, FS_CLOSED);
}

/* ------------------------------------------------------------------------------------------------ how a response is framed */

enum { NONE = FS_FRAME_NONE, LENGTH = FS_FRAME_LENGTH, CHUNKED = FS_FRAME_CHUNKED, CLOSE = FS_FRAME_CLOSE };

static void framing(void) {
  static const struct {
    const char *request;
    unsigned status;
    int64_t length;
    int frame;
    int64_t said; /* content_length */
    bool body, close, say_keep_alive;
  } rows[] = {
    {GET, 200, 5, LENGTH, 5, true, false, false},
    {GET, 200, 0, LENGTH, 0, true, false, false},
    {GET, 200, INT64_MAX, LENGTH, INT64_MAX, true, false, false},
    {GET, 200, -1, CHUNKED, 0, true, false, false},
    {GET, 404, -1, CHUNKED, 0, true, false, false},
    {GET, 999, 3, LENGTH, 3, true, false, false},
    /* RFC 9112 6.1: no chunked to 1.0; the end of the connection is the end of the body */
    {GET10, 200, -1, CLOSE, 0, true, true, false},
    {GET10, 200, 5, LENGTH, 5, true, true, false},
    {GET10_KEEP, 200, -1, CLOSE, 0, true, true, false},
    {GET10_KEEP, 200, 5, LENGTH, 5, true, false, true},
    {GET10_KEEP, 204, -1, NONE, 0, false, false, true},
    {"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, -1, NONE, 0, false, false, true},
    {"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, 5, LENGTH, 5, false, false, true},
    /* RFC 9110 9.3.2: the fields of a GET, no body */
    {HEAD, 200, 5, LENGTH, 5, false, false, false},
    {HEAD, 200, -1, CHUNKED, 0, false, false, false},
    {HEAD, 304, 5, LENGTH, 5, false, false, false},
    {HEAD, 204, 5, NONE, 0, false, false, false},
    {HEAD, 205, 5, LENGTH, 0, false, false, false},
    /* RFC 9110 8.6: no Content-Length in 204; 15.3.6: 205 is empty; 15.4.5: 304 may say the length of the 200 */
    {GET, 204, -1, NONE, 0, false, false, false},
    {GET, 204, 5, NONE, 0, false, false, false},
    {GET, 205, -1, LENGTH, 0, false, false, false},
    {GET, 205, 7, LENGTH, 0, false, false, false},
    {GET, 304, -1, NONE, 0, false, false, false},
    {GET, 304, 7, LENGTH, 7, false, false, false},
    /* RFC 9110 9.3.6: neither field in a 2xx to CONNECT; other answers are like any other */
    {"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 200, 5, NONE, 0, false, false, false},
    {"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 299, -1, NONE, 0, false, false, false},
    {"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405, 5, LENGTH, 5, true, false, false},
    {"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501, -1, CHUNKED, 0, true, false, false},
    {"CONNECT a:1 HTTP/1.0\r\n\r\n", 405, -1, CLOSE, 0, true, true, false},
    {"GET / HTTP/1.9\r\nHost: a\r\n\r\n", 200, -1, CHUNKED, 0, true, false, false},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    begin();
    CHECK_INT(receive(rows[i].request), FS_REQUEST_HEAD);
    bool good = CHECK_INT(send_head(rows[i].status, rows[i].length), FS_E_NONE);
    good &= CHECK_INT(plan.frame, rows[i].frame);
    if (plan.frame == FS_FRAME_LENGTH) good &= CHECK_INT(plan.content_length, rows[i].said);
    good &= CHECK_INT(plan.body, rows[i].body);
    good &= CHECK_INT(plan.close, rows[i].close);
    good &= CHECK_INT(plan.say_keep_alive, rows[i].say_keep_alive);
    if (!good) printf("  row %zu: %u to %s", i, rows[i].status, rows[i].request);
    if (conn.upgraded) continue;
    if (rows[i].body && rows[i].frame == LENGTH) {
      CHECK_INT(fs_conn_send_body(&conn, (uint64_t)rows[i].length + 1), FS_E_RESPONSE_TOO_LONG);
      CHECK_INT(fs_conn_send_body(&conn, (uint64_t)rows[i].length), FS_E_NONE);
      CHECK_INT(fs_conn_send_body(&conn, 1), FS_E_RESPONSE_TOO_LONG);
    } else {
      CHECK_INT(fs_conn_send_body(&conn, 1 << 20), FS_E_NONE); /* unframed, or not sent at all */
    }
    CHECK_INT(fs_conn_send_end(&conn), FS_E_NONE);
    CHECK(fs_conn_next(&conn) == !rows[i].close);
  }
}

static void statuses(void) {
  for (unsigned status = 0; status < 1100; status++) {
    begin();
    receive(GET);
    bool interim = status >= 100 && status < 200 && status != 101;
    CHECK((fs_conn_send_1xx(&conn, status) == FS_E_NONE) == interim);
    STATES(FS_DONE_STATE, FS_HEAD);
    CHECK_INT(send_head(status, 0), status >= 200 && status < 1000 ? FS_E_NONE : FS_E_STATUS);
  }
}

static void too_long(void) {
  begin();
  receive(GET);
  send_head(200, 10);
  CHECK_INT(fs_conn_send_body(&conn, UINT64_MAX), FS_E_RESPONSE_TOO_LONG);
  CHECK_INT(fs_conn_send_body(&conn, 11), FS_E_RESPONSE_TOO_LONG);
  CHECK_INT(fs_conn_send_body(&conn, 10), FS_E_NONE); /* a refused piece counts for nothing */
  CHECK_INT(fs_conn_send_body(&conn, 0), FS_E_NONE);
  CHECK_INT(fs_conn_send_body(&conn, 1), FS_E_RESPONSE_TOO_LONG);
  CHECK_INT(fs_conn_send_end(&conn), FS_E_NONE);
  CHECK(fs_conn_next(&conn));
}

static void too_short(void) {
  begin();
  receive(GET GET);
  send_head(200, 10);
  fs_conn_send_body(&conn, 9);
  CHECK_INT(fs_conn_send_end(&conn), FS_E_RESPONSE_TOO_SHORT);
  STATES(FS_CLOSED, FS_CLOSED);
  CHECK(!conn.keep_alive && !fs_conn_next(&conn));
  CHECK_INT(receive(""), FS_CLOSED_EVENT);
  CHECK_INT(fs_conn_send_body(&conn, 1), FS_E_STATE);
  CHECK_INT(send_head(500, 0), FS_E_STATE);
}

static void only_one_head(void) {
  begin();
  CHECK_INT(send_head(200, 0), FS_E_STATE); /* no request yet */
  receive("GET / HT");
  CHECK_INT(send_head(200, 0), FS_E_STATE);
  CHECK_INT(fs_conn_send_1xx(&conn, 100), FS_E_STATE);
  receive("TP/1.1\r\nHost: a\r\n\r\n");
  CHECK_INT(fs_conn_send_body(&conn, 0), FS_E_STATE);
  CHECK_INT(fs_conn_send_end(&conn), FS_E_STATE);
  CHECK_INT(send_head(200, 0), FS_E_NONE);
  CHECK_INT(send_head(200, 0), FS_E_STATE);
  CHECK_INT(fs_conn_send_end(&conn), FS_E_NONE);
  CHECK_INT(send_head(200, 0), FS_E_STATE);
  CHECK_INT(fs_conn_send_end(&conn), FS_E_STATE);
  CHECK_INT(fs_conn_send_body(&conn, 0), FS_E_STATE);
}

/* ------------------------------------------------------------------------------------------------ interim responses */

static void interim(void) {
  begin();
  CHECK_INT(fs_conn_send_1xx(&conn, 100), FS_E_STATE);
  receive("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
  CHECK(conn.head.expect_continue);
  CHECK_INT(fs_conn_send_1xx(&conn, 100), FS_E_NONE);
  CHECK_INT(fs_conn_send_1xx(&conn, 103), FS_E_NONE);
  CHECK_INT(fs_conn_send_1xx(&conn, 101), FS_E_STATUS); /* an application cannot switch unasked */
  STATES(FS_BODY, FS_HEAD);
  CHECK_INT(receive("hello"), FS_BODY_BYTES);
  CHECK_INT(receive(""), FS_END_OF_MESSAGE);
  CHECK_INT(fs_conn_send_1xx(&conn, 102), FS_E_NONE);
  CHECK_INT(send_head(200, 3), FS_E_NONE);
  CHECK_INT(fs_conn_send_1xx(&conn, 103), FS_E_STATE); /* not behind the head */
  fs_conn_send_body(&conn, 3);
  fs_conn_send_end(&conn);
  CHECK_INT(fs_conn_send_1xx(&conn, 103), FS_E_STATE);
  begin(); /* RFC 9110 15.2: never to 1.0 */
  receive("POST / HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
  CHECK(!conn.head.expect_continue);
  CHECK_INT(fs_conn_send_1xx(&conn, 100), FS_E_STATE);
  begin(); /* nor to a request that was refused */
  CHECK_INT(receive("GET / HTTP/1.1\r\nHost : a\r\n\r\n"), FS_ERROR);
  CHECK_INT(fs_conn_send_1xx(&conn, 103), FS_E_STATE);
}

/* ------------------------------------------------------------------------------------------------ upgrade, CONNECT */

#define UPGRADE "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"

static void upgrade(void) {
  begin();
  receive(UPGRADE "\x81\x05hello");
  CHECK(conn.head.upgrade);
  CHECK_INT(fs_conn_send_head(&conn, 200, 0, false, true, &plan), FS_E_STATUS); /* only with 101 */
  CHECK_INT(fs_conn_send_head(&conn, 101, -1, false, false, &plan), FS_E_STATUS);
  STATES(FS_DONE_STATE, FS_HEAD);
  CHECK_INT(fs_conn_send_head(&conn, 101, -1, false, true, &plan), FS_E_NONE);
  CHECK(plan.frame == FS_FRAME_NONE && !plan.body && !plan.close);
  CHECK(conn.upgraded && strcmp(fs_conn_word(&conn, 1), "upgraded") == 0);
  CHECK_INT(receive(""), FS_UPGRADED);
  CHECK_INT(event.consumed, 0); /* the bytes behind are someone else's */
  CHECK(!fs_conn_next(&conn) && conn.upgraded);
  CHECK_INT(send_head(200, 0), FS_E_STATE);
  CHECK_INT(fs_conn_send_body(&conn, 1), FS_E_STATE);
  CHECK_INT(fs_conn_eof(&conn, 7), FS_E_NONE);
  STATES(FS_DONE_STATE, FS_DONE_STATE);
  fs_conn_close(&conn);
  STATES(FS_CLOSED, FS_CLOSED);
  begin(); /* asked for, and not taken */
  receive(UPGRADE GET);
  answer();
  CHECK(fs_conn_next(&conn));
  CHECK_INT(receive(""), FS_REQUEST_HEAD);
  CHECK_INT(fs_conn_send_head(&conn, 101, -1, false, true, &plan), FS_E_STATUS); /* not asked for */
  begin(); /* not before the body is read */
  receive("POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\n");
  CHECK_INT(fs_conn_send_head(&conn, 101, -1, false, true, &plan), FS_E_STATE);
  STATES(FS_BODY, FS_HEAD);
  CHECK_INT(receive("ab"), FS_BODY_BYTES);
  CHECK_INT(receive(""), FS_END_OF_MESSAGE);
  CHECK_INT(fs_conn_send_head(&conn, 101, -1, false, true, &plan), FS_E_NONE);
  begin(); /* a close asked for does not end what follows the 101 */
  receive("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\nUpgrade: x\r\n\r\n");
  CHECK_INT(fs_conn_send_head(&conn, 101, -1, true, true, &plan), FS_E_NONE);
  CHECK(!plan.close && conn.upgraded);
}

static void connect_method(void) {
  begin();
  receive("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\nbytes");
  CHECK_INT(send_head(200, 5), FS_E_NONE);
  CHECK(conn.upgraded && !plan.body && !plan.close);
  CHECK_INT(receive(""), FS_UPGRADED);
  begin();
  receive("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n" GET);
  CHECK_INT(send_head(501, 0), FS_E_NONE);
  CHECK(!conn.upgraded);
  fs_conn_send_end(&conn);
  CHECK(fs_conn_next(&conn));
  CHECK_INT(receive(""), FS_REQUEST_HEAD);
  CHECK_INT(send_head(200, 0), FS_E_NONE);
  CHECK(!conn.upgraded);
  begin();
  receive("CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n");
  CHECK_INT(send_head(200, 0), FS_E_STATE); /* no tunnel while the body is on its way */
  CHECK_INT(send_head(501, 0), FS_E_NONE);
}

/* ------------------------------------------------------------------------------------------------ unread bodies */

static char bulk[1 << 17];

/* The response is out before the body was read: what is left is dropped, up to the limit, and the connection goes on. */
static void early_response(void) {
  begin();
  receive("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345");
  answer();
  CHECK(!plan.close);
  STATES(FS_BODY, FS_DONE_STATE);
  CHECK(!fs_conn_next(&conn) && !fs_conn_busy(&conn) && fs_conn_body_pending(&conn));
  CHECK_INT(receive(""), FS_BODY_BYTES);
  CHECK_INT(receive("67890" GET), FS_BODY_BYTES);
  CHECK_INT(event.data_len, 5);
  CHECK_INT(receive(""), FS_END_OF_MESSAGE);
  CHECK(fs_conn_next(&conn));
  CHECK_INT(receive(""), FS_REQUEST_HEAD);
  CHECK_INT(conn.drained, 0);
}

/* RFC 9112 9.3: more than we drain is known beforehand: the answer says that it is the last. */
static void early_response_to_a_large_body(void) {
  static const struct {
    unsigned length;
    bool close;
  } rows[] = {{65536, false}, {65537, true}};
  for (int i = 0; i < 2; i++) {
    begin();
    snprintf(bulk, sizeof bulk, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %u\r\n\r\n", rows[i].length);
    receive(bulk);
    CHECK_INT(send_head(200, 0), FS_E_NONE);
    CHECK(plan.close == rows[i].close);
    fs_conn_send_end(&conn);
    CHECK(!fs_conn_next(&conn));
    STATES(FS_BODY, FS_DONE_STATE);
    memset(bulk, 'x', 65536);
    bulk[65536] = '\0';
    CHECK_INT(receive(bulk), FS_BODY_BYTES);
    if (rows[i].close) CHECK_INT(receive("x"), FS_CLOSED_EVENT);
    else CHECK_INT(receive(""), FS_END_OF_MESSAGE);
  }
}

/* The limit counts every byte, chunk framing included, and does not care how the bytes were cut. */
static void drain_limit(void) {
  const char *rest = "5\r\nhello\r\n3;a=b\r\nabc\r\n0\r\nA: b\r\n\r\n"; /* chunks, framing and a trailer */
  size_t len = strlen(rest);
  for (uint32_t max = 0; max < len + 5; max++) {
    for (size_t step = 1; step <= len; step++) {
      begin();
      limits.drain_bytes_max = max;
      receive(POST_CHUNKED);
      answer();
      STATES(FS_BODY, FS_DONE_STATE);
      fs_event_type type = FS_NEED_DATA;
      for (size_t n = 0; n < len && (type == FS_NEED_DATA || type == FS_BODY_BYTES); n += step) {
        char piece[64];
        snprintf(piece, sizeof piece, "%.*s", (int)step, rest + n);
        type = receive(piece);
        while (type == FS_BODY_BYTES) type = receive("");
      }
      bool good = CHECK_INT(type, max < len ? FS_CLOSED_EVENT : FS_END_OF_MESSAGE);
      if (!good) printf("  limit %u of %zu bytes, in steps of %zu\n", max, len, step);
      CHECK(fs_conn_next(&conn) == (max >= len));
      if (max < len) STATES(FS_CLOSED, FS_CLOSED);
    }
  }
}

/* While the answer is being written nothing is dropped: the body is read at the application's pace, without end. */
static void no_limit_before_the_answer_is_out(void) {
  begin();
  limits.drain_bytes_max = 10;
  receive("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
  CHECK_INT(send_head(200, -1), FS_E_NONE);
  for (int i = 0; i < 20; i++) {
    CHECK_INT(receive("5\r\nhello\r\n"), FS_BODY_BYTES);
    CHECK_INT(fs_conn_send_body(&conn, 5), FS_E_NONE);
    CHECK_INT(receive(""), FS_NEED_DATA);
  }
  CHECK_INT(receive("0\r\n\r\n"), FS_END_OF_MESSAGE);
  CHECK_INT(fs_conn_send_end(&conn), FS_E_NONE);
  CHECK(fs_conn_next(&conn));
}

/* ------------------------------------------------------------------------------------------------ faults */

static void fault_in_a_head(void) {
  begin();
  CHECK_INT(receive(GET "GET / HTTP/1.1\nHost: a\r\n\r\n"), FS_REQUEST_HEAD);
  answer();
  CHECK(fs_conn_next(&conn));
  CHECK_INT(receive(""), FS_ERROR);
  CHECK_INT(conn.error, FS_E_LINE_END);
  STATES(FS_CLOSED, FS_HEAD);
  CHECK_INT(receive(GET), FS_ERROR); /* and nothing is read any more */
  CHECK_INT(event.consumed, 0);
  CHECK(!fs_conn_busy(&conn) && strcmp(fs_conn_word(&conn, 1), "active") == 0);
  CHECK_INT(send_head(400, 5), FS_E_NONE);
  CHECK(plan.close && plan.body && plan.frame == FS_FRAME_LENGTH && !plan.say_keep_alive);
  CHECK_INT(fs_conn_send_body(&conn, 5), FS_E_NONE);
  CHECK_INT(fs_conn_send_end(&conn), FS_E_NONE);
  CHECK(!fs_conn_next(&conn));
  STATES(FS_CLOSED, FS_CLOSED);
}

static void fault_in_a_body(void) {
  begin(); /* before an answer: it may be given */
  receive(POST_CHUNKED "5\r\nhelloX");
  CHECK_INT(receive(""), FS_BODY_BYTES);
  CHECK_INT(receive(""), FS_ERROR);
  CHECK_INT(conn.error, FS_E_CHUNK_END);
  STATES(FS_CLOSED, FS_HEAD);
  CHECK(!fs_conn_busy(&conn) && !fs_conn_body_pending(&conn));
  CHECK_INT(send_head(400, 0), FS_E_NONE);
  CHECK(plan.close);
  begin(); /* in the middle of one: it may end */
  receive(POST_CHUNKED);
  send_head(200, 10);
  CHECK(!plan.close);
  CHECK_INT(receive("Z"), FS_ERROR);
  STATES(FS_CLOSED, FS_BODY);
  CHECK_INT(send_head(400, 0), FS_E_STATE);
  CHECK_INT(fs_conn_send_body(&conn, 10), FS_E_NONE);
  CHECK_INT(fs_conn_send_end(&conn), FS_E_NONE);
  CHECK(!fs_conn_next(&conn));
  STATES(FS_CLOSED, FS_CLOSED);
  begin(); /* behind it: over */
  receive(POST_CHUNKED);
  answer();
  CHECK_INT(receive("Z"), FS_ERROR);
  CHECK(!fs_conn_next(&conn));
  STATES(FS_CLOSED, FS_CLOSED);
}

static void deadlines(void) {
  begin();
  receive("GET / HTTP/1.1\r\nHo");
  fs_conn_refuse(&conn, FS_E_HEAD_TIMEOUT);
  STATES(FS_CLOSED, FS_HEAD);
  CHECK_INT(receive("st: a\r\n\r\n"), FS_ERROR);
  CHECK_INT(conn.error, FS_E_HEAD_TIMEOUT);
  CHECK_INT(send_head(408, 0), FS_E_NONE);
  CHECK(plan.close);
  begin();
  receive(POST5 "he");
  fs_conn_refuse(&conn, FS_E_BODY_TIMEOUT);
  CHECK_INT(send_head(408, 0), FS_E_NONE);
  CHECK(plan.close);
}

/* A limit for one body, beside the one for all. */
static void limit_of_one_body(void) {
  begin();
  receive(POST5);
  CHECK_INT(fs_conn_limit_body(&conn, 5), FS_E_NONE);
  STATES(FS_BODY, FS_HEAD);
  begin(); /* it declares too much: judged before a byte of it was read */
  receive(POST5);
  CHECK_INT(fs_conn_limit_body(&conn, 4), FS_E_BODY_LENGTH);
  CHECK_INT(conn.error, FS_E_BODY_LENGTH);
  STATES(FS_CLOSED, FS_HEAD);
  CHECK_INT(send_head(413, 0), FS_E_NONE);
  CHECK(plan.close);
  begin(); /* it does not say: judged chunk by chunk, by their sum */
  receive(POST_CHUNKED);
  CHECK_INT(fs_conn_limit_body(&conn, 4), FS_E_NONE);
  CHECK_INT(receive("3\r\nabc\r\n"), FS_BODY_BYTES);
  CHECK_INT(receive("1\r\nd\r\n"), FS_BODY_BYTES);
  CHECK_INT(receive("1\r\ne\r\n"), FS_ERROR);
  CHECK_INT(conn.error, FS_E_BODY_LENGTH);
  begin(); /* the next one has none, unless it is said again */
  receive(POST_CHUNKED);
  fs_conn_limit_body(&conn, 0);
  receive("0\r\n\r\n");
  answer();
  CHECK(fs_conn_next(&conn));
  receive(POST_CHUNKED);
  CHECK_INT(receive("1\r\nx\r\n"), FS_BODY_BYTES);
  begin(); /* no body, no limit */
  receive("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
  CHECK_INT(fs_conn_limit_body(&conn, 0), FS_E_NONE);
  STATES(FS_DONE_STATE, FS_HEAD);
}

/* RFC 9110 9.3.2: "the server MUST NOT send content in the response" to HEAD, also when it is refused. */
static void refused_head_request(void) {
  static const char *const texts[] = {"HEAD / HTTP/1.1\r\n\r\n", "HEAD # HTTP/1.1\r\n",
                                      "HEAD / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n"};
  for (int i = 0; i < 3; i++) {
    begin();
    CHECK_INT(receive(texts[i]), FS_ERROR);
    CHECK_INT(send_head(400, 5), FS_E_NONE);
    CHECK(plan.close && !plan.body && plan.frame == FS_FRAME_LENGTH && plan.content_length == 5);
    CHECK_INT(fs_conn_send_end(&conn), FS_E_NONE);
  }
  begin(); /* also by a deadline */
  receive("HEAD / HTTP/1.1\r\n");
  fs_conn_refuse(&conn, FS_E_HEAD_TIMEOUT);
  CHECK_INT(send_head(408, 5), FS_E_NONE);
  CHECK(!plan.body);
  begin(); /* the one before does not count */
  receive(HEAD "GET /\r\n");
  answer();
  fs_conn_next(&conn);
  CHECK_INT(receive(""), FS_ERROR);
  CHECK_INT(send_head(400, 5), FS_E_NONE);
  CHECK(plan.body);
}

/* ------------------------------------------------------------------------------------------------ eof everywhere */

/* After each prefix of these bytes the peer leaves; every complete request was answered, or not. */
static void eof_everywhere(void) {
  static const char text[] = "\r\n" GET POST5 "hello" POST_CHUNKED "3\r\nabc\r\n0\r\nA: b\r\n\r\n" GET;
  for (size_t n = 0; n < sizeof text; n++) {
    for (int answered = 0; answered < 2; answered++) {
      begin();
      memcpy(sent, text, n);
      sent_len = n;
      fs_event_type type;
      bool whole = false; /* a request is in hand, and complete */
      while ((type = receive("")) != FS_NEED_DATA && type != FS_PAUSED) {
        CHECK(type == FS_REQUEST_HEAD || type == FS_BODY_BYTES || type == FS_END_OF_MESSAGE);
        whole = !fs_conn_body_pending(&conn);
        if (!whole || !answered) continue;
        answer();
        CHECK(fs_conn_next(&conn));
        whole = false;
      }
      bool inside = fs_conn_body_pending(&conn) || fs_conn_head_begun(&conn);
      CHECK_INT(fs_conn_eof(&conn, sent_len - used), inside ? FS_E_INCOMPLETE : FS_E_NONE);
      if (whole) { /* it can still be run and answered; then the end is seen */
        STATES(FS_DONE_STATE, FS_HEAD);
        answer();
        CHECK(fs_conn_next(&conn));
        if (sent_len == used) CHECK_INT(fs_conn_eof(&conn, 0), FS_E_NONE);
        continue;
      }
      STATES(FS_CLOSED, FS_HEAD);
      CHECK(!conn.keep_alive);
      CHECK_INT(conn.error, inside ? FS_E_INCOMPLETE : FS_E_NONE);
      CHECK_INT(receive("x"), inside ? FS_ERROR : FS_CLOSED_EVENT);
      CHECK_INT(event.consumed, 0);
      CHECK(!fs_conn_next(&conn));
      fs_conn_close(&conn);
      STATES(FS_CLOSED, FS_CLOSED);
    }
  }
}

/* The peer leaves while we write: the response may be finished, and then it is over. */
static void eof_while_writing(void) {
  begin();
  receive(POST5 "he");
  receive("");
  send_head(200, 4);
  CHECK_INT(fs_conn_eof(&conn, 0), FS_E_INCOMPLETE);
  STATES(FS_CLOSED, FS_BODY);
  CHECK_INT(fs_conn_send_body(&conn, 4), FS_E_NONE);
  CHECK_INT(fs_conn_send_end(&conn), FS_E_NONE);
  CHECK(!fs_conn_next(&conn));
  STATES(FS_CLOSED, FS_CLOSED);
  begin(); /* half-closed behind a whole request: that is no fault, and the answer is as ever */
  receive(GET);
  CHECK_INT(fs_conn_eof(&conn, 0), FS_E_NONE);
  answer();
  CHECK(fs_conn_next(&conn));
  CHECK_INT(fs_conn_eof(&conn, 0), FS_E_NONE);
  STATES(FS_CLOSED, FS_HEAD);
  begin(); /* in an unwanted body */
  receive(POST5);
  answer();
  CHECK_INT(fs_conn_eof(&conn, 0), FS_E_INCOMPLETE);
  CHECK(!fs_conn_next(&conn));
  STATES(FS_CLOSED, FS_CLOSED);
}

/* ------------------------------------------------------------------------------------------------ trailers, fields */

static void trailers(void) {
  begin();
  receive(POST_CHUNKED "1\r\nx\r\n0\r\nA: b\r\nHo");
  CHECK_INT(receive(""), FS_BODY_BYTES);
  CHECK_INT(fs_conn_fields_needed(&conn), 0);
  CHECK_INT(receive(""), FS_NEED_DATA);
  CHECK_INT(fs_conn_fields_needed(&conn), 1);
  CHECK_INT(receive("st: c\r\n\r\n" GET), FS_END_OF_MESSAGE);
  CHECK_INT(event.trailers, 2);
  CHECK_INT(fields[1].id, FS_FIELD_HOST);
  CHECK(!fs_trailer_allowed(fields[1].id));
  answer();
  CHECK(fs_conn_next(&conn));
  CHECK_INT(fs_conn_fields_needed(&conn), 0);
  CHECK_INT(receive(""), FS_REQUEST_HEAD);
  CHECK_INT(conn.head.fields_count, 1);
  begin(); /* a length body has none, even behind a chunked one */
  receive(POST_CHUNKED "0\r\nA: b\r\n\r\n" POST5 "hello");
  CHECK_INT(receive(""), FS_END_OF_MESSAGE);
  CHECK_INT(event.trailers, 1);
  answer();
  fs_conn_next(&conn);
  CHECK_INT(receive(""), FS_REQUEST_HEAD);
  CHECK_INT(receive(""), FS_BODY_BYTES);
  CHECK_INT(receive(""), FS_END_OF_MESSAGE);
  CHECK_INT(event.trailers, 0);
}

static void fields_needed(void) {
  begin();
  receive("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nC");
  CHECK_INT(fs_conn_fields_needed(&conn), 2);
  CHECK_INT(receive(": d\r\n\r\n"), FS_REQUEST_HEAD);
  CHECK_INT(fs_conn_fields_needed(&conn), 0); /* borrowed until the bytes are dropped, not by the machine */
}

static const harness_test tests[] = {
  {"order_of_the_table", order_of_the_table},
  {"every_combination", every_combination},
  {"reachable_states", reachable_states},
  {"every_function_asks_the_table", every_function_asks_the_table},
  {"one_request", one_request},
  {"pipelining", pipelining},
  {"close_is_the_last", close_is_the_last},
  {"framing", framing},
  {"statuses", statuses},
  {"too_long", too_long},
  {"too_short", too_short},
  {"only_one_head", only_one_head},
  {"interim", interim},
  {"upgrade", upgrade},
  {"connect_method", connect_method},
  {"early_response", early_response},
  {"early_response_to_a_large_body", early_response_to_a_large_body},
  {"drain_limit", drain_limit},
  {"no_limit_before_the_answer_is_out", no_limit_before_the_answer_is_out},
  {"fault_in_a_head", fault_in_a_head},
  {"fault_in_a_body", fault_in_a_body},
  {"deadlines", deadlines},
  {"limit_of_one_body", limit_of_one_body},
  {"refused_head_request", refused_head_request},
  {"eof_everywhere", eof_everywhere},
  {"eof_while_writing", eof_while_writing},
  {"trailers", trailers},
  {"fields_needed", fields_needed},
};

HARNESS_MAIN(tests)
