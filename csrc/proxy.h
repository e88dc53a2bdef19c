/* What a proxy says of its client in front of the first request (PROXY protocol), and addresses in text.
 *
 * Room:    bytes in, an address out. Whether that proxy is to be believed, the caller knows.
 * Called:  by the Connection, for peers it trusts; by forwarded.pyx. Calls nobody.
 * Rules:   HAProxy's PROXY protocol, versions 1 and 2; RFC 3986 section 3.2.2 (IPv4address, IPv6address).
 */
#ifndef FS_PROXY_H
#define FS_PROXY_H

#include "base.h"

/* IPv4 addresses are kept mapped (::ffff:1.2.3.4), so that one comparison serves both families. */
typedef struct {
  uint8_t bytes[16];
} fs_address;

typedef struct {
  uint8_t family; /* 4 or 6; 0: the header gives no address (UNKNOWN, LOCAL, AF_UNSPEC, AF_UNIX), the connection's own holds */
  uint16_t source_port, destination_port;
  fs_address source, destination;
} fs_proxy;

#define FS_PROXY_V1_MAX 107 /* "PROXY UNKNOWN ffff:..." with both longest addresses and ports, CRLF included */

/* The header at `data`. Its length if it is whole, 0 if more is needed, -1 if it is none. Nothing behind it is read. */
int32_t fs_proxy_parse(const uint8_t *data, size_t len, fs_proxy *out);

/* The address that `p` is the text of. 4 or 6, or 0 if it is none. No zone, no brackets, no leading zeros in IPv4. */
unsigned fs_address_parse(const uint8_t *p, size_t len, fs_address *out);

/* Are the first `bits` (0 to 128) the same? */
bool fs_address_within(const fs_address *address, const fs_address *network, unsigned bits);

#endif
