/* From the agent's child to the program: everything between clone and execve; see child.c and root.c. */
#ifndef CHILD_H
#define CHILD_H

#include "stage.h"

enum { PIDS_OWN, PIDS_POD, PIDS_TARGET, PIDS_AGENT };

/* Pipes between the agent and a process that it starts, each with its reading end first. */
struct plumbing {
    int in[2], out[2], error[2], go[2], status[2];
};
int plumb(struct plumbing *pipes);
/* The agent's side keeps its own ends and closes the process's. */
void take_ours(struct stage *stage, const struct plumbing *pipes);
void close_theirs(struct plumbing *pipes);
/* A process in the PID namespace of process `joined`, when that is one; its pid, 0 in itself. */
int fork_into(int joined, u64 flags);

struct child {
    const u8 *message;
    size count;
    int container;      /* it is a container's first: it makes a stage, and reads its START from `go` */
    u32 place;          /* a first process: where its container is */
    int first;          /* a further one: the process that it joins */
    int mounts, groups; /* else: the container's namespaces */
    int fds[3], go, status;
};

/* What a child says of itself: a failed step, or (no error) WAITING or TERMINAL. */
struct report {
    int error, step, descriptor;
};

enum step {
    CGROUP, ENTER, ROOT, MOUNT_SOURCE, PIVOT, SPECIAL, VOLUME, MASK, LOCK, TERMINAL, LIMITS, USER, CAPABILITIES, SECCOMP,
    DIRECTORY, EXECUTE, WAITING,
};
const char *child_step(int step);

/* Never returns. A failure is written to `status`; execve closes it. */
__attribute__((noreturn)) void child_run(struct child *child);
__attribute__((noreturn)) void child_pause(void);
/* In the child: nothing else that the agent has open stays open. */
void child_plumb(struct child *child, const struct plumbing *pipes);
/* In the agent: until a stage is ready. */
struct failure child_waits(struct stage *stage);

/* within the child */

void must(int step, long result);
/* A copy with its NUL. */
char *keep(const u8 *at, size count);
u64 number(u16 key, u64 otherwise);
int each(size *offset, u16 key, struct field *field);
int clone_tree(const char *path);
void make_place_for(const char *path, int file);
long lock_mount(int fd, const char *path, int flags, u64 attributes);

/* A place of one's own in the tree of mounts, the container's cgroup, and /proc, /sys and /dev for it. */
void root_prepare(const struct child *child);
/* By START: the overlay becomes /, with all that is mounted in it. */
void root_enter(const struct child *child);

#endif
