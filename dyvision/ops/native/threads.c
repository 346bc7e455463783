/* Threads of the OpenMP runtime that torch has loaded, whichever that is: there is one pool, and one number of threads. */
#if defined(__linux__)
#define _DEFAULT_SOURCE /* madvise */
#include <sys/mman.h>
#endif
#include <pthread.h>
#include <stdlib.h>

#include "problem.h"

static void (*start_team)(void (*)(void *), void *, unsigned, unsigned);
static int (*own_index)(void), (*team_size)(void);
static void (*wait_for_team)(void);
/* The threads of a pool are not in a child that fork made, and the runtime would wait for them. */
static int forked;

static void note_fork(void) { forked = 1; }

/* Entries of libgomp's interface, which LLVM's and Intel's runtimes have as well. */
void dyv_use_runtime(void *parallel, void *thread_num, void *num_threads, void *barrier) {
    static int noted;
    if (!noted) noted = pthread_atfork(NULL, NULL, note_fork) == 0;
    if (!noted) return;
    start_team = (void (*)(void (*)(void *), void *, unsigned, unsigned))parallel;
    own_index = (int (*)(void))thread_num, team_size = (int (*)(void))num_threads;
    wait_for_team = (void (*)(void))barrier;
}

struct job {
    dyv_work work;
    void *argument;
};

static void run_job(void *argument) {
    const struct job *job = argument;
    job->work(job->argument, own_index(), team_size());
}

void dyv_run(dyv_work work, void *argument, int threads) {
    if (threads <= 1 || forked || !start_team) {
        work(argument, 0, 1);
        return;
    }
    struct job job = {work, argument};
    start_team(run_job, &job, (unsigned)threads, 0);
}

void dyv_wait(int team) {
    if (team > 1) wait_for_team();
}

struct buffer {
    float *at[DYV_PURPOSES];
    size_t floats[DYV_PURPOSES];
};

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int usable;

static void free_buffer(void *argument) {
    struct buffer *buffer = argument;
    for (int i = 0; i < DYV_PURPOSES; i++) free(buffer->at[i]);
    free(buffer);
}

static void make_key(void) { usable = pthread_key_create(&key, free_buffer) == 0; }

static __thread struct buffer *own;

void dyv_trim(int purposes) {
    for (int i = 0; own && i < purposes; i++) {
        if (own->floats[i] <= ((size_t)1 << 24)) continue;
        free(own->at[i]);
        own->at[i] = NULL, own->floats[i] = 0;
    }
}

float *dyv_memory(int purpose, size_t floats) {
    if (!own) {
        pthread_once(&once, make_key);
        struct buffer *made = usable ? calloc(1, sizeof *made) : NULL;
        if (!made) return NULL;
        if (pthread_setspecific(key, made)) return free(made), NULL;
        own = made;
    }
    if (own->floats[purpose] < floats) {
        free(own->at[purpose]);
        own->floats[purpose] = 0, own->at[purpose] = NULL;
        void *fresh = NULL;
        if (posix_memalign(&fresh, 64, floats * sizeof(float))) return NULL;
        own->at[purpose] = fresh, own->floats[purpose] = floats;
    }
    return own->at[purpose];
}

/* Pages of that size cost as much to get as one of 4 KiB, and a bank has thousands of those. */
#define LARGE_PAGE ((uintptr_t)1 << 21)

void dyv_expect(float *at, size_t floats) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t first = ((uintptr_t)at + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    const uintptr_t end = (uintptr_t)(at + floats) / LARGE_PAGE * LARGE_PAGE;
    if (end > first) (void)madvise((void *)first, end - first, MADV_HUGEPAGE); /* it may refuse */
#else
    (void)at, (void)floats;
#endif
}
