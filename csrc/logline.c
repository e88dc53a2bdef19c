/* Room:    lines of the access log.
 * Called:  by the access log.
 * Calls:   decimal.c, request.c (comparison of names).
 * Rules:   RFC 8259 section 7 (strings of JSON).
 *
 * Nearly every target and field value is plain ASCII: eight bytes are copied and judged at a time, and only a word that
 * holds something else is gone through byte by byte.
 */
#include "logline.h"
#include "decimal.h"

/* Loops over a few words: the compiler would set up vectors that never pay. */
#if defined(__GNUC__) || defined(__clang__)
#define NOT_A_VECTOR __asm__ volatile("")
#else
#define NOT_A_VECTOR ((void)0)
#endif

#define EACH(byte) (UINT64_C(0x0101010101010101) * (byte))

/* Does the word hold a byte below 0x20, above 0x7E, a double quote or a backslash? The high bit of a byte of `x - EACH(n)`
 * answers exactly only for the lowest such byte, which is enough for "any". */
FS_INLINE uint64_t special(uint64_t word) {
  uint64_t quote = word ^ EACH('"'), backslash = word ^ EACH('\\'), del = word ^ EACH(0x7F);
  uint64_t found = word;                      /* 0x80 and above */
  found |= (word - EACH(0x20)) & ~word;       /* below 0x20 */
  found |= (quote - EACH(1)) & ~quote;        /* zero bytes of the three */
  found |= (backslash - EACH(1)) & ~backslash;
  found |= (del - EACH(1)) & ~del;
  return found & EACH(0x80);
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

/* The same of bytes that are visible ASCII, or SP, already: every byte of a request line is (RFC 9112 section 3; the parser has
 * seen to it). Two of them have a meaning in a log. */
FS_INLINE uint64_t quoting(uint64_t word) {
  uint64_t quote = word ^ EACH('"'), backslash = word ^ EACH('\\');
  return (((quote - EACH(1)) & ~quote) | ((backslash - EACH(1)) & ~backslash)) & EACH(0x80);
}

/* `visible`: a constant; see quoting(). */
FS_INLINE size_t log_text(uint8_t *out, const uint8_t *text, size_t len, bool json, bool visible) {
  uint8_t *p = out;
  size_t i = 0;
  if (len >= 8) { /* nearly always nothing is special, and the last word overlaps the one before */
    uint64_t first, last;
    memcpy(&first, text, 8);
    memcpy(&last, text + len - 8, 8);
    memcpy(out, &first, 8);
    uint64_t seen = visible ? quoting(first) | quoting(last) : special(first) | special(last);
    if (len > 16) {
      for (i = 8; i < len - 8; i += 8) {
        uint64_t word;
        memcpy(&word, text + i, 8);
        memcpy(out + i, &word, 8);
        seen |= visible ? quoting(word) : special(word);
        NOT_A_VECTOR;
      }
    }
    memcpy(out + len - 8, &last, 8);
    if (FS_LIKELY(!seen)) return len;
    i = 0;
  }
  while (i < len) {
    uint64_t word;
    if (len - i >= 8) {
      memcpy(&word, text + i, 8);
      if (FS_LIKELY(!special(word))) {
        memcpy(p, &word, 8);
        p += 8;
        i += 8;
        continue;
      }
    }
    size_t stop = len - i < 8 ? len : i + 8;
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

FS_INLINE void three(uint8_t *out, unsigned n) {
  out[0] = (uint8_t)('0' + n / 100);
  memcpy(out + 1, fs_decimal_pairs + 2 * (n % 100), 2);
}

/* Most numbers here are small. */
FS_INLINE uint8_t *digits(uint8_t *p, uint64_t n) {
  if (FS_LIKELY(n < 10)) {
    *p = (uint8_t)('0' + n);
    return p + 1;
  }
  return p + fs_decimal(p, n);
}

size_t fs_log_fixed(uint8_t *out, uint64_t n, unsigned decimals) {
  FS_ASSERT(decimals == 3 || decimals == 6);
  uint64_t whole = n / 1000;
  unsigned low = (unsigned)(n % 1000), high = 0;
  if (decimals == 6) {
    high = (unsigned)(whole % 1000);
    whole /= 1000;
  }
  size_t len = (size_t)(digits(out, whole) - out);
  out[len++] = '.';
  if (decimals == 6) {
    three(out + len, high);
    len += 3;
  }
  three(out + len, low);
  return len + 3;
}

/* Text of our own, with slack behind it on both sides. */
FS_INLINE uint8_t *copy(uint8_t *p, const uint8_t *text, size_t len) {
  uint8_t *end = p + len;
  do {
    uint64_t word;
    memcpy(&word, text, 8);
    memcpy(p, &word, 8);
    text += 8;
    p += 8;
    NOT_A_VECTOR;
  } while (p < end);
  return end;
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

size_t fs_log_line(uint8_t *out, const fs_log_piece *pieces, size_t count, const fs_log_facts *facts) {
  const fs_request_head *head = facts->head;
  const uint8_t *target = head != NULL ? facts->data + head->target.off : NULL;
  const bool json = facts->json;
  uint8_t *p = out;
  for (size_t i = 0; i < count; i++) {
    const fs_log_piece *piece = &pieces[i];
    switch (piece->kind) {
      case FS_LOG_LITERAL: p = copy(p, piece->text, piece->len); break;
      case FS_LOG_PEER: p = copy(p, facts->peer.p, facts->peer.len); break;
      case FS_LOG_HOST:
        if (json) *p++ = '"';
        p = copy(p, facts->peer.p, host_len(facts));
        if (json) *p++ = '"';
        break;
      case FS_LOG_PORT:
        if (host_len(facts) < facts->peer.len) {
          p = copy(p, facts->peer.p + host_len(facts) + 1, facts->peer.len - host_len(facts) - 1);
        } else {
          p = string(p, NULL, 0, json);
        }
        break;
      case FS_LOG_FOUND: p = string(p, facts->found[i].p, facts->found[i].len, json); break;
      case FS_LOG_TIME: p = copy(p, facts->time.p, facts->time.len); break;
      case FS_LOG_PID: p = copy(p, facts->pid.p, facts->pid.len); break;
      case FS_LOG_REQUEST_LINE:
        if (head != NULL && !json) {
          p += log_text(p, facts->data + head->method.off, line_len(head), false, true);
        } else {
          p = string(p, head != NULL ? facts->data + head->method.off : NULL, head != NULL ? line_len(head) : 0, json);
        }
        break;
      case FS_LOG_METHOD:
        p = string(p, head != NULL ? facts->data + head->method.off : NULL, head != NULL ? head->method.len : 0, json);
        break;
      case FS_LOG_PATH:
        p = string(p, head != NULL ? target + head->parts.path.off : NULL, head != NULL ? head->parts.path.len : 0, json);
        break;
      case FS_LOG_QUERY:
        if (head != NULL && head->parts.query.len > 0) {
          p = string(p, target + head->parts.query.off, head->parts.query.len, json);
        } else if (json) {
          p = string(p, NULL, 0, json);
        }
        break;
      case FS_LOG_PROTOCOL:
        p = string(p, head != NULL ? target + head->target.len + 1 : NULL, 8, json);
        break;
      case FS_LOG_VERSION:
        p = string(p, head != NULL ? target + head->target.len + 6 : NULL, 3, json);
        break;
      case FS_LOG_STATUS:
        three(p, facts->status);
        p += 3;
        break;
      case FS_LOG_BYTES_OR_DASH:
        if (facts->body_bytes == 0) {
          *p++ = '-';
          break;
        } /* fall through */
      case FS_LOG_BYTES: p = digits(p, facts->body_bytes); break;
      case FS_LOG_S: p += fs_decimal(p, facts->ns / 1000000000); break;
      case FS_LOG_MS: p += fs_decimal(p, facts->ns / 1000000); break;
      case FS_LOG_US: p += fs_decimal(p, facts->ns / 1000); break;
      case FS_LOG_S_DECIMAL: p += fs_log_fixed(p, facts->ns / 1000, 6); break;
      case FS_LOG_MS_DECIMAL: p += fs_log_fixed(p, facts->ns / 1000, 3); break;
      case FS_LOG_QUEUE: p = span(p, facts, 0); break;
      case FS_LOG_HANDLER: p = span(p, facts, 1); break;
      case FS_LOG_SENDING: p = span(p, facts, 2); break;
      case FS_LOG_ID: p = string(p, facts->id.p, facts->id.len, json); break;
      case FS_LOG_FIELD: p = field(p, piece, facts); break;
      default: *p++ = '-'; break; /* FS_LOG_DASH */
    }
    if (piece->tail_len != 0) p = copy(p, piece->tail, piece->tail_len);
  }
  return (size_t)(p - out);
}
