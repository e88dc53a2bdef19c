/* Body decoders; see body.h for the contract.
 *
 * Room:    content-length is a count; chunked is a small machine, one state per place where the bytes may stop.
 * Called:  by conn.c. Calls request.c for the lines of the trailer section, scan.c for tokens.
 * Rules:   RFC 9112 section 7.1:
 *            chunk      = chunk-size [ chunk-ext ] CRLF chunk-data CRLF
 *            chunk-ext  = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )
 *            last-chunk = 1*"0" [ chunk-ext ] CRLF, then trailer-section CRLF
 *
 * Nothing here is lenient: each difference between what a proxy and a server take for the end of a chunk line has been an
 * attack.
 */
#include "body.h"

#include "scan.h"

enum {
  C_SIZE_FIRST, /* the first digit of a chunk size */
  C_SIZE,       /* more digits, or what ends them */
  C_EXT_SPACE,  /* BWS before ";" */
  C_EXT_NAME_FIRST,
  C_EXT_NAME,
  C_EXT_NAME_SPACE, /* BWS after a name: "=" or ";" must follow */
  C_EXT_VALUE_FIRST,
  C_EXT_VALUE,
  C_EXT_QUOTED,
  C_EXT_ESCAPE, /* after a backslash in a quoted-string */
  C_EXT_END,    /* after a quoted-string: ";", BWS or the end of the line */
  C_SIZE_LF,
  C_DATA,
  C_DATA_CR,
  C_DATA_LF,
  C_TRAILER,
  C_END,
};

#define CHUNK_DIGITS_MAX 16

void fs_body_init(fs_body *body, uint8_t framing, uint64_t length) {
  memset(body, 0, sizeof *body);
  body->framing = framing;
  body->remaining = framing == FS_BODY_LENGTH ? length : 0;
  body->total = body->remaining;
  body->max = FS_UNLIMITED;
  body->state = C_SIZE_FIRST;
}

FS_INLINE int hex_value(uint8_t c) {
  if ((uint8_t)(c - '0') <= 9) return c - '0';
  c |= 0x20;
  if ((uint8_t)(c - 'a') <= 5) return c - 'a' + 10;
  return -1;
}

FS_INLINE bool is_bws(uint8_t c) { return c == ' ' || c == '\t'; }

/* The bytes between a chunk size and its CRLF, one at a time. Returns the next state, or -(error). */
static int extension_byte(uint8_t state, uint8_t c) {
  switch (state) {
    case C_EXT_SPACE:
      if (c == ';') return C_EXT_NAME_FIRST;
      return is_bws(c) ? C_EXT_SPACE : -FS_E_CHUNK_EXTENSION;
    case C_EXT_NAME_FIRST:
      if (is_bws(c)) return C_EXT_NAME_FIRST;
      return fs_is_token[c] ? C_EXT_NAME : -FS_E_CHUNK_EXTENSION;
    case C_EXT_NAME:
      if (fs_is_token[c]) return C_EXT_NAME;
      /* fall through */
    case C_EXT_NAME_SPACE:
      if (c == '=') return C_EXT_VALUE_FIRST;
      if (c == ';') return C_EXT_NAME_FIRST;
      return is_bws(c) ? C_EXT_NAME_SPACE : -FS_E_CHUNK_EXTENSION;
    case C_EXT_VALUE_FIRST:
      if (is_bws(c)) return C_EXT_VALUE_FIRST;
      if (c == '"') return C_EXT_QUOTED;
      return fs_is_token[c] ? C_EXT_VALUE : -FS_E_CHUNK_EXTENSION;
    case C_EXT_VALUE:
      if (fs_is_token[c]) return C_EXT_VALUE;
      /* fall through */
    case C_EXT_END:
      if (c == ';') return C_EXT_NAME_FIRST;
      return is_bws(c) ? C_EXT_SPACE : -FS_E_CHUNK_EXTENSION;
    case C_EXT_QUOTED:
      if (c == '"') return C_EXT_END;
      if (c == '\\') return C_EXT_ESCAPE;
      return fs_is_value[c] ? C_EXT_QUOTED : -FS_E_CHUNK_EXTENSION;
    case C_EXT_ESCAPE:
      return fs_is_value[c] ? C_EXT_QUOTED : -FS_E_CHUNK_EXTENSION;
    default:
      FS_ASSERT(false);
      return -FS_E_STATE;
  }
}

/* In these states CRLF may end the line: the grammar is complete. */
FS_INLINE bool extension_may_end(uint8_t state) {
  return state == C_EXT_NAME || state == C_EXT_VALUE || state == C_EXT_END;
}

static fs_body_answer fail(fs_body_result *result, int error) {
  result->error = (fs_error)error;
  return FS_BODY_ERROR;
}

/* The size line is complete: is this much allowed, and what comes next? */
static fs_error size_line_done(fs_body *body, const fs_limits *limits) {
  uint64_t max = body->max < limits->body_bytes_max ? body->max : limits->body_bytes_max;
  if (body->remaining > max || body->total > max - body->remaining) return FS_E_BODY_LENGTH;
  body->total += body->remaining;
  if (body->remaining != 0) {
    body->state = C_DATA;
  } else {
    body->state = C_TRAILER;
    fs_field_lines_init(&body->trailer, 0);
  }
  return FS_E_NONE;
}

static fs_body_answer decode_chunked(fs_body *body, const uint8_t *data, size_t len, fs_field *fields,
                                     const fs_limits *limits, fs_body_result *result) {
  size_t pos = 0;
  while (pos < len || body->state == C_TRAILER) {
    uint8_t c = pos < len ? data[pos] : 0;
    switch (body->state) {
      case C_SIZE_FIRST:
        body->remaining = 0;
        body->digits = 0;
        if (hex_value(c) < 0) return fail(result, FS_E_CHUNK_SIZE);
        body->state = C_SIZE;
        /* fall through */
      case C_SIZE: {
        int digit = hex_value(c);
        if (digit >= 0) {
          if (body->digits == CHUNK_DIGITS_MAX || body->remaining > (uint64_t)INT64_MAX >> 4)
            return fail(result, FS_E_CHUNK_SIZE);
          body->remaining = body->remaining << 4 | (uint64_t)digit;
          body->digits++;
        } else if (c == '\r') {
          body->state = C_SIZE_LF;
        } else if (c == '\n') {
          return fail(result, FS_E_LINE_END);
        } else if (c == ';' || is_bws(c)) {
          if (body->ext_bytes == limits->chunk_ext_bytes_max) return fail(result, FS_E_CHUNK_EXTENSION_LENGTH);
          body->ext_bytes++;
          body->state = c == ';' ? C_EXT_NAME_FIRST : C_EXT_SPACE;
        } else {
          return fail(result, FS_E_CHUNK_SIZE);
        }
        pos++;
        break;
      }
      case C_SIZE_LF: {
        if (c != '\n') return fail(result, FS_E_LINE_END);
        pos++;
        fs_error error = size_line_done(body, limits);
        if (error != FS_E_NONE) return fail(result, error);
        result->consumed = pos;
        break;
      }
      case C_DATA: {
        size_t n = len - pos;
        if (n > body->remaining) n = (size_t)body->remaining;
        body->remaining -= n;
        if (body->remaining == 0) body->state = C_DATA_CR;
        result->data_off = pos;
        result->data_len = n;
        result->consumed = pos + n;
        return FS_BODY_DATA;
      }
      case C_DATA_CR:
        if (c != '\r') return fail(result, FS_E_CHUNK_END);
        body->state = C_DATA_LF;
        pos++;
        break;
      case C_DATA_LF:
        if (c != '\n') return fail(result, FS_E_CHUNK_END);
        body->state = C_SIZE_FIRST;
        pos++;
        break;
      case C_TRAILER: { /* its bytes stay with the caller until the section is complete */
        int answer = fs_field_lines_parse(&body->trailer, data + pos, len - pos, limits->trailer_bytes_max,
                                          FS_E_TRAILERS_LENGTH, fields, limits->fields_max);
        result->consumed = pos;
        if (answer == FS_MORE) return FS_BODY_MORE;
        if (answer < 0) return fail(result, -answer);
        for (uint32_t i = 0; i < body->trailer.count; i++) { /* offsets count from the input of this call */
          fields[i].name += (uint32_t)pos;
          fields[i].value += (uint32_t)pos;
        }
        result->consumed = pos + body->trailer.pos;
        body->state = C_END;
        return FS_BODY_END;
      }
      default: /* inside a chunk extension */
        if (c == '\r' && extension_may_end(body->state)) {
          body->state = C_SIZE_LF;
        } else if (c == '\r' || c == '\n') {
          return fail(result, c == '\n' ? FS_E_LINE_END : FS_E_CHUNK_EXTENSION);
        } else {
          int next = extension_byte(body->state, c);
          if (next < 0) return fail(result, -next);
          if (body->ext_bytes == limits->chunk_ext_bytes_max) return fail(result, FS_E_CHUNK_EXTENSION_LENGTH);
          body->ext_bytes++;
          body->state = (uint8_t)next;
        }
        pos++;
        break;
    }
  }
  result->consumed = pos;
  return FS_BODY_MORE;
}

fs_body_answer fs_body_decode(fs_body *body, const uint8_t *data, size_t len, fs_field *fields, const fs_limits *limits,
                              fs_body_result *result) {
  memset(result, 0, sizeof *result);
  if (body->framing == FS_BODY_CHUNKED && body->state != C_END)
    return decode_chunked(body, data, len, fields, limits, result);
  if (body->framing != FS_BODY_LENGTH || body->remaining == 0) return FS_BODY_END;
  size_t n = len < body->remaining ? len : (size_t)body->remaining;
  body->remaining -= n;
  result->consumed = result->data_len = n;
  return n != 0 ? FS_BODY_DATA : FS_BODY_MORE;
}
