/* Room:    tests of the request target, host syntax and percent-decoding.
 * Called:  by `make ctest`.
 * Calls:   csrc/target.c.
 * Rules:   RFC 9112 section 3.2; RFC 9110 section 7.2; RFC 3986 sections 2.1 and 3.2.
 */
#include "harness.h"

#include "../../csrc/target.h"

enum { GET, OPTIONS, CONNECT };

typedef struct {
  int method;
  const char *target;
  fs_error error;
  int form;
  const char *scheme, *authority, *path, *query; /* query NULL: no '?' */
} target_row;

#define ORIGIN(target, path, query) {GET, target, FS_E_NONE, FS_TARGET_ORIGIN, "", "", path, query}
#define ABSOLUTE(target, scheme, authority, path, query) \
  {GET, target, FS_E_NONE, FS_TARGET_ABSOLUTE, scheme, authority, path, query}
#define CONNECT_TO(target) {CONNECT, target, FS_E_NONE, FS_TARGET_AUTHORITY, "", target, "", NULL}
#define BAD(method, target, error) {method, target, error, 0, NULL, NULL, NULL, NULL}

static const target_row targets[] = {
  ORIGIN("/", "/", NULL),
  ORIGIN("/?", "/", ""),
  ORIGIN("/a/b?c=d&e", "/a/b", "c=d&e"),
  ORIGIN("/a?b?c", "/a", "b?c"),
  ORIGIN("//a//b", "//a//b", NULL),
  ORIGIN("/http://a/", "/http://a/", NULL),
  ORIGIN("/%41?%42", "/%41", "%42"),
  ORIGIN("/a?%42", "/a", "%42"),
  ORIGIN("/*", "/*", NULL),
  ORIGIN("/a|b{c}\"<>\\^`", "/a|b{c}\"<>\\^`", NULL),
  {OPTIONS, "/x?y", FS_E_NONE, FS_TARGET_ORIGIN, "", "", "/x", "y"},

  {OPTIONS, "*", FS_E_NONE, FS_TARGET_ASTERISK, "", "", "*", NULL},
  BAD(GET, "*", FS_E_TARGET_FORM),
  BAD(OPTIONS, "**", FS_E_TARGET_FORM),
  BAD(OPTIONS, "*?a", FS_E_TARGET_FORM),

  ABSOLUTE("http://a", "http", "a", "", NULL),
  ABSOLUTE("http://a/", "http", "a", "/", NULL),
  ABSOLUTE("https://a.example:8080/b?c", "https", "a.example:8080", "/b", "c"),
  ABSOLUTE("HTTP://A/", "HTTP", "A", "/", NULL),
  ABSOLUTE("hTtPs://A?", "hTtPs", "A", "", ""),
  ABSOLUTE("http://a?b=/c", "http", "a", "", "b=/c"),
  ABSOLUTE("http://a:/", "http", "a:", "/", NULL),
  ABSOLUTE("http://[::1]:80/x%20y", "http", "[::1]:80", "/x%20y", NULL),
  ABSOLUTE("http://a/b@c:d", "http", "a", "/b@c:d", NULL),
  ABSOLUTE("http://a//", "http", "a", "//", NULL),
  {OPTIONS, "http://a", FS_E_NONE, FS_TARGET_ABSOLUTE, "http", "a", "", NULL},
  BAD(GET, "http://", FS_E_TARGET_URI),
  BAD(GET, "http:///a", FS_E_TARGET_URI),
  BAD(GET, "http://?a", FS_E_TARGET_URI),
  BAD(GET, "http://:80/", FS_E_TARGET_URI),
  BAD(GET, "http://u@a/", FS_E_TARGET_URI),
  BAD(GET, "http://u:p@a/", FS_E_TARGET_URI),
  BAD(GET, "http://@a/", FS_E_TARGET_URI),
  BAD(GET, "http://a:65536/", FS_E_TARGET_URI),
  BAD(GET, "http://a:b/", FS_E_TARGET_URI),
  BAD(GET, "http://a:80:80/", FS_E_TARGET_URI),
  BAD(GET, "http://a%2/", FS_E_TARGET_URI),
  BAD(GET, "http://a\\b/", FS_E_TARGET_URI),
  BAD(GET, "http://[::1/", FS_E_TARGET_URI),
  BAD(GET, "ftp://a/", FS_E_TARGET_URI),
  BAD(GET, "ws://a/", FS_E_TARGET_URI),
  BAD(GET, "httpx://a/", FS_E_TARGET_URI),
  BAD(GET, "htt://a/", FS_E_TARGET_URI),
  BAD(GET, "h2+x-y.z://a/", FS_E_TARGET_URI),
  BAD(GET, "", FS_E_TARGET_FORM),
  BAD(GET, "a", FS_E_TARGET_FORM),
  BAD(GET, "?a", FS_E_TARGET_FORM),
  BAD(GET, "a/b", FS_E_TARGET_FORM),
  BAD(GET, "a:80", FS_E_TARGET_FORM),
  BAD(GET, "http", FS_E_TARGET_FORM),
  BAD(GET, "http:", FS_E_TARGET_FORM),
  BAD(GET, "http:/", FS_E_TARGET_FORM),
  BAD(GET, "http:/a", FS_E_TARGET_FORM),
  BAD(GET, "://a/", FS_E_TARGET_FORM),
  BAD(GET, "1http://a/", FS_E_TARGET_FORM),
  BAD(GET, "+http://a/", FS_E_TARGET_FORM),
  BAD(GET, "ht_tp://a/", FS_E_TARGET_FORM),
  BAD(GET, "a?b=http://c", FS_E_TARGET_FORM),
  BAD(GET, "mailto:a@b", FS_E_TARGET_FORM),

  CONNECT_TO("a:1"),
  CONNECT_TO("a.example:443"),
  CONNECT_TO("[::1]:443"),
  CONNECT_TO("192.0.2.1:65535"),
  CONNECT_TO("a:00080"),
  BAD(CONNECT, "", FS_E_TARGET_AUTHORITY),
  BAD(CONNECT, "a", FS_E_TARGET_AUTHORITY),
  BAD(CONNECT, "a:", FS_E_TARGET_AUTHORITY),
  BAD(CONNECT, ":443", FS_E_TARGET_AUTHORITY),
  BAD(CONNECT, "a:0", FS_E_TARGET_AUTHORITY),
  BAD(CONNECT, "a:000", FS_E_TARGET_AUTHORITY),
  BAD(CONNECT, "a:65536", FS_E_TARGET_AUTHORITY),
  BAD(CONNECT, "a:4294967376", FS_E_TARGET_AUTHORITY), /* 80 modulo 2^32 */
  BAD(CONNECT, "a:+80", FS_E_TARGET_AUTHORITY),
  BAD(CONNECT, "a:80a", FS_E_TARGET_AUTHORITY),
  BAD(CONNECT, "a:80/", FS_E_TARGET_AUTHORITY),
  BAD(CONNECT, "a:80?b", FS_E_TARGET_AUTHORITY),
  BAD(CONNECT, "u@a:80", FS_E_TARGET_AUTHORITY),
  BAD(CONNECT, "[::1]", FS_E_TARGET_AUTHORITY),
  BAD(CONNECT, "::1:443", FS_E_TARGET_AUTHORITY),
  BAD(CONNECT, "/", FS_E_TARGET_AUTHORITY),
  BAD(CONNECT, "*", FS_E_TARGET_AUTHORITY),
  BAD(CONNECT, "http://a/", FS_E_TARGET_AUTHORITY),
};

static void check_parts(const uint8_t *p, const target_row *row, const fs_target *parts) {
  CHECK_INT(parts->form, row->form);
  CHECK_TEXT(p + parts->scheme.off, parts->scheme.len, row->scheme);
  CHECK_TEXT(p + parts->authority.off, parts->authority.len, row->authority);
  CHECK_TEXT(p + parts->path.off, parts->path.len, row->path);
  CHECK_INT(parts->has_query, row->query != NULL);
  CHECK_TEXT(p + parts->query.off, parts->query.len, row->query != NULL ? row->query : "");
  CHECK_INT(parts->has_percent, strchr(row->path, '%') != NULL);
}

static void check_target(const uint8_t *p, size_t len, const target_row *row) {
  fs_target parts;
  memset(&parts, 0xAA, sizeof parts);
  unsigned long before = harness_failed;
  fs_error error = fs_target_parse(p, len, row->method == CONNECT, row->method == OPTIONS, &parts);
  if (CHECK_INT(error, row->error) && error == FS_E_NONE) check_parts(p, row, &parts);
  if (harness_failed > before) printf("  target \"%s\"\n", row->target);
}

static void target_forms(void) {
  for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++) {
    size_t len = strlen(targets[i].target);
    check_target(guard_end(targets[i].target, len), len, &targets[i]);
    check_target(guard_start(targets[i].target, len), len, &targets[i]);
  }
}

static const char *const good_hosts[] = {
  "a", "a.example", "A.EXAMPLE", "a.example.", "xn--bcher-kva.example", "a_b", "-", "~", "1", "localhost:8080", "a:",
  "a:0", "a:1", "a:65535", "a:00000080", "192.0.2.1", "192.0.2.1:80", "999.999.999.999", "1.2.3", "a!$&'()*+,;=b",
  "www.example.com:65535", "a.rather.long.name.example.com:8443", "a.rather.long.name.example.com:", "%41", "a%2Fb%ff:1", "[::]", "[::1]", "[::1]:80", "[::1]:", "[1::]", "[1::8]", "[2001:db8::a:B:c]",
  "[1:2:3:4:5:6:7:8]", "[1:2:3:4:5:6:7::]", "[::2:3:4:5:6:7:8]", "[1::3:4:5:6:7:8]", "[1:2:3:4:5:6::8]",
  "[0000:ffff:FFFF:1:22:333:4444:0]", "[::192.0.2.1]", "[::ffff:0.0.0.0]", "[::255.255.255.255]",
  "[1:2:3:4:5:6:192.0.2.1]", "[1::6:192.0.2.1]", "[1:2:3:4:5::192.0.2.1]", "[v1.a]", "[V1f.a:b]:80", "[v0.:]",
  "[vFF.!~]",
};

static const char *const bad_hosts[] = {
  "www.example.com:65536", "www.example.com:8080:", "www.example.com::80", "www.example.com:80a0", ":www.example.com",
  ":123456789", "a.rather.long.name.example.com:8443/", "a.rather/long.name.example.com", "", ":", ":80", "a b", "a:b", "a:80:80", "a::", "a:65536", "a:99999999999999999999", "a:4294967296", "a:-1", "a:+1",
  "a: 1", "a:8 ", "a/", "/", "a?", "a#", "a@b", "@a", "u:p@a", "a\\b", "a\"", "a<", "a|b", "a^b", "a`b", "a{", "%",
  "%4", "%4g", "%g4", "a%", "a%2", "a%zz", "a,b c", "\x7f", "a\x01", "\xc3\xa9", "a,b\t", " a", "a ", "[", "]", "[]",
  "[:]", "[::1", "::1", "[::1]80", "[::1]a", "[::1]]", "[[::1]]", "a[::1]", "[::1]:65536", "[::1]:a", "[:::]", "[:::1]",
  "[1:::8]", "[::1::]", "[1::2::3]", "[1:2:3:4:5:6:7]", "[1:2:3:4:5:6:7:8:9]", "[1:2:3:4:5:6:7:8::]",
  "[::1:2:3:4:5:6:7:8]", "[1:2:3:4::5:6:7:8]", "[1:2:3:4:5:6:7:]", "[:2:3:4:5:6:7:8]", "[1:2:3:4:5:6:7:8:]",
  "[12345::]", "[::12345]", "[::g]", "[::1%25eth0]", "[fe80::1%eth0]", "[::%31]", "[1]", "[1:]", "[:1]", "[a.example]",
  "[192.0.2.1]", "[::192.0.2]", "[::192.0.2.]", "[::192.0.2.1.1]", "[::192.0.2.256]", "[::192.0.2.01]", "[::00.0.0.0]",
  "[::1.2.3.a]", "[::1.2.3.4:5]", "[1.2.3.4::]", "[::1.2.3.1234]", "[::a.2.3.4]", "[::.1.2.3]",
  "[1:2:3:4:5:6:7:1.2.3.4]", "[1:2:3:4:5:1.2.3.4]", "[::2:3:4:5:6:7:1.2.3.4]", "[::1.2..4]", "[v.a]", "[v1]", "[v1.]",
  "[vg.a]", "[1.a]", "[v1.%41]", "[v1.a/]", "[v1.[]", "[v1.a@]", "[v]", "[ ::1]",
};

static void hosts(void) {
  for (size_t i = 0; i < sizeof good_hosts / sizeof good_hosts[0]; i++) {
    size_t len = strlen(good_hosts[i]);
    bool good = CHECK(fs_host_valid(guard_end(good_hosts[i], len), len));
    if (!good || !CHECK(fs_host_valid(guard_start(good_hosts[i], len), len))) printf("  host \"%s\"\n", good_hosts[i]);
  }
  for (size_t i = 0; i < sizeof bad_hosts / sizeof bad_hosts[0]; i++) {
    size_t len = strlen(bad_hosts[i]);
    bool good = CHECK(!fs_host_valid(guard_end(bad_hosts[i], len), len));
    if (!good || !CHECK(!fs_host_valid(guard_start(bad_hosts[i], len), len))) printf("  host \"%s\"\n", bad_hosts[i]);
  }
  CHECK(!fs_host_valid(NULL, 0));
  CHECK(!fs_host_valid((const uint8_t *)"a\0b", 3));
}

/* unreserved = ALPHA / DIGIT / "-" / "." / "_" / "~"; sub-delims = "!" / "$" / "&" / "'" / "(" / ")" / "*" / "+" / ","
 * / ";" / "=": these alone, or ':' before a port, or an escape. In hosts of every length up to 40, which are judged in blocks. */
static void every_byte_in_a_host(void) {
  const char *punctuation = "-._~!$&'()*+,;=";
  uint8_t host[40];
  memset(host, '1', sizeof host);
  for (size_t len = 1; len <= sizeof host; len++) {
    const uint8_t *guarded = guard_end(host, len);
    CHECK(fs_host_valid(guarded, len));
    for (size_t at = 0; at < len; at++) {
      size_t behind = len - 1 - at;
      for (int c = 0; c < 256; c++) {
        bool alnum = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z' && c < 128);
        bool port = c == ':' && at > 0 && behind <= 5; /* 11111 is one, 111111 is above 65535 */
        bool escape = c == '%' && behind >= 2;
        bool want = alnum || port || escape || (c != 0 && strchr(punctuation, c) != NULL);
        host[at] = (uint8_t)c;
        if (!CHECK_INT(fs_host_valid(guard_end(host, len), len), want)) printf("  byte 0x%02X at %zu of %zu\n", c, at, len);
      }
      host[at] = '1';
    }
  }
}

/* Every string of "1", ":" and "." up to 11 bytes against the nine alternatives of RFC 3986's IPv6address. */
static bool take_h16s(const char **p, int n) {
  for (; n > 0; n--) {
    if ((*p)[0] != '1' || (*p)[1] != ':') return false;
    *p += 2;
  }
  return true;
}

static bool is_ls32(const char *p) { return strcmp(p, "1:1") == 0 || strcmp(p, "1.1.1.1") == 0; }

static bool want_ipv6(const char *text) {
  const char *p = text;
  if (take_h16s(&p, 6) && is_ls32(p)) return true;
  for (int after = 5; after >= -2; after--) { /* h16s after "::" before ls32; -1: one h16 alone, -2: nothing */
    for (int before = 0; before <= 5 - after; before++) {
      p = text;
      if (before > 0 && !(take_h16s(&p, before - 1) && *p++ == '1')) continue;
      if (strncmp(p, "::", 2) != 0) continue;
      p += 2;
      if (after == -2 && *p == '\0') return true;
      if (after == -1 && strcmp(p, "1") == 0) return true;
      if (after >= 0 && take_h16s(&p, after) && is_ls32(p)) return true;
    }
  }
  return false;
}

static void ipv6_grammar(void) {
  char host[20] = "[";
  unsigned good = 0;
  for (int len = 1; len <= 11; len++) {
    int all = 1;
    for (int i = 0; i < len; i++) all *= 3;
    for (int n = 0; n < all; n++) {
      for (int i = 0, rest = n; i < len; i++, rest /= 3) host[1 + i] = "1:."[rest % 3];
      host[1 + len] = '\0';
      if (strstr(host, "11") != NULL) continue; /* groups of more digits have rows of their own */
      bool want = want_ipv6(host + 1);
      host[1 + len] = ']';
      good += want;
      if (!CHECK_INT(fs_host_valid((const uint8_t *)host, (size_t)len + 2), want)) printf("  %.*s\n", len + 2, host);
    }
  }
  CHECK(good > 20);
}

/* Longer ones, by number of groups: `before` groups, "::", `after` groups, an IPv4address or not. */
static void ipv6_lengths(void) {
  for (int shape = 0; shape < 10 * 10 * 2 * 2; shape++) {
    int before = shape % 10, after = shape / 10 % 10, elided = shape / 100 % 2, ipv4 = shape / 200;
    char host[160] = "[";
    if (!elided && before == 0) continue;
    for (int i = 0; i < before; i++) strcat(host, i > 0 ? ":1f" : "1f");
    if (elided) strcat(host, "::");
    else if (after + ipv4 > 0) strcat(host, ":");
    for (int i = 0; i < after; i++) strcat(host, i > 0 ? ":A" : "A");
    if (ipv4) strcat(host, after > 0 ? ":10.0.0.1" : "10.0.0.1");
    strcat(host, "]");
    int groups = before + after + 2 * ipv4;
    bool want = elided ? groups <= 7 : groups == 8;
    if (!CHECK_INT(fs_host_valid((const uint8_t *)host, strlen(host)), want)) printf("  %s\n", host);
  }
}

static const struct {
  const char *text, *decoded;
} escapes[] = {
  {"", ""}, {"a", "a"}, {"abc/def", "abc/def"}, {"%41", "A"}, {"%41%42%43", "ABC"}, {"a%20b", "a b"}, {"%2f%2F", "//"},
  {"%c3%A9", "\xc3\xa9"}, {"%ff%FF", "\xff\xff"}, {"%", "%"}, {"%4", "%4"}, {"a%", "a%"}, {"a%4", "a%4"}, {"%%", "%%"},
  {"%%41", "%A"}, {"%4%41", "%4A"}, {"%zz", "%zz"}, {"%4z", "%4z"}, {"%z4", "%z4"}, {"%@1", "%@1"}, {"%1`", "%1`"},
  {"%1G%1g", "%1G%1g"}, {"%:0%0:%/0%0/", "%:0%0:%/0%0/"}, {"%2541", "%41"}, {"%25", "%"}, {"%25%34%31", "%41"},
  {"+", "+"}, {"a+b%2Bc", "a+b+c"}, {"x%41y%", "xAy%"},
};

static void percent_decoding(void) {
  for (size_t i = 0; i < sizeof escapes / sizeof escapes[0]; i++) {
    size_t len = strlen(escapes[i].text);
    uint8_t out[64];
    size_t n = fs_percent_decode(guard_end(escapes[i].text, len), len, out);
    CHECK_TEXT(out, n, escapes[i].decoded);
    uint8_t *place = guard_end(escapes[i].text, len);
    n = fs_percent_decode(place, len, place);
    CHECK_TEXT(place, n, escapes[i].decoded);
    place = guard_start(escapes[i].text, len);
    n = fs_percent_decode(place, len, place);
    CHECK_TEXT(place, n, escapes[i].decoded);
  }
  CHECK_INT(fs_percent_decode(NULL, 0, NULL), 0);
}

static void every_escape(void) {
  for (int c = 0; c < 256; c++) {
    char text[4];
    uint8_t out[3];
    for (int upper = 0; upper < 2; upper++) {
      snprintf(text, sizeof text, upper ? "%%%02X" : "%%%02x", (unsigned)c);
      CHECK_INT(fs_percent_decode((const uint8_t *)text, 3, out), 1);
      CHECK_INT(out[0], c);
    }
  }
  for (int pair = 0; pair < 65536; pair++) { /* exactly 22 x 22 pairs are escapes */
    uint8_t text[3] = {'%', (uint8_t)pair, (uint8_t)(pair >> 8)}, out[3];
    const char *digits = "0123456789abcdefABCDEF";
    bool escape = memchr(digits, text[1], 22) != NULL && memchr(digits, text[2], 22) != NULL;
    CHECK_INT(fs_percent_decode(text, 3, out), escape ? 1 : 3);
  }
}

static const harness_test tests[] = {
  {"target forms", target_forms},
  {"hosts", hosts},
  {"every byte in a host", every_byte_in_a_host},
  {"IPv6 grammar", ipv6_grammar},
  {"IPv6 lengths", ipv6_lengths},
  {"percent-decoding", percent_decoding},
  {"every escape", every_escape},
};
HARNESS_MAIN(tests)
