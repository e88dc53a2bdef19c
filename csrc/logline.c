/* Room:    lines of the access log.
 * Called:  by the access log.
 * Calls:   decimal.c, request.c (comparison of names).
 * Rules:   RFC 8259 section 7 (strings of JSON).
 *
 * Nearly every target and field value is plain ASCII: sixteen bytes are copied and judged at a time, and only a block that
 * holds something else is gone through byte by byte.
 */
#include "logline.h"
#include "block.h"
#include "decimal.h"

/* Which bytes are below 0x20, above 0x7E, a double quote or a backslash? `visible`: a constant. Every byte of a request line is
 * visible ASCII, or SP, already (RFC 9112 section 3; the parser has seen to it): then two of them have a meaning in a log. */
FS_INLINE fs_block special(fs_block bytes, bool visible) {
  fs_block found = fs_block_equal(bytes, '"') | fs_block_equal(bytes, '\\');
  if (!visible) found |= (fs_block)(bytes < 0x20) | fs_block_equal(bytes, 0x7F);
  return found;
}

FS_INLINE bool special_byte(uint8_t c) { return c < 0x20 || c > 0x7E || c == '"' || c == '\\'; }

static const char HEX[] = "0123456789abcdef";

FS_INLINE size_t escape(uint8_t *out, uint8_t c, bool json) {
  if (json && (c == '"' || c == '\\')) {
    out[0] = '\\';
    out[1] = c;
    return 2;
  }
  size_t n = 0;
  out[n++] = '\\';
  out[n++] = json ? 'u' : 'x';
  if (json) out[n++] = '0', out[n++] = '0';
  out[n++] = (uint8_t)HEX[c >> 4];
  out[n++] = (uint8_t)HEX[c & 15];
  return n;
}

FS_INLINE size_t log_text(uint8_t *out, const uint8_t *text, size_t len, bool json, bool visible) {
  uint8_t *p = out;
  size_t i = 0;
  if (len >= 16) { /* nearly always nothing is special, and the last block overlaps the one before */
    fs_block last = fs_block_load(text + len - 16), seen = special(last, visible);
    for (; i + 16 < len; i += 16) {
      fs_block bytes = fs_block_load(text + i);
      fs_block_store(out + i, bytes);
      seen |= special(bytes, visible);
    }
    fs_block_store(out + len - 16, last);
    if (FS_LIKELY(!fs_block_any(seen))) return len;
    i = 0;
  } else if (len >= 8) {
    memcpy(out, text, 8);
    memcpy(out + len - 8, text + len - 8, 8);
    if (FS_LIKELY(!fs_block_any(special(fs_block_ends(text, len), visible)))) return len;
  }
  while (i < len) {
    size_t stop = len;
    if (len - i >= 16) {
      fs_block bytes = fs_block_load(text + i);
      if (FS_LIKELY(!fs_block_any(special(bytes, false)))) {
        fs_block_store(p, bytes);
        p += 16;
        i += 16;
        continue;
      }
      stop = i + 16;
    }
    for (; i < stop; i++) {
      if (FS_UNLIKELY(special_byte(text[i]))) {
        p += escape(p, text[i], json);
      } else {
        *p++ = text[i];
      }
    }
  }
  return (size_t)(p - out);
}

size_t fs_log_plain(uint8_t *out, const uint8_t *text, size_t len) { return log_text(out, text, len, false, false); }

size_t fs_log_json(uint8_t *out, const uint8_t *text, size_t len) { return log_text(out, text, len, true, false); }

/* A byte more is written. */
FS_INLINE void three(uint8_t *out, unsigned n) {
  FS_ASSERT(n < 1000);
  memcpy(out, fs_decimal_triples + 3 * n, 4);
}

/* Most numbers here are small. */
FS_INLINE uint8_t *digits(uint8_t *p, uint64_t n) {
  if (FS_LIKELY(n < 10)) {
    *p = (uint8_t)('0' + n);
    return p + 1;
  }
  if (FS_LIKELY(n < 100)) {
    memcpy(p, fs_decimal_pairs + 2 * n, 2);
    return p + 2;
  }
  return p + fs_decimal(p, n);
}

FS_INLINE uint8_t *fixed_3(uint8_t *p, uint64_t n) {
  uint64_t whole = n / 1000;
  p = digits(p, whole);
  *p = '.';
  three(p + 1, (unsigned)(n - whole * 1000));
  return p + 4;
}

size_t fs_log_fixed(uint8_t *out, uint64_t n, unsigned decimals) {
  FS_ASSERT(decimals == 3 || decimals == 6);
  uint8_t *p;
  if (decimals == 3) return (size_t)(fixed_3(out, n) - out);
  p = fixed_3(out, n / 1000);
  three(p, (unsigned)(n % 1000));
  return (size_t)(p + 3 - out);
}

/* Text of our own, with slack behind it on both sides. */
FS_INLINE uint8_t *copy(uint8_t *p, const uint8_t *text, size_t len) {
  fs_block_store(p, fs_block_load(text));
  for (size_t i = 16; FS_UNLIKELY(i < len); i += 16) fs_block_store(p + i, fs_block_load(text + i));
  return p + len;
}

/* Text of the peer's, or nothing. */
static uint8_t *string(uint8_t *p, const uint8_t *text, size_t len, bool json) {
  if (text == NULL) {
    if (json) {
      memcpy(p, "null", 4);
      return p + 4;
    }
    *p = '-';
    return p + 1;
  }
  if (!json) return p + fs_log_plain(p, text, len);
  *p++ = '"';
  p += fs_log_json(p, text, len);
  *p++ = '"';
  return p;
}

static uint8_t *span(uint8_t *p, const fs_log_facts *facts, int first) {
  const int64_t *moments = facts->moments;
  if (moments[first] == 0 || moments[first + 1] < moments[first]) return string(p, NULL, 0, facts->json);
  return p + fs_log_fixed(p, (uint64_t)(moments[first + 1] - moments[first]) / 1000, 3);
}

static uint8_t *field(uint8_t *p, const fs_log_piece *piece, const fs_log_facts *facts) {
  if (facts->fields != NULL && facts->head != NULL) {
    for (uint32_t i = 0; i < facts->head->fields_count; i++) {
      const fs_field *f = &facts->fields[i];
      if (f->name_len == piece->len && fs_text_equal(facts->data + f->name, piece->len, (const char *)piece->text, piece->len)) {
        return string(p, facts->data + f->value, f->value_len, facts->json);
      }
    }
  }
  return string(p, NULL, 0, facts->json);
}

/* A request line has no fixed shape but this: method SP target SP "HTTP/" DIGIT "." DIGIT (RFC 9112 section 3). */
FS_INLINE size_t line_len(const fs_request_head *head) { return head->target.off + head->target.len + 9 - head->method.off; }

static FS_NOINLINE uint8_t *longer_line(uint8_t *p, const uint8_t *text, size_t len) {
  return p + log_text(p, text, len, false, true);
}

FS_INLINE uint8_t *request_line(uint8_t *p, const fs_log_facts *facts) {
  const fs_request_head *head = facts->head;
  const uint8_t *text = facts->data + head->method.off;
  size_t len = line_len(head);
  if (len <= 16 && head->end - head->method.off >= 16) { /* a short one: what follows in its head is copied as well */
    fs_block bytes = fs_block_load(text);
    fs_block_store(p, bytes);
    if (FS_LIKELY(!fs_block_any(special(bytes, true)))) return p + len;
  }
  return longer_line(p, text, len);
}

fs_log_room fs_log_line_room(const fs_log_piece *pieces, size_t count, bool json) {
  fs_log_room room = {FS_LOG_SLACK, 0};
  for (size_t i = 0; i < count; i++) {
    room.fixed += pieces[i].tail_len;
    switch (pieces[i].kind) {
      case FS_LOG_LITERAL: room.fixed += pieces[i].len; break;
      case FS_LOG_PEER:
      case FS_LOG_HOST:
      case FS_LOG_PORT:
      case FS_LOG_TIME:
      case FS_LOG_PID:
        room.fixed += 6;
        room.each += 1;
        break;
      case FS_LOG_FOUND:
      case FS_LOG_REQUEST_LINE:
      case FS_LOG_METHOD:
      case FS_LOG_PATH:
      case FS_LOG_QUERY:
      case FS_LOG_FIELD:
      case FS_LOG_ID:
        room.fixed += 6;
        room.each += json ? 6 : 4;
        break;
      default: room.fixed += 24; break;
    }
  }
  return room;
}

/* The port is what stands behind the last colon; a peer without one has none. */
static uint32_t host_len(const fs_log_facts *facts) {
  uint32_t len = facts->peer.len;
  while (len > 0 && facts->peer.p[len - 1] != ':') len--;
  return len > 0 ? len - 1 : facts->peer.len;
}

/* Every kind that the default format does without. Apart, so that fs_log_line() has few registers to save. */
static FS_NOINLINE uint8_t *rarer(uint8_t *p, const fs_log_piece *piece, const fs_log_facts *facts) {
  const fs_request_head *head = facts->head;
  const uint8_t *target = head != NULL ? facts->data + head->target.off : NULL;
  const bool json = facts->json;
  switch (piece->kind) {
    case FS_LOG_LITERAL: return copy(p, piece->text, piece->len);
    case FS_LOG_HOST:
      if (json) *p++ = '"';
      p = copy(p, facts->peer.p, host_len(facts));
      if (json) *p++ = '"';
      return p;
    case FS_LOG_PORT:
      if (host_len(facts) == facts->peer.len) return string(p, NULL, 0, json);
      return copy(p, facts->peer.p + host_len(facts) + 1, facts->peer.len - host_len(facts) - 1);
    case FS_LOG_FOUND: return string(p, facts->found[piece->found].p, facts->found[piece->found].len, json);
    case FS_LOG_TIME: return copy(p, facts->time.p, facts->time.len);
    case FS_LOG_PID: return copy(p, facts->pid.p, facts->pid.len);
    case FS_LOG_REQUEST_LINE:
      return string(p, head != NULL ? facts->data + head->method.off : NULL, head != NULL ? line_len(head) : 0, json);
    case FS_LOG_METHOD:
      return string(p, head != NULL ? facts->data + head->method.off : NULL, head != NULL ? head->method.len : 0, json);
    case FS_LOG_PATH:
      return string(p, head != NULL ? target + head->parts.path.off : NULL, head != NULL ? head->parts.path.len : 0, json);
    case FS_LOG_QUERY:
      if (head != NULL && head->parts.query.len > 0) return string(p, target + head->parts.query.off, head->parts.query.len, json);
      return json ? string(p, NULL, 0, json) : p;
    case FS_LOG_PROTOCOL: return string(p, head != NULL ? target + head->target.len + 1 : NULL, 8, json);
    case FS_LOG_VERSION: return string(p, head != NULL ? target + head->target.len + 6 : NULL, 3, json);
    case FS_LOG_BYTES_OR_DASH:
      if (facts->body_bytes != 0) return digits(p, facts->body_bytes);
      break;
    case FS_LOG_S: return p + fs_decimal(p, facts->ns / 1000000000);
    case FS_LOG_MS: return p + fs_decimal(p, facts->ns / 1000000);
    case FS_LOG_US: return p + fs_decimal(p, facts->ns / 1000);
    case FS_LOG_S_DECIMAL: return p + fs_log_fixed(p, facts->ns / 1000, 6);
    case FS_LOG_QUEUE: return span(p, facts, 0);
    case FS_LOG_HANDLER: return span(p, facts, 1);
    case FS_LOG_SENDING: return span(p, facts, 2);
    case FS_LOG_ID: return string(p, facts->id.p, facts->id.len, json);
    case FS_LOG_FIELD: return field(p, piece, facts);
    default: break; /* FS_LOG_DASH */
  }
  *p++ = '-';
  return p;
}

static const fs_log_kind USUAL[] = {FS_LOG_PEER, FS_LOG_REQUEST_LINE, FS_LOG_STATUS, FS_LOG_BYTES, FS_LOG_MS_DECIMAL};

bool fs_log_usual(const fs_log_piece *pieces, size_t count, bool json) {
  if (json || count != sizeof USUAL / sizeof USUAL[0]) return false;
  for (size_t i = 0; i < count; i++) {
    if (pieces[i].kind != USUAL[i]) return false;
  }
  return true;
}

FS_INLINE uint8_t *tail(uint8_t *p, const fs_log_piece *piece) { return copy(p, piece->tail, piece->tail_len); }

size_t fs_log_line(uint8_t *out, const fs_log_piece *pieces, size_t count, const fs_log_facts *facts) {
  uint8_t *p = out;
  const fs_log_piece *piece = pieces;
  FS_ASSERT(count > 0);
  if (FS_LIKELY(facts->usual && facts->head != NULL)) {
    FS_ASSERT(fs_log_usual(pieces, count, facts->json));
    p = tail(copy(p, facts->peer.p, facts->peer.len), piece++);
    p = tail(request_line(p, facts), piece++);
    three(p, facts->status);
    p = tail(p + 3, piece++);
    p = tail(digits(p, facts->body_bytes), piece++);
    p = tail(fixed_3(p, facts->ns / 1000), piece);
    return (size_t)(p - out);
  }
  do {
    switch ((fs_log_kind)piece->kind) { /* each is named: no kind has to be compared with the last one */
      case FS_LOG_PEER: p = copy(p, facts->peer.p, facts->peer.len); break;
      case FS_LOG_REQUEST_LINE:
        if (FS_UNLIKELY(facts->head == NULL || facts->json)) {
          p = rarer(p, piece, facts);
        } else {
          p = request_line(p, facts);
        }
        break;
      case FS_LOG_STATUS:
        three(p, facts->status);
        p += 3;
        break;
      case FS_LOG_BYTES: p = digits(p, facts->body_bytes); break;
      case FS_LOG_MS_DECIMAL: p = fixed_3(p, facts->ns / 1000); break;
      case FS_LOG_LITERAL: case FS_LOG_HOST: case FS_LOG_PORT: case FS_LOG_DASH: case FS_LOG_FOUND: case FS_LOG_TIME: case FS_LOG_PID:
      case FS_LOG_METHOD: case FS_LOG_PATH: case FS_LOG_QUERY: case FS_LOG_PROTOCOL: case FS_LOG_VERSION: case FS_LOG_BYTES_OR_DASH:
      case FS_LOG_S: case FS_LOG_MS: case FS_LOG_US: case FS_LOG_S_DECIMAL: case FS_LOG_QUEUE: case FS_LOG_HANDLER:
      case FS_LOG_SENDING: case FS_LOG_ID: case FS_LOG_FIELD: p = rarer(p, piece, facts); break;
      default: FS_UNREACHABLE;
    }
    p = tail(p, piece);
  } while (++piece < pieces + count);
  return (size_t)(p - out);
}
