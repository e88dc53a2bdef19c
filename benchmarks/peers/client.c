/* A small load client for what wrk cannot do: WebSockets, an exact number of requests, a load shorter than a second.
 *
 * Room:    a tool of the benchmarks. Built on demand by ../build.py, outside the tree.
 * Called:  by ../load.py: client PORT CONNECTIONS REQUESTS MILLISECONDS REPLY_BYTES EACH HELLO_BYTES < hello + request
 *          It stops at REQUESTS (0: no bound) or after MILLISECONDS (0: no bound), whichever comes first.
 * Rules:   none of HTTP: it writes the bytes it was given, and reads REPLY_BYTES for each write; EACH requests are in one
 *          write. Before the first it writes `hello` (a WebSocket's handshake) and reads up to the empty line, where HELLO_BYTES > 0.
 *
 * Prints one line of JSON: requests, duration_us, bytes, latencies. Anything unexpected ends it with a line on stderr and 1.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 128, INPUT = 1 << 20, LATENCIES = 1 << 18 };

typedef struct {
  int fd;
  size_t missing;  /* bytes of the reply in hand that have not come */
  size_t unsent;   /* bytes of the request in hand that the socket did not take */
  int64_t sent_at_us;
} connection;

static char input[INPUT], buffer[INPUT];
static uint32_t latencies[LATENCIES];
static size_t latencies_count;

static int64_t now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void fail(const char *what, const char *why) {
  fprintf(stderr, "client: %s: %s\n", what, why);
  exit(1);
}

static int by_size(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

/* Write what is left of the request; wait for the socket only where it does not take all. */
static void push(int epoll_fd, connection *c, const char *request, size_t len) {
  size_t had = c->unsent;
  ssize_t sent = send(c->fd, request + (len - c->unsent), c->unsent, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0 && errno != EAGAIN) fail("write", strerror(errno));
  if (sent > 0) c->unsent -= (size_t)sent;
  if ((c->unsent > 0) == (had < len)) return; /* what epoll is asked for is right already */
  struct epoll_event want = {.events = EPOLLIN | (c->unsent ? EPOLLOUT : 0), .data.ptr = c};
  epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &want);
}

static void begin(int epoll_fd, connection *c, const char *request, size_t len, size_t reply) {
  c->missing = reply;
  c->unsent = len;
  c->sent_at_us = now_us();
  push(epoll_fd, c, request, len);
}

static void shake_hands(int fd, const char *hello, size_t len) {
  size_t have = 0;
  if (send(fd, hello, len, MSG_NOSIGNAL) != (ssize_t)len) fail("handshake", "not written");
  while (have < 4 || memcmp(buffer + have - 4, "\r\n\r\n", 4)) {
    if (have == 16384 || recv(fd, buffer + have, 1, 0) != 1) fail("handshake", "no answer");
    have++;
  }
  if (strncmp(buffer, "HTTP/1.1 101", 12)) fail("handshake", "refused");
}

int main(int argc, char **argv) {
  if (argc != 8) fail("usage", "client PORT CONNECTIONS REQUESTS MILLISECONDS REPLY_BYTES EACH HELLO_BYTES");
  size_t count = (size_t)atol(argv[2]), wanted = (size_t)atol(argv[3]), reply = (size_t)atol(argv[5]);
  size_t each = (size_t)atol(argv[6]), hello = (size_t)atol(argv[7]);
  int64_t limit_us = atol(argv[4]) * 1000;
  size_t input_len = fread(input, 1, INPUT, stdin);
  if (!count || !reply || !each || input_len <= hello || input_len == INPUT) fail("usage", "nothing to send, or too much");
  const char *request = input + hello;
  size_t len = input_len - hello;

  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  address.sin_port = htons((uint16_t)atoi(argv[1]));
  connection *all = calloc(count, sizeof *all);
  struct epoll_event events[EVENTS];
  int epoll_fd = epoll_create1(0), one = 1;
  for (size_t i = 0; i < count; i++) {
    all[i].fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(all[i].fd, (struct sockaddr *)&address, sizeof address)) fail("connect", strerror(errno));
    setsockopt(all[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (hello) shake_hands(all[i].fd, input, hello);
    struct epoll_event want = {.events = EPOLLIN, .data.ptr = &all[i]};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, all[i].fd, &want);
  }
  size_t begun = 0, done = 0, bytes = 0, open = 0;
  int64_t started_us = now_us();
  for (size_t i = 0; i < count && (!wanted || begun < wanted); i++, begun += each, open++)
    begin(epoll_fd, &all[i], request, len, reply);
  while (open) {
    int ready = epoll_wait(epoll_fd, events, EVENTS, 5000);
    if (ready <= 0) fail("read", "nothing came for 5 s");
    for (int i = 0; i < ready; i++) {
      connection *c = events[i].data.ptr;
      if (c->unsent) push(epoll_fd, c, request, len);
      if (!(events[i].events & ~EPOLLOUT)) continue;
      ssize_t got = recv(c->fd, buffer, INPUT, MSG_DONTWAIT);
      if (got < 0 && errno == EAGAIN) continue;
      if (got <= 0) fail("read", got ? strerror(errno) : "the server closed");
      bytes += (size_t)got;
      if ((size_t)got > c->missing) fail("read", "more came than an answer");
      c->missing -= (size_t)got;
      if (c->missing) continue;
      done += each;
      latencies[latencies_count++ % LATENCIES] = (uint32_t)(now_us() - c->sent_at_us);
      if ((wanted && begun >= wanted) || (limit_us && now_us() - started_us > limit_us)) {
        open--;
      } else {
        begun += each;
        begin(epoll_fd, c, request, len, reply);
      }
    }
  }
  int64_t took_us = now_us() - started_us;
  size_t n = latencies_count < LATENCIES ? latencies_count : LATENCIES;
  qsort(latencies, n, sizeof *latencies, by_size);
  uint64_t sum = 0;
  for (size_t i = 0; i < n; i++) sum += latencies[i];
#define AT(permyriad) latencies[(n - 1) * (permyriad) / 10000]
  printf("benchmarks-result:{\"requests\": %zu, \"duration_us\": %lld, \"bytes\": %zu, \"min\": %u, \"max\": %u, \"mean\": %llu, "
         "\"p50\": %u, \"p75\": %u, \"p90\": %u, \"p99\": %u, \"p99.9\": %u, \"p99.99\": %u, "
         "\"errors\": {\"connect\": 0, \"read\": 0, \"write\": 0, \"timeout\": 0, \"status\": 0}}\n",
         done, (long long)took_us, bytes, latencies[0], latencies[n - 1], (unsigned long long)(sum / n), AT(5000), AT(7500),
         AT(9000), AT(9900), AT(9990), AT(9999));
  return 0;
}
