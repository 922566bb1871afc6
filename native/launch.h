/* Starting processes in containers; see launch.c for the steps. */
#ifndef LAUNCH_H
#define LAUNCH_H

#include "task.h"

/* What went wrong: the step and the errno. `where` lives for ever. */
struct failure {
    int error;
    const char *where;
};

/* Make the container's cgroup and root and start its first process, by the message START. */
struct failure container_start(struct task *task, const u8 *message, size count);
/* A further process in the container whose channel K_TARGET names, by the message EXEC. */
struct failure process_start(struct task *task, const u8 *message, size count);
/* Write K_CGROUP settings of a container that runs. */
struct failure container_update(u32 channel, const u8 *message, size count);
/* Every process of the container ends. */
void container_kill(u32 channel);
/* Whether the kernel ended one of its processes for want of memory. */
int container_out_of_memory(u32 channel);
/* Unmount its root and remove its cgroup. Idempotent. */
void container_remove(u32 channel);
/* Figures of one container, appended to a reply. */
void container_stats(u32 channel, struct message *reply);
/* Process 1 of a PID namespace that the pod's containers share; its pid. */
int pause_start(void);

#endif
