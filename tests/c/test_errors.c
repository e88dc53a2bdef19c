/* Room:    tests of the fault table and of the reason phrases.
 * Called:  by `make ctest`.
 * Calls:   csrc/errors.c, csrc/status.c.
 * Rules:   RFC 9110 section 15; IANA "HTTP Status Code Registry".
 */
#include "harness.h"

#include "../../csrc/errors.h"
#include "../../csrc/status.h"

static void names_are_the_enum_in_lower_case(void) {
#define FS_X(name, status, text, rule) #name,
  static const char *const upper[] = {FS_ERROR_TABLE(FS_X)};
#undef FS_X
  CHECK_INT(sizeof upper / sizeof upper[0], FS_E_COUNT);
  for (int i = 0; i < FS_E_COUNT; i++) {
    const char *name = fs_error_info((fs_error)i)->name;
    CHECK_INT(strlen(name), strlen(upper[i]));
    for (size_t k = 0; k < strlen(name); k++) {
      char c = upper[i][k];
      CHECK_INT(name[k], c >= 'A' && c <= 'Z' ? c + 32 : c);
      CHECK(name[k] == '_' || (name[k] >= 'a' && name[k] <= 'z'));
    }
  }
}

static void names_and_texts_are_unique(void) {
  for (int i = 0; i < FS_E_COUNT; i++) {
    for (int k = 0; k < i; k++) {
      CHECK(strcmp(fs_error_info((fs_error)i)->name, fs_error_info((fs_error)k)->name) != 0);
      CHECK(strcmp(fs_error_info((fs_error)i)->text, fs_error_info((fs_error)k)->text) != 0);
    }
  }
}

static void rows_are_complete(void) {
  for (int i = 0; i < FS_E_COUNT; i++) {
    const fs_error_row *row = fs_error_info((fs_error)i);
    CHECK(row->status == 0 || (row->status >= 400 && row->status <= 599));
    CHECK(row->status == 0 || fs_status_reason(row->status)[0] != '\0');
    CHECK(row->text[0] != '\0');
    CHECK(row->rule[0] == '\0' || strncmp(row->rule, "RFC ", 4) == 0);
    CHECK(row->status == 0 || row->rule[0] != '\0');
  }
}

static void some_rows_by_name(void) {
  CHECK_INT(FS_E_NONE, 0);
  CHECK_INT(fs_error_info(FS_E_NONE)->status, 0);
  CHECK_INT(fs_error_info(FS_E_TARGET_LENGTH)->status, 414);
  CHECK_INT(fs_error_info(FS_E_HEAD_LENGTH)->status, 431);
  CHECK_INT(fs_error_info(FS_E_TRANSFER_CODING_UNKNOWN)->status, 501);
  CHECK_INT(fs_error_info(FS_E_NO_SPACE)->status, 0);
  CHECK(strcmp(fs_error_info(FS_E_CONTENT_LENGTH_AND_TRANSFER_ENCODING)->name,
               "content_length_and_transfer_encoding") == 0);
  CHECK(strcmp(fs_error_info(FS_E_HOST_MISSING)->rule, "RFC 9112 3.2") == 0);
}

static void reasons(void) {
  static const struct {
    unsigned status;
    const char *reason;
  } rows[] = {
    {100, "Continue"}, {101, "Switching Protocols"}, {103, "Early Hints"}, {200, "OK"},
    {203, "Non-Authoritative Information"}, {204, "No Content"}, {226, "IM Used"}, {302, "Found"},
    {304, "Not Modified"}, {308, "Permanent Redirect"}, {400, "Bad Request"}, {404, "Not Found"},
    {413, "Content Too Large"}, {414, "URI Too Long"}, {416, "Range Not Satisfiable"}, {417, "Expectation Failed"},
    {421, "Misdirected Request"},
    {422, "Unprocessable Content"}, {425, "Too Early"}, {426, "Upgrade Required"}, {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"}, {451, "Unavailable For Legal Reasons"}, {500, "Internal Server Error"},
    {501, "Not Implemented"}, {505, "HTTP Version Not Supported"}, {511, "Network Authentication Required"},
    {0, ""}, {99, ""}, {104, ""}, {299, ""}, {306, ""}, {418, ""}, {430, ""}, {509, ""}, {512, ""}, {999, ""},
    {100000, ""}, {0xFFFFFFFF, ""},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    const char *reason = fs_status_reason(rows[i].status);
    CHECK_TEXT(reason, strlen(reason), rows[i].reason);
  }
  unsigned registered = 0;
  for (unsigned status = 0; status < 1000; status++) registered += fs_status_reason(status)[0] != '\0';
  CHECK_INT(registered, 61);
}

static const harness_test tests[] = {
  {"names are the enum in lower case", names_are_the_enum_in_lower_case},
  {"names and texts are unique", names_and_texts_are_unique},
  {"rows are complete", rows_are_complete},
  {"some rows by name", some_rows_by_name},
  {"reasons", reasons},
};
HARNESS_MAIN(tests)
