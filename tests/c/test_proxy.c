/* Room:    tests of the PROXY protocol and of addresses in text.
 * Called:  by `make ctest`.
 * Calls:   csrc/proxy.c.
 * Rules:   HAProxy's PROXY protocol, sections 2.1 and 2.2; RFC 3986 section 3.2.2; RFC 4291 section 2.2 (the examples).
 */
#include "harness.h"

#include "../../csrc/proxy.h"

typedef struct {
  const char *text;
  unsigned family;
  uint8_t bytes[16];
} address_row;

#define V4(a, b, c, d) {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d}

static const address_row addresses[] = {
  {"0.0.0.0", 4, V4(0, 0, 0, 0)},
  {"127.0.0.1", 4, V4(127, 0, 0, 1)},
  {"255.255.255.255", 4, V4(255, 255, 255, 255)},
  {"::", 6, {0}},
  {"::1", 6, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}},
  {"1::", 6, {0, 1}},
  {"2001:DB8:0:0:8:800:200C:417A", 6, {0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 8, 8, 0, 0x20, 0xc, 0x41, 0x7a}},
  {"2001:db8::8:800:200c:417a", 6, {0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 8, 8, 0, 0x20, 0xc, 0x41, 0x7a}},
  {"1:2:3:4:5:6:7::", 6, {0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7}},
  {"::2:3:4:5:6:7:8", 6, {0, 0, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8}},
  {"::ffff:1.2.3.4", 6, V4(1, 2, 3, 4)},
  {"64:ff9b::192.0.2.33", 6, {0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, 192, 0, 2, 33}},
  {"1:2:3:4:5:6:7.8.9.10", 6, {0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 7, 8, 9, 10}},
};

static const char *const no_addresses[] = {
  "", "1", "1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.4", "1.2.3.04", "1.2.3.4 ", " 1.2.3.4", "1.2.3.4:80", "a.b.c.d", "1..2.3",
  ":", ":::", "1:", ":1", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8::", "::1:2:3:4:5:6:7:8", "1::2::3", "12345::",
  "g::", "[::1]", "::1%eth0", "1:2:3:4:5:6:7:8.9.10.11", "::1.2.3", "::1.2.3.4:5", "::1.2.3.4.5", "localhost", "unknown",
  "0000:0000:0000:0000:0000:ffff:255.255.255.2555",
};

static void test_addresses(void) {
  fs_address got;
  for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++) {
    const address_row *row = &addresses[i];
    size_t len = strlen(row->text);
    bool good = CHECK_INT(fs_address_parse(guard_end(row->text, len), len, &got), row->family);
    good = good && CHECK(memcmp(got.bytes, row->bytes, 16) == 0);
    if (!good) printf("  at %s\n", row->text);
  }
  for (size_t i = 0; i < sizeof no_addresses / sizeof *no_addresses; i++) {
    size_t len = strlen(no_addresses[i]);
    if (!CHECK_INT(fs_address_parse(guard_end(no_addresses[i], len), len, &got), 0)) printf("  at %s\n", no_addresses[i]);
  }
}

static void test_within(void) {
  static const struct { const char *address, *network; unsigned bits; bool in; } rows[] = {
    {"10.1.2.3", "10.0.0.0", 96 + 8, true},     {"11.1.2.3", "10.0.0.0", 96 + 8, false},
    {"10.1.2.3", "10.1.2.3", 128, true},        {"10.1.2.2", "10.1.2.3", 128, false},
    {"10.1.2.2", "10.1.2.3", 127, true},        {"172.31.255.255", "172.16.0.0", 96 + 12, true},
    {"172.32.0.0", "172.16.0.0", 96 + 12, false}, {"2001:db8::1", "2001:db8::", 32, true},
    {"2001:db9::1", "2001:db8::", 32, false},   {"::ffff:10.1.2.3", "10.0.0.0", 96 + 8, true},
    {"1.2.3.4", "::", 0, true},                 {"1.2.3.4", "0.0.0.0", 96, true},
    {"::1", "0.0.0.0", 96, false},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    fs_address a, n;
    CHECK(fs_address_parse((const uint8_t *)rows[i].address, strlen(rows[i].address), &a) != 0);
    CHECK(fs_address_parse((const uint8_t *)rows[i].network, strlen(rows[i].network), &n) != 0);
    if (!CHECK_INT(fs_address_within(&a, &n, rows[i].bits), rows[i].in)) printf("  at %s\n", rows[i].address);
  }
}

/* Whole, at every split, with bytes behind it. */
static void expect(const void *header, size_t len, int32_t answer, unsigned family, const char *source, unsigned sport,
                   const char *destination, unsigned dport, const char *name) {
  fs_proxy got;
  fs_address wanted;
  bool good = true;
  if (answer < 0) {
    good = CHECK_INT(fs_proxy_parse(guard_end(header, len), len, &got), -1);
  } else {
    uint8_t more[300];
    for (size_t cut = 0; cut < len; cut++) good &= CHECK_INT(fs_proxy_parse(guard_end(header, cut), cut, &got), 0);
    good &= CHECK_INT(fs_proxy_parse(guard_end(header, len), len, &got), (long long)len);
    if (len + 20 <= sizeof more) {
      memcpy(more, header, len);
      memcpy(more + len, "GET / HTTP/1.1\r\n\r\nPR", 20);
      good &= CHECK_INT(fs_proxy_parse(guard_end(more, len + 20), len + 20, &got), (long long)len);
    }
    good &= CHECK_INT(got.family, family);
    if (family != 0) {
      fs_address_parse((const uint8_t *)source, strlen(source), &wanted);
      good &= CHECK(memcmp(wanted.bytes, got.source.bytes, 16) == 0);
      good &= CHECK_INT(got.source_port, sport);
      fs_address_parse((const uint8_t *)destination, strlen(destination), &wanted);
      good &= CHECK(memcmp(wanted.bytes, got.destination.bytes, 16) == 0);
      good &= CHECK_INT(got.destination_port, dport);
    }
  }
  if (!good) printf("  at %s\n", name);
}

static void good_line(const char *text, unsigned family, const char *source, unsigned sport, const char *destination,
                      unsigned dport) {
  expect(text, strlen(text), 1, family, source, sport, destination, dport, text);
}

static void bad_line(const char *text) { expect(text, strlen(text), -1, 0, NULL, 0, NULL, 0, text); }

static void test_version_1(void) {
  good_line("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", 4, "192.0.2.1", 56324, "198.51.100.2", 443);
  good_line("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", 4, "255.255.255.255", 65535, "255.255.255.255", 65535);
  good_line("PROXY TCP6 2001:db8::1 ::1 0 1\r\n", 6, "2001:db8::1", 0, "::1", 1);
  good_line("PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", 6,
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535);
  good_line("PROXY UNKNOWN\r\n", 0, NULL, 0, NULL, 0);
  good_line("PROXY UNKNOWN anything at all\r\n", 0, NULL, 0, NULL, 0);
  good_line("PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", 0,
            NULL, 0, NULL, 0);
  bad_line("GET / HTTP/1.1\r\n");
  bad_line("POST");
  bad_line("PROXZ");
  bad_line("proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n");
  bad_line("PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n");
  bad_line("PROXY TCP41.2.3.4 1.2.3.4 1 2\r\n");
  bad_line("PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n");
  bad_line("PROXY UNKNOWNS\r\n");
  bad_line("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n");
  bad_line("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n");
  bad_line("PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n");
  bad_line("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n");
  bad_line("PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n");
  bad_line("PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n");
  bad_line("PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n");
  bad_line("PROXY TCP4 ::1 ::1 1 2\r\n");
  bad_line("PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n");
  bad_line("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rX");
  bad_line("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\r\n");
  bad_line("PROXY UNKNOWN 0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
           "0123456789\r\n"); /* 107 bytes at most */
}

static size_t binary(uint8_t *out, uint8_t command, uint8_t family, const void *body, size_t len) {
  memcpy(out, "\r\n\r\n\0\r\nQUIT\n", 12);
  out[12] = command;
  out[13] = family;
  out[14] = (uint8_t)(len >> 8);
  out[15] = (uint8_t)len;
  if (len != 0) memcpy(out + 16, body, len);
  return 16 + len;
}

static void test_version_2(void) {
  static const uint8_t four[] = {192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 4, 1, 0xbb};
  static uint8_t six[36] = {0x20, 1, 0xd, 0xb8};
  uint8_t header[600], tlvs[60], local[216] = {0};
  size_t n;
  six[15] = 1;
  six[31] = 1;
  six[33] = 80;
  six[34] = six[35] = 0xff;
  n = binary(header, 0x21, 0x11, four, sizeof four);
  expect(header, n, 1, 4, "192.0.2.1", 56324, "198.51.100.2", 443, "TCP4");
  n = binary(header, 0x21, 0x21, six, sizeof six);
  expect(header, n, 1, 6, "2001:db8::1", 80, "::1", 65535, "TCP6");
  memcpy(tlvs, four, sizeof four);
  memset(tlvs + sizeof four, 4, sizeof tlvs - sizeof four);
  n = binary(header, 0x21, 0x11, tlvs, sizeof tlvs);
  expect(header, n, 1, 4, "192.0.2.1", 56324, "198.51.100.2", 443, "TCP4 with TLVs");
  n = binary(header, 0x20, 0x00, NULL, 0);
  expect(header, n, 1, 0, NULL, 0, NULL, 0, "LOCAL");
  n = binary(header, 0x20, 0x11, four, sizeof four);
  expect(header, n, 1, 0, NULL, 0, NULL, 0, "LOCAL with addresses");
  n = binary(header, 0x21, 0x00, four, 5);
  expect(header, n, 1, 0, NULL, 0, NULL, 0, "AF_UNSPEC");
  n = binary(header, 0x21, 0x31, local, sizeof local);
  expect(header, n, 1, 0, NULL, 0, NULL, 0, "AF_UNIX");
  n = binary(header, 0x21, 0x12, four, sizeof four);
  expect(header, n, 1, 0, NULL, 0, NULL, 0, "datagrams");
  n = binary(header, 0x21, 0x11, four, sizeof four - 1);
  expect(header, n, -1, 0, NULL, 0, NULL, 0, "TCP4 too short");
  n = binary(header, 0x21, 0x21, six, sizeof six - 1);
  expect(header, n, -1, 0, NULL, 0, NULL, 0, "TCP6 too short");
  n = binary(header, 0x11, 0x11, four, sizeof four);
  expect(header, n, -1, 0, NULL, 0, NULL, 0, "version 1 in binary");
  n = binary(header, 0x22, 0x11, four, sizeof four);
  expect(header, n, -1, 0, NULL, 0, NULL, 0, "no such command");
  n = binary(header, 0x21, 0x41, four, sizeof four);
  expect(header, n, -1, 0, NULL, 0, NULL, 0, "no such family");
  n = binary(header, 0x21, 0x13, four, sizeof four);
  expect(header, n, -1, 0, NULL, 0, NULL, 0, "no such transport");
  expect("\r\n\r\nGET", 7, -1, 0, NULL, 0, NULL, 0, "no signature");
  memset(tlvs, 0, sizeof tlvs); /* the longest: 65535 behind the first 16 bytes */
  n = binary(header, 0x20, 0, NULL, 0);
  header[14] = header[15] = 0xff;
  fs_proxy got;
  CHECK_INT(fs_proxy_parse(header, n, &got), 0);
}

static const harness_test tests[] = {
  {"addresses", test_addresses},
  {"within", test_within},
  {"version 1", test_version_1},
  {"version 2", test_version_2},
};

HARNESS_MAIN(tests)
