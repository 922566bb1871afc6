/* A container's first process, or a further one, from clone to execve.
 *
 *     join the cgroup → mounts → pivot_root → /proc /dev /sys and volumes → hide and lock paths →
 *     terminal → limits, capabilities, user, seccomp → directory → execve
 *
 * Sources of volumes are opened as detached mounts while the agent's tree is still in sight, and moved to their places
 * after the container's root has become /: so the kernel resolves an image's symlinks inside the image.
 * The steps and their order follow what runc does for the same configuration (OCI runtime spec, config-linux).
 */
#include "child.h"

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/mount.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/signal.h>
#include <linux/stat.h>
#include <asm/ioctls.h>

enum { MOUNTS = 128, ARENA = 1 << 20, WORDS = 8192, DETACH = 2, LAST_CAPABILITY = 63 };
enum { SIG_BLOCK_NONE = 2 };

enum step {
    CGROUP, ENTER, MOUNT_SOURCE, PIVOT, SPECIAL, VOLUME, MASK, LOCK, TERMINAL, LIMITS, USER, CAPABILITIES, SECCOMP,
    DIRECTORY, EXECUTE,
};

static const char *const steps[] = {
    "join the cgroup", "enter the container", "open a volume", "enter the root", "mount /proc, /dev and /sys",
    "mount a volume", "mask a path", "make a path read-only", "make the terminal", "set resource limits",
    "become the user", "set capabilities", "install the seccomp filter", "chdir to the working directory",
    "execute the program",
};

const char *child_step(int step) { return step >= 0 && step < (int)COUNT(steps) ? steps[step] : "start the process"; }

static const struct child *self;

__attribute__((noreturn)) static void leave(void) {
    for (;;) SYS(exit_group, 127);
}

__attribute__((noreturn)) static void give_up(int step, long error) {
    struct report report = {(int)-error, step};
    SYS(write, self->status, &report, sizeof report);
    leave();
}

static void must(int step, long result) {
    if (result < 0) give_up(step, result);
}

/* Texts of the message, each with its NUL. */
static char arena[ARENA];
static size arena_used;

static char *keep(const u8 *at, size count) {
    if (count >= ARENA - arena_used) give_up(EXECUTE, -E2BIG);
    char *text = arena + arena_used;
    memcpy(text, at, count);
    text[count] = 0;
    arena_used += count + 1;
    return text;
}

static u64 number(u16 key, u64 otherwise) { return get_number(self->message, self->count, key, otherwise); }

static int each(size *offset, u16 key, struct field *field) {
    while (next_field(self->message, self->count, offset, field) > 0)
        if (field->key == key) return 1;
    return 0;
}

static void join_cgroup(void) {
    TEXT(path, 96);
    add(&path, self->cgroup);
    add(&path, "/cgroup.procs");
    must(CGROUP, write_file(path.at, "0", 1));
}

/* volumes */

struct volume {
    int fd, readonly, is_file;
    const char *target;
};

static struct volume volumes[MOUNTS];
static int volume_count;

static int clone_tree(const char *path) {
    return (int)SYS(open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
}

static int is_file(int fd) {
    struct statx status;
    long result = SYS(statx, fd, "", AT_EMPTY_PATH, STATX_TYPE, &status);
    return result == 0 && (status.stx_mode & S_IFMT) != S_IFDIR;
}

static int lock_mount(int fd, const char *path, int flags, u64 attributes) {
    struct mount_attr change = {.attr_set = attributes};
    return (int)SYS(mount_setattr, fd, path, flags, &change, sizeof change);
}

/* K_MOUNT: flags (bit 0: read-only), source, NUL, target. */
static void open_volumes(void) {
    size offset = 0;
    struct field field;
    while (each(&offset, K_MOUNT, &field)) {
        if (field.size < 2 || volume_count == MOUNTS) give_up(MOUNT_SOURCE, -EINVAL);
        const char *source = keep(field.at + 1, field.size - 1);
        size count = length(source);
        if (count + 2 > field.size) give_up(MOUNT_SOURCE, -EINVAL);
        struct volume *volume = &volumes[volume_count++];
        volume->fd = clone_tree(source);
        must(MOUNT_SOURCE, volume->fd);
        volume->readonly = field.at[0] & 1;
        volume->is_file = is_file(volume->fd);
        volume->target = source + count + 1;
        must(MOUNT_SOURCE, lock_mount(volume->fd, "", AT_EMPTY_PATH | AT_RECURSIVE,
                                      MOUNT_ATTR_NODEV | (volume->readonly ? MOUNT_ATTR_RDONLY : 0u)));
    }
}

static void make_parent(const char *path) {
    char parent[4096];
    size end = length(path);
    if (end >= sizeof parent) return;
    while (end > 1 && path[end - 1] != '/') end--;
    if (end <= 1) return;
    memcpy(parent, path, end - 1);
    parent[end - 1] = 0;
    make_directories(parent, 0755);
}

static void make_place(const char *path, int file) {
    make_parent(path);
    if (file) {
        int fd = open_at(path, O_WRONLY | O_CREAT | O_NONBLOCK, 0644);
        if (fd >= 0) close_fd(fd);
    } else {
        make_directories(path, 0755);
    }
}

static long attach_tree(int fd, const char *path) {
    return SYS(move_mount, fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS);
}

static void mount_volumes(void) {
    for (int at = 0; at < volume_count; at++) {
        struct volume *volume = &volumes[at];
        make_place(volume->target, volume->is_file);
        must(VOLUME, attach_tree(volume->fd, volume->target));
        close_fd(volume->fd);
    }
}

/* the root */

static const char *const nodes[] = {"null", "zero", "full", "random", "urandom", "tty"};
static int node_trees[COUNT(nodes)], shared_memory;

static void open_nodes(void) {
    for (size at = 0; at < COUNT(nodes); at++) {
        TEXT(path, 32);
        add(&path, "/dev/");
        add(&path, nodes[at]);
        node_trees[at] = clone_tree(path.at);
    }
    shared_memory = clone_tree("/run/shm");
}

static void make_dev(int privileged) {
    must(SPECIAL, make_directories("/dev", 0755));
    if (privileged) {
        must(SPECIAL, SYS(mount, "dev", "/dev", "devtmpfs", MS_NOSUID, 0));
    } else {
        /* Nodes are mounts of the agent's own; what a container makes itself is not a device here (nodev). */
        must(SPECIAL, SYS(mount, "dev", "/dev", "tmpfs", MS_NOSUID | MS_NODEV | MS_STRICTATIME, "mode=755,size=65536k"));
        for (size at = 0; at < COUNT(nodes); at++) {
            TEXT(path, 32);
            add(&path, "/dev/");
            add(&path, nodes[at]);
            make_place(path.at, 1);
            must(SPECIAL, attach_tree(node_trees[at], path.at));
        }
    }
    make_directories("/dev/pts", 0755);
    must(SPECIAL, SYS(mount, "devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
                      "newinstance,ptmxmode=0666,mode=0620,gid=5"));
    make_directories("/dev/shm", 0755);
    must(SPECIAL, attach_tree(shared_memory, "/dev/shm"));
    make_directories("/dev/mqueue", 0755);
    SYS(mount, "mqueue", "/dev/mqueue", "mqueue", MS_NOSUID | MS_NOEXEC | MS_NODEV, 0);
    static const char *const links[][2] = {
        {"pts/ptmx", "/dev/ptmx"}, {"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"},
        {"/proc/self/fd/1", "/dev/stdout"}, {"/proc/self/fd/2", "/dev/stderr"},
    };
    if (privileged) SYS(unlinkat, AT_FDCWD, "/dev/ptmx", 0);
    for (size at = 0; at < COUNT(links); at++) SYS(symlinkat, links[at][0], AT_FDCWD, links[at][1]);
}

static void mask(const char *path) {
    int tree = clone_tree(path);
    if (tree < 0) return; /* what is not there needs no mask */
    int file = is_file(tree);
    close_fd(tree);
    if (!file) {
        must(MASK, SYS(mount, "masked", path, "tmpfs", MS_RDONLY | MS_NODEV, "size=0"));
        return;
    }
    tree = clone_tree("/dev/null");
    must(MASK, tree);
    must(MASK, attach_tree(tree, path));
    close_fd(tree);
}

static void lock_path(const char *path) {
    int tree = clone_tree(path);
    if (tree < 0) return;
    must(LOCK, lock_mount(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, MOUNT_ATTR_RDONLY));
    must(LOCK, attach_tree(tree, path));
    close_fd(tree);
}

static void enter_root(void) {
    int privileged = (int)number(K_PRIVILEGED, 0);
    must(ENTER, SYS(mount, 0, "/", 0, MS_REC | MS_PRIVATE, 0));
    open_volumes();
    open_nodes();
    must(PIVOT, SYS(chdir, self->root));
    must(PIVOT, SYS(pivot_root, ".", "."));
    must(PIVOT, SYS(umount2, ".", DETACH));
    must(PIVOT, SYS(chdir, "/"));
    SYS(unshare, CLONE_NEWCGROUP);
    u64 locked = MS_NOSUID | MS_NOEXEC | MS_NODEV;
    make_directories("/proc", 0755);
    must(SPECIAL, SYS(mount, "proc", "/proc", "proc", locked, 0));
    make_directories("/sys", 0755);
    must(SPECIAL, SYS(mount, "sysfs", "/sys", "sysfs", locked | (privileged ? 0 : MS_RDONLY), 0));
    must(SPECIAL, SYS(mount, "cgroup", "/sys/fs/cgroup", "cgroup2", locked | (privileged ? 0 : MS_RDONLY), 0));
    make_dev(privileged);
    mount_volumes();
    size offset = 0;
    struct field field;
    while (each(&offset, K_READONLY_PATH, &field)) lock_path(keep(field.at, field.size));
    offset = 0;
    while (each(&offset, K_MASKED, &field)) mask(keep(field.at, field.size));
}

/* the process */

static void send_terminal(int master) {
    struct descriptor control = {DESCRIPTOR_SIZE, SOCKET_LEVEL, RIGHTS, master};
    struct report report = {0, TERMINAL};
    struct part part = {&report, sizeof report};
    struct parcel message = {.parts = &part, .count = 1, .control = &control, .control_size = sizeof control};
    must(TERMINAL, SYS(sendmsg, self->status, &message, 0));
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
    if (self->root) {
        make_place("/dev/console", 1);
        int index = 0;
        SYS(ioctl, master, TIOCGPTN, &index);
        TEXT(path, 32);
        add(&path, "/dev/pts/");
        add_number(&path, (u64)index);
        SYS(mount, path.at, "/dev/console", 0, MS_BIND, 0);
    }
    send_terminal(master);
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

void child_run(const struct child *child) {
    self = child;
    u64 no_signals = 0;
    SYS(rt_sigprocmask, SIG_BLOCK_NONE, &no_signals, 0, sizeof no_signals);
    SYS0(setsid);
    join_cgroup();
    if (child->root) {
        enter_root();
    } else {
        must(ENTER, SYS(setns, child->mounts, CLONE_NEWNS));
        if (child->groups >= 0) SYS(setns, child->groups, CLONE_NEWCGROUP);
        must(ENTER, SYS(chdir, "/"));
    }
    u32 uid = (u32)number(K_UID, 0), gid = (u32)number(K_GID, 0);
    int fds[3] = {child->fds[0], child->fds[1], child->fds[2]};
    if (child->terminal) make_terminal(fds, uid);
    for (int at = 0; at < 3; at++) {
        if (fds[at] < 0) continue;
        if (!child->terminal && uid) SYS(fchown, fds[at], uid, gid);
        must(TERMINAL, SYS(dup3, fds[at], at, 0));
    }
    char **arguments = collect(0, K_ARG), **environment = collect(1, K_ENV);
    struct field field;
    char *directory = get_field(child->message, child->count, K_CWD, &field) ? keep(field.at, field.size) : "/";
    if (child->root) {
        make_directories(directory, 0755);
        if (number(K_READONLY, 0)) must(LOCK, lock_mount(AT_FDCWD, "/", 0, MOUNT_ATTR_RDONLY));
    }
    set_limits();
    SYS(umask, number(K_UMASK, 022));
    become(uid, gid);
    must(DIRECTORY, SYS(chdir, directory));
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
    for (;;) SYS(ppoll, 0, 0, 0, 0, 8);
}
