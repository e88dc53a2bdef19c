/* Room:    runs bytes through fs_conn and tells what happened, in the notation of the case book (tests/cases/README.md).
 * Called:  by test_cases.c and by the fuzzers. The caller cuts the input and places each piece (guard page, exact malloc).
 * Calls:   csrc/conn.c, errors.c; the same story in Python is fastserve.protocol.core.events().
 * Rules:   every complete request is answered at once with an empty 200, CONNECT with an empty 501.
 *
 * What must hold whatever the bytes are (offsets inside the input, consumed never more than given, legal states, nothing
 * consumed after a fault) is checked here, at every step, and ends the program: run_broken() says which.
 */
#ifndef FS_EVENTS_H
#define FS_EVENTS_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/conn.h"

#define RUN_MUST(x) ((x) ? (void)0 : run_broken(#x, __FILE__, __LINE__))

__attribute__((noreturn, unused)) static void run_broken(const char *what, const char *file, int line) {
  fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
  abort();
}

/* --- the story: growing text --- */

typedef struct {
  char *text; /* NUL-terminated lines; owned */
  size_t len, cap;
  uint8_t body[64]; /* the beginning of the body of the message in hand */
  uint64_t body_len;
} fs_story;

static void story_room(fs_story *story, size_t more) {
  if (story->cap - story->len > more) return;
  story->cap = (story->len + more + 1) * 2;
  story->text = realloc(story->text, story->cap);
  if (story->text == NULL) abort();
}

__attribute__((format(printf, 2, 3), unused)) static void story_add(fs_story *story, const char *format, ...) {
  va_list args;
  story_room(story, 1024);
  va_start(args, format);
  int n = vsnprintf(story->text + story->len, 1024, format, args);
  va_end(args);
  RUN_MUST(n >= 0 && n < 1024);
  story->len += (size_t)n;
}

/* Printable ASCII as it is; CR, LF, everything else and the backslash as escapes. */
static void story_bytes(fs_story *story, const uint8_t *p, size_t len, bool lower) {
  story_room(story, len * 4);
  char *out = story->text + story->len;
  for (size_t i = 0; i < len; i++) {
    uint8_t c = p[i];
    if (c == '\r' || c == '\n') {
      *out++ = '\\';
      *out++ = c == '\r' ? 'r' : 'n';
    } else if (c >= 0x20 && c < 0x7f && c != '\\') {
      *out++ = (char)(lower && c >= 'A' && c <= 'Z' ? c | 0x20 : c);
    } else {
      *out++ = '\\';
      *out++ = 'x';
      *out++ = "0123456789abcdef"[c >> 4];
      *out++ = "0123456789abcdef"[c & 15];
    }
  }
  *out = '\0';
  story->len = (size_t)(out - story->text);
}

/* "word" or "word text" */
static void story_line(fs_story *story, const char *word, const uint8_t *p, size_t len) {
  story_add(story, len == 0 ? "%s" : "%s ", word);
  story_bytes(story, p, len, false);
  story_add(story, "\n");
}

static void story_body(fs_story *story) {
  if (story->body_len > sizeof story->body) {
    story_add(story, "body %llu bytes\n", (unsigned long long)story->body_len);
  } else if (story->body_len != 0) {
    story_line(story, "body", story->body, (size_t)story->body_len);
  }
  story->body_len = 0;
}

static void story_data(fs_story *story, const uint8_t *p, size_t len) {
  for (size_t i = 0; i < len && story->body_len + i < sizeof story->body; i++) story->body[story->body_len + i] = p[i];
  story->body_len += len;
}

static bool span_inside(fs_span span, size_t len) { return span.off <= len && span.len <= len - span.off; }

static void story_fields(fs_story *story, const char *word, const uint8_t *data, size_t len, const fs_field *fields,
                         uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    const fs_field *field = &fields[i];
    RUN_MUST(field->name_len != 0 && span_inside((fs_span){field->name, field->name_len}, len));
    RUN_MUST(span_inside((fs_span){field->value, field->value_len}, len));
    RUN_MUST(field->name + field->name_len < field->value || field->value_len == 0);
    RUN_MUST(field->id < FS_FIELD_COUNT);
    if (strcmp(word, "trailer") == 0 && !fs_trailer_allowed(field->id)) continue;
    story_add(story, "%s ", word);
    story_bytes(story, data + field->name, field->name_len, true);
    story_add(story, field->value_len == 0 ? ":" : ": ");
    story_bytes(story, data + field->value, field->value_len, false);
    story_add(story, "\n");
  }
}

static void story_head(fs_story *story, const uint8_t *data, size_t len, const fs_request_head *head,
                       const fs_field *fields) {
  RUN_MUST(head->start < head->end && head->end <= len);
  RUN_MUST(span_inside(head->method, len) && head->method.len != 0 && head->method.off == head->start);
  RUN_MUST(span_inside(head->target, len) && head->target.len != 0);
  RUN_MUST(span_inside(head->host, len));
  RUN_MUST(span_inside(head->parts.path, head->target.len) && span_inside(head->parts.query, head->target.len));
  RUN_MUST(span_inside(head->parts.scheme, head->target.len) && span_inside(head->parts.authority, head->target.len));
  RUN_MUST(head->version_major == 1 && head->version_minor <= 9 && head->method_id < FS_METHOD_COUNT);
  RUN_MUST(head->framing <= FS_BODY_CHUNKED && head->content_length <= INT64_MAX);
  const uint8_t *target = data + head->target.off;
  story_add(story, "request_head ");
  story_bytes(story, data + head->method.off, head->method.len, false);
  story_add(story, " ");
  story_bytes(story, target, head->target.len, false);
  story_add(story, " 1.%u ", head->version_minor > 1 ? 1u : head->version_minor);
  if (head->framing == FS_BODY_LENGTH) story_add(story, "length=%llu", (unsigned long long)head->content_length);
  else story_add(story, head->framing == FS_BODY_CHUNKED ? "chunked" : "none");
  story_add(story, head->keep_alive ? " keep_alive%s%s\n" : " close%s%s\n", head->expect_continue ? " expect" : "",
            head->upgrade ? " upgrade" : "");
  story_line(story, "host", data + head->host.off, head->host.len);
  if (head->parts.form == FS_TARGET_ABSOLUTE && head->parts.path.len == 0) story_add(story, "path /\n");
  else story_line(story, "path", target + head->parts.path.off, head->parts.path.len);
  if (head->parts.has_query) story_line(story, "query", target + head->parts.query.off, head->parts.query.len);
  story_fields(story, "field", data, len, fields, head->fields_count);
}

/* --- one connection fed with pieces --- */

typedef struct {
  fs_conn conn;
  fs_limits limits;
  fs_field *fields; /* exactly limits.fields_max entries; owned */
  fs_story story;
  bool over;
} fs_run;

__attribute__((unused)) static void run_init(fs_run *run, const fs_limits *limits) {
  memset(run, 0, sizeof *run);
  run->limits = *limits;
  run->fields = malloc(limits->fields_max * sizeof *run->fields);
  if (run->fields == NULL && limits->fields_max != 0) abort();
  story_room(&run->story, 1);
  run->story.text[0] = '\0';
  fs_conn_init(&run->conn, &run->limits);
}

__attribute__((unused)) static void run_free(fs_run *run) {
  free(run->fields);
  free(run->story.text);
}

/* What must hold after every step. */
static void run_check(const fs_run *run, const fs_event *event, size_t len) {
  const fs_conn *conn = &run->conn;
  RUN_MUST(event->type <= FS_CLOSED_EVENT);
  RUN_MUST(event->consumed <= len);
  RUN_MUST(conn->reading <= FS_CLOSED && conn->writing <= FS_CLOSED);
  RUN_MUST((unsigned)conn->error < FS_E_COUNT);
  RUN_MUST(fs_conn_fields_needed(conn) <= conn->limits->fields_max);
  if (event->type == FS_BODY_BYTES) {
    RUN_MUST(event->data_len != 0);
    RUN_MUST(event->data_off <= event->consumed && event->data_len <= event->consumed - event->data_off);
  }
  if (event->type == FS_ERROR) RUN_MUST(conn->error != FS_E_NONE && conn->reading == FS_CLOSED && !conn->keep_alive);
  if (event->type == FS_REQUEST_HEAD) RUN_MUST(event->consumed == conn->head.end && event->consumed != 0);
  if (event->type == FS_PAUSED || event->type == FS_UPGRADED || event->type == FS_CLOSED_EVENT)
    RUN_MUST(event->type == FS_CLOSED_EVENT || event->consumed == 0);
}

/* Nothing more is read after a fault or the end, whatever is offered. */
static void run_check_over(fs_run *run, const uint8_t *data, size_t len) {
  fs_event event;
  fs_error error = run->conn.error;
  fs_conn_receive(&run->conn, data, len, run->fields, &event);
  RUN_MUST(event.consumed == 0);
  RUN_MUST(event.type == FS_CLOSED_EVENT || event.type == FS_UPGRADED || (event.type == FS_ERROR && error != FS_E_NONE));
  RUN_MUST(run->conn.error == error);
}

/* The request is whole: answer it, and on to the next. */
static void run_answer(fs_run *run) {
  fs_response_plan plan;
  RUN_MUST(fs_conn_send_head(&run->conn, run->conn.connect_request ? 501 : 200, 0, false, false, &plan) == FS_E_NONE);
  RUN_MUST(fs_conn_send_end(&run->conn) == FS_E_NONE);
  story_add(&run->story, "end_of_message\n");
  if (fs_conn_next(&run->conn)) return;
  story_add(&run->story, "closed\n");
  run->over = true;
}

/* Let the machine look at [data, data+len), everything that is not used up yet, until it wants more. Returns the number
 * of bytes that are used up. */
__attribute__((unused)) static size_t run_feed(fs_run *run, const uint8_t *data, size_t len) {
  size_t used = 0;
  while (!run->over) {
    fs_event event;
    const uint8_t *p = data + used;
    fs_conn_receive(&run->conn, p, len - used, run->fields, &event);
    run_check(run, &event, len - used);
    switch (event.type) {
      case FS_REQUEST_HEAD:
        story_head(&run->story, p, len - used, &run->conn.head, run->fields);
        if (!fs_conn_body_pending(&run->conn)) run_answer(run);
        break;
      case FS_BODY_BYTES:
        story_data(&run->story, p + event.data_off, event.data_len);
        break;
      case FS_END_OF_MESSAGE:
        RUN_MUST(event.trailers <= run->limits.fields_max);
        story_body(&run->story);
        story_fields(&run->story, "trailer", p, event.consumed, run->fields, event.trailers);
        run_answer(run);
        break;
      case FS_ERROR:
        run->story.body_len = 0;
        story_add(&run->story, "error %s %u\n", fs_error_info(run->conn.error)->name,
                  fs_error_info(run->conn.error)->status);
        run->over = true;
        break;
      case FS_NEED_DATA:
        return used + event.consumed;
      default:
        RUN_MUST(event.type == FS_NEED_DATA);
    }
    used += event.consumed;
  }
  run_check_over(run, data + used, len - used);
  return used;
}

/* The input is over. */
__attribute__((unused)) static const char *run_end(fs_run *run) {
  if (!run->over) {
    story_body(&run->story);
    if (fs_conn_body_pending(&run->conn) || fs_conn_head_begun(&run->conn)) story_add(&run->story, "need_data\n");
  }
  return run->story.text;
}

#endif
