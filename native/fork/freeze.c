/* Threads stopped where they can be taken up again in a copy of their process.
 *
 * Each is sent the signal that C libraries keep to themselves for the same purpose, to have every thread do something; nobody blocks it.
 * In its handler a thread leaves word where it goes on, and waits. It counts as quiet only if the signal met it in a system call
 * that waited and had done nothing: then it resumes as after any signal, and no state was half changed. A copy of the process has
 * the same memory, so a new thread with the same stack and the same storage that returns from the same handler is that thread.
 */
#include "fork.h"

#include <asm/prctl.h>
#include <asm/sigcontext.h>
#include <asm/signal.h>
#include <asm/ucontext.h>
#include <linux/futex.h>
#include <linux/mman.h>
#include <linux/sched.h>

enum { EVERYONE = 33 /* SIGSETXID */, RESTORER = 0x04000000, MOST_ROUNDS = 8, MOST_TRIES = 100, AWHILE = 20 * 1000 * 1000 /* ns */, LEAST_STORAGE = 2048, RSEQ_SIGNATURE = 0x53053053 };

struct thread threads[THREADS];
int parked;

static int taken, epoch, frozen;
static u64 tid_offset;
static const char at_work[] = "a thread is at work";

/* The C library says where a thread's restartable sequences are registered (rseq(2)), if it has any. */
extern const long __rseq_offset __attribute__((weak));
extern const unsigned __rseq_size __attribute__((weak));

__asm__(".globl keep\n.hidden keep\nkeep:\n"
        " mov %rbx, (%rdi)\n mov %rbp, 8(%rdi)\n mov %r12, 16(%rdi)\n mov %r13, 24(%rdi)\n mov %r14, 32(%rdi)\n"
        " mov %r15, 40(%rdi)\n lea 8(%rsp), %rax\n mov %rax, 48(%rdi)\n mov (%rsp), %rax\n mov %rax, 56(%rdi)\n"
        " xor %eax, %eax\n ret\n"
        ".globl proceed\n.hidden proceed\nproceed:\n"
        " mov (%rdi), %rbx\n mov 8(%rdi), %rbp\n mov 16(%rdi), %r12\n mov 24(%rdi), %r13\n mov 32(%rdi), %r14\n"
        " mov 40(%rdi), %r15\n mov 48(%rdi), %rsp\n mov $1, %eax\n jmp *56(%rdi)\n"
        ".globl begin_thread\n.hidden begin_thread\nbegin_thread:\n"
        " mov %rcx, %r10\n mov $56, %eax\n syscall\n test %rax, %rax\n jnz 1f\n"
        " xor %ebp, %ebp\n pop %rax\n pop %rdi\n call *%rax\n hlt\n1: ret\n"
        ".hidden come_back\ncome_back:\n mov $15, %eax\n syscall\n");
extern void come_back(void);

static u64 storage(void) {
    u64 base;
    __asm__("mov %%fs:0, %0" : "=r"(base)); /* x86-64 psABI: it begins with its own address */
    return base;
}

u64 find_tid_offset(void) {
    int tid = (int)SYS0(gettid);
    u64 found = 0;
    for (u64 at = 64; at < LEAST_STORAGE; at += 4) {
        if (*(int *)(storage() + at) != tid) continue;
        if (found) return 0;
        found = at;
    }
    return tid_offset = found;
}

/* The instruction that the thread goes on with is the call again, or follows one that was interrupted. */
static int in_a_call(const struct sigcontext *at) {
    const u8 *code = (const u8 *)at->rip;
    return (code[0] == 0x0f && code[1] == 0x05) || (code[-2] == 0x0f && code[-1] == 0x05 && (long)at->rax == -EINTR);
}

static void park(int number, void *info, struct ucontext *at) {
    (void)number, (void)info;
    int place = __atomic_fetch_add(&taken, 1, __ATOMIC_SEQ_CST);
    if (place >= THREADS) return;
    struct thread *own = &threads[place];
    own->base = storage();
    own->tid = (int)SYS0(gettid);
    own->refusal = NULL;
    if (*(int *)(own->base + tid_offset) != own->tid) own->refusal = "the C library is not one that we know";
    if (!in_a_call((const struct sigcontext *)&at->uc_mcontext)) own->refusal = at_work;
    SYS(get_robust_list, 0, &own->robust, &own->robust_size);
    int since = __atomic_load_n(&epoch, __ATOMIC_SEQ_CST);
    if (keep(&own->context)) return;
    __atomic_fetch_add(&parked, 1, __ATOMIC_SEQ_CST);
    SYS(futex, &parked, FUTEX_WAKE, 1);
    while (__atomic_load_n(&epoch, __ATOMIC_SEQ_CST) == since) SYS(futex, &epoch, FUTEX_WAIT, since, 0);
}

/* Those who are not out of it when they are called again are called once they are. */
static void thaw(void) {
    taken = parked = 0;
    __atomic_fetch_add(&epoch, 1, __ATOMIC_SEQ_CST);
    SYS(futex, &epoch, FUTEX_WAKE, THREADS);
}

static int is_parked(int tid) {
    for (int each = 0; each < parked; each++)
        if (threads[each].tid == tid) return 1;
    return 0;
}

/* Signal every thread that is not parked yet: how many those were, or a negative errno. */
static int call_threads(int pid) {
    TEXT(path, 64);
    add(&path, "/proc/"), add_number(&path, (u64)pid), add(&path, "/task");
    int directory = open_at(path.at, O_RDONLY | O_DIRECTORY, 0), called = 0;
    if (directory < 0) return directory;
    static u8 listing[4096] __attribute__((aligned(8)));
    for (long got; (got = SYS(getdents64, directory, listing, sizeof listing)) > 0;)
        for (long at = 0; at < got;) {
            struct entry64 *entry = (struct entry64 *)(listing + at);
            at += entry->size;
            int tid = (int)parse_number(entry->name);
            if (!tid || is_parked(tid)) continue;
            if (SYS(tgkill, pid, tid, EVERYONE) == 0) called++;
        }
    close_fd(directory);
    return called;
}

static const char *gather(int pid) {
    for (int round = 0; round < MOST_ROUNDS; round++) {
        int before = parked, called = call_threads(pid);
        if (called < 0) return "the process's threads are not shown";
        if (called == 0) return before ? NULL : "the process has no threads";
        if (before + called > THREADS) return "too many threads";
        s64 limit[2] = {2, 0};
        for (int now; (now = __atomic_load_n(&parked, __ATOMIC_SEQ_CST)) < before + called;)
            if (SYS(futex, &parked, FUTEX_WAIT, now, limit) == -ETIMEDOUT) return "a thread takes no signals";
    }
    return "threads come and go";
}

static const char *try_to_freeze(int pid) {
    struct {
        void (*handler)(int, void *, struct ucontext *);
        u64 flags;
        void (*restorer)(void);
        u64 mask;
    } ours = {park, SA_SIGINFO | SA_RESTART | RESTORER, come_back, ~0ul}, theirs;
    if (SYS(rt_sigaction, EVERYONE, &ours, &theirs, sizeof(u64)) < 0) return "the signal is not ours to take";
    const char *refusal = gather(pid);
    SYS(rt_sigaction, EVERYONE, &theirs, 0, sizeof(u64));
    for (int each = 0; each < parked && !refusal; each++) refusal = threads[each].refusal;
    if (refusal) thaw();
    return refusal;
}

const char *freeze(int pid) {
    const char *refusal = NULL;
    for (int round = 0; !frozen && round < MOST_TRIES; round++) {
        s64 while_[2] = {0, AWHILE};
        if (round) SYS(nanosleep, while_, 0);
        if (!(refusal = try_to_freeze(pid))) frozen = 1;
        else if (refusal != at_work) break;
    }
    return refusal;
}

/* What the kernel keeps of a thread, and a new one has not. */
static void register_thread(const struct thread *thread) {
    SYS(set_robust_list, thread->robust, thread->robust_size);
    if (&__rseq_offset && &__rseq_size && __rseq_size) {
        u32 *area = (u32 *)(thread->base + (u64)__rseq_offset);
        area[1] = (u32)-2; /* RSEQ_CPU_ID_REGISTRATION_FAILED, until it has not */
        SYS(rseq, area, __rseq_size < 32 ? 32 : __rseq_size, 0, RSEQ_SIGNATURE);
    }
}

static void go_on(struct thread *thread) {
    register_thread(thread);
    proceed(&thread->context);
}

void resume(int leader) {
    enum { SHARED = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM,
           TOLD = CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID };
    struct thread *first = NULL;
    for (int each = 0; each < parked; each++) {
        struct thread *thread = &threads[each];
        int *tid = (int *)(thread->base + tid_offset);
        if (thread->tid == leader) {
            first = thread;
            continue;
        }
        /* Below what the handler keeps, the thread's own stack is free. */
        u64 *stack = (u64 *)((thread->context.rsp - 512) & ~15ul);
        *--stack = (u64)thread, *--stack = (u64)go_on;
        if (begin_thread(SHARED | TOLD, stack, tid, tid, thread->base) < 0) SYS(exit_group, 1);
    }
    if (!first) SYS(exit_group, 1);
    int *tid = (int *)(first->base + tid_offset);
    SYS(arch_prctl, ARCH_SET_FS, first->base);
    *tid = (int)SYS(set_tid_address, tid);
    go_on(first);
    __builtin_unreachable();
}
