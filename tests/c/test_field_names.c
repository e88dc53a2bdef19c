/* Room:    tests of the field-name table and its hash.
 * Called:  by `make ctest`.
 * Calls:   csrc/field_names.h.
 * Rules:   field names are case-insensitive (RFC 9110 section 5.1).
 */
#include "harness.h"

#include "../../csrc/field_names.h"

static uint8_t upper(uint8_t c) { return c >= 'a' && c <= 'z' ? (uint8_t)(c - 32) : c; }
static uint8_t lower(uint8_t c) { return c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : c; }

/* The answer by the slow way. */
static uint16_t want_id(const uint8_t *name, size_t len) {
  for (uint16_t id = 1; id < FS_FIELD_COUNT; id++) {
    if (fs_field_text_len[id] != len) continue;
    size_t i = 0;
    while (i < len && lower(name[i]) == (uint8_t)fs_field_text[id][i]) i++;
    if (i == len) return id;
  }
  return FS_FIELD_UNKNOWN;
}

static void check_name(const uint8_t *name, size_t len, uint16_t want) {
  bool good = CHECK_INT(fs_field_id(guard_end(name, len), len), want);
  good &= CHECK_INT(fs_field_id(guard_start(name, len), len), want);
  if (!good) printf("  name \"%.*s\"\n", (int)len, (const char *)name);
}

static void table(void) {
  CHECK_INT(FS_FIELD_UNKNOWN, 0);
  CHECK_INT(fs_field_text_len[0], 0);
  for (int id = 1; id < FS_FIELD_COUNT; id++) {
    CHECK_INT(strlen(fs_field_text[id]), fs_field_text_len[id]);
    CHECK(fs_field_text_len[id] >= FS_FIELD_LEN_MIN && fs_field_text_len[id] <= FS_FIELD_LEN_MAX);
  }
  CHECK_TEXT(fs_field_text[FS_FIELD_HOST], 4, "host");
  CHECK_TEXT(fs_field_text[FS_FIELD_TE], 2, "te");
  CHECK_TEXT(fs_field_text[FS_FIELD_TRANSFER_ENCODING], 17, "transfer-encoding");
  CHECK_TEXT(fs_field_text[FS_FIELD_HTTP2_SETTINGS], 14, "http2-settings");
}

/* field_names.txt and the header agree, line by line. */
static void every_line_of_the_list(void) {
  char path[4096], line[256];
  snprintf(path, sizeof path, "%.*s../../csrc/field_names.txt", (int)(strrchr(__FILE__, '/') - __FILE__ + 1), __FILE__);
  FILE *list = fopen(path, "r");
  if (!CHECK(list != NULL)) return;
  uint16_t id = 0;
  while (fgets(line, sizeof line, list) != NULL) {
    size_t len = strcspn(line, "\r\n");
    if (len > 0) check_name((const uint8_t *)line, len, ++id);
  }
  CHECK_INT(id, FS_FIELD_COUNT - 1);
  fclose(list);
}

static void every_case(void) {
  uint8_t name[FS_FIELD_LEN_MAX];
  for (uint16_t id = 1; id < FS_FIELD_COUNT; id++) {
    size_t len = fs_field_text_len[id];
    memcpy(name, fs_field_text[id], len);
    check_name(name, len, id);
    for (size_t i = 0; i < len; i++) name[i] = upper(name[i]);
    check_name(name, len, id);
    for (unsigned mix = 0; mix < 64; mix++) { /* alternating, capitals at word starts, and the like */
      for (size_t i = 0; i < len; i++) {
        uint8_t c = (uint8_t)fs_field_text[id][i];
        name[i] = (mix * 2654435761u >> (i & 31) & 1) ? upper(c) : c;
      }
      check_name(name, len, id);
    }
  }
}

/* Any other byte at any position, in a name of either case: unknown, unless the slow way says it is another name. */
static void one_byte_off(void) {
  uint8_t name[FS_FIELD_LEN_MAX];
  for (int id = 1; id < FS_FIELD_COUNT; id++) {
    size_t len = fs_field_text_len[id];
    for (int capitals = 0; capitals < 2; capitals++) {
      memcpy(name, fs_field_text[id], len);
      for (size_t i = 0; capitals && i < len; i++) name[i] = upper(name[i]);
      for (size_t at = 0; at < len; at++) {
        uint8_t kept = name[at];
        for (int c = 0; c < 256; c++) {
          name[at] = (uint8_t)c;
          check_name(name, len, lower((uint8_t)c) == lower(kept) ? (uint16_t)id : want_id(name, len));
        }
        name[at] = kept;
      }
    }
  }
}

static void shorter_and_longer(void) {
  uint8_t name[FS_FIELD_LEN_MAX + 2];
  for (int id = 1; id < FS_FIELD_COUNT; id++) {
    size_t len = fs_field_text_len[id];
    memcpy(name, fs_field_text[id], len);
    for (size_t part = 0; part < len; part++) {
      check_name(name, part, want_id(name, part));
      check_name(name + part, len - part, want_id(name + part, len - part));
    }
    for (int c = 0; c < 256; c++) {
      name[len] = (uint8_t)c;
      check_name(name, len + 1, want_id(name, len + 1));
    }
  }
}

static void any_length(void) {
  static uint8_t name[70000];
  memset(name, 'a', sizeof name);
  for (size_t len = 0; len < 300; len++) check_name(name, len, FS_FIELD_UNKNOWN);
  check_name(name, 65536 + 4, FS_FIELD_UNKNOWN);
  memset(name, 0, 300);
  for (size_t len = 0; len < 300; len++) check_name(name, len, FS_FIELD_UNKNOWN);
}

static const harness_test tests[] = {
  {"table", table},
  {"every line of the list", every_line_of_the_list},
  {"every case", every_case},
  {"one byte off", one_byte_off},
  {"shorter and longer", shorter_and_longer},
  {"any length", any_length},
};
HARNESS_MAIN(tests)
