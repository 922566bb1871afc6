/* Clones of a running process: what the files of this library share. See fork.c for the story. */
#ifndef FORK_H
#define FORK_H

#include "../sys.h"

#include <linux/filter.h>

enum { THREADS = 64, DESCRIPTORS = 256, REPLACED = 8, INSTRUCTIONS = 512, PATH_ROOM = 256 };

/* What a function finds again after a call, and where it goes on. */
struct context {
    u64 rbx, rbp, r12, r13, r14, r15, rsp, rip;
};
/* As setjmp: 0, and 1 when `proceed` comes back to it, in whichever thread or process. */
int keep(struct context *context) __attribute__((returns_twice));
__attribute__((noreturn)) void proceed(const struct context *context);
/* clone(2) with a stack on top of which lie a function and its argument. */
long begin_thread(u64 flags, void *stack, int *parent_tid, int *child_tid, u64 tls);

/* A thread that waits in its signal handler, outside of everything but the system call that it was in. */
struct thread {
    struct context context;
    u64 base; /* of its thread-local storage: the C library's descriptor of it */
    void *robust;
    size robust_size;
    int tid;
    const char *refusal;
};
extern struct thread threads[THREADS];
extern int parked;

/* All threads of the process `pid` are parked on return; what keeps them from it, else NULL. Idempotent. */
const char *freeze(int pid);
/* Each parked thread goes on in the calling process, a copy of the one it was parked in; `leader` as the caller. */
__attribute__((noreturn)) void resume(int leader);
/* Where in a thread's storage the C library keeps its number; 0 when it cannot be told. Called by the first thread. */
u64 find_tid_offset(void);

/* What a copy does about a descriptor that it has inherited. */
enum deed { LEAVE, CLOSE, REPLACE, EVENTS, SIGNALS };
struct step {
    int number, flags;
    enum deed deed;
    u64 value; /* an event counter's state, a signal set, an index into the descriptors that came */
};
struct plan {
    struct step steps[DESCRIPTORS];
    size count;
};
/* `numbers`: descriptors that will be replaced, `own` those of this library. What stands against a copy, else NULL. */
const char *make_plan(struct plan *plan, const int *numbers, size count, const int *own, size own_count);
/* In a copy: a failed step's name, else NULL. `came` are the replacements. */
const char *carry_out(const struct plan *plan, const int *came);
/* Memory that would be shared with a copy is refused, memory that would be left out of it is not. */
const char *check_mappings(void);

/* What the runtime asks for; descriptors come with it: a network namespace if JAILED, then one for each number. */
enum { JAILED = 1 };
struct request {
    u32 flags, uid, count, instructions;
    int numbers[REPLACED];
    struct sock_filter filter[INSTRUCTIONS];
};
#define REQUEST_HEAD __builtin_offsetof(struct request, filter)
/* In a copy: the jail of its own. The name of what failed, else NULL. */
const char *lock_in(const struct request *request);

u64 parse_hex(const char *text);
u64 parse_octal(const char *text);
/* What follows `key`, blanks skipped; NULL when the text has no line with it. */
const char *value_of(const char *text, const char *key);

#endif
