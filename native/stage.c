/* Surroundings of containers; see stage.h. */
#include "stage.h"

#include <linux/mount.h>
#include <linux/sched.h>
#include <linux/signal.h>

#include "child.h"

enum { UMOUNT_DETACH = 2, SHAPE_MAX = 8192 };

static struct stage kept;
static u8 kept_shape[SHAPE_MAX];
static size kept_shape_size;

void place_name(struct text *path, const char *before, u32 place, const char *after) {
    add(path, before);
    add_number(path, place);
    add(path, after);
}

void place_kill(u32 place) {
    TEXT(path, 64);
    place_name(&path, "/sys/fs/cgroup/c", place, "/cgroup.kill");
    write_file(path.at, "1", 1);
}

/* A group, and those that an init has made in it. */
static void remove_group(int parent, const char *name, int depth) {
    enum { DIRECTORY_TYPE = 4, DEEPEST = 16 };
    if (SYS(unlinkat, parent, name, AT_REMOVEDIR) != -EBUSY || depth > DEEPEST) return;
    int fd = (int)SYS(openat, parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    char entries[2048];
    long count;
    while ((count = SYS(getdents64, fd, entries, sizeof entries)) > 0) {
        for (long at = 0; at < count; at += ((struct entry64 *)(entries + at))->size) {
            const struct entry64 *each = (const struct entry64 *)(entries + at);
            if (each->type == DIRECTORY_TYPE && each->name[0] != '.') remove_group(fd, each->name, depth + 1);
        }
    }
    close_fd(fd);
    SYS(unlinkat, parent, name, AT_REMOVEDIR);
}

void place_clear(u32 place) {
    TEXT(base, 64);
    place_name(&base, "/run/c/", place, "");
    SYS(umount2, base.at, UMOUNT_DETACH);
    SYS(unlinkat, AT_FDCWD, base.at, AT_REMOVEDIR);
    TEXT(cgroup, 64);
    place_name(&cgroup, "/sys/fs/cgroup/c", place, "");
    remove_group(AT_FDCWD, cgroup.at, 0);
}

static struct failure make_place(u32 place) {
    TEXT(cgroup, 64);
    place_name(&cgroup, "/sys/fs/cgroup/c", place, "");
    int error = (int)SYS(mkdirat, AT_FDCWD, cgroup.at, 0755);
    if (error < 0) return fail(error, "make the cgroup");
    TEXT(base, 64);
    place_name(&base, "/run/c/", place, "");
    error = make_directories(base.at, 0755);
    if (error < 0) return fail(error, "make the container's directory");
    error = (int)SYS(mount, "container", base.at, "tmpfs", MS_NODEV, "mode=755");
    if (error < 0) return fail(error, "mount the writable layer");
    static const char *const names[] = {"/upper", "/work", "/root", "/special"};
    for (size at = 0; at < COUNT(names); at++) {
        TEXT(path, 96);
        place_name(&path, "/run/c/", place, names[at]);
        SYS(mkdirat, AT_FDCWD, path.at, 0755);
    }
    return fail(0, "");
}

static int open_namespace_of(int pid) {
    TEXT(path, 64);
    place_name(&path, "/proc/", (u32)pid, "/ns/pid");
    return open_at(path.at, O_RDONLY, 0);
}

int fork_into(int joined, u64 flags) {
    if (joined <= 0) return (int)SYS(clone, flags | SIGCHLD, 0, 0, 0, 0);
    int own = open_namespace_of(1), their = open_namespace_of(joined);
    int pid = their < 0 ? their : (int)SYS(setns, their, CLONE_NEWPID);
    if (pid >= 0) {
        pid = (int)SYS(clone, flags | SIGCHLD, 0, 0, 0, 0);
        SYS(setns, own, CLONE_NEWPID);
    }
    if (own >= 0) close_fd(own);
    if (their >= 0) close_fd(their);
    return pid;
}

int plumb(struct plumbing *pipes) {
    int *ends[] = {pipes->in, pipes->out, pipes->error, pipes->go, pipes->status};
    for (size at = 0; at < COUNT(ends); at++) ends[at][0] = ends[at][1] = -1;
    for (size at = 0; at < COUNT(ends); at++)
        if (SYS(pipe2, ends[at], O_CLOEXEC) < 0) return -EMFILE;
    return 0;
}

static void close_one(int *fd) {
    if (*fd >= 0) close_fd(*fd);
    *fd = -1;
}

void close_theirs(struct plumbing *pipes) {
    close_one(&pipes->in[0]), close_one(&pipes->out[1]), close_one(&pipes->error[1]);
    close_one(&pipes->go[0]), close_one(&pipes->status[1]);
}

static void close_ours(struct stage *stage) {
    for (int at = 0; at < 3; at++) close_one(&stage->ours[at]);
    close_one(&stage->go), close_one(&stage->status);
}

void take_ours(struct stage *stage, const struct plumbing *pipes) {
    stage->ours[0] = pipes->in[1], stage->ours[1] = pipes->out[0], stage->ours[2] = pipes->error[0];
    stage->go = pipes->go[1], stage->status = pipes->status[0];
    for (int at = 0; at < 3; at++) SYS(fcntl, stage->ours[at], F_SETFL, O_NONBLOCK);
}

struct failure stage_make(struct stage *stage, const u8 *message, size count, int joined) {
    static u32 places;
    struct plumbing pipes;
    memset(stage, 0, sizeof *stage);
    stage->place = ++places;
    struct failure failure = make_place(stage->place);
    int error = failure.error ? -failure.error : plumb(&pipes);
    if (error < 0) {
        place_clear(stage->place);
        return failure.error ? failure : fail(error, "make pipes");
    }
    take_ours(stage, &pipes);
    struct child child = {.message = message, .count = count, .place = stage->place, .container = 1};
    int pid = fork_into(joined, CLONE_NEWNS | (joined < 0 ? CLONE_NEWPID : 0u));
    if (pid == 0) {
        child_plumb(&child, &pipes);
        child_run(&child);
    }
    close_theirs(&pipes);
    stage->pid = pid;
    if (pid < 0) {
        stage->pid = 0;
        stage_drop(stage);
        return fail(pid, "make a process");
    }
    return fail(0, "");
}

void stage_drop(struct stage *stage) {
    close_ours(stage);
    place_kill(stage->place);
    if (stage->pid) SYS(kill, stage->pid, SIGKILL), SYS(wait4, stage->pid, 0, 0, 0);
    stage->pid = 0;
    place_clear(stage->place);
}

/* what is kept */

/* The fields that shape a stage, one after the other; their size, or more than fits. */
static size shape_of(const u8 *message, size count, u8 *into) {
    size offset = 0, used = 0;
    struct field field;
    while (next_field(message, count, &offset, &field) > 0) {
        if (field.key != K_PRIVILEGED && field.key != K_INIT && field.key != K_MASKED && field.key != K_READONLY_PATH) continue;
        if (field.key == K_PRIVILEGED && !field_number(&field)) continue;
        if (used + sizeof field.key + sizeof field.size + field.size > SHAPE_MAX) return SHAPE_MAX + 1;
        memcpy(into + used, &field.key, sizeof field.key), used += sizeof field.key;
        memcpy(into + used, &field.size, sizeof field.size), used += sizeof field.size;
        memcpy(into + used, field.at, field.size), used += field.size;
    }
    return used;
}

struct failure stage_keep(const u8 *message, size count) {
    if (kept.pid) stage_drop(&kept);
    kept_shape_size = shape_of(message, count, kept_shape);
    if (kept_shape_size > SHAPE_MAX) return fail(-E2BIG, "make a stage");
    struct failure failure = stage_make(&kept, message, count, -1);
    if (!failure.error) failure = child_waits(&kept);
    if (failure.error && kept.pid) stage_drop(&kept);
    return failure;
}

int stage_take(struct stage *into, const u8 *message, size count) {
    static u8 wanted[SHAPE_MAX];
    if (!kept.pid || get_number(message, count, K_PID_MODE, PIDS_OWN) != PIDS_OWN) return 0;
    size used = shape_of(message, count, wanted);
    if (used != kept_shape_size || memcmp(wanted, kept_shape, used)) return 0;
    *into = kept;
    kept.pid = 0;
    return 1;
}

void stage_reaped(int pid) {
    if (!pid || kept.pid != pid) return;
    kept.pid = 0;
    close_ours(&kept);
    place_clear(kept.place);
}
