/* Preloaded into a node: makes its disk slow or failing and its wall clock wrong, as the page says (page.h).
 *
 * Owns: syncs, writes and renames on paths below the page's prefix, and CLOCK_REALTIME.
 * Never: CLOCK_MONOTONIC or CLOCK_BOOTTIME, which order the events of a run; anything outside the prefix; memory of its
 * own, locks, or output (but for the one refusal to start).
 * Invariants: without a rule a call costs one load more. A call that a rule makes fail does not reach the disk. Deadlines
 * that a process computed by its wrong clock are turned back into true ones before the kernel sees them: a jump must not
 * turn a wait into a busy loop that no real clock would cause. Environment: CHAOS_PAGE names the page; a process that
 * can not map it ends, because a fault that is silently absent would pass for one that was survived.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "page.h"

#define NANOS_PER_S 1000000000ll
#define PATH_BYTES 4096
#define EXIT_NO_PAGE 125
/* Seconds: a deadline above this one is a wall clock's. A monotonic clock begins at boot and never gets there. */
#define WALL_BEGINS_S 1000000000

/* The function that would have been called without the shim. */
#define REAL(name)                                                                                                     \
    static __typeof__(name) *_Atomic real_##name;                                                                      \
    __typeof__(name) *real = atomic_load_explicit(&real_##name, memory_order_relaxed);                                 \
    if (real == NULL) {                                                                                                \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name);                                                            \
        atomic_store_explicit(&real_##name, real, memory_order_relaxed);                                               \
    }

/* Of functions that glibc has twice dlsym may answer the older one, which knows another condition variable. */
#define REAL_OF_VERSION(name, version)                                                                                 \
    static __typeof__(name) *_Atomic real_##name;                                                                      \
    __typeof__(name) *real = atomic_load_explicit(&real_##name, memory_order_relaxed);                                 \
    if (real == NULL) {                                                                                                \
        real = (__typeof__(name) *)dlvsym(RTLD_NEXT, #name, version);                                                  \
        if (real == NULL)                                                                                              \
            real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name);                                                        \
        atomic_store_explicit(&real_##name, real, memory_order_relaxed);                                               \
    }

static struct page *page; /* NULL: no shim */
static size_t prefix_bytes;

/* --- the page ----------------------------------------------------------------------------------------------------- */

static uint64_t load(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static void refuse(const char *why)
{
    fprintf(stderr, "chaos shim: CHAOS_PAGE: %s\n", why);
    _exit(EXIT_NO_PAGE);
}

__attribute__((constructor)) static void attach(void)
{
    const char *path = getenv("CHAOS_PAGE");
    if (path == NULL)
        return;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        refuse(strerror(errno));
    struct page *mapped = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped == MAP_FAILED)
        refuse(strerror(errno));
    if (load(&mapped->magic) != PAGE_MAGIC)
        refuse("this page has another layout");
    prefix_bytes = strnlen(mapped->prefix, PREFIX_BYTES);
    __atomic_add_fetch(&mapped->attached, 1, __ATOMIC_ACQ_REL);
    page = mapped;
}

/* --- rules for the disk ------------------------------------------------------------------------------------------- */

/* splitmix64: the same seed strikes the same calls, counted over all processes of the page. */
static uint64_t draw(uint64_t seed, uint64_t number)
{
    uint64_t mixed = seed + number * 0x9e3779b97f4a7c15ull;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9ull;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebull;
    return mixed ^ (mixed >> 31);
}

static void wait_us(uint64_t delay_us)
{
    struct timespec left = {(time_t)(delay_us / 1000000), (long)(delay_us % 1000000) * 1000};
    while (syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &left, &left) != 0 && errno == EINTR)
        ;
}

static int is_below_prefix(const char *path)
{
    return prefix_bytes > 0 && strncmp(path, page->prefix, prefix_bytes) == 0;
}

/* 0: go on with the call. Else its errno. */
static int strike(struct op *op, uint64_t rule)
{
    uint64_t number = __atomic_add_fetch(&op->calls, 1, __ATOMIC_RELAXED);
    if (draw(load(&page->seed), number) % 1000000 >= RULE_SHARE_PPM(rule))
        return 0;
    __atomic_add_fetch(&op->hits, 1, __ATOMIC_RELAXED);
    if (RULE_DELAY_US(rule) > 0)
        wait_us(RULE_DELAY_US(rule));
    return (int)RULE_ERRNO(rule);
}

static int strike_descriptor(struct op *op, int fd)
{
    uint64_t rule = load(&op->rule);
    if (rule == 0)
        return 0;
    int before = errno;
    char link[64], path[PATH_BYTES];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 2);
    errno = before;
    if (length <= 0)
        return 0;
    path[length] = '/'; /* the directory of the prefix itself is meant too */
    path[length + 1] = '\0';
    return is_below_prefix(path) ? strike(op, rule) : 0;
}

static int strike_path(struct op *op, int directory, const char *path)
{
    uint64_t rule = load(&op->rule);
    if (rule == 0)
        return 0;
    char whole[2 * PATH_BYTES] = "";
    if (path[0] != '/') {
        int before = errno;
        char link[64] = "/proc/self/cwd";
        if (directory != AT_FDCWD)
            snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
        ssize_t length = readlink(link, whole, PATH_BYTES - 1);
        errno = before;
        if (length <= 0)
            return 0;
        whole[length] = '/';
    }
    strncat(whole, path, PATH_BYTES - 1);
    return is_below_prefix(whole) ? strike(op, rule) : 0;
}

#define FAIL_IF(expression)                                                                                            \
    if (page != NULL) {                                                                                                \
        int failure = (expression);                                                                                    \
        if (failure != 0) {                                                                                            \
            errno = failure;                                                                                           \
            return -1;                                                                                                 \
        }                                                                                                              \
    }

int fsync(int fd)
{
    REAL(fsync);
    FAIL_IF(strike_descriptor(&page->sync, fd));
    return real(fd);
}

int fdatasync(int fd)
{
    REAL(fdatasync);
    FAIL_IF(strike_descriptor(&page->sync, fd));
    return real(fd);
}

ssize_t write(int fd, const void *bytes, size_t count)
{
    REAL(write);
    FAIL_IF(strike_descriptor(&page->write, fd));
    return real(fd, bytes, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    REAL(pwrite);
    FAIL_IF(strike_descriptor(&page->write, fd));
    return real(fd, bytes, count, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset)
{
    REAL(pwrite64);
    FAIL_IF(strike_descriptor(&page->write, fd));
    return real(fd, bytes, count, offset);
}

int rename(const char *source, const char *target)
{
    REAL(rename);
    FAIL_IF(strike_path(&page->rename, AT_FDCWD, target));
    return real(source, target);
}

int renameat(int source_directory, const char *source, int target_directory, const char *target)
{
    REAL(renameat);
    FAIL_IF(strike_path(&page->rename, target_directory, target));
    return real(source_directory, source, target_directory, target);
}

int renameat2(int source_directory, const char *source, int target_directory, const char *target, unsigned int flags)
{
    REAL(renameat2);
    FAIL_IF(strike_path(&page->rename, target_directory, target));
    return real(source_directory, source, target_directory, target, flags);
}

/* --- the wall clock ----------------------------------------------------------------------------------------------- */

struct wall {
    int64_t offset_ns, drift_ppb, base_ns;
};

/* 0: the clock is right. A writer that died half way is waited for a bounded time, then the clock counts as right. */
static int read_wall(struct wall *wall)
{
    if (page == NULL)
        return 0;
    for (int attempt = 0; attempt < 10000; attempt++) {
        uint64_t before = load(&page->clock_sequence);
        if (before == 0)
            return 0;
        wall->offset_ns = __atomic_load_n(&page->clock_offset_ns, __ATOMIC_RELAXED);
        wall->drift_ppb = __atomic_load_n(&page->clock_drift_ppb, __ATOMIC_RELAXED);
        wall->base_ns = __atomic_load_n(&page->clock_base_ns, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (before % 2 == 0 && before == load(&page->clock_sequence))
            return wall->offset_ns != 0 || wall->drift_ppb != 0;
    }
    return 0;
}

static int64_t to_ns(const struct timespec *time)
{
    return (int64_t)time->tv_sec * NANOS_PER_S + time->tv_nsec;
}

static struct timespec from_ns(int64_t ns)
{
    struct timespec time = {(time_t)(ns / NANOS_PER_S), (long)(ns % NANOS_PER_S)};
    return time;
}

static int64_t wrong(const struct wall *wall, int64_t true_ns)
{
    __int128 drifted = (__int128)(true_ns - wall->base_ns) * wall->drift_ppb / NANOS_PER_S;
    return true_ns + wall->offset_ns + (int64_t)drifted;
}

/* The true time at which the wrong clock shows `wrong_ns`: the inverse of the above. */
static int64_t right(const struct wall *wall, int64_t wrong_ns)
{
    __int128 since_base = (__int128)(wrong_ns - wall->offset_ns - wall->base_ns) * NANOS_PER_S;
    return wall->base_ns + (int64_t)(since_base / (NANOS_PER_S + wall->drift_ppb));
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    REAL(clock_gettime);
    struct wall wall;
    int answer = real(clock, time);
    if (answer == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI) &&
        read_wall(&wall))
        *time = from_ns(wrong(&wall, to_ns(time)));
    return answer;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
    REAL(gettimeofday);
    struct wall wall;
    int answer = real(time, zone);
    if (answer == 0 && read_wall(&wall)) {
        int64_t ns = wrong(&wall, (int64_t)time->tv_sec * NANOS_PER_S + (int64_t)time->tv_usec * 1000);
        time->tv_sec = (time_t)(ns / NANOS_PER_S);
        time->tv_usec = (suseconds_t)(ns % NANOS_PER_S / 1000);
    }
    return answer;
}

time_t time(time_t *seconds)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (seconds != NULL)
        *seconds = now.tv_sec;
    return now.tv_sec;
}

int timespec_get(struct timespec *time, int base)
{
    return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, time) == 0 ? base : 0;
}

/* --- waits until a wall clock time -------------------------------------------------------------------------------- */

/* `deadline`, or where the clock is wrong its true counterpart, put into `turned`. */
static const struct timespec *turn_back(const struct timespec *deadline, struct timespec *turned)
{
    struct wall wall;
    if (deadline == NULL || deadline->tv_sec < WALL_BEGINS_S || !read_wall(&wall))
        return deadline;
    *turned = from_ns(right(&wall, to_ns(deadline)));
    return turned;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict deadline)
{
    REAL_OF_VERSION(pthread_cond_timedwait, "GLIBC_2.3.2");
    struct timespec turned;
    return real(condition, mutex, turn_back(deadline, &turned));
}

int pthread_cond_clockwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex, clockid_t clock,
                           const struct timespec *restrict deadline)
{
    REAL(pthread_cond_clockwait);
    struct timespec turned;
    return real(condition, mutex, clock, turn_back(deadline, &turned));
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict deadline)
{
    REAL(sem_timedwait);
    struct timespec turned;
    return real(semaphore, turn_back(deadline, &turned));
}

/* gRPC's condition variables wait on futexes by themselves, through this. */
long syscall(long number, ...)
{
    long words[6];
    va_list list;
    va_start(list, number);
    for (int at = 0; at < 6; at++)
        words[at] = va_arg(list, long);
    va_end(list);
    REAL(syscall);
    struct timespec turned;
    if (number == SYS_futex && (words[1] & FUTEX_CLOCK_REALTIME))
        words[3] = (long)turn_back((const struct timespec *)words[3], &turned);
    return real(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}
