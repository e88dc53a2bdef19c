/* A driver for compilers without libFuzzer: runs files and folders, then random mutations of them for a while.
 *
 *   fuzz_conn [-seconds=N] [-runs=N] [-seed=N] [-max_len=N] [-dict=FILE] FILE-OR-FOLDER...
 *
 * Room:    no coverage, no corpus: it keeps the invariants under some fire wherever there is a C compiler.
 * Called:  linked to a fuzz target in place of libFuzzer. The input that breaks one is written to ./crash-input.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <fcntl.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);

/* So that a finding of a sanitizer comes by SIGABRT, as one of ours does. */
const char *__asan_default_options(void) { return "abort_on_error=1"; }
const char *__ubsan_default_options(void) { return "abort_on_error=1:print_stacktrace=1"; }

typedef struct {
  uint8_t *data;
  size_t len;
} blob;

static blob *seeds, *words;
static size_t seeds_len, words_len, max_len = 4096;
static uint64_t state;
static const uint8_t *now;
static size_t now_len;

static void on_abort(int number) {
  int file = open("crash-input", O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (file >= 0 && write(file, now, now_len) >= 0) close(file);
  static const char said[] = "the input is in ./crash-input\n";
  if (write(2, said, sizeof said - 1) < 0) _exit(2);
  signal(number, SIG_DFL);
  raise(number);
}

static size_t below(size_t n) {
  uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return n == 0 ? 0 : (size_t)((z ^ (z >> 31)) % n);
}

static void keep(blob **list, size_t *len, const uint8_t *data, size_t n) {
  if ((*len & (*len - 1)) == 0) *list = realloc(*list, (*len == 0 ? 1 : *len * 2) * sizeof **list);
  uint8_t *copy = malloc(n + 1);
  if (*list == NULL || copy == NULL) exit(2);
  memcpy(copy, data, n);
  (*list)[(*len)++] = (blob){copy, n};
}

static void load(const char *path) {
  struct stat what;
  if (stat(path, &what) != 0) {
    fprintf(stderr, "no such file: %s\n", path);
    exit(2);
  }
  if (S_ISDIR(what.st_mode)) {
    struct dirent **names;
    int n = scandir(path, &names, NULL, alphasort);
    for (int i = 0; i < n; i++) {
      char full[4096];
      snprintf(full, sizeof full, "%s/%s", path, names[i]->d_name);
      if (names[i]->d_name[0] != '.') load(full);
      free(names[i]);
    }
    if (n >= 0) free(names);
    return;
  }
  FILE *file = fopen(path, "rb");
  uint8_t *data = malloc((size_t)what.st_size + 1);
  if (file == NULL || data == NULL) exit(2);
  keep(&seeds, &seeds_len, data, fread(data, 1, (size_t)what.st_size, file));
  fclose(file);
  free(data);
}

/* Lines name="text" of a libFuzzer dictionary; escapes \\ \" \xHH. */
static void load_words(const char *path) {
  char line[512];
  FILE *file = fopen(path, "r");
  if (file == NULL) exit(2);
  while (fgets(line, sizeof line, file) != NULL) {
    uint8_t word[512];
    size_t n = 0;
    char *p = strchr(line, '"');
    if (line[0] == '#' || p == NULL) continue;
    for (p++; *p != '"' && *p != '\0'; n++) {
      unsigned value = 0;
      if (p[0] == '\\' && p[1] == 'x' && sscanf(p + 2, "%2x", &value) == 1) p += 4;
      else if (p[0] == '\\') value = (uint8_t)p[1], p += 2;
      else value = (uint8_t)*p++;
      word[n] = (uint8_t)value;
    }
    keep(&words, &words_len, word, n);
  }
  fclose(file);
}

static size_t put(uint8_t *text, size_t len, size_t at, const uint8_t *more, size_t n) {
  if (len + n > max_len) return len;
  memmove(text + at + n, text + at, len - at);
  memcpy(text + at, more, n);
  return len + n;
}

static size_t mutate(uint8_t *text, size_t len) {
  size_t at = below(len + 1), n = below(len - at + 1);
  uint8_t byte;
  if (n > 64 && below(4) != 0) n = below(64);
  switch (below(8)) {
    case 0:
      if (at < len) text[at] ^= (uint8_t)(1u << below(8));
      return len;
    case 1:
      if (at < len) text[at] = (uint8_t)below(256);
      return len;
    case 2:
      byte = (uint8_t)"\r\n\0 \t:;,\"\\\x7f\xfe\x80/"[below(15)];
      return put(text, len, at, &byte, 1);
    case 3:
      memmove(text + at, text + at + n, len - at - n);
      return len - n;
    case 4: {
      uint8_t copy[64];
      if (n > sizeof copy) n = sizeof copy;
      memcpy(copy, text + at, n);
      return put(text, len, below(len + 1), copy, n);
    }
    case 5: {
      const blob *other = &seeds[below(seeds_len)];
      size_t from = below(other->len + 1);
      return put(text, at, at, other->data + from, other->len - from);
    }
    case 6:
      return at;
    default:
      if (words_len == 0) return len;
      n = below(words_len);
      return put(text, len, at, words[n].data, words[n].len);
  }
}

static void run(const uint8_t *data, size_t len) {
  now = data;
  now_len = len;
  LLVMFuzzerTestOneInput(data, len);
}

int main(int argc, char **argv) {
  double seconds = 0;
  size_t runs = 0, done = 0;
  uint64_t seed = 1;
  for (int i = 1; i < argc; i++) {
    if (strncmp(argv[i], "-seconds=", 9) == 0) seconds = atof(argv[i] + 9);
    else if (strncmp(argv[i], "-runs=", 6) == 0) runs = strtoull(argv[i] + 6, NULL, 10);
    else if (strncmp(argv[i], "-seed=", 6) == 0) seed = strtoull(argv[i] + 6, NULL, 10);
    else if (strncmp(argv[i], "-max_len=", 9) == 0) max_len = strtoull(argv[i] + 9, NULL, 10);
    else if (strncmp(argv[i], "-dict=", 6) == 0) load_words(argv[i] + 6);
    else load(argv[i]);
  }
  state = seed;
  signal(SIGABRT, on_abort);
  for (size_t i = 0; i < seeds_len; i++) run(seeds[i].data, seeds[i].len);
  if (seeds_len == 0) keep(&seeds, &seeds_len, (const uint8_t *)"", 0);
  struct timespec start, at;
  clock_gettime(CLOCK_MONOTONIC, &start);
  uint8_t *text = malloc(max_len + 1);
  if (text == NULL) return 2;
  for (double spent = 0; done < runs || spent < seconds; done++) {
    const blob *from = &seeds[below(seeds_len)];
    size_t len = from->len < max_len ? from->len : max_len;
    memcpy(text, from->data, len);
    for (size_t n = 1 + below(6); n > 0; n--) len = mutate(text, len);
    uint8_t *copy = malloc(len + 1);
    if (copy == NULL) return 2;
    memcpy(copy, text, len);
    run(copy, len);
    free(copy);
    clock_gettime(CLOCK_MONOTONIC, &at);
    spent = (double)(at.tv_sec - start.tv_sec) + (double)(at.tv_nsec - start.tv_nsec) / 1e9;
  }
  printf("%zu files and %zu mutations, seed %llu: all invariants hold\n", seeds_len, done, (unsigned long long)seed);
  free(text);
  for (size_t i = 0; i < seeds_len; i++) free(seeds[i].data);
  for (size_t i = 0; i < words_len; i++) free(words[i].data);
  free(seeds);
  free(words);
  return 0;
}
