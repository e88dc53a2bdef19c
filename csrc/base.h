/* Ground stones of the core: spans, limits, compiler hints.
 *
 * Room:    shared by every file in csrc/; nothing here does anything.
 * Called:  by everybody. Calls nobody.
 * Rules:   (pointer, length) in; offsets, events or bytes out. No Python.h, no malloc, no sockets, no clock, no stdio.
 */
#ifndef FS_BASE_H
#define FS_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) || defined(__clang__)
#define FS_LIKELY(x) __builtin_expect(!!(x), 1)
#define FS_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define FS_INLINE static inline __attribute__((always_inline, unused))
#define FS_NOINLINE __attribute__((noinline))
#define FS_TARGET(isa) __attribute__((target(isa)))
#else
#define FS_LIKELY(x) (x)
#define FS_UNLIKELY(x) (x)
#define FS_INLINE static inline
#define FS_NOINLINE
#define FS_TARGET(isa)
#endif

/* Assertions are for our mistakes, errors for the world's. Compiled in by -DFS_ASSERTIONS (ctest, fuzz, debug builds). */
#if defined(FS_ASSERTIONS)
#define FS_ASSERT(x) ((x) ? (void)0 : __builtin_trap())
#define FS_UNREACHABLE __builtin_trap()
#else
#define FS_ASSERT(x) ((void)0)
#if defined(__GNUC__) || defined(__clang__)
#define FS_UNREACHABLE __builtin_unreachable()
#else
#define FS_UNREACHABLE ((void)0)
#endif
#endif

/* A piece of the caller's buffer: `off` counts from the pointer the caller passed. */
typedef struct {
  uint32_t off;
  uint32_t len;
} fs_span;

#define FS_UNLIMITED UINT64_MAX

/* Every number that bounds what a peer can make us hold. Given once, read-only, shared by all connections.
 * Neighbours' defaults: nginx 4 x 8 KiB of head; Go 1 MiB; Apache 100 fields of 8190; hyper 100 fields, 400 KiB. */
typedef struct {
  uint32_t request_line_bytes_max;    /* method SP target SP version, without CRLF; over it: 414 */
  uint32_t head_bytes_max;            /* request line + fields + empty line; over it: 431 */
  uint32_t fields_max;                /* header fields; over it: 431. Also the bound for trailer fields. */
  uint32_t leading_crlf_max;          /* empty lines skipped before a request line (RFC 9112 section 2.2) */
  uint64_t body_bytes_max;            /* decoded body; over it: 413. FS_UNLIMITED for none. */
  uint32_t chunk_ext_bytes_max;       /* all chunk extensions of one body together */
  uint32_t trailer_bytes_max;         /* the whole trailer section */
  uint32_t drain_bytes_max;           /* unread body that is read and dropped to save a connection */
} fs_limits;

#define FS_LIMITS_DEFAULT                                                                                    \
  {                                                                                                          \
    .request_line_bytes_max = 8192, .head_bytes_max = 65536, .fields_max = 100, .leading_crlf_max = 4,       \
    .body_bytes_max = FS_UNLIMITED, .chunk_ext_bytes_max = 16384, .trailer_bytes_max = 16384,                \
    .drain_bytes_max = 65536                                                                                 \
  }

#endif
