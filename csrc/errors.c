/* Room:    the rows behind fs_error: name, HTTP status, text, broken rule.
 * Called:  by conn.c and the Python layer, which answer and report with them; by the case book, which names them.
 * Calls:   nobody.
 * Rules:   those named in FS_ERROR_TABLE (RFC 9110, RFC 9112, RFC 6585).
 */
#include "errors.h"

/* The preprocessor cannot change case, so each lower-case name stands here once more. A name that is missing does not
 * compile, one of another length fails the assertion below, and tests/c/test_errors.c compares letter by letter. */
#define FS_LOWER_NONE "none"
#define FS_LOWER_TLS_ON_PLAIN_PORT "tls_on_plain_port"
#define FS_LOWER_LEADING_CRLF "leading_crlf"
#define FS_LOWER_LINE_END "line_end"
#define FS_LOWER_METHOD "method"
#define FS_LOWER_REQUEST_LINE "request_line"
#define FS_LOWER_TARGET "target"
#define FS_LOWER_TARGET_FORM "target_form"
#define FS_LOWER_TARGET_URI "target_uri"
#define FS_LOWER_TARGET_AUTHORITY "target_authority"
#define FS_LOWER_TARGET_LENGTH "target_length"
#define FS_LOWER_VERSION "version"
#define FS_LOWER_FIELD_NAME "field_name"
#define FS_LOWER_FIELD_NAME_EMPTY "field_name_empty"
#define FS_LOWER_FIELD_SPACE "field_space"
#define FS_LOWER_FIELD_LEADING_SPACE "field_leading_space"
#define FS_LOWER_FIELD_FOLD "field_fold"
#define FS_LOWER_FIELD_VALUE "field_value"
#define FS_LOWER_FIELDS_COUNT "fields_count"
#define FS_LOWER_HEAD_LENGTH "head_length"
#define FS_LOWER_HOST_MISSING "host_missing"
#define FS_LOWER_HOST_MULTIPLE "host_multiple"
#define FS_LOWER_HOST "host"
#define FS_LOWER_HOST_EMPTY "host_empty"
#define FS_LOWER_CONTENT_LENGTH "content_length"
#define FS_LOWER_CONTENT_LENGTH_MULTIPLE "content_length_multiple"
#define FS_LOWER_CONTENT_LENGTH_AND_TRANSFER_ENCODING "content_length_and_transfer_encoding"
#define FS_LOWER_TRANSFER_ENCODING "transfer_encoding"
#define FS_LOWER_TRANSFER_ENCODING_VERSION "transfer_encoding_version"
#define FS_LOWER_TRANSFER_ENCODING_NOT_CHUNKED "transfer_encoding_not_chunked"
#define FS_LOWER_TRANSFER_ENCODING_REPEATED "transfer_encoding_repeated"
#define FS_LOWER_TRANSFER_CODING_UNKNOWN "transfer_coding_unknown"
#define FS_LOWER_EXPECTATION "expectation"
#define FS_LOWER_VERSION_UNSUPPORTED "version_unsupported"
#define FS_LOWER_BODY_LENGTH "body_length"
#define FS_LOWER_CHUNK_SIZE "chunk_size"
#define FS_LOWER_CHUNK_EXTENSION "chunk_extension"
#define FS_LOWER_CHUNK_EXTENSION_LENGTH "chunk_extension_length"
#define FS_LOWER_CHUNK_END "chunk_end"
#define FS_LOWER_TRAILERS_LENGTH "trailers_length"
#define FS_LOWER_INCOMPLETE "incomplete"
#define FS_LOWER_HEAD_TIMEOUT "head_timeout"
#define FS_LOWER_BODY_TIMEOUT "body_timeout"
#define FS_LOWER_PROXY_HEADER "proxy_header"
#define FS_LOWER_BODY_RATE "body_rate"
#define FS_LOWER_REQUEST_TIMEOUT "request_timeout"
#define FS_LOWER_OVERLOADED "overloaded"
#define FS_LOWER_NO_BUFFERS "no_buffers"
#define FS_LOWER_STATE "state"
#define FS_LOWER_STATUS "status"
#define FS_LOWER_RESPONSE_FIELD_NAME "response_field_name"
#define FS_LOWER_RESPONSE_FIELD_VALUE "response_field_value"
#define FS_LOWER_RESPONSE_REASON "response_reason"
#define FS_LOWER_RESPONSE_FRAMING "response_framing"
#define FS_LOWER_RESPONSE_TOO_LONG "response_too_long"
#define FS_LOWER_RESPONSE_TOO_SHORT "response_too_short"
#define FS_LOWER_NO_SPACE "no_space"

#define FS_X(name, status, text, rule) \
  _Static_assert(sizeof(FS_LOWER_##name) == sizeof(#name), "lower-case name differs from " #name);
FS_ERROR_TABLE(FS_X)
#undef FS_X

static const fs_error_row rows[FS_E_COUNT] = {
#define FS_X(name, status, text, rule) {FS_LOWER_##name, status, text, rule},
  FS_ERROR_TABLE(FS_X)
#undef FS_X
};

const fs_error_row *fs_error_info(fs_error error) {
  FS_ASSERT((unsigned)error < FS_E_COUNT);
  return &rows[(unsigned)error < FS_E_COUNT ? error : FS_E_NONE];
}
