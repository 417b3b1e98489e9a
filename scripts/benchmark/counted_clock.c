/* A clock for a program under valgrind, which is fifty times slower than the clients that it serves.
 *
 * With the machine's clock, each session would pay for fifty times as many turns that only the clock causes, such as
 * batches of log lines, and for more of them on a busy machine. Here the clock runs with the program's own work, at the
 * speed that it has without valgrind, and skips the time for which the program waits. A wait in epoll_wait() that ends by
 * its timeout has taken that long. So the number of instructions depends on the work alone.
 *
 * It is loaded with LD_PRELOAD, and replaces the monotonic clock and what Python waits with. Threads wait for each other
 * as much longer as their work takes longer.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SLOWDOWN = 50 };
static const long long SECOND = 1000000000, MILLISECOND = 1000000, DAY = 86400 * 1000000000LL;

static long long waited;

static long long nanoseconds(const struct timespec *time)
{
    return time->tv_sec * SECOND + time->tv_nsec;
}

static struct timespec timespec_of(long long time)
{
    return (struct timespec){.tv_sec = time / SECOND, .tv_nsec = time % SECOND};
}

static long long machine_clock(clockid_t id)
{
    struct timespec time;
    syscall(SYS_clock_gettime, id, &time);
    return nanoseconds(&time);
}

static long long program_clock(void)
{
    static long long started_at;
    if (!started_at) started_at = machine_clock(CLOCK_MONOTONIC);
    return started_at + waited + machine_clock(CLOCK_PROCESS_CPUTIME_ID) / SLOWDOWN;
}

/* Return the time left before a deadline of the program's clock, for a wait by the machine's. */
static long long time_left(const struct timespec *deadline)
{
    return (nanoseconds(deadline) - program_clock()) * SLOWDOWN;
}

int clock_gettime(clockid_t id, struct timespec *time)
{
    if (id != CLOCK_MONOTONIC) return (int)syscall(SYS_clock_gettime, id, time);
    *time = timespec_of(program_clock());
    return 0;
}

int epoll_wait(int poller, struct epoll_event *events, int capacity, int timeout)
{
    int count = epoll_pwait(poller, events, capacity, timeout, NULL);
    if (!count && timeout > 0) waited += timeout * MILLISECOND;
    return count;
}

int sem_clockwait(sem_t *semaphore, clockid_t id, const struct timespec *deadline)
{
    if (id != CLOCK_MONOTONIC) return sem_timedwait(semaphore, deadline);
    struct timespec time = timespec_of(machine_clock(CLOCK_REALTIME) + time_left(deadline));
    return sem_timedwait(semaphore, &time);
}

/* Python's lock of the interpreter. The condition may have been made for either clock, which are years apart. */
int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *deadline)
{
    if (nanoseconds(deadline) - program_clock() > 1000 * DAY)
        return pthread_cond_clockwait(condition, mutex, CLOCK_REALTIME, deadline);
    struct timespec time = timespec_of(machine_clock(CLOCK_MONOTONIC) + time_left(deadline));
    return pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, &time);
}
