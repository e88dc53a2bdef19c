/* Room:    fuzz target: the WebSocket frame reader.
 * Rules:   - Cut anywhere, bytes mean the same: the same messages, control frames and fault as when read whole.
 *          - Progress: every answer but "need data" consumes something; "need data" leaves at most 13 bytes.
 *          - No message is longer than the limit, no control frame longer than 125 bytes.
 *          - Text that the incremental check takes is taken whole and in any two parts.
 *          - No byte outside the input is read: buffers are mallocs of exactly their size.
 * Called:  by libFuzzer or main.c.
 */
#include "fuzz.h"

#include "../../csrc/websocket.h"

/* A sum of everything that is told, in order. */
typedef struct {
  uint64_t sum;
  size_t messages, message_len;
  fs_utf8 utf8;
  bool text_good;
} story;

static void tell(story *s, const void *data, size_t len) {
  for (size_t i = 0; i < len; i++) s->sum = (s->sum ^ ((const uint8_t *)data)[i]) * UINT64_C(0x100000001b3);
}

static void tell_byte(story *s, unsigned byte) {
  uint8_t c = (uint8_t)byte;
  tell(s, &c, 1);
}

static story run(const uint8_t *data, size_t len, uint64_t max, bool deflate, fuzz_dice *dice) {
  story s = {UINT64_C(0xcbf29ce484222325), 0, 0, {0, 0, 0}, true};
  fs_ws ws;
  fs_ws_init(&ws, max, deflate);
  size_t start = 0, end = dice == NULL ? len : 0;
  for (;;) {
    size_t have = end - start;
    uint8_t *copy = exactly(data + start, have);
    fs_ws_event event;
    fs_ws_receive(&ws, copy, have, &event);
    RUN_MUST(event.consumed <= have);
    switch (event.type) {
      case FS_WS_DATA:
        RUN_MUST(event.data_off + event.data_len == event.consumed);
        RUN_MUST(event.consumed > 0);
        if (event.first) {
          s.message_len = 0;
          s.utf8 = (fs_utf8){0, 0, 0};
          s.text_good = true;
          tell_byte(&s, event.opcode);
        }
        RUN_MUST(!event.compressed || deflate);
        fs_ws_unmask(copy + event.data_off, copy + event.data_off, event.data_len, event.key);
        if (s.text_good) s.text_good = fs_utf8_check(&s.utf8, copy + event.data_off, event.data_len);
        tell(&s, copy + event.data_off, event.data_len);
        s.message_len += event.data_len;
        RUN_MUST(s.message_len <= max);
        if (event.last) {
          tell_byte(&s, s.text_good && s.utf8.missing == 0);
          s.messages++;
        }
        break;
      case FS_WS_CONTROL:
        RUN_MUST(event.consumed > 0 && ws.control_len <= 125);
        tell_byte(&s, event.opcode);
        tell(&s, ws.control, ws.control_len);
        break;
      case FS_WS_ERROR:
        RUN_MUST(ws.error != FS_WS_E_none && ws.state == FS_WS_ENDED);
        tell_byte(&s, ws.error);
        drop(copy, have);
        return s;
      case FS_WS_OVER:
        drop(copy, have);
        return s;
      case FS_WS_NEED_DATA:
        RUN_MUST(have - event.consumed <= 13);
        break;
    }
    drop(copy, have);
    start += event.consumed;
    if (event.type != FS_WS_NEED_DATA) continue;
    if (end == len) return s;
    end += 1 + dice_below(dice, len - end);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_dice dice = dice_from(data, size);
  uint64_t max = dice_below(&dice, 2) ? 1 << 20 : dice_below(&dice, 64);
  bool deflate = dice_below(&dice, 2) != 0;
  story whole = run(data, size, max, deflate, NULL);
  story parts = run(data, size, max, deflate, &dice);
  RUN_MUST(whole.sum == parts.sum && whole.messages == parts.messages);
  size_t cut = dice_below(&dice, size + 1);
  fs_utf8 one = {0, 0, 0}, two = {0, 0, 0};
  bool good = fs_utf8_check(&one, data, size);
  RUN_MUST((fs_utf8_check(&two, data, cut) && fs_utf8_check(&two, data + cut, size - cut)) == good);
  if (good) RUN_MUST(one.missing == two.missing);
  return 0;
}
