/* What most programs do when they begin, done once in a machine that has no pod yet (see rehearsal.py).
 *
 * It maps its own file, which is as long as a small program's, as a dynamic linker maps libraries, asks what a C library asks,
 * writes a line and a file, and runs itself once more as a shell would. Nothing depends on its results.
 */
#include "../sys.h"

#include <linux/mman.h>
#include <linux/sched.h>
#include <linux/signal.h>

enum { PAGE = 4096, WEIGHT = 1024 * 1024 /* bytes of its file, at least */, EXACTLY = 0 /* of rt_sigprocmask */, TERMINAL_GET = 0x5401, SET_NAME = 15, GET_NAME = 16, KERNELS_OWN = 33 /* AT_SYSINFO_EHDR */ };

static volatile u64 seen;
static const char own_file[] = "/proc/self/exe";

static void touch(const u8 *at, size count) {
    for (size offset = 0; offset < count; offset += PAGE) seen += at[offset];
}

/* As a dynamic linker does with a library. */
static void map_file(const char *path) {
    static u8 head[832], status[256];
    int fd = open_at(path, O_RDONLY, 0);
    if (fd < 0) return;
    SYS(read, fd, head, sizeof head);
    SYS(newfstatat, fd, "", status, 0x1000 /* AT_EMPTY_PATH */);
    u8 *code = (u8 *)SYS(mmap, 0, WEIGHT, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    u8 *data = (u8 *)SYS(mmap, 0, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, PAGE);
    close_fd(fd);
    if ((long)code < 0 || (long)data < 0) return;
    touch(code, WEIGHT);
    for (size page = 0; page < 4; page++) data[page * PAGE] = 1;
    SYS(mprotect, data, 2 * PAGE, PROT_READ);
    SYS(mprotect, data + 2 * PAGE, 2 * PAGE, PROT_READ);
    SYS(munmap, code, WEIGHT);
}

static void ask(void) {
    static u8 answer[4096], robust[64], restartable[32] __attribute__((aligned(32)));
    u64 limits[2], mask = 0, action[4] = {1 /* ignore */, 0, 0, 0};
    SYS(set_tid_address, robust);
    SYS(set_robust_list, robust, 24);
    SYS(rseq, restartable, 32, 0, 0x53053053);
    SYS(prlimit64, 0, 3 /* the stack */, 0, limits);
    SYS(readlinkat, AT_FDCWD, own_file, answer, sizeof answer);
    SYS(getrandom, answer, 8, 1);
    SYS(uname, answer);
    SYS0(getpid), SYS0(getppid), SYS0(getuid), SYS0(geteuid), SYS0(getgid), SYS0(getegid);
    SYS(getcwd, answer, sizeof answer);
    SYS(newfstatat, AT_FDCWD, "/", answer, 0);
    SYS(faccessat, AT_FDCWD, "/etc/ld.so.preload", 4, 0);
    SYS(ioctl, 1, TERMINAL_GET, answer);
    SYS(fcntl, 1, F_GETFL, 0);
    SYS(rt_sigaction, SIGPIPE, action, 0, sizeof mask);
    SYS(rt_sigaction, SIGINT, 0, action, sizeof mask);
    SYS(rt_sigprocmask, EXACTLY, &mask, 0, sizeof mask);
    SYS(clock_gettime, 0, answer);
    SYS(prctl, GET_NAME, answer);
    SYS(prctl, SET_NAME, "rehearsal");
#if defined __x86_64__
    SYS(arch_prctl, 0x3001 /* as C libraries ask for shadow stacks */, answer);
    SYS(arch_prctl, 0x1002 /* ARCH_SET_FS */, answer);
    SYS(readlink, own_file, answer, sizeof answer);
    SYS(stat, "/", answer);
#endif
    u8 *top = (u8 *)SYS(brk, 0);
    if ((long)SYS(brk, top + PAGE) > 0) top[0] = 1;
    if ((long)SYS(brk, top + 33 * PAGE) > 0) top[8 * PAGE] = 1;
}

/* Behind the arguments lies the environment, then what the kernel tells a program: where its own code (vDSO) is. */
static void look_at_vdso(const long *stack) {
    const long *at = stack + 1 + stack[0] + 1;
    while (*at++) continue;
    for (; at[0]; at += 2)
        if (at[0] == KERNELS_OWN) touch((const u8 *)at[1], PAGE);
}

/* Memory that is there and is written to: pages of its own, and those that a process shares with what it was forked from. */
static void write_own(void) {
    static u8 kept[4 * PAGE] = {1};
    touch(kept, sizeof kept);
    for (size page = 0; page < 4; page++) kept[page * PAGE] = 2;
}

static void talk_through_a_pipe(void) {
    int ends[2];
    u8 heard[8];
    if (SYS(pipe2, ends, 0) < 0) return;
    SYS(fcntl, ends[0], 1030 /* F_DUPFD_CLOEXEC */, 10);
    SYS(write, ends[1], "said", 4);
    SYS(read, ends[0], heard, sizeof heard);
    close_fd(ends[0]), close_fd(ends[1]);
}

static void keep_a_file(const char *path) {
    int fd = open_at(path, O_WRONLY | O_CREAT, 0600);
    if (fd < 0) return;
    SYS(write, fd, path, length(path));
    close_fd(fd);
    SYS(unlinkat, AT_FDCWD, path, 0);
}

static void run_again(void) {
    static char *environment[] = {"PATH=/bin", NULL};
    char *again[] = {"rehearsal", "again", NULL};
    int status, pid = (int)SYS(clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) {
        SYS(execve, own_file, again, environment);
        SYS(exit_group, 127);
    }
    SYS(wait4, pid, &status, 0, 0);
}

__attribute__((noreturn, used)) void rehearse(long *stack) {
    ask();
    look_at_vdso(stack);
    write_own();
    talk_through_a_pipe();
    map_file(own_file);
    SYS(write, 1, "rehearsed\n", 10);
    if (stack[0] == 1) {
        keep_a_file("/rehearsed");
        run_again();
    }
    for (;;) SYS(exit_group, 0);
}

#if defined __x86_64__
__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call rehearse\n");
#elif defined __aarch64__
__asm__(".globl _start\n_start:\n mov x29, #0\n mov x30, #0\n mov x0, sp\n bl rehearse\n");
#endif
