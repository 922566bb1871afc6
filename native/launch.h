/* Starting processes in containers; see launch.c. */
#ifndef LAUNCH_H
#define LAUNCH_H

#include "task.h"

/* What went wrong: the step and the errno. `where` lives for ever. */
struct failure {
    int error;
    const char *where;
};
/* By a result as system calls give it: nothing has failed unless that is negative. */
static inline struct failure fail(long result, const char *where) {
    return (struct failure){(int)(result < 0 ? -result : 0), where};
}

/* Make the container's cgroup and root and start its first process, by the message START. */
struct failure container_start(struct task *task, const u8 *message, size count);
/* A further process in the container whose channel K_TARGET names, by the message EXEC. */
struct failure process_start(struct task *task, const u8 *message, size count);
/* Write K_CGROUP settings of a container that runs. */
struct failure container_update(u32 channel, const u8 *message, size count);
/* Every process of the container ends. */
void container_kill(const struct task *task);
/* Whether the kernel ended one of its processes for want of memory. */
int container_out_of_memory(const struct task *task);
/* Whatever still runs in it ends, and its files and its cgroup go. Idempotent. */
void container_remove(const struct task *task);
/* Figures of one container, appended to a reply. */
void container_stats(const struct task *task, struct message *reply);
/* Process 1 of a PID namespace that the pod's containers share; its pid. */
int pause_start(void);

#endif
