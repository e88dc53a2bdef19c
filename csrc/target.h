/* The request target: which of its four forms, and where its parts lie.
 *
 * Room:    RFC 9112 section 3.2; host syntax of RFC 3986 section 3.2.2; percent-decoding of RFC 3986 section 2.1.
 * Called:  by request.c (form, authority, Host check) and by the Request (decoding). Calls nobody.
 */
#ifndef FS_TARGET_H
#define FS_TARGET_H

#include "base.h"
#include "errors.h"

typedef enum {
  FS_TARGET_ORIGIN,    /* /path?query */
  FS_TARGET_ABSOLUTE,  /* http://authority/path?query */
  FS_TARGET_AUTHORITY, /* host:port, CONNECT only */
  FS_TARGET_ASTERISK,  /* *, OPTIONS only */
} fs_target_form;

typedef struct {
  uint8_t form;     /* fs_target_form */
  bool has_query;   /* a '?' is present, even if nothing follows */
  bool has_percent; /* the path holds a '%' and wants decoding */
  fs_span scheme;   /* absolute-form only; spans count from the first byte of the target */
  fs_span authority;/* absolute-form (host [":" port]) and authority-form */
  fs_span path;     /* empty in absolute-form without a path: stands for "/"; "*" in asterisk-form */
  fs_span query;    /* without the '?' */
} fs_target;

/* Split a target whose bytes were already checked by fs_scan->target. FS_E_NONE, or FS_E_TARGET_FORM, FS_E_TARGET_URI,
 * FS_E_TARGET_AUTHORITY. Absolute-form: http or https (any case), no userinfo, non-empty host. Authority-form: host ":"
 * port, both non-empty. `options`, `connect`: the method is exactly that. */
fs_error fs_target_parse(const uint8_t *p, size_t len, bool connect, bool options, fs_target *out);

/* Is [p, p+len) uri-host [":" port] (RFC 9110 7.2)? Empty text is not; a port is digits only, at most 65535, may be empty. */
bool fs_host_valid(const uint8_t *p, size_t len);

/* Percent-decode into `out` (room for `len` bytes); returns the number of bytes written. An escape that is not two hex
 * digits is kept as it stands. `out` may be `p` itself. */
size_t fs_percent_decode(const uint8_t *p, size_t len, uint8_t *out);

#endif
