/* A container's first process, or a further one, from clone to execve.
 *
 *     first:   cgroup, /proc, /sys and /dev (root.c) → wait for START → the root (root.c) →
 *     further: enter the container's cgroup and mounts →
 *     both:    terminal → limits, capabilities, user, seccomp → directory → execve
 *
 * The steps and their order follow what runc does for the same configuration (OCI runtime spec, config-linux).
 */
#include "child.h"

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/close_range.h>
#include <linux/mount.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/signal.h>
#include <asm/ioctls.h>

enum { ARENA = 1 << 20, WORDS = 8192, LAST_CAPABILITY = 63, SIG_BLOCK_NONE = 2, FIRST_OWN = 1000 };

static const char *const steps[] = {
    "join the cgroup", "enter the container", "mount the container's root", "open a volume", "enter the root", "mount /proc, /dev and /sys",
    "mount a volume", "mask a path", "make a path read-only", "make the terminal", "set resource limits",
    "become the user", "set capabilities", "install the seccomp filter", "chdir to the working directory",
    "execute the program", "wait for the container",
};

const char *child_step(int step) { return step >= 0 && step < (int)COUNT(steps) ? steps[step] : "start the process"; }

static struct child *self;

__attribute__((noreturn)) static void leave(void) {
    for (;;) SYS(exit_group, 127);
}

__attribute__((noreturn)) static void give_up(int step, long error) {
    struct report report = {(int)-error, step, -1};
    SYS(write, self->status, &report, sizeof report);
    leave();
}

void must(int step, long result) {
    if (result < 0) give_up(step, result);
}

/* Texts of the message, each with its NUL. */
static char arena[ARENA];
static size arena_used;

char *keep(const u8 *at, size count) {
    if (count >= ARENA - arena_used) give_up(EXECUTE, -E2BIG);
    char *text = arena + arena_used;
    memcpy(text, at, count);
    text[count] = 0;
    arena_used += count + 1;
    return text;
}

u64 number(u16 key, u64 otherwise) { return get_number(self->message, self->count, key, otherwise); }

int each(size *offset, u16 key, struct field *field) {
    while (next_field(self->message, self->count, offset, field) > 0)
        if (field->key == key) return 1;
    return 0;
}

/* START */

static u8 taken[MESSAGE_MAX];

static void read_all(u8 *into, size count) {
    while (count) {
        long got = SYS(read, self->go, into, count);
        if (got <= 0) leave(); /* nobody wants it any more */
        into += got, count -= (size)got;
    }
}

static void wait_for_start(struct child *child) {
    struct report report = {0, WAITING, -1};
    SYS(write, child->status, &report, sizeof report);
    read_all((u8 *)&child->count, sizeof child->count);
    if (child->count > sizeof taken) leave();
    read_all(taken, child->count);
    child->message = taken;
}

void child_plumb(struct child *child, const struct plumbing *pipes) {
    int *mine[] = {&child->fds[0], &child->fds[1], &child->fds[2], &child->go, &child->status};
    const int theirs[] = {pipes->in[0], pipes->out[1], pipes->error[1], pipes->go[0], pipes->status[1]};
    for (int at = 0; at < (int)COUNT(mine); at++) {
        *mine[at] = theirs[at];
        if (!child->container) continue;
        /* It may wait for long, and would keep open what the agent closes meanwhile. */
        *mine[at] = FIRST_OWN + at;
        SYS(dup3, theirs[at], FIRST_OWN + at, O_CLOEXEC);
    }
    if (!child->container) return;
    SYS(close_range, 3, FIRST_OWN - 1, 0);
    SYS(close_range, FIRST_OWN + COUNT(mine), ~0u, 0);
}

/* the process */

/* The agent fetches the terminal's master out of this process, and says so by a byte. */
static void give_terminal(int master) {
    struct report report = {0, TERMINAL, master};
    u8 fetched;
    SYS(write, self->status, &report, sizeof report);
    read_all(&fetched, 1);
}

static void make_terminal(int fds[3], u32 uid) {
    int master = open_at("/dev/ptmx", O_RDWR | O_NOCTTY, 0), unlocked = 0;
    must(TERMINAL, master);
    must(TERMINAL, SYS(ioctl, master, TIOCSPTLCK, &unlocked));
    long slave = SYS(ioctl, master, TIOCGPTPEER, O_RDWR | O_NOCTTY);
    must(TERMINAL, slave);
    struct {
        u16 rows, columns, x, y;
    } sizes = {(u16)number(K_ROWS, 0), (u16)number(K_COLUMNS, 0), 0, 0};
    if (sizes.rows) SYS(ioctl, slave, TIOCSWINSZ, &sizes);
    SYS(fchown, slave, uid, -1);
    if (self->container) {
        make_place_for("/dev/console", 1);
        int index = 0;
        SYS(ioctl, master, TIOCGPTN, &index);
        TEXT(path, 32);
        add(&path, "/dev/pts/");
        add_number(&path, (u64)index);
        SYS(mount, path.at, "/dev/console", 0, MS_BIND, 0);
    }
    give_terminal(master);
    SYS(ioctl, slave, TIOCSCTTY, 1);
    for (int at = 0; at < 3; at++) fds[at] = (int)slave;
}

static void set_limits(void) {
    size offset = 0;
    struct field field;
    while (each(&offset, K_RLIMIT, &field)) {
        u64 values[3];
        if (field.size != sizeof values) give_up(LIMITS, -EINVAL);
        memcpy(values, field.at, sizeof values);
        must(LIMITS, SYS(prlimit64, 0, values[0], &values[1], 0));
    }
    TEXT(score, 24);
    u64 adjust = number(K_OOM_SCORE, 0);
    if (adjust >> 63) add(&score, "-"), adjust = -adjust;
    add_number(&score, adjust);
    write_file("/proc/self/oom_score_adj", score.at, score.used);
}

static void install_filter(void) {
    struct field field;
    if (!get_field(self->message, self->count, K_SECCOMP, &field)) return;
    struct sock_fprog program = {(u16)(field.size / sizeof(struct sock_filter)),
                                 (struct sock_filter *)keep(field.at, field.size)};
    must(SECCOMP, SYS(seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
}

static void set_capabilities(u64 permitted) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{0}};
    for (int at = 0; at < 2; at++) data[at].permitted = data[at].effective = (u32)(permitted >> 32 * at);
    must(CAPABILITIES, SYS(capset, &header, data));
}

static void become(u32 uid, u32 gid) {
    u64 bounding = number(K_CAPS_BOUNDING, 0);
    for (int at = 0; at <= LAST_CAPABILITY; at++)
        if (!(bounding >> at & 1)) SYS(prctl, PR_CAPBSET_DROP, at, 0, 0, 0);
    SYS(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    int strict = (int)number(K_NO_NEW_PRIVILEGES, 0);
    /* Without no_new_privs the filter takes CAP_SYS_ADMIN, so it goes on while we have that. */
    if (!strict) install_filter();
    u32 groups[256];
    size count = 0, offset = 0;
    struct field field;
    while (count < COUNT(groups) && each(&offset, K_GROUP, &field)) groups[count++] = (u32)field_number(&field);
    must(USER, SYS(setgroups, count, groups));
    must(USER, SYS(setresgid, gid, gid, gid));
    must(USER, SYS(setresuid, uid, uid, uid));
    set_capabilities(number(K_CAPS_PERMITTED, 0));
    if (strict) {
        must(SECCOMP, SYS(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        install_filter();
    }
}

static const char *value_of(char *const *environment, const char *name) {
    size count = length(name);
    for (; *environment; environment++)
        if (!memcmp(*environment, name, count) && (*environment)[count] == '=') return *environment + count + 1;
    return "";
}

static char *words[2][WORDS];

static char **collect(int which, u16 key) {
    size offset = 0, count = 0;
    struct field field;
    while (each(&offset, key, &field)) {
        if (count + 1 == WORDS) give_up(EXECUTE, -E2BIG);
        words[which][count++] = keep(field.at, field.size);
    }
    words[which][count] = NULL;
    return words[which];
}

/* As execvp does: a name without a slash is looked for along PATH. */
__attribute__((noreturn)) static void execute(char **arguments, char **environment) {
    const char *program = arguments[0];
    if (!program) give_up(EXECUTE, -EINVAL);
    for (const char *at = program; *at; at++)
        if (*at == '/') give_up(EXECUTE, SYS(execve, program, arguments, environment));
    long error = -ENOENT;
    for (const char *path = value_of(environment, "PATH"); *path;) {
        char candidate[4096];
        struct text text = {candidate, 0, sizeof candidate};
        const char *end = path;
        while (*end && *end != ':') end++;
        add_bytes(&text, path, (size)(end - path));
        add(&text, "/");
        add(&text, program);
        long result = SYS(execve, candidate, arguments, environment);
        if (result != -ENOENT && result != -ENOTDIR) error = result;
        path = *end ? end + 1 : end;
    }
    give_up(EXECUTE, error);
}

/* Where the container's first process is: an init moves itself, and its own group takes no processes any more then
 * (cgroups(7), "no internal processes"). */
static void join_first(int first) {
    char content[256];
    TEXT(path, 352);
    place_name(&path, "/proc/", (u32)first, "/cgroup");
    must(CGROUP, read_file(path.at, content, sizeof content));
    size end = 0;
    while (content[end] && content[end] != '\n') end++;
    content[end] = 0;
    if (end < 4 || memcmp(content, "0::/", 4)) give_up(CGROUP, -ENOENT);
    path.used = 0;
    add(&path, "/sys/fs/cgroup");
    add(&path, content + 3);
    add(&path, "/cgroup.procs");
    must(CGROUP, write_file(path.at, "0", 1));
}

static void enter_container(const struct child *child) {
    join_first(child->first);
    must(ENTER, SYS(setns, child->mounts, CLONE_NEWNS));
    if (child->groups >= 0) SYS(setns, child->groups, CLONE_NEWCGROUP);
    must(ENTER, SYS(chdir, "/"));
}

void child_run(struct child *child) {
    self = child;
    u64 no_signals = 0;
    SYS(rt_sigprocmask, SIG_BLOCK_NONE, &no_signals, 0, sizeof no_signals);
    SYS0(setsid);
    SYS(keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0); /* keys are not shared with the agent or another container */
    if (child->container) {
        root_prepare(child);
        wait_for_start(child);
    }
    int terminal = (int)number(K_TTY, 0);
    if (!number(K_STDIN, 0)) child->fds[0] = open_at("/dev/null", O_RDONLY, 0);
    if (child->container) root_enter(child);
    else enter_container(child);
    u32 uid = (u32)number(K_UID, 0), gid = (u32)number(K_GID, 0);
    if (terminal) make_terminal(child->fds, uid);
    for (int at = 0; at < 3; at++) {
        if (!terminal && uid) SYS(fchown, child->fds[at], uid, gid);
        must(TERMINAL, SYS(dup3, child->fds[at], at, 0));
    }
    char **arguments = collect(0, K_ARG), **environment = collect(1, K_ENV);
    struct field field;
    char *directory = get_field(child->message, child->count, K_CWD, &field) ? keep(field.at, field.size) : "/";
    if (child->container) {
        make_directories(directory, 0755);
        if (number(K_READONLY, 0)) must(LOCK, lock_mount(AT_FDCWD, "/", 0, MOUNT_ATTR_RDONLY));
    }
    set_limits();
    SYS(umask, number(K_UMASK, 022));
    /* As root first, as runc and crun do: images have a working directory that only root may enter. */
    long there = SYS(chdir, directory);
    become(uid, gid);
    if (there < 0) must(DIRECTORY, SYS(chdir, directory));
    execute(arguments, environment);
}

void child_pause(void) {
    /* Zombies of the shared namespace vanish by themselves when nobody waits for them. */
    struct {
        void *handler;
        unsigned long flags;
        void *restorer;
        u64 mask;
    } ignore = {(void *)1, 0, NULL, 0};
    SYS(rt_sigaction, SIGCHLD, &ignore, 0, 8);
    SYS(prctl, PR_SET_NAME, "pause", 0, 0, 0);
    for (;;) SYS(ppoll, 0, 0, 0, 0, 8);
}
