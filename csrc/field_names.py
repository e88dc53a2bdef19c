"""Make field_names.h from field_names.txt: the known field names and a perfect hash to recognise them.

Room:    a list of names -> one C header. No randomness: the same list gives the same bytes.
Called:  by hand and by CI (`python csrc/field_names.py [--check]`). Calls nobody.
Rules:   field names are case-insensitive tokens (RFC 9110 section 5.1).
"""

import itertools
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE / "field_names.txt"
HEADER = HERE / "field_names.h"

# Where the hash may look, as C and as Python; all lie inside any name of two bytes or more.
PLACES = [
    ("0", lambda n: 0),
    ("len - 1", lambda n: n - 1),
    ("len - 2", lambda n: n - 2),
    ("1", lambda n: 1),
    ("len >> 1", lambda n: n >> 1),
    ("len >> 2", lambda n: n >> 2),
    ("(len >> 1) + (len >> 2)", lambda n: (n >> 1) + (n >> 2)),
    ("(len - 1) >> 1", lambda n: (n - 1) >> 1),
]
TRIES = 20000  # multipliers per choice of places


def read_names(text):
    names = text.split()
    for name in names:
        # The folding compare in the header is exact only for these bytes: see fs_field_same there.
        if not re.fullmatch(r"[a-z0-9-]{2,63}", name):
            sys.exit(f"field_names.txt: {name!r} is not a lower-case name of letters, digits and '-', 2 to 63 bytes")
    if len(set(names)) != len(names):
        sys.exit("field_names.txt: a name occurs twice")
    if len(names) > 255:
        sys.exit("field_names.txt: more than 255 names do not fit the slots")
    return names


def key(name, places):
    a, b, c = (ord(name[place(len(name))]) | 0x20 for _, place in places)
    return (a | b << 8 | c << 16 | len(name) << 24) & 0xFFFFFFFF


def multipliers():
    """Odd 32-bit numbers, always the same ones (Knuth's MMIX generator)."""
    state = 1
    for _ in range(TRIES):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield state >> 32 | 1


def find_hash(names):
    """The smallest table, then the first places and multiplier, that give every name a slot of its own."""
    for bits in range(max(len(names).bit_length(), 3), 17):
        for places in itertools.combinations(PLACES, 3):
            keys = [key(name, places) for name in names]
            if len(set(keys)) != len(keys) or 2**bits < 3 * len(names):
                continue
            for multiplier in multipliers():
                slots = {}
                for number, k in enumerate(keys, 1):
                    slot = (k * multiplier & 0xFFFFFFFF) >> (32 - bits)
                    if slots.setdefault(slot, number) != number:
                        break
                else:
                    return bits, places, multiplier, slots
    sys.exit("field_names.py: no hash found; offer it more PLACES")


def lines_of(items, per_line):
    items = list(items)
    return "\n".join("  " + ", ".join(items[i : i + per_line]) + "," for i in range(0, len(items), per_line))


def constant(name):
    return "FS_FIELD_" + name.upper().replace("-", "_")


def render(names):
    bits, places, multiplier, slots = find_hash(names)
    lengths = [len(name) for name in names]
    width = (max(lengths) + 8) // 8 * 8  # a NUL always, and whole words
    enum = "\n".join(f"  {constant(name)}," for name in names)
    texts = "\n".join(f'  "{name}",' for name in names)
    return f"""\
/* Room:    the field names known by number, and a perfect hash that recognises them.
 * Called:  by request.c, body.c, conn.c and the Python layer. Calls nobody.
 * Made:    from field_names.txt by field_names.py. Do not edit; run `python csrc/field_names.py`.
 * Rules:   field names are case-insensitive (RFC 9110 section 5.1).
 */
#ifndef FS_FIELD_NAMES_H
#define FS_FIELD_NAMES_H

#include "base.h"

typedef enum {{
  FS_FIELD_UNKNOWN = 0,
{enum}
  FS_FIELD_COUNT
}} fs_field_name;

enum {{ FS_FIELD_LEN_MIN = {min(lengths)}, FS_FIELD_LEN_MAX = {max(lengths)} }};

/* Lower case, padded with NULs. */
static const char fs_field_text[FS_FIELD_COUNT][{width}] = {{
  "",
{texts}
}};

static const uint8_t fs_field_text_len[FS_FIELD_COUNT] = {{
{lines_of(map(str, [0, *lengths]), 24)}
}};

/* Hash -> fs_field_name; FS_FIELD_UNKNOWN where no name falls. */
static const uint8_t fs_field_slot[{2**bits}] = {{
{lines_of((str(slots.get(i, 0)) for i in range(2**bits)), 32)}
}};

/* Are these 8 bytes the same, but for the case of letters in `p`? A byte of `text` is a lower-case letter, a digit or
 * '-'; only letters have bit 0x40. That bit, moved to 0x20, folds p's byte where a letter is wanted and nowhere else,
 * and x | 0x20 is a given lower-case letter for that letter's two cases alone. */
FS_INLINE bool fs_field_same(uint64_t p, uint64_t text) {{
  return (p | (text & UINT64_C(0x4040404040404040)) >> 1) == text;
}}

FS_INLINE uint64_t fs_field_load(const void *p, size_t n) {{
  uint64_t word = 0;
  memcpy(&word, p, n);
  return word;
}}

/* `len` is the length of both. Words of 8, 4 or 2 bytes, the last one ending where the name does. */
FS_INLINE bool fs_field_equal(const uint8_t *name, const char *text, size_t len) {{
  if (len >= 8) {{
    for (size_t i = 0; i + 8 < len; i += 8) {{
      if (!fs_field_same(fs_field_load(name + i, 8), fs_field_load(text + i, 8))) return false;
    }}
    return fs_field_same(fs_field_load(name + len - 8, 8), fs_field_load(text + len - 8, 8));
  }}
  if (len >= 4) {{
    return fs_field_same(fs_field_load(name, 4), fs_field_load(text, 4)) &&
           fs_field_same(fs_field_load(name + len - 4, 4), fs_field_load(text + len - 4, 4));
  }}
  return fs_field_same(fs_field_load(name, 2), fs_field_load(text, 2)) &&
         fs_field_same(fs_field_load(name + len - 2, 2), fs_field_load(text + len - 2, 2));
}}

/* The number of a field name in any case, or FS_FIELD_UNKNOWN. Three bytes and the length choose the one candidate. */
static inline uint16_t fs_field_id(const uint8_t *name, size_t len) {{
  if (len - FS_FIELD_LEN_MIN > FS_FIELD_LEN_MAX - FS_FIELD_LEN_MIN) return FS_FIELD_UNKNOWN; /* wraps for shorter */
  uint32_t key = (uint32_t)name[{places[0][0]}] | (uint32_t)name[{places[1][0]}] << 8 |
                 (uint32_t)name[{places[2][0]}] << 16 | (uint32_t)len << 24;
  uint16_t id = fs_field_slot[(uint32_t)((key | 0x202020) * UINT32_C(0x{multiplier:08X})) >> {32 - bits}];
  if (fs_field_text_len[id] != len) return FS_FIELD_UNKNOWN;
  return fs_field_equal(name, fs_field_text[id], len) ? id : FS_FIELD_UNKNOWN;
}}

#endif
"""


def main(arguments):
    if arguments not in ([], ["--check"]):
        sys.exit("usage: field_names.py [--check]")
    wanted = render(read_names(SOURCE.read_text("ascii")))
    if not arguments:
        HEADER.write_text(wanted, "ascii", newline="\n")
    elif not HEADER.exists() or HEADER.read_text("ascii") != wanted:
        sys.exit(f"{HEADER.name} is stale: run python csrc/{pathlib.Path(__file__).name}")


if __name__ == "__main__":
    main(sys.argv[1:])
