/* Room:    fuzzing of the PROXY protocol and of addresses in text.
 * Called:  by libFuzzer or main.c.
 * Calls:   csrc/proxy.c.
 * Rules:   a header that was whole is whole whatever follows it; of every shorter piece more is needed; a fault stays one.
 */
#include "fuzz.h"

#include "../../csrc/proxy.h"

static int32_t parse(const uint8_t *data, size_t len, fs_proxy *out) {
  uint8_t *copy = exactly(data, len);
  int32_t answer = fs_proxy_parse(copy, len, out);
  drop(copy, len);
  RUN_MUST(answer >= -1 && answer <= 16 + 65535 && (answer < 0 || (size_t)answer <= len));
  RUN_MUST(out->family == 0 || out->family == 4 || out->family == 6 || answer < 0);
  return answer;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_dice dice = dice_from(data, size);
  fs_proxy whole, part;
  fs_address address, again;
  int32_t answer = parse(data, size, &whole);
  for (int i = 0; i < 8; i++) {
    size_t cut = dice_below(&dice, size + 1);
    int32_t other = parse(data, cut, &part);
    if (answer > 0 && cut >= (size_t)answer) RUN_MUST(other == answer && memcmp(&part, &whole, sizeof whole) == 0);
    if (answer > 0 && cut < (size_t)answer) RUN_MUST(other == 0);
    if (answer == 0) RUN_MUST(other == 0);
    if (other == -1) RUN_MUST(answer == -1);
  }
  uint8_t *text = exactly(data, size);
  unsigned family = fs_address_parse(text, size, &address);
  drop(text, size);
  RUN_MUST(family == 0 || family == 4 || family == 6);
  if (family == 4) { /* the same as an IPv6 address */
    char mapped[64];
    RUN_MUST(size <= 15);
    memcpy(mapped, "::ffff:", 7);
    memcpy(mapped + 7, data, size);
    RUN_MUST(fs_address_parse((const uint8_t *)mapped, 7 + size, &again) == 6);
    RUN_MUST(memcmp(&address, &again, sizeof again) == 0 && fs_address_within(&address, &again, 128));
  }
  return 0;
}
