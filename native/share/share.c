/* Process of the file server: its jail, its stream, and the socket by which the runtime adds shares.
 *
 *     share STREAM LISTENER UID      descriptors that it inherits, and whom to become when it is root
 *
 * As root it keeps five capabilities over files and no other; its root directory is empty but for /proc, and a seccomp filter
 * leaves it the calls that it makes. A message on the socket is one byte (1: read-only) and a descriptor; the answer is the
 * share's number, negative an errno. It ends with its stream.
 */
#include "share.h"

#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/poll.h>
#include <linux/prctl.h>
#include <linux/resource.h>
#include <linux/seccomp.h>

enum { REQUEST_MAX = PAYLOAD_MAX + 4096 + 256, LAST_CAPABILITY = 63 };
#if defined __x86_64__
enum { MACHINE = AUDIT_ARCH_X86_64 };
#else
enum { MACHINE = AUDIT_ARCH_AARCH64 };
#endif

static u8 received[2 * REQUEST_MAX] __attribute__((aligned(8)));
static size have;
static u8 answered[sizeof(struct fuse_out_header) + PAYLOAD_MAX + 256] __attribute__((aligned(8)));

__attribute__((noreturn)) static void leave(int code) {
    for (;;) SYS(exit_group, code);
}

static const u16 allowed[] = {
    __NR_read, __NR_write, __NR_pread64, __NR_pwrite64, __NR_close, __NR_openat, __NR_fcntl, __NR_statx, __NR_fstatfs, __NR_lseek,
    __NR_getdents64, __NR_readlinkat, __NR_mknodat, __NR_mkdirat, __NR_symlinkat, __NR_linkat, __NR_unlinkat, __NR_renameat2,
    __NR_fchownat, __NR_fchmodat, __NR_ftruncate, __NR_truncate, __NR_utimensat, __NR_fallocate, __NR_fsync, __NR_fdatasync,
    __NR_ppoll, __NR_accept4, __NR_recvmsg, __NR_exit_group,
};

static void install_filter(void) {
    static struct sock_filter program[COUNT(allowed) + 8];
    size at = 0, count = COUNT(allowed);
    program[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 4); /* seccomp_data.arch */
    program[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MACHINE, 1, 0);
    program[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    program[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0); /* seccomp_data.nr */
    for (size each = 0; each < count; each++)
        program[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[each], (u8)(count - each), 0);
    program[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    program[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog filter = {(u16)at, program};
    if (SYS(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || SYS(seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) < 0) leave(2);
}

static void lock_in(u32 uid) {
    u64 limits[2] = {NODES, NODES};
    SYS(umask, 0);
    if (SYS(prlimit64, 0, RLIMIT_NOFILE, limits, 0) < 0 && SYS(prlimit64, 0, RLIMIT_NOFILE, 0, limits) >= 0) {
        limits[0] = limits[1];
        SYS(prlimit64, 0, RLIMIT_NOFILE, limits, 0);
    }
    if (uid) {
        static const u32 kept = 1u << CAP_CHOWN | 1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH | 1u << CAP_FOWNER | 1u << CAP_FSETID;
        struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
        struct __user_cap_data_struct data[2] = {{.effective = kept, .permitted = kept}, {0}};
        for (int at = 0; at <= LAST_CAPABILITY; at++) SYS(prctl, PR_CAPBSET_DROP, at, 0, 0, 0);
        if (SYS(prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 || SYS(setgroups, 0, NULL) < 0 || SYS(setresgid, uid, uid, uid) < 0 ||
            SYS(setresuid, uid, uid, uid) < 0 || SYS(capset, &header, data) < 0)
            leave(2);
    } else {
        squashed = (u32)SYS0(geteuid);
    }
    install_filter();
}

static void send_all(int fd, const u8 *at, size count) {
    while (count) {
        long sent = SYS(write, fd, at, count);
        if (sent == -EINTR) continue;
        if (sent <= 0) leave(0);
        at += sent, count -= (size)sent;
    }
}

static void answer(int stream, const struct request *request) {
    struct fuse_out_header *head = (struct fuse_out_header *)answered;
    long size = serve(request, answered + sizeof *head);
    if (size == SILENT) return;
    *head = (struct fuse_out_header){.len = (u32)(sizeof *head + (size > 0 ? (u64)size : 0)), .error = size < 0 ? (int)size : 0,
                                     .unique = request->head->unique};
    send_all(stream, answered, head->len);
}

/* All whole requests of what has come; what is left moves to the front, where it is aligned. */
static void take(int stream) {
    long got = SYS(read, stream, received + have, sizeof received - have);
    if (got == -EINTR) return;
    if (got <= 0) leave(0);
    have += (size)got;
    for (;;) {
        const struct fuse_in_header *head = (const struct fuse_in_header *)received;
        if (have < sizeof *head) return;
        if (head->len < sizeof *head || head->len > REQUEST_MAX) leave(1);
        if (have < head->len) return;
        size whole = head->len;
        struct request request = {head, received + sizeof *head, whole - sizeof *head};
        answer(stream, &request);
        memmove(received, received + whole, have - whole);
        have -= whole;
    }
}

static void admit(int listener) {
    int fd = (int)SYS(accept4, listener, 0, 0, O_CLOEXEC);
    if (fd < 0) return;
    u8 flags = 0;
    struct descriptor control = {.fd = -1};
    struct part part = {&flags, 1};
    struct parcel message = {.parts = &part, .count = 1, .control = &control, .control_size = sizeof control};
    long got = SYS(recvmsg, fd, &message, 0x40000000 /* MSG_CMSG_CLOEXEC */);
    int number = -EINVAL;
    if (got == 1 && message.control_size >= DESCRIPTOR_SIZE && control.fd >= 0) {
        number = share_add(control.fd, flags & 1);
        if (number < 0) close_fd(control.fd);
    }
    SYS(write, fd, &number, sizeof number);
    close_fd(fd);
}

__attribute__((noreturn, used)) void share_main(size *stack) {
    char **arguments = (char **)(stack + 1);
    if (stack[0] != 4) leave(2);
    int stream = (int)parse_number(arguments[1]), listener = (int)parse_number(arguments[2]);
    lock_in((u32)parse_number(arguments[3]));
    struct pollfd waits[2] = {{stream, POLLIN, 0}, {listener, POLLIN, 0}};
    for (;;) {
        if (SYS(ppoll, waits, 2, 0, 0, 8) <= 0) continue;
        if (waits[1].revents) admit(listener);
        if (waits[0].revents) take(stream);
    }
}

#if defined __x86_64__
__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call share_main\n");
#elif defined __aarch64__
__asm__(".globl _start\n_start:\n mov x29, #0\n mov x30, #0\n mov x0, sp\n bl share_main\n");
#endif
