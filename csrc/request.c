/* The request head in one pass; see request.h for the contract.
 *
 * Room:    a resumable scan (states below), then one judgement over the known fields.
 * Called:  by conn.c; the field-line half also by body.c. Calls scan.c through its table, target.c.
 * Rules:   RFC 9112 sections 2.2, 3, 5, 6, 9.3.
 *
 * Theory of operation. Each state looks at bytes from `pos` on and either moves on or stops at the end of the input with
 * `pos` where the next call continues; `mark` remembers where the word being read began. Limits cut the input short before
 * it is scanned, so a fault beyond a limit is never seen before the limit is: the answer depends on the bytes alone.
 */
#include "request.h"

#include "scan.h"

/* ---------------------------------------------------------------------------------------------- small words */

/* Eight letters at once to lower case: bit 0x20 is added to the bytes from 'A' to 'Z', all others are left alone. */
FS_INLINE uint64_t lower8(uint64_t x) {
  const uint64_t ones = UINT64_C(0x0101010101010101), high = ones * 0x80;
  uint64_t low7 = x & ~high;
  uint64_t from_a = low7 + ones * (0x80 - 'A');       /* bit 7 of a byte: it is 'A' or above */
  uint64_t above_z = low7 + ones * (0x80 - 'Z' - 1);  /* bit 7: above 'Z' */
  return x | ((from_a & ~above_z & ~x & high) >> 2);
}

FS_INLINE uint64_t load8(const void *p) {
  uint64_t x;
  memcpy(&x, p, 8);
  return x;
}

bool fs_text_equal(const uint8_t *p, size_t len, const char *text, size_t text_len) {
  size_t i = 0;
  if (len != text_len) return false;
  if (len >= 8) {
    for (; i + 8 < len; i += 8)
      if (lower8(load8(p + i)) != load8(text + i)) return false;
    return lower8(load8(p + len - 8)) == load8(text + len - 8); /* the last eight, some of them a second time */
  }
  for (; i < len; i++) {
    uint8_t c = p[i];
    if (c >= 'A' && c <= 'Z') c |= 0x20;
    if (c != (uint8_t)text[i]) return false;
  }
  return true;
}

static const char *const method_names[FS_METHOD_COUNT] = {NULL,      "GET",     "HEAD",  "POST", "PUT",
                                                          "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"};

const char *fs_method_name(unsigned id) { return id < FS_METHOD_COUNT ? method_names[id] : NULL; }

static uint8_t method_id(const uint8_t *p, uint32_t len) {
  switch (len) {
    case 3:
      if (memcmp(p, "GET", 3) == 0) return FS_METHOD_GET;
      if (memcmp(p, "PUT", 3) == 0) return FS_METHOD_PUT;
      break;
    case 4:
      if (memcmp(p, "POST", 4) == 0) return FS_METHOD_POST;
      if (memcmp(p, "HEAD", 4) == 0) return FS_METHOD_HEAD;
      break;
    case 5:
      if (memcmp(p, "PATCH", 5) == 0) return FS_METHOD_PATCH;
      if (memcmp(p, "TRACE", 5) == 0) return FS_METHOD_TRACE;
      break;
    case 6:
      if (memcmp(p, "DELETE", 6) == 0) return FS_METHOD_DELETE;
      break;
    case 7:
      if (memcmp(p, "OPTIONS", 7) == 0) return FS_METHOD_OPTIONS;
      if (memcmp(p, "CONNECT", 7) == 0) return FS_METHOD_CONNECT;
      break;
    default:
      break;
  }
  return FS_METHOD_OTHER;
}

FS_INLINE bool is_ows(uint8_t c) { return c == ' ' || c == '\t'; }

/* ---------------------------------------------------------------------------------------------- field lines */

enum { L_START, L_NAME, L_NAME_SPACE, L_OWS, L_VALUE, L_VALUE_CR, L_END_CR };

void fs_field_lines_init(fs_field_lines *lines, uint32_t pos) {
  lines->state = L_START;
  lines->pos = pos;
  lines->mark = pos;
  lines->count = 0;
}

int fs_field_lines_parse(fs_field_lines *lines, const uint8_t *data, size_t len, size_t limit, fs_error over,
                         fs_field *fields, uint32_t fields_max) {
  const uint8_t *end = data + (len < limit ? len : limit);
  const uint8_t *p = data + lines->pos;
  const fs_scan_kernels *scan = fs_scan;
  fs_field now = lines->now;
  uint32_t mark = lines->mark, count = lines->count;
  uint8_t state = lines->state;
  int answer = FS_MORE;

  FS_ASSERT(p <= data + len);
  if (p > end) p = end;
  for (;;) {
    switch (state) {
      case L_START:
        if (p == end) goto stop;
        if (FS_UNLIKELY(*p == '\r')) {
          p++;
          state = L_END_CR;
          continue;
        }
        if (FS_UNLIKELY(*p == '\n')) {
          answer = -FS_E_LINE_END;
          goto stop;
        }
        if (FS_UNLIKELY(is_ows(*p))) {
          answer = count == 0 ? -FS_E_FIELD_LEADING_SPACE : -FS_E_FIELD_FOLD;
          goto stop;
        }
        if (FS_UNLIKELY(count == fields_max)) {
          answer = -FS_E_FIELDS_COUNT;
          goto stop;
        }
        if (FS_UNLIKELY(*p == ':')) {
          answer = -FS_E_FIELD_NAME_EMPTY;
          goto stop;
        }
        mark = (uint32_t)(p - data);
        state = L_NAME;
        /* fall through */
      case L_NAME: {
        p = scan->token(p, end);
        if (FS_UNLIKELY(p == end)) goto stop;
        if (FS_UNLIKELY(*p != ':')) {
          if (is_ows(*p) && (uint32_t)(p - data) != mark) {
            state = L_NAME_SPACE;
            continue;
          }
          answer = -FS_E_FIELD_NAME;
          goto stop;
        }
        size_t name_len = (size_t)(p - data) - mark;
        if (FS_UNLIKELY(name_len > UINT16_MAX)) {
          answer = -FS_E_HEAD_LENGTH;
          goto stop;
        }
        now.name = mark;
        now.name_len = (uint16_t)name_len;
        now.id = fs_field_id(data + mark, name_len);
        p++;
        state = L_OWS;
      }
        /* fall through */
      case L_OWS:
        while (p != end && is_ows(*p)) p++;
        if (FS_UNLIKELY(p == end)) goto stop;
        mark = (uint32_t)(p - data);
        state = L_VALUE;
        /* fall through */
      case L_VALUE: {
        p = scan->value(p, end);
        if (FS_UNLIKELY(p == end)) goto stop;
        if (FS_UNLIKELY(*p != '\r')) {
          answer = *p == '\n' ? -FS_E_LINE_END : -FS_E_FIELD_VALUE;
          goto stop;
        }
        const uint8_t *last = p;
        while (last > data + mark && is_ows(last[-1])) last--;
        now.value = mark;
        now.value_len = (uint32_t)(last - data) - mark;
        p++;
        state = L_VALUE_CR;
      }
        /* fall through */
      case L_VALUE_CR:
        if (FS_UNLIKELY(p == end)) goto stop;
        if (FS_UNLIKELY(*p != '\n')) {
          answer = -FS_E_LINE_END;
          goto stop;
        }
        p++;
        fields[count++] = now;
        state = L_START;
        continue;
      case L_NAME_SPACE: /* already wrong; the next visible byte says how */
        while (p != end && is_ows(*p)) p++;
        if (p == end) goto stop;
        answer = *p == ':' ? -FS_E_FIELD_SPACE : -FS_E_FIELD_NAME;
        goto stop;
      case L_END_CR:
        if (p == end) goto stop;
        if (FS_UNLIKELY(*p != '\n')) {
          answer = -FS_E_LINE_END;
          goto stop;
        }
        p++;
        answer = FS_DONE;
        goto stop;
      default:
        FS_ASSERT(false);
        return -FS_E_STATE;
    }
  }
stop:
  lines->state = state;
  lines->pos = (uint32_t)(p - data);
  lines->mark = mark;
  lines->count = count;
  lines->now = now;
  if (answer == FS_MORE && len > limit) return -(int)over;
  return answer;
}

/* --------------------------------------------------------------------------- judgement: framing, then support */

FS_INLINE fs_span span(uint32_t off, uint32_t len) {
  fs_span s = {off, len};
  return s;
}

/* The next element of a comma-separated list, without its whitespace; false at the end. Empty elements are reported. */
static bool list_next(const uint8_t **p, const uint8_t *end, const uint8_t **item, size_t *item_len) {
  if (*p > end) return false;
  const uint8_t *start = *p, *stop = start;
  while (stop != end && *stop != ',') stop++;
  *p = stop + 1; /* one past `end` says: that was the last one */
  while (start != stop && is_ows(*start)) start++;
  while (start != stop && is_ows(stop[-1])) stop--;
  *item = start;
  *item_len = (size_t)(stop - start);
  return true;
}

typedef struct {
  uint32_t hosts, lengths, expectations;
  bool length_bad, host_bad, host_empty;
  bool te_seen, te_bad, te_repeated, te_last_chunked, te_unknown, te_chunked;
  bool option_close, option_keep_alive, option_upgrade, upgrade_field;
  bool expect_unknown;
} facts;

/* RFC 9110 8.6: Content-Length = 1*DIGIT. No sign, no list, no whitespace inside; at most 2^63-1. */
static bool parse_content_length(const uint8_t *p, size_t len, uint64_t *out) {
  uint64_t n = 0;
  if (len == 0) return false;
  for (size_t i = 0; i < len; i++) {
    uint8_t digit = (uint8_t)(p[i] - '0');
    if (digit > 9) return false;
    if (n > ((uint64_t)INT64_MAX - digit) / 10) return false;
    n = n * 10 + digit;
  }
  *out = n;
  return true;
}

/* One element of Transfer-Encoding: coding *( OWS ";" OWS token "=" ( token / quoted-string ) ). The parameters of a coding
 * we lack are looked at no further than its name: it is refused either way. */
static void transfer_coding(facts *f, const uint8_t *p, size_t len) {
  const uint8_t *end = p + len;
  const uint8_t *stop = fs_scan->token(p, end);
  bool parameters = stop != end;
  if (stop == p) {
    f->te_bad = true;
    return;
  }
  if (parameters) {
    const uint8_t *q = stop;
    while (q != end && is_ows(*q)) q++;
    if (q == end || *q != ';') {
      f->te_bad = true;
      return;
    }
  }
  if (fs_text_equal(p, (size_t)(stop - p), "chunked", 7)) {
    if (parameters) f->te_bad = true; /* chunked has none (RFC 9112 7.1) */
    if (f->te_chunked) f->te_repeated = true;
    f->te_chunked = f->te_last_chunked = true;
  } else {
    f->te_unknown = true;
    f->te_last_chunked = false;
  }
}

static void connection_options(facts *f, const uint8_t *p, size_t len) {
  const uint8_t *end = p + len, *item;
  size_t n;
  while (list_next(&p, end, &item, &n)) {
    if (n == 5 && fs_text_equal(item, n, "close", 5)) f->option_close = true;
    else if (n == 10 && fs_text_equal(item, n, "keep-alive", 10)) f->option_keep_alive = true;
    else if (n == 7 && fs_text_equal(item, n, "upgrade", 7)) f->option_upgrade = true;
  }
}

static void gather(facts *f, fs_request_head *head, const uint8_t *data, const fs_field *field) {
  const uint8_t *value = data + field->value;
  size_t len = field->value_len;
  switch (field->id) {
    case FS_FIELD_HOST:
      f->hosts++;
      f->host_empty = len == 0;
      f->host_bad = f->host_bad || (len != 0 && !fs_host_valid(value, len));
      head->host = span(field->value, field->value_len);
      break;
    case FS_FIELD_CONNECTION:
      connection_options(f, value, len);
      break;
    case FS_FIELD_CONTENT_LENGTH:
      f->lengths++;
      if (!parse_content_length(value, len, &head->content_length)) f->length_bad = true;
      break;
    case FS_FIELD_TRANSFER_ENCODING: {
      const uint8_t *p = value, *item;
      size_t n;
      f->te_seen = true;
      while (list_next(&p, value + len, &item, &n)) transfer_coding(f, item, n);
      break;
    }
    case FS_FIELD_EXPECT:
      f->expectations++;
      if (!fs_text_equal(value, len, "100-continue", 12)) f->expect_unknown = true;
      break;
    case FS_FIELD_UPGRADE:
      if (len != 0) f->upgrade_field = true;
      break;
    default: /* forwarded, x-forwarded-* */
      head->forwarded = true;
      break;
  }
}

_Static_assert(FS_FIELD_HOST == 1 && FS_FIELD_UPGRADE == 6 && FS_FIELD_FORWARDED == 7 && FS_FIELD_X_FORWARDED_PROTO == 12,
               "the framing fields come first in field_names.txt, and then those of proxies");

/* RFC 9112 3.2, 3.3: which target, which host. */
static fs_error judge_target(fs_request_head *head, const uint8_t *data, const facts *f) {
  bool connect = head->method_id == FS_METHOD_CONNECT;
  fs_error error = fs_target_parse(data + head->target.off, head->target.len, connect,
                                   head->method_id == FS_METHOD_OPTIONS, &head->parts);
  if (FS_UNLIKELY(error != FS_E_NONE)) return error;
  if (FS_UNLIKELY(f->hosts != 1)) {
    if (f->hosts > 1) return FS_E_HOST_MULTIPLE;
    if (head->version_minor > 0) return FS_E_HOST_MISSING; /* a 1.0 request need not name one */
  }
  if (FS_UNLIKELY(f->host_bad)) return FS_E_HOST;
  /* An empty Host is legal by RFC 9112 3.2 for targets without an authority; we take it only where nobody could need one. */
  if (FS_UNLIKELY(f->hosts == 1 && f->host_empty && !connect && head->parts.form != FS_TARGET_ASTERISK))
    return FS_E_HOST_EMPTY;
  /* RFC 9112 3.2.2: the authority of an absolute-form target replaces Host. */
  if (head->parts.form == FS_TARGET_ABSOLUTE || head->parts.form == FS_TARGET_AUTHORITY)
    head->host = span(head->target.off + head->parts.authority.off, head->parts.authority.len);
  return FS_E_NONE;
}

/* RFC 9112 6.1 to 6.3. */
static fs_error judge_framing(fs_request_head *head, const facts *f) {
  if (FS_LIKELY(f->lengths == 0 && !f->te_seen)) return FS_E_NONE; /* a request without either has no body */
  if (f->length_bad) return FS_E_CONTENT_LENGTH;
  if (f->lengths > 1) return FS_E_CONTENT_LENGTH_MULTIPLE; /* equal or not */
  if (!f->te_seen) {
    head->framing = FS_BODY_LENGTH;
    return FS_E_NONE;
  }
  if (f->te_bad) return FS_E_TRANSFER_ENCODING;
  if (head->version_minor == 0) return FS_E_TRANSFER_ENCODING_VERSION;
  if (f->lengths != 0) return FS_E_CONTENT_LENGTH_AND_TRANSFER_ENCODING;
  if (f->te_repeated) return FS_E_TRANSFER_ENCODING_REPEATED;
  if (!f->te_last_chunked) return FS_E_TRANSFER_ENCODING_NOT_CHUNKED;
  head->framing = FS_BODY_CHUNKED;
  return FS_E_NONE;
}

static fs_error judge(fs_request_head *head, const uint8_t *data, const fs_field *fields, const fs_limits *limits) {
  facts f = {0};
  fs_error error;
  if (FS_UNLIKELY(head->version_major != 1)) return FS_E_VERSION_UNSUPPORTED; /* its rules are not ours to judge by */
  for (uint32_t i = 0; i < head->fields_count; i++)
    if ((uint16_t)(fields[i].id - 1) < FS_FIELD_X_FORWARDED_PROTO) gather(&f, head, data, &fields[i]);

  if ((error = judge_target(head, data, &f)) != FS_E_NONE) return error;
  if ((error = judge_framing(head, &f)) != FS_E_NONE) return error;

  bool http11 = head->version_minor > 0;
  bool has_body = head->framing == FS_BODY_CHUNKED || head->content_length > 0;
  head->keep_alive = !f.option_close && (http11 || f.option_keep_alive); /* RFC 9112 9.3 */
  head->upgrade = http11 && f.option_upgrade && f.upgrade_field;        /* RFC 9110 7.8 */
  head->expect_continue = http11 && f.expectations != 0 && has_body;    /* RFC 9110 10.1.1: a 1.0 client's is ignored */

  if (f.te_unknown) return FS_E_TRANSFER_CODING_UNKNOWN;
  if (f.expect_unknown) return FS_E_EXPECTATION;
  if (head->framing == FS_BODY_LENGTH && head->content_length > limits->body_bytes_max) return FS_E_BODY_LENGTH;
  return FS_E_NONE;
}

/* ------------------------------------------------------------------------------------------- the request line */

enum { H_START, H_START_CR, H_METHOD, H_TARGET, H_VERSION, H_LINE_CR, H_LINE_LF, H_FIELDS };

void fs_request_head_init(fs_request_head *head) {
  memset(head, 0, sizeof *head);
  head->state = H_START;
}

bool fs_request_head_begun(const fs_request_head *head) { return head->state > H_START_CR; }

/* Everything up to the CRLF of the request line; `head->mark` keeps the place between calls. Two ends are watched: the CR
 * must stand at `line_end` at the latest (414), and the head may not go on at `head_end` (431). */
static int parse_request_line(fs_request_head *head, const uint8_t *data, size_t len, const fs_limits *limits) {
  static const char version[] = "HTTP/d.d";
  const size_t received = len;
  size_t pos = head->lines.pos, line_end = SIZE_MAX, head_end = SIZE_MAX, end = len;
  int answer = FS_MORE;

  if (head->state > H_START_CR) {
  begun:
    line_end = (size_t)head->start + limits->request_line_bytes_max;
    head_end = (size_t)head->start + limits->head_bytes_max;
    len = received < head_end ? received : head_end;
    end = len < line_end ? len : line_end;
  }
  for (;;) {
    switch (head->state) {
      case H_START:
        if (pos == len) goto stop;
        if (data[pos] == '\r') {
          pos++;
          head->state = H_START_CR;
          continue;
        }
        if (FS_UNLIKELY(!fs_is_token[data[pos]])) {
          answer = data[pos] == '\n' ? -FS_E_LINE_END
                   : data[pos] == 0x16 ? -FS_E_TLS_ON_PLAIN_PORT /* a TLS handshake record */
                                       : -FS_E_METHOD;
          goto stop;
        }
        head->start = head->mark = (uint32_t)pos;
        head->state = H_METHOD;
        goto begun;
      case H_START_CR: /* RFC 9112 2.2: ignore at least one empty line before the request line */
        if (pos == len) goto stop;
        if (data[pos] != '\n') {
          answer = -FS_E_LINE_END;
          goto stop;
        }
        if (head->leading == limits->leading_crlf_max || head->leading == UINT8_MAX) { /* endless ones never wrap round */
          answer = -FS_E_LEADING_CRLF;
          goto stop;
        }
        head->leading++;
        pos++;
        head->state = H_START;
        continue;
      case H_METHOD:
        pos = (size_t)(fs_scan->token(data + pos, data + end) - data);
        if (pos == end) goto stop;
        if (FS_UNLIKELY(data[pos] != ' ')) {
          answer = data[pos] == '\r' || data[pos] == '\n' ? -FS_E_REQUEST_LINE : -FS_E_METHOD;
          goto stop;
        }
        head->method = span(head->mark, (uint32_t)pos - head->mark);
        head->method_id = method_id(data + head->mark, head->method.len);
        head->mark = (uint32_t)++pos;
        head->state = H_TARGET;
        continue;
      case H_TARGET:
        pos = (size_t)(fs_scan->target(data + pos, data + end) - data);
        if (pos == end) goto stop;
        if (FS_UNLIKELY(data[pos] != ' ' || pos == head->mark)) {
          bool blank = data[pos] == ' ' || data[pos] == '\r' || data[pos] == '\n';
          answer = blank ? -FS_E_REQUEST_LINE : -FS_E_TARGET;
          goto stop;
        }
        head->target = span(head->mark, (uint32_t)pos - head->mark);
        head->mark = (uint32_t)++pos;
        head->state = H_VERSION;
        continue;
      case H_VERSION:
        if (FS_LIKELY(pos == head->mark && end - pos >= 10 && memcmp(data + pos, "HTTP/1.1\r\n", 10) == 0)) {
          head->version_major = head->version_minor = 1; /* nearly every request, in one comparison */
          pos += 10;
          goto line_done;
        }
        for (; pos != end && pos - head->mark < 8; pos++) {
          uint8_t want = (uint8_t)version[pos - head->mark], got = data[pos];
          if (FS_UNLIKELY(want == 'd' ? (uint8_t)(got - '0') > 9 : got != want)) {
            answer = -FS_E_VERSION;
            goto stop;
          }
        }
        if (pos - head->mark < 8) goto stop;
        head->version_major = (uint8_t)(data[head->mark + 5] - '0');
        head->version_minor = (uint8_t)(data[head->mark + 7] - '0');
        head->state = H_LINE_CR;
        continue;
      case H_LINE_CR: /* the one byte that may stand at the limit itself */
        if (pos == len) goto stop;
        if (FS_UNLIKELY(data[pos] != '\r')) {
          if (pos == line_end) goto stop;
          answer = data[pos] == '\n' ? -FS_E_LINE_END : -FS_E_VERSION;
          goto stop;
        }
        pos++;
        head->state = H_LINE_LF;
        continue;
      case H_LINE_LF:
        if (pos == len) goto stop;
        if (FS_UNLIKELY(data[pos] != '\n')) {
          answer = -FS_E_LINE_END;
          goto stop;
        }
        pos++;
      line_done:
        head->state = H_FIELDS;
        fs_field_lines_init(&head->lines, (uint32_t)pos);
        return FS_DONE;
      default:
        FS_ASSERT(false);
        return -FS_E_STATE;
    }
  }
stop:
  head->lines.pos = (uint32_t)pos;
  if (answer != FS_MORE) return answer;
  if (pos >= line_end && len > line_end && head->state < H_LINE_LF) return -FS_E_TARGET_LENGTH;
  if (received > head_end) return -FS_E_HEAD_LENGTH;
  return FS_MORE;
}

int fs_request_head_parse(fs_request_head *head, const uint8_t *data, size_t len, fs_field *fields,
                          const fs_limits *limits) {
  int answer;
  if (head->state != H_FIELDS && (answer = parse_request_line(head, data, len, limits)) != FS_DONE) return answer;
  size_t limit = (size_t)head->start + limits->head_bytes_max;
  if (FS_UNLIKELY(head->lines.pos > limit)) return -FS_E_HEAD_LENGTH;
  answer = fs_field_lines_parse(&head->lines, data, len, limit, FS_E_HEAD_LENGTH, fields, limits->fields_max);
  if (answer != FS_DONE) return answer;
  head->fields_count = head->lines.count;
  head->end = head->lines.pos;
  fs_error error = judge(head, data, fields, limits);
  return error == FS_E_NONE ? FS_DONE : -(int)error;
}

/* ------------------------------------------------------------------------------------------------- trailers */

/* RFC 9110 6.5.1: not in trailers are fields for framing, routing, request modifiers, authentication, and those that say how
 * to process the content. Unknown names pass: they cannot be merged into the headers here, trailers stay apart. */
bool fs_trailer_allowed(uint16_t id) {
  switch (id) {
    case FS_FIELD_UNKNOWN:
    case FS_FIELD_AGE:
    case FS_FIELD_ACCEPT_CHARSET:
    case FS_FIELD_DATE:
    case FS_FIELD_DNT:
    case FS_FIELD_FROM:
    case FS_FIELD_LAST_EVENT_ID:
    case FS_FIELD_PRIORITY:
    case FS_FIELD_REFERER:
    case FS_FIELD_TRACEPARENT:
    case FS_FIELD_TRACESTATE:
    case FS_FIELD_USER_AGENT:
    case FS_FIELD_X_REQUEST_ID:
      return true;
    default:
      return false;
  }
}
