/* One table of everything that can be wrong: name, HTTP status, text, the rule that was broken.
 *
 * Room:    the only place where a fault gets its name and its answer.
 * Called:  by every parser and writer here; by the Connection, which answers with status and text.
 * Rules:   RFC 9110, RFC 9112, RFC 6585. Status 0: nobody is answered (the peer is gone, or the fault is our own side's).
 *
 * Order of judgement (request.c): syntax first, then framing, then support.
 */
#ifndef FS_ERRORS_H
#define FS_ERRORS_H

#include "base.h"

/*         name                      status  text                                                   rule */
#define FS_ERROR_TABLE(X)                                                                                                \
  X(NONE,                              0, "no error",                                             "")                    \
  /* --- the peer broke the syntax of a request head --- */                                                              \
  X(TLS_ON_PLAIN_PORT,               400, "this port speaks plain HTTP, not TLS",                 "RFC 9112 3")          \
  X(LEADING_CRLF,                    400, "too many empty lines before the request line",         "RFC 9112 2.2")        \
  X(LINE_END,                        400, "line not ended by CRLF",                               "RFC 9112 2.2")        \
  X(METHOD,                          400, "method is not a token",                                "RFC 9110 9.1")        \
  X(REQUEST_LINE,                    400, "malformed request line",                               "RFC 9112 3")          \
  X(TARGET,                          400, "byte not allowed in the request target",               "RFC 9112 3.2")        \
  X(TARGET_FORM,                     400, "form of the request target not allowed for the method", "RFC 9112 3.2")       \
  X(TARGET_URI,                      400, "malformed absolute-form request target",               "RFC 9112 3.2.2")      \
  X(TARGET_AUTHORITY,                400, "malformed authority in the request target",            "RFC 9112 3.2.3")      \
  X(TARGET_LENGTH,                   414, "request line too long",                                "RFC 9112 3")          \
  X(VERSION,                         400, "malformed HTTP version",                               "RFC 9112 2.3")        \
  X(FIELD_NAME,                      400, "field name is not a token",                            "RFC 9110 5.1")        \
  X(FIELD_NAME_EMPTY,                400, "empty field name",                                     "RFC 9110 5.1")        \
  X(FIELD_SPACE,                     400, "whitespace before the colon of a field",               "RFC 9112 5.1")        \
  X(FIELD_LEADING_SPACE,             400, "whitespace before the first field",                    "RFC 9112 2.2")        \
  X(FIELD_FOLD,                      400, "folded field line",                                    "RFC 9112 5.2")        \
  X(FIELD_VALUE,                     400, "control character in a field value",                   "RFC 9110 5.5")        \
  X(FIELDS_COUNT,                    431, "too many fields",                                      "RFC 6585 5")          \
  X(HEAD_LENGTH,                     431, "request head too long",                                "RFC 6585 5")          \
  X(HOST_MISSING,                    400, "missing Host",                                         "RFC 9112 3.2")        \
  X(HOST_MULTIPLE,                   400, "more than one Host",                                   "RFC 9112 3.2")        \
  X(HOST,                            400, "malformed Host",                                       "RFC 9112 3.2")        \
  X(HOST_EMPTY,                      400, "empty Host",                                           "RFC 9112 3.2")        \
  /* --- framing --- */                                                                                                  \
  X(CONTENT_LENGTH,                  400, "malformed Content-Length",                             "RFC 9110 8.6")        \
  X(CONTENT_LENGTH_MULTIPLE,         400, "more than one Content-Length",                         "RFC 9112 6.3")        \
  X(CONTENT_LENGTH_AND_TRANSFER_ENCODING, 400, "Content-Length together with Transfer-Encoding",  "RFC 9112 6.1")        \
  X(TRANSFER_ENCODING,               400, "malformed Transfer-Encoding",                          "RFC 9112 6.1")        \
  X(TRANSFER_ENCODING_VERSION,       400, "Transfer-Encoding in HTTP/1.0",                        "RFC 9112 6.1")        \
  X(TRANSFER_ENCODING_NOT_CHUNKED,   400, "final transfer coding is not chunked",                 "RFC 9112 6.3")        \
  X(TRANSFER_ENCODING_REPEATED,      400, "chunked applied more than once",                       "RFC 9112 6.1")        \
  /* --- support --- */                                                                                                  \
  X(TRANSFER_CODING_UNKNOWN,         501, "transfer coding not supported",                        "RFC 9112 6.1")        \
  X(EXPECTATION,                     417, "expectation not supported",                            "RFC 9110 10.1.1")     \
  X(VERSION_UNSUPPORTED,             505, "HTTP version not supported",                           "RFC 9110 15.6.6")     \
  /* --- bodies --- */                                                                                                   \
  X(BODY_LENGTH,                     413, "request body too long",                                "RFC 9110 15.5.14")    \
  X(CHUNK_SIZE,                      400, "malformed chunk size",                                 "RFC 9112 7.1")        \
  X(CHUNK_EXTENSION,                 400, "malformed chunk extension",                            "RFC 9112 7.1.1")      \
  X(CHUNK_EXTENSION_LENGTH,          400, "chunk extensions too long",                            "RFC 9112 7.1.1")      \
  X(CHUNK_END,                       400, "chunk data not ended by CRLF",                         "RFC 9112 7.1")        \
  X(TRAILERS_LENGTH,                 431, "trailer section too long",                             "RFC 6585 5")          \
  X(INCOMPLETE,                        0, "connection ended inside a message",                    "RFC 9112 8")          \
  /* --- time --- */                                                                                                     \
  X(HEAD_TIMEOUT,                    408, "request head not received in time",                    "RFC 9110 15.5.9")     \
  X(BODY_TIMEOUT,                    408, "request body not received in time",                    "RFC 9110 15.5.9")     \
  X(BODY_RATE,                       408, "request body received too slowly",                     "RFC 9110 15.5.9")     \
  X(REQUEST_TIMEOUT,                 503, "the request took too long",                            "RFC 9110 15.6.4")     \
  /* --- a trusted proxy, of which its own header is wanted --- */                                                       \
  X(PROXY_HEADER,                    400, "no PROXY protocol header before the first request",    "RFC 9110 15.5.1")     \
  /* --- more than this server takes --- */                                                                              \
  X(OVERLOADED,                      503, "too many requests at once",                            "RFC 9110 15.6.4")     \
  X(NO_BUFFERS,                      503, "no room for this request",                             "RFC 9110 15.6.4")     \
  /* --- our own side broke a rule: the application, or this server --- */                                               \
  X(STATE,                             0, "not allowed in the present state of the connection",   "RFC 9112 9")          \
  X(STATUS,                            0, "status code not allowed here",                         "RFC 9110 15")         \
  X(RESPONSE_FIELD_NAME,               0, "response field name is not a token",                   "RFC 9110 5.1")        \
  X(RESPONSE_FIELD_VALUE,              0, "control character in a response field value",          "RFC 9110 5.5")        \
  X(RESPONSE_REASON,                   0, "control character in a reason phrase",                 "RFC 9112 4")          \
  X(RESPONSE_FRAMING,                  0, "malformed or conflicting response framing field",      "RFC 9112 6.3")        \
  X(RESPONSE_TOO_LONG,                 0, "more body than Content-Length declared",               "RFC 9112 6.3")        \
  X(RESPONSE_TOO_SHORT,                0, "less body than Content-Length declared",               "RFC 9112 6.3")        \
  X(NO_SPACE,                          0, "buffer too small",                                     "")

typedef enum {
#define FS_X(name, status, text, rule) FS_E_##name,
  FS_ERROR_TABLE(FS_X)
#undef FS_X
  FS_E_COUNT
} fs_error;

typedef struct {
  const char *name; /* lower case, as in the case book */
  uint16_t status;
  const char *text;
  const char *rule;
} fs_error_row;

/* The row of `error`; valid for ever. */
const fs_error_row *fs_error_info(fs_error error);

#endif
