/* Fuzz target: the request head alone.
 *
 * Room:    invariants of fs_request_head_parse(), each in one sentence:
 *            - The answer and every fact in it are the same whole, byte by byte, and however else the bytes are cut.
 *            - Offsets lie inside the input; the head ends inside it; spaces around values are no part of them.
 *            - No byte outside the input is read: each piece is a malloc of exactly its size.
 *            - No more than fields_max fields are written: the array is a malloc of exactly that size.
 *            - A named fault is one of the table, with a status; "need more" becomes an answer within the limits.
 *            - All kernels agree.
 *            - Bytes behind a head change nothing.
 * Called:  by libFuzzer or main.c.
 */
#include "fuzz.h"

static void tell(fs_story *story, int answer, const uint8_t *data, size_t len, const fs_request_head *head,
                 const fs_field *fields, const fs_limits *limits) {
  if (answer == FS_DONE) {
    RUN_MUST(head->fields_count <= limits->fields_max);
    RUN_MUST(head->end - head->start <= limits->head_bytes_max);
    RUN_MUST(head->leading <= limits->leading_crlf_max);
    story_head(story, data, len, head, fields);
    for (uint32_t i = 0; i < head->fields_count; i++) {
      const uint8_t *value = data + fields[i].value;
      uint32_t n = fields[i].value_len;
      RUN_MUST(n == 0 || (value[0] != ' ' && value[0] != '\t' && value[n - 1] != ' ' && value[n - 1] != '\t'));
      for (uint32_t k = 0; k < n; k++) RUN_MUST(fs_is_value[value[k]]);
      for (uint32_t k = 0; k < fields[i].name_len; k++) RUN_MUST(fs_is_token[data[fields[i].name + k]]);
    }
    RUN_MUST(memcmp(data + head->end - 4, "\r\n\r\n", 4) == 0);
    story_add(story, "ends at %u, %u fields, host at %u\n", head->end, head->fields_count, head->host.off);
  } else if (answer == FS_MORE) {
    story_add(story, fs_request_head_begun(head) ? "more, begun\n" : "more\n");
    if (fs_request_head_begun(head)) RUN_MUST(len - head->start <= limits->head_bytes_max);
  } else {
    RUN_MUST(answer < 0 && answer > -FS_E_COUNT);
    const fs_error_row *row = fs_error_info((fs_error)-answer);
    RUN_MUST(row->status >= 400 && row->status < 600);
    story_add(story, "%s\n", row->name);
  }
}

static void parse(fs_story *story, fuzz_cut how, fuzz_dice *dice, const uint8_t *data, size_t size,
                  const fs_limits *limits) {
  fs_request_head head;
  fs_field *fields = malloc(limits->fields_max * sizeof *fields);
  if (fields == NULL && limits->fields_max != 0) abort();
  dice_kernels(dice);
  fs_request_head_init(&head);
  int answer = FS_MORE;
  size_t len = 0;
  do {
    len = next_cut(how, len, size, dice);
    uint8_t *piece = exactly(data, len);
    answer = fs_request_head_parse(&head, piece, len, fields, limits);
    if (answer != FS_MORE || len == size) tell(story, answer, piece, len, &head, fields, limits);
    drop(piece, len);
  } while (answer == FS_MORE && len < size);
  free(fields);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_dice dice = dice_from(data, size);
  fs_limits limits = dice_limits(&dice);
  fs_story whole = {0};
  parse(&whole, CUT_NOT, &dice, data, size, &limits);
  for (int how = CUT_BYTES; how < CUTS; how++) {
    fs_story cut = {0};
    parse(&cut, (fuzz_cut)how, &dice, data, size, &limits);
    must_be_same(whole.text, cut.text);
    free(cut.text);
  }
  if (strncmp(whole.text, "more", 4) != 0) { /* it is decided: what stands behind does not matter */
    fs_story longer = {0};
    uint8_t *more = malloc(size + 3);
    if (more == NULL) abort();
    memcpy(more, data, size);
    memcpy(more + size, "\r\n\n", 3);
    parse(&longer, CUT_NOT, &dice, more, size + 3, &limits);
    must_be_same(whole.text, longer.text);
    free(more);
    free(longer.text);
  }
  free(whole.text);
  return 0;
}
