/* A container's surroundings, made before its program is known: what a start would spend most of its time on.
 *
 *     /run/c/<place>/{upper,work,root}   a tmpfs of the container's own, and where the overlay that is its root goes
 *     /sys/fs/cgroup/c<place>            its cgroup (version 2)
 *
 * and a process in them, with namespaces, /proc, /sys and /dev ready, which waits for the message START.
 */
#ifndef STAGE_H
#define STAGE_H

#include "launch.h"

void place_name(struct text *path, const char *before, u32 place, const char *after);
/* Every process of its cgroup ends. */
void place_kill(u32 place);
/* Unmount its files and remove its cgroup. */
void place_clear(u32 place);

struct stage {
    int pid;
    u32 place;
    int go, status; /* pipes: to the process, and from it */
    int ours[3];    /* the other ends of its standard streams */
};

/* By the fields of START that shape it: K_PRIVILEGED, K_MASKED, K_READONLY_PATH. `joined`: a process in the PID namespace
 * to start in, 0 for the agent's own, negative for a new one. */
struct failure stage_make(struct stage *stage, const u8 *message, size count, int joined);
/* Whatever the process is at, it ends, and its place is empty. */
void stage_drop(struct stage *stage);
/* Make one for a container with a PID namespace of its own, and keep it: the message STAGE. */
struct failure stage_keep(const u8 *message, size count);
/* Take the one that is kept when it has the shape that this START wants: 1. */
int stage_take(struct stage *into, const u8 *message, size count);
/* A process has ended that is no task's. */
void stage_reaped(int pid);

#endif
