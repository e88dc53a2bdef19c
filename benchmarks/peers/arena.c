/* The load of the arena's profiles: several requests in turn, answers of any size, connections that are opened anew.
 *
 * Room:    a tool of the benchmarks. Built on demand by ../build.py, outside the tree.
 * Called:  by ../arena/load.py: arena PORT CONNECTIONS MILLISECONDS DEPTH PER_CONNECTION EACH_REQUEST < templates
 *          Standard input has, for each template, a line "LENGTH NOISE" and then so many bytes: one request.
 * Rules:   A connection keeps to one template and a new connection takes the next, unless EACH_REQUEST is 1: then each
 *          request takes the next. DEPTH requests are sent in one write before their answers are read. After PER_CONNECTION
 *          answers (0: never) a connection is closed and opened anew. A template with NOISE 1 is meant to be refused:
 *          whatever comes back, or the end of the connection, counts as refused, and the connection is opened anew. Any
 *          other must be answered with 2xx, framed by Content-Length or chunks (RFC 9112 sections 6 and 7); all else is an
 *          error.
 *
 * Prints one line of JSON, as client.c does, with the refused and the opened beside.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 512, READ = 1 << 18, HEAD_MAX = 8192, TEMPLATES = 64, LATENCIES = 1 << 22 };

typedef struct {
  char *bytes; /* a whole batch: the request, DEPTH times */
  size_t len;
  int noise;
} template;

/* HEAD -> BODY or SIZE -> DATA -> DATA_END -> SIZE ... -> TRAILER -> HEAD */
typedef enum { HEAD, BODY, SIZE, DATA, DATA_END, TRAILER } state;

typedef struct {
  int fd, wants_write, closes;
  size_t current;  /* template of the batch in hand */
  size_t unsent;   /* bytes of the batch that the socket did not take */
  size_t awaited;  /* answers of this batch that have not come */
  size_t answered; /* answers on this connection */
  int64_t sent_at_us;
  state at;
  uint64_t left; /* of a body or chunk */
  int status;
  size_t head_len;
  char head[HEAD_MAX];
} connection;

static template templates[TEMPLATES];
static size_t template_count, turn;
static char buffer[READ];
static uint32_t latencies[LATENCIES];
static size_t latency_count, done, refused, bytes, opened, errors_read, errors_status, errors_connect;
static size_t depth, per_connection;
static int each_request, epoll_fd;
static struct sockaddr_in address = {.sin_family = AF_INET};

static int64_t now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void fail(const char *what) {
  fprintf(stderr, "arena: %s\n", what);
  exit(2);
}

static size_t next_template(void) { return turn++ % template_count; }

static void watch(connection *c, int wants_write, int operation) {
  struct epoll_event want = {.events = EPOLLIN | (wants_write ? EPOLLOUT : 0), .data.ptr = c};
  c->wants_write = wants_write;
  epoll_ctl(epoll_fd, operation, c->fd, &want);
}

static void push(connection *c) {
  const template *t = &templates[c->current];
  while (c->unsent) {
    ssize_t sent = send(c->fd, t->bytes + t->len - c->unsent, c->unsent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
      if (errno == EAGAIN && !c->wants_write) watch(c, 1, EPOLL_CTL_MOD);
      return; /* another error is seen by the read */
    }
    c->unsent -= (size_t)sent;
  }
  if (c->wants_write) watch(c, 0, EPOLL_CTL_MOD);
}

static void begin(connection *c) {
  if (each_request && c->answered) c->current = next_template();
  c->awaited = depth;
  c->unsent = templates[c->current].len;
  c->sent_at_us = now_us();
  push(c);
}

static void open_connection(connection *c) {
  int one = 1;
  c->fd = socket(AF_INET, SOCK_STREAM, 0);
  /* From 32 addresses in turn: the ports of one are used up in a second where connections are short (TIME_WAIT). */
  struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + opened % 32)};
  setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
  bind(c->fd, (struct sockaddr *)&own, sizeof own);
  if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address)) {
    errors_connect++;
    fail(c->fd < 0 ? "no descriptor" : "the server takes no connection");
  }
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  opened++;
  c->current = next_template();
  c->at = HEAD;
  c->head_len = c->answered = c->unsent = 0;
  c->closes = 0;
  watch(c, 0, EPOLL_CTL_ADD);
  begin(c);
}

static void reopen(connection *c) {
  close(c->fd);
  open_connection(c);
}

/* The value of a field of the head, or NULL; the head is a string whose lines end in CRLF. */
static const char *field(const char *head, const char *name) {
  size_t len = strlen(name);
  for (const char *line = strstr(head, "\r\n"); line; line = strstr(line, "\r\n")) {
    line += 2;
    if (!strncasecmp(line, name, len) && line[len] == ':') {
      const char *value = line + len + 1;
      while (*value == ' ') value++;
      return value;
    }
  }
  return NULL;
}

static int begins(const char *value, const char *text) { return value && !strncasecmp(value, text, strlen(text)); }

static void read_head(connection *c) {
  c->status = c->head_len > 12 ? atoi(c->head + 9) : 0;
  const char *length = field(c->head, "content-length");
  c->closes = begins(field(c->head, "connection"), "close") || begins(c->head, "HTTP/1.0");
  c->left = length ? strtoull(length, NULL, 10) : 0;
  c->at = begins(field(c->head, "transfer-encoding"), "chunked") ? SIZE : BODY;
  c->head_len = 0;
}

/* Collects a line or a head in c->head until it ends with `end`; returns how many bytes it took. */
static size_t collect(connection *c, const char *data, size_t len, const char *end, int *complete) {
  size_t end_len = strlen(end), i = 0;
  *complete = 0;
  while (i < len) {
    if (c->head_len == HEAD_MAX - 1) fail("an answer's head is too long");
    c->head[c->head_len++] = data[i++];
    if (c->head_len >= end_len && !memcmp(c->head + c->head_len - end_len, end, end_len)) {
      c->head[c->head_len] = 0;
      *complete = 1;
      break;
    }
  }
  return i;
}

/* An answer is complete. 0 if the connection is another one now. */
static int answered(connection *c) {
  c->at = HEAD;
  c->head_len = 0;
  if (c->status == 100) return 1;
  if (templates[c->current].noise) {
    refused++;
    reopen(c);
    return 0;
  }
  if (c->status < 200 || c->status > 299) errors_status++;
  done++;
  c->answered++;
  if (--c->awaited) return 1;
  latencies[latency_count++ % LATENCIES] = (uint32_t)(now_us() - c->sent_at_us);
  if (c->closes || (per_connection && c->answered >= per_connection)) {
    reopen(c);
    return 0;
  }
  begin(c);
  return 1;
}

static void take(connection *c, const char *data, size_t len) {
  int complete;
  for (;;) {
    if (c->at == BODY && !c->left) {
      if (!answered(c)) return; /* what is left was for the connection that is gone */
      if (len && c->awaited == depth && c->status != 100) fail("more answers than requests");
      continue;
    }
    if (!len) return;
    size_t took = 0;
    switch (c->at) {
    case HEAD:
      took = collect(c, data, len, "\r\n\r\n", &complete);
      if (complete) read_head(c);
      break;
    case BODY:
    case DATA:
      took = len < c->left ? len : (size_t)c->left;
      c->left -= took;
      if (c->at == DATA && !c->left) c->at = DATA_END;
      break;
    case SIZE:
      took = collect(c, data, len, "\r\n", &complete);
      if (complete) {
        c->left = strtoull(c->head, NULL, 16);
        c->at = c->left ? DATA : TRAILER;
        c->head_len = 0;
      }
      break;
    case DATA_END:
      took = collect(c, data, len, "\r\n", &complete);
      if (complete) c->at = SIZE, c->head_len = 0;
      break;
    case TRAILER:
      took = collect(c, data, len, "\r\n", &complete);
      if (complete) {
        if (c->head_len == 2) c->at = BODY; /* with nothing left: complete */
        c->head_len = 0;
      }
      break;
    }
    data += took;
    len -= took;
  }
}

static void ended(connection *c) {
  if (templates[c->current].noise)
    refused++;
  else if (c->at != HEAD || c->head_len || c->answered == 0 || c->awaited != depth)
    errors_read++;
  reopen(c); /* one that closed between two requests is only opened anew */
}

static int by_size(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return x < y ? -1 : x > y;
}

static void read_templates(void) {
  size_t len;
  int noise;
  while (template_count < TEMPLATES && scanf("%zu %d", &len, &noise) == 2) {
    template *t = &templates[template_count++];
    if (getchar() != '\n' || !(t->bytes = malloc(len * depth))) fail("a template is cut short, or too large");
    if (fread(t->bytes, 1, len, stdin) != len) fail("a template is cut short");
    for (size_t i = 1; i < depth; i++) memcpy(t->bytes + i * len, t->bytes, len);
    t->len = len * depth;
    t->noise = noise;
  }
  if (!template_count) fail("no templates");
}

int main(int argc, char **argv) {
  if (argc != 7) fail("usage: arena PORT CONNECTIONS MILLISECONDS DEPTH PER_CONNECTION EACH_REQUEST");
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons((uint16_t)atoi(argv[1]));
  size_t count = (size_t)atol(argv[2]);
  int64_t limit_us = atol(argv[3]) * 1000;
  depth = (size_t)atol(argv[4]);
  per_connection = (size_t)atol(argv[5]);
  each_request = atoi(argv[6]);
  if (!count || limit_us <= 0 || !depth) fail("connections, milliseconds and depth must be more than 0");
  read_templates();
  epoll_fd = epoll_create1(0);
  connection *all = calloc(count, sizeof *all);
  if (!all) fail("no memory");
  int64_t started_us = now_us(), now = started_us;
  for (size_t i = 0; i < count; i++) open_connection(&all[i]);
  struct epoll_event events[EVENTS];
  while ((now = now_us()) - started_us < limit_us) {
    int ready = epoll_wait(epoll_fd, events, EVENTS, 100);
    for (int i = 0; i < ready; i++) {
      connection *c = events[i].data.ptr;
      if (events[i].events & EPOLLOUT) push(c);
      if (!(events[i].events & ~EPOLLOUT)) continue;
      ssize_t got = recv(c->fd, buffer, READ, MSG_DONTWAIT);
      if (got < 0 && errno == EAGAIN) continue;
      if (got <= 0) {
        ended(c);
        continue;
      }
      bytes += (size_t)got;
      take(c, buffer, (size_t)got);
    }
  }
  size_t n = latency_count < LATENCIES ? latency_count : LATENCIES;
  qsort(latencies, n, sizeof *latencies, by_size);
  uint64_t sum = 0;
  for (size_t i = 0; i < n; i++) sum += latencies[i];
#define AT(permyriad) (n ? latencies[(n - 1) * (permyriad) / 10000] : 0)
  printf("benchmarks-result:{\"requests\": %zu, \"duration_us\": %lld, \"bytes\": %zu, \"min\": %u, \"max\": %u, \"mean\": %llu, "
         "\"p50\": %u, \"p75\": %u, \"p90\": %u, \"p99\": %u, \"p99.9\": %u, \"p99.99\": %u, \"refused\": %zu, \"opened\": %zu, "
         "\"errors\": {\"connect\": %zu, \"read\": %zu, \"write\": 0, \"timeout\": 0, \"status\": %zu}}\n",
         done, (long long)(now - started_us), bytes, AT(0), AT(10000), (unsigned long long)(n ? sum / n : 0), AT(5000), AT(7500),
         AT(9000), AT(9900), AT(9990), AT(9999), refused, opened, errors_connect, errors_read, errors_status);
  return 0;
}
