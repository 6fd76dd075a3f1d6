/* What libfaketime leaves out: C11's waits, which librdkafka uses. They end at a time of the wall clock, so a clock that is set
 * must make them longer or shorter, as the kernel does for a real one. Waits for a slice at a time and looks at the clock.
 * Preloaded beside libfaketime. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <threads.h>
#include <time.h>

#define SLICE_NS 20000000LL
#define SECOND_NS 1000000000LL

static long long nanoseconds(const struct timespec *at) { return at->tv_sec * SECOND_NS + at->tv_nsec; }

int cnd_timedwait(cnd_t *condition, mtx_t *mutex, const struct timespec *end) {
    for (;;) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now); /* libfaketime's */
        long long left = nanoseconds(end) - nanoseconds(&now);
        if (left <= 0)
            return thrd_timedout;
        if (left > SLICE_NS)
            left = SLICE_NS;
        clock_gettime(CLOCK_MONOTONIC, &now); /* the true one */
        long long until = nanoseconds(&now) + left;
        const struct timespec slice = {until / SECOND_NS, until % SECOND_NS};
        /* glibc's C11 types are its POSIX types under other names. */
        int result = pthread_cond_clockwait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex, CLOCK_MONOTONIC, &slice);
        if (result == 0)
            return thrd_success;
        if (result != ETIMEDOUT)
            return thrd_error;
    }
}
