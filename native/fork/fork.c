/* Clones of a running QEMU: a library that is preloaded into a template's, and makes copies of it on request.
 *
 *     LD_PRELOAD=… SAMPAN_FORK="SOCKET UID" qemu-system-x86_64 …
 *
 * An emulator's second copy of a machine has to translate all of the guest's code once more, which is most of what a start costs.
 * A fork has it translated, and shares memory until it writes. fork(2) by itself copies one thread: freeze.c takes up the
 * others. Before QEMU begins, a second process is made that shares its memory, descriptors and signal handlers but is no
 * thread of it: QEMU drops to its user and installs its filters, this one keeps three capabilities (as root) to jail copies with.
 * It is asked over a socket: a message is a struct request with descriptors, the answer the copy's process number, or 0
 * and why not. One such answer, its own, comes unasked: the library is here. The guest of a template has run our agent and nothing of any pod.
 */
#include "fork.h"

#include <linux/capability.h>
#include <linux/poll.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/signal.h>

enum { STACK = 64 * 1024, CLOSE_ON_EXEC = 0x40000000 /* MSG_CMSG_CLOEXEC */, LAST_CAPABILITY = 63, SPACES = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID };

static u8 stack[STACK] __attribute__((aligned(16)));
static struct request asked;
static struct plan plan;
static struct {
    int socket, process, watch;
    u32 uid;
} own;

struct answer {
    int pid;
    char why[124];
};

__attribute__((noreturn)) static void leave(int code) {
    for (;;) SYS(exit_group, code);
}

static void answer(int pid, const char *why) {
    struct answer message = {.pid = pid};
    for (size at = 0; why && why[at] && at < sizeof message.why - 1; at++) message.why[at] = why[at];
    SYS(sendto, own.socket, &message, sizeof message, 0, 0, 0);
}

__attribute__((noreturn)) static void fail(const char *what) {
    SYS(write, 2, "a copy of the template cannot ", 30);
    SYS(write, 2, what, length(what));
    SYS(write, 2, "\n", 1);
    leave(1);
}

static void copy(const int *came, size count) {
    int jailed = asked.flags & JAILED, mine[REPLACED + 3] = {own.socket, own.watch};
    if (count != asked.count + (jailed ? 1 : 0)) return answer(0, "descriptors are missing");
    memcpy(mine + 2, came, count * sizeof *came);
    const char *refusal = freeze(own.process);
    if (!refusal) refusal = check_mappings();
    if (!refusal) refusal = make_plan(&plan, asked.numbers, asked.count, mine, 2 + count);
    if (refusal) return answer(0, refusal);
    long pid = SYS(clone, SIGCHLD | (jailed ? SPACES : 0), 0, 0, 0, 0);
    if (pid < 0) return answer(0, "the process cannot be copied");
    if (pid > 0) return answer((int)pid, NULL);
    if (jailed && SYS(setns, came[0], CLONE_NEWNET) < 0) fail("enter its network namespace");
    const char *failed = carry_out(&plan, came + (jailed ? 1 : 0));
    if (!failed) failed = lock_in(&asked);
    if (failed) fail(failed);
    resume(own.process);
}

static void serve(void) {
    struct {
        size size;
        int level, kind, fds[REPLACED + 1];
    } __attribute__((aligned(8))) control;
    struct part part = {&asked, sizeof asked};
    struct parcel message = {.parts = &part, .count = 1, .control = &control, .control_size = sizeof control};
    long got = SYS(recvmsg, own.socket, &message, CLOSE_ON_EXEC);
    if (got == -EINTR) return;
    if (got <= 0) {
        SYS(kill, own.process, SIGKILL);
        leave(0);
    }
    size count = message.control_size ? (control.size - DESCRIPTOR_SIZE + sizeof(int)) / sizeof(int) : 0;
    if (got < (long)REQUEST_HEAD || asked.count > REPLACED || asked.instructions > INSTRUCTIONS ||
        (size)got != REQUEST_HEAD + asked.instructions * sizeof *asked.filter)
        answer(0, "the request is malformed");
    else copy(control.fds, count);
    for (size at = 0; at < count; at++) close_fd(control.fds[at]);
}

/* With the user of the process whose copies it makes, it may signal it and is shown its threads. */
static void keep_capabilities(u32 uid) {
    static const u32 kept = 1u << CAP_SETUID | 1u << CAP_SETGID | 1u << CAP_SYS_ADMIN;
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{.effective = kept, .permitted = kept}, {0}};
    for (int at = 0; at <= LAST_CAPABILITY; at++) SYS(prctl, PR_CAPBSET_DROP, at, 0, 0, 0);
    if (SYS(prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 || SYS(setgroups, 0, NULL) < 0 || SYS(setresgid, uid, uid, uid) < 0 ||
        SYS(setresuid, uid, uid, uid) < 0 || SYS(capset, &header, data) < 0)
        leave(1);
    SYS(prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
}

static void attend(void *unused) {
    (void)unused;
    u64 all = ~0ul;
    SYS(rt_sigprocmask, 2 /* SIG_SETMASK */, &all, 0, sizeof all);
    if (own.uid) keep_capabilities(own.uid);
    struct pollfd waits[2] = {{own.socket, POLLIN, 0}, {own.watch, POLLIN, 0}};
    for (;;) {
        if (SYS(ppoll, waits, 2, 0, 0, 8) <= 0) continue;
        if (waits[1].revents) leave(0);
        if (waits[0].revents) serve();
    }
}

__attribute__((constructor)) static void begin(int count, char **arguments, char **environment) {
    (void)count, (void)arguments;
    const char *told = NULL;
    for (; *environment; environment++)
        if (!memcmp(*environment, "SAMPAN_FORK=", 12)) told = *environment + 12;
    if (!told) return;
    own.socket = (int)parse_number(told);
    if (!find_tid_offset()) return answer(0, "the C library is not one that we know");
    while (*told && *told != ' ') told++;
    own.uid = *told ? (u32)parse_number(told + 1) : 0;
    own.process = (int)SYS0(getpid);
    own.watch = (int)SYS(pidfd_open, own.process, 0);
    /* Copies are its children, and nobody asks how they ended: the runtime has a descriptor of each. */
    struct {
        u64 handler, flags, restorer, mask;
    } ignore = {1, 0, 0, 0};
    SYS(rt_sigaction, SIGCHLD, &ignore, 0, sizeof(u64));
    u64 *top = (u64 *)(stack + STACK);
    *--top = 0, *--top = (u64)attend;
    if (own.watch < 0 || begin_thread(CLONE_VM | CLONE_FILES | CLONE_SIGHAND, top, 0, 0, 0) < 0) leave(1);
    answer(own.process, NULL);
    if (own.uid) {
        if (SYS(setgroups, 0, NULL) < 0 || SYS(setresgid, own.uid, own.uid, own.uid) < 0 || SYS(setresuid, own.uid, own.uid, own.uid) < 0)
            leave(1);
        SYS(prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
    }
}
