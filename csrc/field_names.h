/* Room:    the field names known by number, and a perfect hash that recognises them.
 * Called:  by request.c, body.c, conn.c and the Python layer. Calls nobody.
 * Made:    from field_names.txt by field_names.py. Do not edit; run `python csrc/field_names.py`.
 * Rules:   field names are case-insensitive (RFC 9110 section 5.1).
 */
#ifndef FS_FIELD_NAMES_H
#define FS_FIELD_NAMES_H

#include "base.h"

typedef enum {
  FS_FIELD_UNKNOWN = 0,
  FS_FIELD_HOST,
  FS_FIELD_CONNECTION,
  FS_FIELD_CONTENT_LENGTH,
  FS_FIELD_TRANSFER_ENCODING,
  FS_FIELD_EXPECT,
  FS_FIELD_UPGRADE,
  FS_FIELD_FORWARDED,
  FS_FIELD_X_FORWARDED_FOR,
  FS_FIELD_X_FORWARDED_HOST,
  FS_FIELD_X_FORWARDED_PORT,
  FS_FIELD_X_FORWARDED_PREFIX,
  FS_FIELD_X_FORWARDED_PROTO,
  FS_FIELD_KEEP_ALIVE,
  FS_FIELD_TE,
  FS_FIELD_TRAILER,
  FS_FIELD_PROXY_CONNECTION,
  FS_FIELD_HTTP2_SETTINGS,
  FS_FIELD_ACCEPT,
  FS_FIELD_ACCEPT_CHARSET,
  FS_FIELD_ACCEPT_ENCODING,
  FS_FIELD_ACCEPT_LANGUAGE,
  FS_FIELD_ACCESS_CONTROL_REQUEST_HEADERS,
  FS_FIELD_ACCESS_CONTROL_REQUEST_METHOD,
  FS_FIELD_AUTHORIZATION,
  FS_FIELD_CACHE_CONTROL,
  FS_FIELD_CDN_LOOP,
  FS_FIELD_CONTENT_ENCODING,
  FS_FIELD_CONTENT_TYPE,
  FS_FIELD_COOKIE,
  FS_FIELD_DATE,
  FS_FIELD_DNT,
  FS_FIELD_FROM,
  FS_FIELD_IF_MATCH,
  FS_FIELD_IF_MODIFIED_SINCE,
  FS_FIELD_IF_NONE_MATCH,
  FS_FIELD_IF_RANGE,
  FS_FIELD_IF_UNMODIFIED_SINCE,
  FS_FIELD_LAST_EVENT_ID,
  FS_FIELD_MAX_FORWARDS,
  FS_FIELD_ORIGIN,
  FS_FIELD_PRAGMA,
  FS_FIELD_PRIORITY,
  FS_FIELD_PROXY_AUTHORIZATION,
  FS_FIELD_PURPOSE,
  FS_FIELD_RANGE,
  FS_FIELD_REFERER,
  FS_FIELD_SEC_CH_UA,
  FS_FIELD_SEC_CH_UA_MOBILE,
  FS_FIELD_SEC_CH_UA_PLATFORM,
  FS_FIELD_SEC_FETCH_DEST,
  FS_FIELD_SEC_FETCH_MODE,
  FS_FIELD_SEC_FETCH_SITE,
  FS_FIELD_SEC_FETCH_USER,
  FS_FIELD_SEC_GPC,
  FS_FIELD_SEC_PURPOSE,
  FS_FIELD_SEC_WEBSOCKET_EXTENSIONS,
  FS_FIELD_SEC_WEBSOCKET_KEY,
  FS_FIELD_SEC_WEBSOCKET_PROTOCOL,
  FS_FIELD_SEC_WEBSOCKET_VERSION,
  FS_FIELD_TRACEPARENT,
  FS_FIELD_TRACESTATE,
  FS_FIELD_UPGRADE_INSECURE_REQUESTS,
  FS_FIELD_USER_AGENT,
  FS_FIELD_VIA,
  FS_FIELD_X_REAL_IP,
  FS_FIELD_X_REQUEST_ID,
  FS_FIELD_X_REQUESTED_WITH,
  FS_FIELD_CONTENT_DISPOSITION,
  FS_FIELD_CONTENT_LANGUAGE,
  FS_FIELD_CONTENT_LOCATION,
  FS_FIELD_CONTENT_RANGE,
  FS_FIELD_AGE,
  FS_FIELD_AUTHENTICATION_INFO,
  FS_FIELD_SET_COOKIE,
  FS_FIELD_WWW_AUTHENTICATE,
  FS_FIELD_COUNT
} fs_field_name;

enum { FS_FIELD_LEN_MIN = 2, FS_FIELD_LEN_MAX = 30 };

/* Lower case, padded with NULs. */
static const char fs_field_text[FS_FIELD_COUNT][32] = {
  "",
  "host",
  "connection",
  "content-length",
  "transfer-encoding",
  "expect",
  "upgrade",
  "forwarded",
  "x-forwarded-for",
  "x-forwarded-host",
  "x-forwarded-port",
  "x-forwarded-prefix",
  "x-forwarded-proto",
  "keep-alive",
  "te",
  "trailer",
  "proxy-connection",
  "http2-settings",
  "accept",
  "accept-charset",
  "accept-encoding",
  "accept-language",
  "access-control-request-headers",
  "access-control-request-method",
  "authorization",
  "cache-control",
  "cdn-loop",
  "content-encoding",
  "content-type",
  "cookie",
  "date",
  "dnt",
  "from",
  "if-match",
  "if-modified-since",
  "if-none-match",
  "if-range",
  "if-unmodified-since",
  "last-event-id",
  "max-forwards",
  "origin",
  "pragma",
  "priority",
  "proxy-authorization",
  "purpose",
  "range",
  "referer",
  "sec-ch-ua",
  "sec-ch-ua-mobile",
  "sec-ch-ua-platform",
  "sec-fetch-dest",
  "sec-fetch-mode",
  "sec-fetch-site",
  "sec-fetch-user",
  "sec-gpc",
  "sec-purpose",
  "sec-websocket-extensions",
  "sec-websocket-key",
  "sec-websocket-protocol",
  "sec-websocket-version",
  "traceparent",
  "tracestate",
  "upgrade-insecure-requests",
  "user-agent",
  "via",
  "x-real-ip",
  "x-request-id",
  "x-requested-with",
  "content-disposition",
  "content-language",
  "content-location",
  "content-range",
  "age",
  "authentication-info",
  "set-cookie",
  "www-authenticate",
};

static const uint8_t fs_field_text_len[FS_FIELD_COUNT] = {
  0, 4, 10, 14, 17, 6, 7, 9, 15, 16, 16, 18, 17, 10, 2, 7, 16, 14, 6, 14, 15, 15, 30, 29,
  13, 13, 8, 16, 12, 6, 4, 3, 4, 8, 17, 13, 8, 19, 13, 12, 6, 6, 8, 19, 7, 5, 7, 9,
  16, 18, 14, 14, 14, 14, 7, 11, 24, 17, 22, 21, 11, 10, 25, 10, 3, 9, 12, 16, 19, 16, 16, 13,
  3, 19, 10, 16,
};

/* Hash -> fs_field_name; FS_FIELD_UNKNOWN where no name falls. */
static const uint8_t fs_field_slot[256] = {
  0, 65, 1, 0, 35, 0, 5, 0, 0, 10, 0, 14, 32, 70, 0, 0, 0, 0, 0, 0, 0, 0, 0, 41, 74, 0, 0, 0, 0, 0, 0, 37,
  0, 30, 0, 13, 0, 0, 0, 25, 0, 0, 0, 48, 33, 66, 54, 0, 0, 0, 0, 0, 0, 0, 39, 0, 0, 0, 0, 4, 0, 0, 0, 40,
  0, 0, 6, 68, 0, 27, 0, 0, 0, 0, 0, 46, 0, 0, 17, 0, 36, 0, 0, 0, 56, 0, 0, 0, 0, 72, 0, 18, 0, 0, 0, 0,
  0, 16, 0, 0, 0, 0, 0, 67, 55, 0, 0, 0, 34, 0, 0, 0, 61, 12, 0, 0, 47, 0, 0, 0, 0, 0, 0, 75, 0, 23, 0, 71,
  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 52, 0, 0, 0, 0, 0, 0, 73, 0, 0, 0, 0, 60, 0, 0, 2, 0, 0, 0, 0, 0,
  0, 8, 0, 0, 0, 26, 0, 0, 0, 0, 0, 0, 0, 38, 0, 0, 0, 0, 28, 0, 29, 62, 0, 0, 0, 15, 0, 0, 24, 0, 3, 0,
  0, 0, 50, 0, 59, 0, 53, 69, 0, 31, 0, 0, 0, 0, 0, 0, 0, 58, 9, 0, 0, 0, 0, 7, 0, 20, 0, 0, 44, 11, 0, 0,
  0, 64, 19, 0, 22, 42, 0, 0, 0, 0, 0, 0, 57, 43, 0, 0, 0, 0, 0, 0, 0, 49, 0, 21, 45, 0, 0, 0, 0, 63, 51, 0,
};

/* Are these 8 bytes the same, but for the case of letters in `p`? A byte of `text` is a lower-case letter, a digit or
 * '-'; only letters have bit 0x40. That bit, moved to 0x20, folds p's byte where a letter is wanted and nowhere else,
 * and x | 0x20 is a given lower-case letter for that letter's two cases alone. */
FS_INLINE bool fs_field_same(uint64_t p, uint64_t text) {
  return (p | (text & UINT64_C(0x4040404040404040)) >> 1) == text;
}

FS_INLINE uint64_t fs_field_load(const void *p, size_t n) {
  uint64_t word = 0;
  memcpy(&word, p, n);
  return word;
}

/* `len` is the length of both. Words of 8, 4 or 2 bytes, the last one ending where the name does. */
FS_INLINE bool fs_field_equal(const uint8_t *name, const char *text, size_t len) {
  if (len >= 8) {
    for (size_t i = 0; i + 8 < len; i += 8) {
      if (!fs_field_same(fs_field_load(name + i, 8), fs_field_load(text + i, 8))) return false;
    }
    return fs_field_same(fs_field_load(name + len - 8, 8), fs_field_load(text + len - 8, 8));
  }
  if (len >= 4) {
    return fs_field_same(fs_field_load(name, 4), fs_field_load(text, 4)) &&
           fs_field_same(fs_field_load(name + len - 4, 4), fs_field_load(text + len - 4, 4));
  }
  return fs_field_same(fs_field_load(name, 2), fs_field_load(text, 2)) &&
         fs_field_same(fs_field_load(name + len - 2, 2), fs_field_load(text + len - 2, 2));
}

/* The number of a field name in any case, or FS_FIELD_UNKNOWN. Three bytes and the length choose the one candidate. */
static inline uint16_t fs_field_id(const uint8_t *name, size_t len) {
  if (len - FS_FIELD_LEN_MIN > FS_FIELD_LEN_MAX - FS_FIELD_LEN_MIN) return FS_FIELD_UNKNOWN; /* wraps for shorter */
  uint32_t key = (uint32_t)name[0] | (uint32_t)name[len - 2] << 8 |
                 (uint32_t)name[(len - 1) >> 1] << 16 | (uint32_t)len << 24;
  uint16_t id = fs_field_slot[(uint32_t)((key | 0x202020) * UINT32_C(0x1CC8CD0D)) >> 24];
  if (fs_field_text_len[id] != len) return FS_FIELD_UNKNOWN;
  return fs_field_equal(name, fs_field_text[id], len) ? id : FS_FIELD_UNKNOWN;
}

#endif
