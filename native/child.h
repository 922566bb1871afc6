/* From the agent's child to the program: everything between clone and execve; see child.c. */
#ifndef CHILD_H
#define CHILD_H

#include "wire.h"

enum { PIDS_OWN, PIDS_POD, PIDS_TARGET, PIDS_AGENT };

struct child {
    const u8 *message;
    size count;
    const char *root;   /* a new container: its root, not yet entered */
    const char *cgroup;
    int mounts, groups; /* a further process: the container's namespaces */
    int fds[3], status;
    int terminal;
};

struct report {
    int error, step;
};

/* Never returns. A failure is written to `status`; execve closes it. */
__attribute__((noreturn)) void child_run(const struct child *child);
__attribute__((noreturn)) void child_pause(void);
const char *child_step(int step);

#endif
