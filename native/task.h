/* Tasks: what runs on behalf of a channel. A container, a process executed in one, or a connection to a port.
 *
 * What a task writes is kept in a ring until the host has acknowledged it; a full ring is not read into, so that the
 * writer waits. A host that comes back says how far it got, and hears the rest again.
 */
#ifndef TASK_H
#define TASK_H

#include "wire.h"

enum { TASKS = 96, RING = 1 << 16, NAME_MAX_LENGTH = 64 };
enum kind { FREE, CONTAINER, PROCESS, CONNECTION };

struct out {
    int fd;              /* -1: not there or at its end */
    u8 *ring;            /* RING bytes, made when first needed */
    u64 kept, sent, end; /* positions since the beginning: kept ≤ sent ≤ end */
    u64 last;            /* where the words of a process that has ended are over; UNKNOWN until all of them are in the ring */
    u8 watched, used, finished, told;
};
#define UNKNOWN (~0ull)

struct in {
    int fd;
    u8 *ring;
    u64 written, acknowledged, end;
    u8 watched, closing, terminal;
};

struct task {
    enum kind kind;
    u32 channel;
    u32 place; /* a container's; see stage.h */
    int pid; /* 0: has ended */
    struct in in;
    struct out out[2];
    u8 exited, told, oom, closed;
    int code;
    u64 finished_at; /* ns since the epoch */
    char id[NAME_MAX_LENGTH + 1];
};

extern struct task tasks[TASKS];
extern int heard; /* the host has said how far it got: before that, nothing is sent to it but answers */
extern int epoll;

struct task *task_find(u32 channel);
struct task *task_of_process(int pid);
/* NULL: there are too many. */
struct task *task_make(enum kind kind, u32 channel);
/* Close what is open and forget it; a process that still runs is killed and its slot kept until it is reaped. */
void task_drop(struct task *task);
/* Begin to read from, or write to, what the task's descriptors name. They become ours. */
void task_open(struct task *task, int in, int out, int error);
void task_event(struct task *task, int which);
/* From the host. */
void task_input(struct task *task, const u8 *data, size count);
void task_input_end(struct task *task);
void task_seen(struct task *task, int which, u64 position);
/* Its process has ended: what it wrote is told before its end is. What a child of it still writes may come later. */
void task_ended(struct task *task);
/* A host that has come back has seen this much. */
void task_rewind(struct task *task, int which, u64 position);
/* Send as much as the port takes, each task in turn, to a host that was heard. */
void tasks_pump(void);

/* What epoll tells: index of the task and which of its descriptors. */
static inline u64 task_mark(const struct task *task, int which) { return (u64)(task - tasks) << 2 | (u64)which; }

#endif
