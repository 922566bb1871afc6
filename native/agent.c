/* The guest agent: process 1 of a microVM, and the only thing in it that is not a container's.
 *
 * It boots the guest, waits for the host at the port, and does what the messages of docs/guest-protocol.md say. One
 * process, one loop, nothing that polls; it needs no library and no other program in the guest.
 */
#include "guest.h"
#include "port.h"
#include "stage.h"

#include <linux/eventpoll.h>
#include <linux/signal.h>
#include <linux/time.h>

#ifndef AGENT_BUILD
#define AGENT_BUILD "unknown"
#endif

enum { PORT = -1, SIGNALS = -2, EVENTS = 32, NO_HANG = 1, BLOCK = 0, REALTIME = 0 };

static u8 reply_bytes[FRAME_MAX];

static u64 now(void) {
    s64 time[2] = {0, 0};
    SYS(clock_gettime, REALTIME, time);
    return (u64)time[0] * 1000000000 + (u64)time[1];
}

static void answer(u32 channel, const struct failure *failure, struct message *reply) {
    if (failure->error) {
        reply->used = 0;
        put_number(reply, K_ERROR, (u64)failure->error);
        put_text(reply, K_WHERE, failure->where);
    }
    port_send(REPLY, channel, 0, reply->at, reply->used);
}

/* What runs here already, and where its output is to go on: the host has come back after a restart. */
static void greet(const u8 *message, size count, struct message *reply) {
    size offset = 0;
    struct field field;
    struct task *task = NULL;
    for (size at = 0; at < TASKS; at++) {
        struct task *each = &tasks[at];
        if (each->kind == PROCESS || each->kind == CONNECTION) task_drop(each);
        if (each->kind == CONTAINER) {
            each->told = 0;
            each->in.acknowledged = each->in.end + 1; /* say it again */
            task_rewind(each, 0, each->out[0].kept);
            task_rewind(each, 1, each->out[1].kept);
        }
    }
    while (next_field(message, count, &offset, &field) > 0) {
        if (field.key == K_CHANNEL) task = task_find((u32)field_number(&field));
        if (field.key == K_OUT_SEEN && task) task_rewind(task, 0, field_number(&field));
        if (field.key == K_ERR_SEEN && task) task_rewind(task, 1, field_number(&field));
    }
    heard = 1;
    put_number(reply, K_VERSION, VERSION);
    put_text(reply, K_BOOT, AGENT_BUILD);
    for (size at = 0; at < TASKS; at++) {
        if (tasks[at].kind != CONTAINER) continue;
        put_number(reply, K_TASK, tasks[at].channel);
        put_text(reply, K_ID, tasks[at].id);
        put_number(reply, K_PID, (u64)tasks[at].pid);
        put_number(reply, K_IN_TAKEN, tasks[at].in.end);
    }
}

static struct failure start(enum kind kind, u32 channel, const u8 *message, size count, struct message *reply) {
    struct failure failure = {EBUSY, "the channel is in use"};
    if (task_find(channel)) return failure;
    struct task *task = task_make(kind, channel);
    if (!task) return (struct failure){EAGAIN, "too many processes and connections"};
    get_text(message, count, K_ID, task->id, sizeof task->id);
    if (kind == CONNECTION) {
        int fd = network_connect((u16)get_number(message, count, K_PORT, 0));
        failure = (struct failure){fd < 0 ? -fd : 0, "connect"};
        if (fd >= 0) task_open(task, (int)SYS(fcntl, fd, F_DUPFD_CLOEXEC, 3), fd, -1);
    } else {
        failure = kind == CONTAINER ? container_start(task, message, count) : process_start(task, message, count);
        put_number(reply, K_PID, (u64)task->pid);
    }
    if (failure.error) task_drop(task);
    return failure;
}

static void send_signal(const struct task *task, const u8 *message, size count) {
    if (!task || !task->pid) return;
    if (get_number(message, count, K_ALL, 0)) container_kill(task);
    else SYS(kill, task->pid, get_number(message, count, K_NUMBER, SIGTERM));
}

static void resize(const struct task *task, const u8 *message, size count) {
    u16 sizes[4] = {(u16)get_number(message, count, K_ROWS, 0), (u16)get_number(message, count, K_COLUMNS, 0), 0, 0};
    if (task && task->in.fd >= 0) SYS(ioctl, task->in.fd, 0x5414 /* TIOCSWINSZ */, sizes);
}

static void stats(struct message *reply) {
    guest_traffic(reply);
    for (size at = 0; at < TASKS; at++)
        if (tasks[at].kind == CONTAINER && tasks[at].pid) container_stats(&tasks[at], reply);
}

static void handle(const struct frame *frame, const u8 *message, size count) {
    struct message reply = {reply_bytes, 0, sizeof reply_bytes, 0};
    struct failure failure = {0, ""};
    struct task *task = task_find(frame->channel);
    if (frame->type != DATA && check_fields(message, count) < 0 && frame->type != ACK) {
        failure = (struct failure){EBADMSG, "malformed message"};
        answer(frame->channel, &failure, &reply);
        return;
    }
    switch (frame->type) {
    case DATA:
        if (task) task_input(task, message, count);
        return;
    case END:
        if (task) task_input_end(task);
        return;
    case ACK: {
        struct field position = {0, (u32)count, message};
        u16 which = frame->flags;
        if (task && (which == STDOUT || which == STDERR)) task_seen(task, which - STDOUT, field_number(&position));
        return;
    }
    case SIGNAL: send_signal(task, message, count); return;
    case RESIZE: resize(task, message, count); return;
    case CLOSE:
        if (task && task->kind != CONTAINER) task_drop(task);
        return;
    case HELLO: greet(message, count, &reply); break;
    case SETUP: failure = guest_setup(message, count); break;
    case IMAGE: failure = guest_image(message, count); break;
    case START: failure = start(CONTAINER, frame->channel, message, count, &reply); break;
    case EXEC: failure = start(PROCESS, frame->channel, message, count, &reply); break;
    case CONNECT: failure = start(CONNECTION, frame->channel, message, count, &reply); break;
    case STAGE: failure = stage_keep(message, count); break;
    case REMOVE: {
        struct task *container = task_find((u32)get_number(message, count, K_TARGET, 0));
        if (container && container->kind == CONTAINER) {
            container_remove(container);
            task_drop(container);
        }
        failure = guest_remove_image(message, count);
        break;
    }
    case STATS: stats(&reply); break;
    case UPDATE: failure = container_update((u32)get_number(message, count, K_TARGET, 0), message, count); break;
    case PUT: failure = file_put(message, count); break;
    case GET: failure = file_get(message, count, &reply); break;
    case SHARE: failure = guest_share(); break;
    case POWEROFF: guest_end();
    default: failure = (struct failure){ENOSYS, "unknown message"};
    }
    answer(frame->channel, &failure, &reply);
}

static void reap(void) {
    int status, pid;
    while ((pid = (int)SYS(wait4, -1, &status, NO_HANG, 0)) > 0) {
        struct task *task = task_of_process(pid);
        if (!task) {
            stage_reaped(pid);
            continue;
        }
        task->pid = 0;
        task->exited = 1;
        task->code = status & 0x7f ? 128 + (status & 0x7f) : status >> 8 & 0xff;
        task->finished_at = now();
        if (task->kind == CONTAINER) {
            task->oom = (u8)container_out_of_memory(task);
            container_kill(task);
        }
        if (task->closed) task->kind = FREE;
        else task_ended(task);
    }
}

static void ready(void) {
    u8 bytes[64];
    struct message message = {bytes, 0, sizeof bytes, 0};
    put_number(&message, K_VERSION, VERSION);
    port_send(READY, 0, 0, bytes, message.used);
}

static int watch_signals(void) {
    u64 mask = 1ull << (SIGCHLD - 1);
    SYS(rt_sigprocmask, BLOCK, &mask, 0, sizeof mask);
    int fd = (int)SYS(signalfd4, -1, &mask, sizeof mask, O_CLOEXEC | O_NONBLOCK);
    struct epoll_event event = {EPOLLIN, (u64)SIGNALS};
    SYS(epoll_ctl, epoll, EPOLL_CTL_ADD, fd, &event);
    return fd;
}

__attribute__((noreturn)) static void serve(int signals) {
    static u8 ignored[1024];
    struct epoll_event events[EVENTS];
    for (;;) {
        int count = (int)SYS(epoll_pwait, epoll, events, EVENTS, -1, 0, 8);
        for (int at = 0; at < count; at++) {
            s64 mark = (s64)events[at].data;
            if (mark == PORT) {
                int change = port_event(epoll, (u64)PORT, events[at].events);
                if (change) heard = 0;
                if (change > 0) ready();
            } else if (mark == SIGNALS) {
                SYS(read, signals, ignored, sizeof ignored);
                reap();
            } else if (mark >> 2 < TASKS) {
                task_event(&tasks[mark >> 2], (int)(mark & 3));
            }
        }
        int stopped;
        do {
            tasks_pump();
            stopped = port_read(handle);
            tasks_pump();
        } while (stopped && port_room() >= REPLY_ROOM);
    }
}

__attribute__((noreturn, used)) void agent_main(void) {
    guest_boot();
    epoll = (int)SYS(epoll_create1, O_CLOEXEC);
    int signals = watch_signals();
    if (port_open(epoll, (u64)PORT) < 0) guest_end();
    serve(signals);
}

#if defined __x86_64__
__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n and $-16, %rsp\n call agent_main\n");
#elif defined __aarch64__
__asm__(".globl _start\n_start:\n mov x29, #0\n mov x30, #0\n bl agent_main\n");
#endif
