/* A container's cgroup, root and life; its processes are begun in child.c.
 *
 *     /run/c/<channel>/{upper,work,root}   a tmpfs of the container's own, and the overlay that is its root
 *     /run/image/<slot>                    the image, read-only, mounted once
 *     /sys/fs/cgroup/c<channel>            its cgroup (version 2)
 */
#include "launch.h"

#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <linux/signal.h>
#include <linux/poll.h>

#include "child.h"

enum { LAUNCH_LIMIT_MS = 20000, SOCKETPAIR_KIND = 5 | O_CLOEXEC, UNIX_FAMILY = 1, UMOUNT_DETACH = 2, CLOSE_ON_EXEC = 0x40000000 };

static struct failure fail(int error, const char *where) { return (struct failure){error < 0 ? -error : error, where}; }

static void name_of(struct text *path, const char *before, u32 channel, const char *after) {
    add(path, before);
    add_number(path, channel);
    add(path, after);
}

static struct failure make_root(u32 channel, const u8 *message, size count, struct text *root) {
    TEXT(base, 64);
    name_of(&base, "/run/c/", channel, "");
    int error = make_directories(base.at, 0755);
    if (error < 0) return fail(error, "make the container's directory");
    TEXT(options, 64);
    add(&options, "mode=755");
    u64 limit = get_number(message, count, K_LIMIT, 0);
    if (limit) add(&options, ",size="), add_number(&options, limit);
    error = (int)SYS(mount, "container", base.at, "tmpfs", MS_NODEV, options.at);
    if (error < 0) return fail(error, "mount the writable layer");
    static const char *const names[] = {"/upper", "/work", "/root"};
    for (size at = 0; at < COUNT(names); at++) {
        TEXT(path, 96);
        add(&path, base.at);
        add(&path, names[at]);
        SYS(mkdirat, AT_FDCWD, path.at, 0755);
    }
    TEXT(layers, 256);
    add(&layers, "lowerdir=/run/image/");
    add_number(&layers, get_number(message, count, K_SLOT, 0));
    add(&layers, ",upperdir=");
    add(&layers, base.at);
    add(&layers, "/upper,workdir=");
    add(&layers, base.at);
    add(&layers, "/work");
    add(root, base.at);
    add(root, "/root");
    error = (int)SYS(mount, "overlay", root->at, "overlay", MS_NODEV, layers.at);
    return fail(error, "mount the container's root");
}

static struct failure settings(u32 channel, const u8 *message, size count) {
    size offset = 0;
    struct field field;
    while (next_field(message, count, &offset, &field) > 0) {
        if (field.key != K_CGROUP) continue;
        size name = 0;
        while (name < field.size && field.at[name] != '=') name++;
        if (name == field.size) continue;
        TEXT(path, 128);
        name_of(&path, "/sys/fs/cgroup/c", channel, "/");
        add_bytes(&path, (const char *)field.at, name);
        int error = write_file(path.at, (const char *)field.at + name + 1, field.size - name - 1);
        if (error < 0) return fail(error, "set a limit of the cgroup");
    }
    return fail(0, "");
}

/* Receive from the child: a terminal's descriptor, or what failed, or the end of file that execve leaves. */
static int receive(int fd, struct report *report, int *descriptor) {
    struct descriptor control = {.fd = -1};
    struct part part = {report, sizeof *report};
    struct parcel message = {.parts = &part, .count = 1, .control = &control, .control_size = sizeof control};
    struct pollfd wait = {fd, POLLIN, 0};
    struct {
        s64 seconds, nanoseconds;
    } limit = {LAUNCH_LIMIT_MS / 1000, 0};
    if (SYS(ppoll, &wait, 1, &limit, 0, 8) <= 0) return -ETIMEDOUT;
    long got = SYS(recvmsg, fd, &message, CLOSE_ON_EXEC);
    if (got < 0) return (int)got;
    if (got && message.control_size >= DESCRIPTOR_SIZE) *descriptor = control.fd;
    return got == 0 ? 0 : 1;
}

/* The child's descriptors and ours: pipes, or nothing when it has a terminal, which it makes itself. */
struct plumbing {
    int ours[3], theirs[3], status[2];
};

static void close_all(int *fds, int count) {
    for (int at = 0; at < count; at++)
        if (fds[at] >= 0) close_fd(fds[at]), fds[at] = -1;
}

static int plumb(struct plumbing *pipes, int terminal, int stdin) {
    for (int at = 0; at < 3; at++) pipes->ours[at] = pipes->theirs[at] = -1;
    pipes->status[0] = pipes->status[1] = -1;
    if (SYS(socketpair, UNIX_FAMILY, SOCKETPAIR_KIND, 0, pipes->status) < 0) return -EMFILE;
    if (terminal) return 0;
    for (int at = 0; at < 3; at++) {
        int ends[2];
        if (at == STDIN && !stdin) {
            pipes->theirs[at] = open_at("/dev/null", O_RDONLY, 0);
            continue;
        }
        if (SYS(pipe2, ends, O_CLOEXEC) < 0) return -EMFILE;
        int ours = at == STDIN ? ends[1] : ends[0];
        SYS(fcntl, ours, F_SETFL, O_NONBLOCK);
        pipes->ours[at] = ours;
        pipes->theirs[at] = at == STDIN ? ends[0] : ends[1];
    }
    return 0;
}

/* The PID namespace to start in: a process in it, 0 for a new one or (EXEC) the agent's; negative when it has gone. */
static int namespace_of(const u8 *message, size count, int pause) {
    switch (get_number(message, count, K_PID_MODE, PIDS_OWN)) {
    case PIDS_POD: return pause;
    case PIDS_TARGET: {
        struct task *task = task_find((u32)get_number(message, count, K_TARGET, 0));
        return task && task->pid ? task->pid : -ESRCH;
    }
    default: return 0;
    }
}

static int open_namespace(int pid, const char *name) {
    TEXT(path, 64);
    add(&path, "/proc/");
    add_number(&path, (u64)pid);
    add(&path, "/ns/");
    add(&path, name);
    return open_at(path.at, O_RDONLY, 0);
}

static struct failure begin(struct task *task, struct child *child, int joined, u64 flags) {
    struct plumbing pipes;
    struct failure failure = fail(0, "");
    int master = -1, pid = 0, own = -1, their = -1;
    int error = plumb(&pipes, child->terminal, (int)get_number(child->message, child->count, K_STDIN, 0));
    if (error < 0) {
        failure = fail(error, "make pipes");
        goto done;
    }
    memcpy(child->fds, pipes.theirs, sizeof child->fds);
    child->status = pipes.status[1];
    if (joined > 0) {
        own = open_namespace(1, "pid");
        their = open_namespace(joined, "pid");
        error = their < 0 ? their : (int)SYS(setns, their, CLONE_NEWPID);
        if (error < 0) {
            failure = fail(error, "join the process namespace");
            goto done;
        }
    }
    pid = (int)SYS(clone, flags | SIGCHLD, 0, 0, 0, 0);
    if (joined > 0) SYS(setns, own, CLONE_NEWPID);
    if (pid == 0) child_run(child);
    if (pid < 0) {
        failure = fail(pid, "make a process");
        goto done;
    }
    close_all(&pipes.status[1], 1);
    struct report report;
    int got;
    while ((got = receive(pipes.status[0], &report, &master)) > 0) {
        if (report.error) {
            failure = (struct failure){report.error, child_step(report.step)};
            break;
        }
    }
    if (got < 0) failure = fail(got, "start the process");
done:
    close_all(pipes.theirs, 3);
    close_all(pipes.status, 2);
    if (own >= 0) close_fd(own);
    if (their >= 0) close_fd(their);
    if (failure.error) {
        close_all(pipes.ours, 3);
        if (master >= 0) close_fd(master);
        if (pid > 0) SYS(kill, pid, SIGKILL), SYS(wait4, pid, 0, 0, 0);
        return failure;
    }
    task->pid = pid;
    if (child->terminal) {
        SYS(fcntl, master, F_SETFL, O_NONBLOCK);
        task->in.terminal = 1;
        task_open(task, (int)SYS(fcntl, master, F_DUPFD_CLOEXEC, 3), master, -1);
    } else {
        task_open(task, pipes.ours[STDIN], pipes.ours[STDOUT], pipes.ours[STDERR]);
    }
    return failure;
}

static int pause_pid;

struct failure container_start(struct task *task, const u8 *message, size count) {
    TEXT(root, 96);
    TEXT(cgroup, 64);
    name_of(&cgroup, "/sys/fs/cgroup/c", task->channel, "");
    int joined = namespace_of(message, count, pause_pid);
    if (joined < 0) return fail(joined, "the container to share processes with is not running");
    int error = (int)SYS(mkdirat, AT_FDCWD, cgroup.at, 0755);
    if (error < 0) return fail(error, "make the cgroup");
    struct failure failure = settings(task->channel, message, count);
    if (!failure.error) failure = make_root(task->channel, message, count, &root);
    if (!failure.error) {
        struct child child = {.message = message, .count = count, .root = root.at, .cgroup = cgroup.at};
        child.terminal = (int)get_number(message, count, K_TTY, 0);
        u64 flags = CLONE_NEWNS;
        if (!joined && get_number(message, count, K_PID_MODE, PIDS_OWN) == PIDS_OWN) flags |= CLONE_NEWPID;
        failure = begin(task, &child, joined, flags);
    }
    if (failure.error) {
        container_kill(task->channel);
        container_remove(task->channel);
    }
    return failure;
}

struct failure process_start(struct task *task, const u8 *message, size count) {
    u32 target = (u32)get_number(message, count, K_TARGET, 0);
    struct task *container = task_find(target);
    if (!container || container->kind != CONTAINER || !container->pid) return fail(ESRCH, "the container is not running");
    TEXT(cgroup, 64);
    name_of(&cgroup, "/sys/fs/cgroup/c", target, "");
    struct child child = {.message = message, .count = count, .cgroup = cgroup.at};
    child.terminal = (int)get_number(message, count, K_TTY, 0);
    child.mounts = open_namespace(container->pid, "mnt");
    child.groups = open_namespace(container->pid, "cgroup");
    struct failure failure = child.mounts < 0 ? fail(child.mounts, "enter the container")
                                              : begin(task, &child, container->pid, 0);
    if (child.mounts >= 0) close_fd(child.mounts);
    if (child.groups >= 0) close_fd(child.groups);
    return failure;
}

struct failure container_update(u32 channel, const u8 *message, size count) {
    struct task *task = task_find(channel);
    if (!task || task->kind != CONTAINER || !task->pid) return fail(ESRCH, "the container is not running");
    return settings(channel, message, count);
}

void container_kill(u32 channel) {
    TEXT(path, 64);
    name_of(&path, "/sys/fs/cgroup/c", channel, "/cgroup.kill");
    write_file(path.at, "1", 1);
}

static long read_of(u32 channel, const char *file, char *into, size room) {
    TEXT(path, 96);
    name_of(&path, "/sys/fs/cgroup/c", channel, file);
    return read_file(path.at, into, room);
}

int container_out_of_memory(u32 channel) {
    static char content[1024];
    read_of(channel, "/memory.events", content, sizeof content);
    return number_after(content, "oom_kill") > 0;
}

void container_remove(u32 channel) {
    TEXT(root, 64);
    name_of(&root, "/run/c/", channel, "/root");
    SYS(umount2, root.at, UMOUNT_DETACH);
    TEXT(base, 64);
    name_of(&base, "/run/c/", channel, "");
    SYS(umount2, base.at, UMOUNT_DETACH);
    SYS(unlinkat, AT_FDCWD, base.at, AT_REMOVEDIR);
    TEXT(cgroup, 64);
    name_of(&cgroup, "/sys/fs/cgroup/c", channel, "");
    SYS(unlinkat, AT_FDCWD, cgroup.at, AT_REMOVEDIR);
}

void container_stats(u32 channel, struct message *reply) {
    static char content[8192];
    put_number(reply, K_TASK, channel);
    read_of(channel, "/cpu.stat", content, sizeof content);
    put_number(reply, K_CPU, number_after(content, "usage_usec") * 1000);
    read_of(channel, "/memory.current", content, sizeof content);
    u64 memory = parse_number(content);
    read_of(channel, "/memory.stat", content, sizeof content);
    u64 inactive = number_after(content, "inactive_file");
    put_number(reply, K_MEMORY, memory);
    put_number(reply, K_WORKING_SET, memory > inactive ? memory - inactive : 0);
    put_number(reply, K_RSS, number_after(content, "anon"));
    read_of(channel, "/pids.current", content, sizeof content);
    put_number(reply, K_PIDS, parse_number(content));
    TEXT(base, 64);
    name_of(&base, "/run/c/", channel, "");
    struct {
        s64 type, block, blocks, free, rest[11];
    } space;
    if (SYS(statfs, base.at, &space) == 0) put_number(reply, K_DISK, (u64)((space.blocks - space.free) * space.block));
}

int pause_start(void) {
    if (pause_pid) return pause_pid;
    int pid = (int)SYS(clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) child_pause();
    if (pid > 0) pause_pid = pid;
    return pid;
}
