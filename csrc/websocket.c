/* WebSocket frames; see websocket.h for the drawing and the contract.
 *
 * Room:    the tables of faults and of frames; the reader; the writer of heads; UTF-8; close codes.
 * Called:  by protocol/websocket.pyx, the fuzzer, the C tests. Calls the kernels of scan.h.
 * Rules:   RFC 6455 sections 5, 7.1.5, 7.4, 8.1; RFC 7692 section 6; RFC 3629 section 4.
 */
#include "websocket.h"
#include "scan.h"

static const fs_ws_error_row rows[FS_WS_E_COUNT] = {
#define FS_X(name, code, text, rule) {#name, code, text, rule},
  FS_WS_ERROR_TABLE(FS_X)
#undef FS_X
};

const fs_ws_error_row *fs_ws_error_info(fs_ws_error error) {
  FS_ASSERT((unsigned)error < FS_WS_E_COUNT);
  return &rows[(unsigned)error < FS_WS_E_COUNT ? error : FS_WS_E_none];
}

const char *const fs_ws_state_name[3] = {"BETWEEN", "INSIDE", "ENDED"};

#define BETWEEN (1u << FS_WS_BETWEEN)
#define INSIDE (1u << FS_WS_INSIDE)

/* What may follow what. A frame without a row is of an unknown kind; one in a state that its row does not name is the fault
 * that the row names. ENDED has no way out: nothing is read behind a close frame. */
const fs_ws_row fs_ws_table[] = {
    /* opcode             from                 final          not final      otherwise                 name */
    {FS_WS_CONTINUATION, INSIDE,               FS_WS_BETWEEN, FS_WS_INSIDE, FS_WS_E_no_message,     "continuation"},
    {FS_WS_TEXT,         BETWEEN,              FS_WS_BETWEEN, FS_WS_INSIDE, FS_WS_E_inside_message, "text"},
    {FS_WS_BINARY,       BETWEEN,              FS_WS_BETWEEN, FS_WS_INSIDE, FS_WS_E_inside_message, "binary"},
    {FS_WS_CLOSE,        BETWEEN | INSIDE,     FS_WS_ENDED,   FS_WS_ENDED,  FS_WS_E_none,           "close"},
    {FS_WS_PING,         BETWEEN | INSIDE,     FS_WS_STAY,    FS_WS_STAY,   FS_WS_E_none,           "ping"},
    {FS_WS_PONG,         BETWEEN | INSIDE,     FS_WS_STAY,    FS_WS_STAY,   FS_WS_E_none,           "pong"},
};
const unsigned fs_ws_table_len = sizeof fs_ws_table / sizeof *fs_ws_table;

/* By opcode: the index into the table, or -1. */
static const int8_t row_of[16] = {0, 1, 2, -1, -1, -1, -1, -1, 3, 4, 5, -1, -1, -1, -1, -1};

FS_INLINE bool is_control(uint8_t opcode) { return (opcode & 8) != 0; }

void fs_ws_init(fs_ws *ws, uint64_t message_bytes_max, bool deflate) {
  memset(ws, 0, sizeof *ws);
  ws->message_bytes_max = message_bytes_max;
  ws->deflate = deflate;
}

void fs_ws_refuse(fs_ws *ws, fs_ws_error error) {
  ws->error = error;
  ws->state = FS_WS_ENDED;
  ws->in_frame = false;
}

/* ------------------------------------------------------------------------------------------------- heads */

/*    0                   1                   2                   3
 *    |F|R|R|R| opcode|M|  length 7 | length 16 or 64, if 126 or 127 | key, if M
 *    |I|S|S|S|  (4)  |A|           |
 *    |N|V|V|V|       |S|           |
 *    | |1|2|3|       |K|           |                                   RFC 6455 5.2
 *
 * The head is judged byte by byte as far as it is there, so that a fault is found as early as it can be, and the answer does
 * not depend on how the bytes were cut. Its length, 0 if more must come, or a fault below 0. */
static int read_head(const fs_ws *ws, const uint8_t *p, size_t len, uint64_t *payload) {
  if (len == 0) return 0;
  uint8_t opcode = p[0] & 0x0F;
  bool final = (p[0] & 0x80) != 0;
  if (row_of[opcode] < 0) return -FS_WS_E_opcode;
  /* RFC 7692 6: RSV1 says "compressed" on the first frame of a message, and nothing anywhere else. */
  if (p[0] & 0x30) return -FS_WS_E_reserved_bits;
  if ((p[0] & 0x40) && !(ws->deflate && (opcode == FS_WS_TEXT || opcode == FS_WS_BINARY))) return -FS_WS_E_reserved_bits;
  if (is_control(opcode) && !final) return -FS_WS_E_control_fragmented;
  const fs_ws_row *row = &fs_ws_table[row_of[opcode]];
  if (!(row->from & (1u << ws->state))) return -(int)row->error;
  if (len < 2) return 0;
  bool masked = (p[1] & 0x80) != 0;
  uint8_t short_length = p[1] & 0x7F;
  if (!masked && !ws->any_masking) return -FS_WS_E_unmasked;
  if (is_control(opcode) && short_length > 125) return -FS_WS_E_control_length;
  size_t size = 2;
  *payload = short_length;
  if (short_length >= 126) {
    size_t bytes = short_length == 126 ? 2 : 8;
    if (len < 2 + bytes) return 0;
    uint64_t n = 0;
    for (size_t i = 0; i < bytes; i++) n = n << 8 | p[2 + i];
    if (n < 126 || (bytes == 8 && (n <= 0xFFFF || n >> 63))) return -FS_WS_E_length;
    *payload = n;
    size += bytes;
  }
  if (opcode == FS_WS_CLOSE && *payload == 1) return -FS_WS_E_close_length;
  if (!is_control(opcode)) {
    /* ws->message_bytes never is above the limit, so nothing overflows here. */
    uint64_t before = opcode == FS_WS_CONTINUATION ? ws->message_bytes : 0;
    if (*payload > ws->message_bytes_max - before) return -FS_WS_E_too_big;
  }
  if (masked) size += 4;
  return len < size ? 0 : (int)size;
}

static void begin_frame(fs_ws *ws, const uint8_t *p, int size, uint64_t payload) {
  ws->opcode = p[0] & 0x0F;
  ws->final = (p[0] & 0x80) != 0;
  ws->left = payload;
  ws->in_frame = true;
  ws->key = 0;
  if (p[1] & 0x80) memcpy(&ws->key, p + size - 4, 4);
  if (is_control(ws->opcode)) {
    ws->control_len = 0;
    return;
  }
  if (ws->opcode != FS_WS_CONTINUATION) {
    ws->message_opcode = ws->opcode;
    ws->message_compressed = (p[0] & 0x40) != 0;
    ws->message_begun = false;
    ws->message_bytes = 0;
  }
  ws->message_bytes += payload;
}

/* The key as it fits `n` bytes later. */
FS_INLINE uint32_t turn_key(uint32_t key, uint64_t n) {
  uint8_t bytes[4], turned[4];
  memcpy(bytes, &key, 4);
  for (unsigned i = 0; i < 4; i++) turned[i] = bytes[(i + n) & 3];
  memcpy(&key, turned, 4);
  return key;
}

static void end_frame(fs_ws *ws) {
  const fs_ws_row *row = &fs_ws_table[row_of[ws->opcode]];
  uint8_t to = ws->final ? row->final_to : row->more_to;
  if (to != FS_WS_STAY) ws->state = to;
  ws->in_frame = false;
}

/* ----------------------------------------------------------------------------------------------- payload */

static fs_ws_error judge_close(fs_ws *ws) {
  ws->close_code = 1005; /* RFC 6455 7.1.5: no code is 1005 to the application, and never on the wire */
  if (ws->control_len == 0) return FS_WS_E_none;
  ws->close_code = (uint16_t)(ws->control[0] << 8 | ws->control[1]);
  if (!fs_ws_close_code_valid(ws->close_code)) return FS_WS_E_close_code;
  fs_utf8 utf8 = {0, 0, 0};
  if (!fs_utf8_check(&utf8, ws->control + 2, (size_t)ws->control_len - 2) || utf8.missing) return FS_WS_E_close_reason;
  return FS_WS_E_none;
}

void fs_ws_receive(fs_ws *ws, const uint8_t *data, size_t len, fs_ws_event *event) {
  memset(event, 0, sizeof *event);
  if (FS_UNLIKELY(ws->state == FS_WS_ENDED && !ws->in_frame)) {
    event->type = ws->error ? FS_WS_ERROR : FS_WS_OVER;
    event->consumed = len;
    return;
  }
  size_t used = 0;
  if (!ws->in_frame) {
    uint64_t payload = 0;
    int size = read_head(ws, data, len, &payload);
    if (size == 0) return; /* FS_WS_NEED_DATA, nothing consumed */
    if (FS_UNLIKELY(size < 0)) {
      fs_ws_refuse(ws, (fs_ws_error)-size);
      event->type = FS_WS_ERROR;
      return;
    }
    begin_frame(ws, data, size, payload);
    used = (size_t)size;
  }
  size_t piece = len - used < ws->left ? len - used : (size_t)ws->left;
  ws->left -= piece;
  event->consumed = used + piece;
  event->opcode = ws->opcode;
  if (is_control(ws->opcode)) {
    if (piece) fs_ws_unmask(ws->control + ws->control_len, data + used, piece, ws->key);
    ws->control_len = (uint8_t)(ws->control_len + piece);
    ws->key = turn_key(ws->key, piece);
    if (ws->left) return; /* FS_WS_NEED_DATA */
    end_frame(ws);
    event->type = FS_WS_CONTROL;
    fs_ws_error error = ws->opcode == FS_WS_CLOSE ? judge_close(ws) : FS_WS_E_none;
    if (error != FS_WS_E_none) {
      fs_ws_refuse(ws, error);
      event->type = FS_WS_ERROR;
    }
    return;
  }
  if (piece == 0 && ws->left) return; /* a head alone: FS_WS_NEED_DATA */
  event->type = FS_WS_DATA;
  event->opcode = ws->message_opcode;
  event->data_off = used;
  event->data_len = piece;
  event->key = ws->key;
  event->first = !ws->message_begun;
  event->compressed = ws->message_compressed;
  event->frame_left = ws->left;
  ws->message_begun = true;
  if (ws->left == 0) {
    event->last = ws->final;
    end_frame(ws);
  } else {
    ws->key = turn_key(ws->key, piece);
  }
}

bool fs_ws_unmask(uint8_t *out, const uint8_t *in, size_t len, uint32_t key) { return fs_scan->mask(out, in, len, key); }

/* ------------------------------------------------------------------------------------------------- UTF-8 */

/* RFC 3629 4: which second byte a lead byte allows. The odd rows keep overlong forms (E0, F0), surrogates (ED) and what is
 * above U+10FFFF (F4) out; C0, C1 and F5 to FF have no row, for they begin nothing. */
static bool lead(fs_utf8 *utf8, uint8_t c) {
  utf8->low = 0x80;
  utf8->high = 0xBF;
  if (c >= 0xC2 && c <= 0xDF) {
    utf8->missing = 1;
  } else if (c >= 0xE0 && c <= 0xEF) {
    utf8->missing = 2;
    if (c == 0xE0) utf8->low = 0xA0;
    if (c == 0xED) utf8->high = 0x9F;
  } else if (c >= 0xF0 && c <= 0xF4) {
    utf8->missing = 3;
    if (c == 0xF0) utf8->low = 0x90;
    if (c == 0xF4) utf8->high = 0x8F;
  } else {
    return false;
  }
  return true;
}

bool fs_utf8_check(fs_utf8 *utf8, const uint8_t *p, size_t len) {
  const uint8_t *end = p + len;
  while (p < end) {
    if (utf8->missing) {
      if (*p < utf8->low || *p > utf8->high) return false;
      utf8->missing--;
      utf8->low = 0x80;
      utf8->high = 0xBF;
      p++;
    } else if (*p < 0x80) {
      /* Between words of another script ASCII comes one byte at a time, where a kernel would cost more than it saves. */
      p = end - p >= 8 ? fs_scan->ascii(p, end) : p + 1;
    } else if (!lead(utf8, *p++)) {
      return false;
    }
  }
  return true;
}

/* ----------------------------------------------------------------------------------------------- writing */

size_t fs_ws_head(uint8_t *out, unsigned opcode, bool final, bool compressed, uint64_t len) {
  out[0] = (uint8_t)(opcode | (final ? 0x80 : 0) | (compressed ? 0x40 : 0));
  if (len < 126) {
    out[1] = (uint8_t)len;
    return 2;
  }
  size_t bytes = len <= 0xFFFF ? 2 : 8;
  out[1] = bytes == 2 ? 126 : 127;
  for (size_t i = 0; i < bytes; i++) out[2 + i] = (uint8_t)(len >> (8 * (bytes - 1 - i)));
  return 2 + bytes;
}

/* RFC 6455 7.4.2 and the registry: 1004 is reserved, 1005, 1006 and 1015 are for the application only, 1012 to 1014 came
 * later; 0 to 999 are not used, 1016 to 2999 wait for extensions. */
bool fs_ws_close_code_valid(unsigned code) {
  if (code >= 3000) return code <= 4999;
  return code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006;
}
