/* The page that steers the shim: one file, mapped by the harness (control.py) and by every process that has the shim.
 *
 * This is the only place where its layout stands; `shim-layout` prints the offsets, and a test holds control.py to them.
 * Every field is a word of 64 bits, read and written whole: a rule can not be seen half changed. The clock takes three
 * words, so it stands behind a sequence number that is odd while they change.
 */
#ifndef CHAOS_SHIM_PAGE_H
#define CHAOS_SHIM_PAGE_H

#include <stdint.h>

#define PAGE_MAGIC 0x314d4948534f4143ull /* "CAOSHIM1": another layout gets another number */
#define PAGE_BYTES 4096
#define PREFIX_BYTES 1024

/* What happens to one kind of call on paths below the prefix. `rule` 0: nothing. Else, from the lowest bit:
 * delay in microseconds (32 bits), errno (12 bits), share of the calls in parts per million (20 bits). */
struct op {
    uint64_t rule;
    uint64_t calls; /* that were looked at while there was a rule */
    uint64_t hits;  /* that it struck */
};

#define RULE_DELAY_US(rule) ((rule) & 0xffffffffull)
#define RULE_ERRNO(rule) (((rule) >> 32) & 0xfffull)
#define RULE_SHARE_PPM(rule) ((rule) >> 44)

struct page {
    uint64_t magic;
    uint64_t attached; /* processes that have mapped the page so far */
    uint64_t seed;     /* together with `calls` it decides which calls a share strikes */
    struct op sync;    /* fsync, fdatasync */
    struct op write;   /* write, pwrite */
    struct op rename;  /* rename, renameat, renameat2; the path is the new one */
    /* Wall clock = true + offset_ns + (true - base_ns) * drift_ppb / 1e9. */
    uint64_t clock_sequence;
    int64_t clock_offset_ns;
    int64_t clock_drift_ppb;
    int64_t clock_base_ns;
    char prefix[PREFIX_BYTES]; /* absolute, without a link in it, ends with '/', zero-filled; fixed before any process maps it */
};

#endif
