/* WebSocket frames: bytes in, events out; heads out. The second, smaller state machine.
 *
 * Room:    a reader of frames with its table of states; the writer of frame heads; UTF-8 that may stop anywhere; close codes.
 * Called:  by protocol/websocket.pyx after 101, by the fuzzer and the C tests. Calls the kernels (fs_scan: mask, ascii).
 * Rules:   RFC 6455 sections 5 (framing), 7.4 (close codes), 8.1 (UTF-8); RFC 7692 section 6 (RSV1); RFC 3629 (UTF-8).
 *
 *      text or binary, not final           continuation
 *      BETWEEN ------------------> INSIDE ----------> INSIDE        a final frame leads back to BETWEEN;
 *         ^                          |                              ping and pong may stand anywhere;
 *         +--------- final ----------+                              close leads to ENDED from everywhere
 *
 * Nothing is allocated and nothing is kept but a control frame's payload (125 bytes). Data is reported where it lies, still
 * masked, piece by piece: whoever wants it unmasks it to where it belongs, in one pass.
 */
#ifndef FS_WEBSOCKET_H
#define FS_WEBSOCKET_H

#include "base.h"

/*         name                close  text                                                    rule */
#define FS_WS_ERROR_TABLE(X)                                                                                        \
  X(none,                          0, "no error",                                             "")                   \
  X(reserved_bits,              1002, "reserved bit set",                                     "RFC 6455 5.2")       \
  X(opcode,                     1002, "unknown opcode",                                       "RFC 6455 5.2")       \
  X(length,                     1002, "length not in its shortest form",                      "RFC 6455 5.2")       \
  X(unmasked,                   1002, "frame of a client not masked",                         "RFC 6455 5.1")       \
  X(control_fragmented,         1002, "control frame in fragments",                           "RFC 6455 5.5")       \
  X(control_length,             1002, "control frame longer than 125 bytes",                  "RFC 6455 5.5")       \
  X(inside_message,             1002, "message begun before the last one ended",              "RFC 6455 5.4")       \
  X(no_message,                 1002, "continuation of no message",                           "RFC 6455 5.4")       \
  X(close_length,               1002, "close frame with half a code",                         "RFC 6455 5.5.1")     \
  X(close_code,                 1002, "close code that must not be sent",                     "RFC 6455 7.4")       \
  X(close_reason,               1007, "reason of a close frame is not UTF-8",                 "RFC 6455 5.5.1")     \
  X(text,                       1007, "text is not UTF-8",                                    "RFC 6455 8.1")       \
  X(compressed,                 1007, "compressed message cannot be read",                    "RFC 7692 7.2.2")     \
  X(too_big,                    1009, "message too big",                                      "RFC 6455 7.4.1")

typedef enum {
#define FS_X(name, code, text, rule) FS_WS_E_##name,
  FS_WS_ERROR_TABLE(FS_X)
#undef FS_X
  FS_WS_E_COUNT
} fs_ws_error;

typedef struct {
  const char *name;
  uint16_t code; /* of the close frame that tells the peer */
  const char *text;
  const char *rule;
} fs_ws_error_row;

const fs_ws_error_row *fs_ws_error_info(fs_ws_error error);

/* --- what frames may follow what: a table --- */

typedef enum { FS_WS_BETWEEN, FS_WS_INSIDE, FS_WS_ENDED } fs_ws_state;

typedef enum { FS_WS_CONTINUATION = 0, FS_WS_TEXT = 1, FS_WS_BINARY = 2, FS_WS_CLOSE = 8, FS_WS_PING = 9, FS_WS_PONG = 10 } fs_ws_opcode;

typedef struct {
  uint8_t opcode;
  uint8_t from;       /* set of states: 1u << fs_ws_state */
  uint8_t final_to;   /* the state behind a final frame ... */
  uint8_t more_to;    /* ... and behind one that is not */
  fs_ws_error error;  /* in any other state */
  const char *name;
} fs_ws_row;

enum { FS_WS_STAY = 0xff };

extern const fs_ws_row fs_ws_table[];
extern const unsigned fs_ws_table_len;
extern const char *const fs_ws_state_name[3];

/* --- UTF-8 that may stop anywhere --- */

/* Zero is the beginning, and the end of whole text. */
typedef struct {
  uint8_t missing;   /* continuation bytes still to come */
  uint8_t low, high; /* the range of the next of them: it is what keeps overlong forms and surrogates out */
} fs_utf8;

/* Goes on with [p, p+len). False: this can never become UTF-8. Whether the text is whole: utf8->missing == 0. */
bool fs_utf8_check(fs_utf8 *utf8, const uint8_t *p, size_t len);

/* --- reading --- */

typedef enum {
  FS_WS_NEED_DATA, /* drop `consumed` bytes, keep the rest (at most 13), come back with more behind it */
  FS_WS_DATA,      /* payload of a message at [data_off, data_off+data_len), masked with `key`; may be empty */
  FS_WS_CONTROL,   /* a ping, pong or close is whole: ws->control; close also has ws->close_code */
  FS_WS_ERROR,     /* ws->error says which; nothing more is read */
  FS_WS_OVER       /* behind a close frame or a fault: what comes is dropped (RFC 6455 1.4) */
} fs_ws_event_type;

typedef struct {
  fs_ws_event_type type;
  size_t consumed;
  size_t data_off, data_len;
  uint32_t key;         /* turned, so that it fits the first byte of the piece */
  uint8_t opcode;       /* of the message or the control frame */
  bool first, last;     /* the piece begins the message, ends it */
  bool compressed;      /* the message is (RFC 7692) */
  uint64_t frame_left;  /* payload bytes of this frame behind the piece */
} fs_ws_event;

typedef struct {
  uint64_t message_bytes_max; /* as on the wire; over it: too_big, told before the payload is read */
  bool deflate;               /* permessage-deflate was agreed on: RSV1 may be set */
  bool any_masking;           /* tests and clients read what a server sends */
  uint8_t state;              /* fs_ws_state */
  fs_ws_error error;
  /* the message in hand */
  uint8_t message_opcode;
  bool message_compressed, message_begun;
  uint64_t message_bytes;
  /* the frame in hand */
  bool in_frame, final;
  uint8_t opcode;
  uint64_t left;
  uint32_t key;
  /* the control frame in hand, or the last one */
  uint8_t control[125];
  uint8_t control_len;
  uint16_t close_code;        /* 1005: the frame named none (RFC 6455 7.1.5) */
} fs_ws;

void fs_ws_init(fs_ws *ws, uint64_t message_bytes_max, bool deflate);

/* One step. [data, data+len) is everything received and not yet consumed. */
void fs_ws_receive(fs_ws *ws, const uint8_t *data, size_t len, fs_ws_event *event);

/* Unmask a piece to `out`, which may be where it lies. True: all ASCII. */
bool fs_ws_unmask(uint8_t *out, const uint8_t *in, size_t len, uint32_t key);

/* The driver found the fault (text, deflate): nothing more is read. */
void fs_ws_refuse(fs_ws *ws, fs_ws_error error);

/* --- writing --- */

enum { FS_WS_HEAD_MAX = 10 };

/* The head of an unmasked frame, as servers send it; its length. `out` has FS_WS_HEAD_MAX bytes. */
size_t fs_ws_head(uint8_t *out, unsigned opcode, bool final, bool compressed, uint64_t len);

/* May a close frame carry this code? (RFC 6455 7.4: 1000 to 2999 as registered, 3000 to 4999 freely.) */
bool fs_ws_close_code_valid(unsigned code);

#endif
