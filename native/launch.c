/* Containers and their further processes, as the agent sees them; what they run through until execve is in child.c. */
#include "launch.h"

#include <linux/mount.h>
#include <linux/poll.h>
#include <linux/sched.h>
#include <linux/signal.h>

#include "child.h"

enum { LAUNCH_LIMIT = 20 /* seconds */ };

static struct failure settings(u32 place, const u8 *message, size count) {
    size offset = 0;
    struct field field;
    while (next_field(message, count, &offset, &field) > 0) {
        if (field.key != K_CGROUP) continue;
        size name = 0;
        while (name < field.size && field.at[name] != '=') name++;
        if (name == field.size) continue;
        /* Which few pods ask for, and every request of a disk would cost. */
        if (name > 3 && !memcmp(field.at, "io.", 3)) write_file("/sys/fs/cgroup/cgroup.subtree_control", "+io", 3);
        TEXT(path, 128);
        place_name(&path, "/sys/fs/cgroup/c", place, "/");
        add_bytes(&path, (const char *)field.at, name);
        int error = write_file(path.at, (const char *)field.at + name + 1, field.size - name - 1);
        if (error < 0) return fail(error, "set a limit of the cgroup");
    }
    return fail(0, "");
}

/* The child's next report: 1, or the end of file that execve leaves: 0, or -errno. */
static int receive(const struct stage *stage, struct report *report) {
    struct pollfd wait = {stage->status, POLLIN, 0};
    struct {
        s64 seconds, nanoseconds;
    } limit = {LAUNCH_LIMIT, 0};
    if (SYS(ppoll, &wait, 1, &limit, 0, 8) <= 0) return -ETIMEDOUT;
    long got = SYS(read, stage->status, report, sizeof *report);
    return got < 0 ? (int)got : got == sizeof *report;
}

static struct failure reported(int got, const struct report *report) {
    if (got > 0 && report->error) return (struct failure){report->error, child_step(report->step)};
    return fail(got < 0 ? got : 0, "start the process");
}

struct failure child_waits(struct stage *stage) {
    struct report report;
    int got = receive(stage, &report);
    return got ? reported(got, &report) : fail(-ECHILD, "start the process");
}

static int fetch(const struct stage *stage, int descriptor) {
    int process = (int)SYS(pidfd_open, stage->pid, 0);
    if (process < 0) return process;
    int master = (int)SYS(pidfd_getfd, process, descriptor, 0);
    close_fd(process);
    if (master >= 0) SYS(write, stage->go, "", 1);
    return master;
}

static int send_all(int fd, const void *what, size count) {
    for (const u8 *at = what; count;) {
        long sent = SYS(write, fd, at, count);
        if (sent <= 0) return -EPIPE;
        at += sent, count -= (size)sent;
    }
    return 0;
}

/* Wait for the program to run, and make the process the task's. On a failure it has ended. */
static struct failure finish(struct task *task, struct stage *stage, const u8 *message, size count) {
    int terminal = (int)get_number(message, count, K_TTY, 0), master = -1, got;
    struct report report;
    struct failure failure = fail(0, "");
    while (!failure.error && (got = receive(stage, &report)) != 0) {
        failure = reported(got, &report);
        if (failure.error || report.step != TERMINAL) continue;
        master = fetch(stage, report.descriptor);
        if (master < 0) failure = fail(master, child_step(TERMINAL));
    }
    close_fd(stage->go), close_fd(stage->status);
    stage->go = stage->status = -1;
    int in = stage->ours[STDIN], out = stage->ours[STDOUT], error = stage->ours[STDERR];
    if (terminal || failure.error || !get_number(message, count, K_STDIN, 0)) close_fd(in), in = -1;
    if (terminal || failure.error) close_fd(out), close_fd(error);
    if (failure.error) {
        if (master >= 0) close_fd(master);
        SYS(kill, stage->pid, SIGKILL), SYS(wait4, stage->pid, 0, 0, 0);
        return failure;
    }
    task->pid = stage->pid;
    if (terminal) {
        SYS(fcntl, master, F_SETFL, O_NONBLOCK);
        task->in.terminal = 1;
        task_open(task, (int)SYS(fcntl, master, F_DUPFD_CLOEXEC, 3), master, -1);
    } else {
        task_open(task, in, out, error);
    }
    return failure;
}

/* The PID namespace to start in, as `stage_make` takes it; 0 also when the container to share with has gone. */
static int namespace_of(const u8 *message, size count, int pause) {
    struct task *task;
    switch (get_number(message, count, K_PID_MODE, PIDS_OWN)) {
    case PIDS_POD: return pause;
    case PIDS_TARGET:
        task = task_find((u32)get_number(message, count, K_TARGET, 0));
        return task ? task->pid : 0;
    case PIDS_OWN: return -1;
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

static int pause_pid;

static struct failure limit_disk(u32 place, u64 limit) {
    if (!limit) return fail(0, "");
    TEXT(base, 64);
    place_name(&base, "/run/c/", place, "");
    TEXT(options, 64);
    add(&options, "mode=755,size="), add_number(&options, limit);
    return fail(SYS(mount, "container", base.at, "tmpfs", MS_REMOUNT | MS_NODEV, options.at), "limit the writable layer");
}

struct failure container_start(struct task *task, const u8 *message, size count) {
    struct stage stage;
    struct failure failure = fail(0, "");
    if (!stage_take(&stage, message, count)) {
        int joined = namespace_of(message, count, pause_pid);
        if (!joined && get_number(message, count, K_PID_MODE, PIDS_OWN) == PIDS_TARGET)
            return fail(-ESRCH, "the container to share processes with is not running");
        failure = stage_make(&stage, message, count, joined);
        if (failure.error) return failure;
    }
    task->place = stage.place;
    failure = settings(stage.place, message, count);
    if (!failure.error) failure = limit_disk(stage.place, get_number(message, count, K_LIMIT, 0));
    if (failure.error) {
        stage_drop(&stage);
        return failure;
    }
    int error = send_all(stage.go, &count, sizeof count);
    if (!error) send_all(stage.go, message, count);
    failure = finish(task, &stage, message, count);
    if (failure.error) container_remove(task);
    return failure;
}

struct failure process_start(struct task *task, const u8 *message, size count) {
    struct task *container = task_find((u32)get_number(message, count, K_TARGET, 0));
    if (!container || container->kind != CONTAINER || !container->pid) return fail(-ESRCH, "the container is not running");
    struct child child = {.message = message, .count = count, .first = container->pid};
    child.mounts = open_namespace(container->pid, "mnt");
    child.groups = open_namespace(container->pid, "cgroup");
    struct plumbing pipes;
    struct stage stage = {0};
    struct failure failure = fail(child.mounts < 0 ? child.mounts : plumb(&pipes), "enter the container");
    if (!failure.error) {
        take_ours(&stage, &pipes);
        stage.pid = fork_into(container->pid, 0);
        if (stage.pid == 0) {
            child_plumb(&child, &pipes);
            child_run(&child);
        }
        close_theirs(&pipes);
        failure = stage.pid < 0 ? fail(stage.pid, "make a process") : finish(task, &stage, message, count);
    }
    if (child.mounts >= 0) close_fd(child.mounts);
    if (child.groups >= 0) close_fd(child.groups);
    return failure;
}

struct failure container_update(u32 channel, const u8 *message, size count) {
    struct task *task = task_find(channel);
    if (!task || task->kind != CONTAINER || !task->pid) return fail(-ESRCH, "the container is not running");
    return settings(task->place, message, count);
}

void container_kill(const struct task *task) { place_kill(task->place); }

static long read_of(const struct task *task, const char *file, char *into, size room) {
    TEXT(path, 96);
    place_name(&path, "/sys/fs/cgroup/c", task->place, file);
    return read_file(path.at, into, room);
}

int container_out_of_memory(const struct task *task) {
    static char content[1024];
    read_of(task, "/memory.events", content, sizeof content);
    return number_after(content, "oom_kill") > 0;
}

void container_remove(const struct task *task) {
    place_kill(task->place);
    place_clear(task->place);
}

void container_stats(const struct task *task, struct message *reply) {
    static char content[8192];
    put_number(reply, K_TASK, task->channel);
    read_of(task, "/cpu.stat", content, sizeof content);
    put_number(reply, K_CPU, number_after(content, "usage_usec") * 1000);
    read_of(task, "/memory.current", content, sizeof content);
    u64 memory = parse_number(content);
    read_of(task, "/memory.stat", content, sizeof content);
    u64 inactive = number_after(content, "inactive_file");
    put_number(reply, K_MEMORY, memory);
    put_number(reply, K_WORKING_SET, memory > inactive ? memory - inactive : 0);
    put_number(reply, K_RSS, number_after(content, "anon"));
    read_of(task, "/pids.current", content, sizeof content);
    put_number(reply, K_PIDS, parse_number(content));
    TEXT(base, 64);
    place_name(&base, "/run/c/", task->place, "");
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
