/* Prints the layout of page.h as the compiler sees it: "name offset" a line, and the size at the end. */
#include <stddef.h>
#include <stdio.h>

#include "page.h"

#define SAY(field) printf("%s %zu\n", #field, offsetof(struct page, field))

int main(void)
{
    SAY(magic);
    SAY(attached);
    SAY(seed);
    SAY(sync.rule);
    SAY(sync.calls);
    SAY(sync.hits);
    SAY(write.rule);
    SAY(write.calls);
    SAY(write.hits);
    SAY(rename.rule);
    SAY(rename.calls);
    SAY(rename.hits);
    SAY(clock_sequence);
    SAY(clock_offset_ns);
    SAY(clock_drift_ppb);
    SAY(clock_base_ns);
    SAY(prefix);
    printf("size %zu\nmagic_number %llu\n", sizeof(struct page), PAGE_MAGIC);
    return 0;
}
