/* The streams of tasks; see task.h. */
#include "task.h"

#include <linux/eventpoll.h>
#include <linux/signal.h>

#include "port.h"

enum { CHUNK = 16384, END_OF_TRANSMISSION = 4, SHUT_WR = 1 };

struct task tasks[TASKS];
int epoll, heard;

struct task *task_find(u32 channel) {
    for (size at = 0; at < TASKS; at++)
        if (tasks[at].kind != FREE && tasks[at].channel == channel && !tasks[at].closed) return &tasks[at];
    return NULL;
}

struct task *task_of_process(int pid) {
    for (size at = 0; at < TASKS; at++)
        if (tasks[at].kind != FREE && tasks[at].pid == pid) return &tasks[at];
    return NULL;
}

struct task *task_make(enum kind kind, u32 channel) {
    for (size at = 0; at < TASKS; at++) {
        struct task *task = &tasks[at];
        if (task->kind != FREE) continue;
        memset(task, 0, sizeof *task);
        task->kind = kind, task->channel = channel;
        task->in.fd = task->out[0].fd = task->out[1].fd = -1;
        return task;
    }
    return NULL;
}

static void watch(int fd, u8 *watched, int wanted, u32 events, u64 mark) {
    if (fd < 0 || *watched == wanted) return;
    struct epoll_event event = {events, mark};
    SYS(epoll_ctl, epoll, wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, fd, &event);
    *watched = (u8)wanted;
}

static void close_out(struct out *out) {
    watch(out->fd, &out->watched, 0, 0, 0);
    if (out->fd >= 0) close_fd(out->fd);
    out->fd = -1;
    out->finished = 1;
    if (out->last == UNKNOWN) out->last = out->end;
}

static void close_in(struct task *task) {
    struct in *in = &task->in;
    watch(in->fd, &in->watched, 0, 0, 0);
    if (in->fd >= 0 && task->kind == CONNECTION) SYS(shutdown, in->fd, SHUT_WR);
    if (in->fd >= 0) close_fd(in->fd);
    in->fd = -1;
    free_pages(in->ring, RING);
    in->ring = NULL;
}

void task_drop(struct task *task) {
    close_in(task);
    for (int at = 0; at < 2; at++) {
        close_out(&task->out[at]);
        free_pages(task->out[at].ring, RING);
        task->out[at].ring = NULL;
    }
    task->closed = 1;
    if (task->pid) {
        SYS(kill, task->pid, SIGKILL);
        return;
    }
    task->kind = FREE;
}

void task_open(struct task *task, int in, int out, int error) {
    const int fds[2] = {out, error};
    task->in.fd = in;
    for (int at = 0; at < 2; at++) {
        struct out *each = &task->out[at];
        each->fd = fds[at];
        each->used = fds[at] >= 0;
        if (fds[at] >= 0) watch(fds[at], &each->watched, 1, EPOLLIN, task_mark(task, STDOUT + at));
    }
}

static void read_out(struct task *task, int which) {
    struct out *out = &task->out[which];
    if (out->fd < 0) return;
    if (!out->ring && !(out->ring = pages(RING))) return;
    while (out->end - out->kept < RING) {
        size at = out->end % RING, room = RING - at;
        if (room > RING - (out->end - out->kept)) room = RING - (size)(out->end - out->kept);
        long got = SYS(read, out->fd, out->ring + at, room);
        if (got == -EINTR) continue;
        if (got == -EAGAIN) {
            if (out->last == UNKNOWN) out->last = out->end;
            break;
        }
        if (got <= 0) { /* the end; EIO is how a terminal says it */
            close_out(out);
            return;
        }
        out->end += (u64)got;
    }
    watch(out->fd, &out->watched, out->end - out->kept < RING, EPOLLIN, task_mark(task, STDOUT + which));
}

void task_ended(struct task *task) {
    for (int which = 0; which < 2; which++) {
        struct out *out = &task->out[which];
        out->last = out->fd < 0 ? out->end : UNKNOWN;
        read_out(task, which);
    }
}

static void write_in(struct task *task) {
    struct in *in = &task->in;
    if (in->fd < 0) return;
    while (in->written < in->end) {
        size at = in->written % RING, count = RING - at;
        if (count > in->end - in->written) count = (size)(in->end - in->written);
        long done = SYS(write, in->fd, in->ring + at, count);
        if (done == -EAGAIN || done == -EINTR) break;
        if (done <= 0) { /* nobody reads any more: what comes is swallowed */
            in->written = in->end;
            in->closing = 1;
            in->terminal = 0;
            break;
        }
        in->written += (u64)done;
    }
    if (in->written == in->end && in->closing) {
        if (!in->terminal) {
            close_in(task);
            return;
        }
        u8 end = END_OF_TRANSMISSION;
        SYS(write, in->fd, &end, 1);
        in->closing = 0;
    }
    watch(in->fd, &in->watched, in->written < in->end, EPOLLOUT, task_mark(task, STDIN));
}

void task_event(struct task *task, int which) {
    if (task->kind == FREE || task->closed) return;
    if (which == STDIN) write_in(task);
    else read_out(task, which - STDOUT);
}

void task_input(struct task *task, const u8 *data, size count) {
    struct in *in = &task->in;
    if (in->fd < 0 || in->closing) {
        in->end += count;
        in->written = in->end;
        return;
    }
    if (count > RING - (in->end - in->written)) return; /* the host sent more than it may */
    if (!in->ring && !(in->ring = pages(RING))) return;
    for (size done = 0; done < count;) {
        size at = (size)(in->end % RING), part = RING - at;
        if (part > count - done) part = count - done;
        memcpy(in->ring + at, data + done, part);
        in->end += part, done += part;
    }
    write_in(task);
}

void task_input_end(struct task *task) {
    if (task->in.fd < 0) return;
    task->in.closing = 1;
    write_in(task);
}

void task_seen(struct task *task, int which, u64 position) {
    struct out *out = &task->out[which];
    if (position < out->kept || position > out->sent) return;
    out->kept = position;
    if (out->kept == out->end && out->fd < 0) {
        free_pages(out->ring, RING);
        out->ring = NULL;
    }
    if (out->last == UNKNOWN) read_out(task, which); /* nothing more may come, of which epoll would tell */
    else if (out->fd >= 0) watch(out->fd, &out->watched, out->end - out->kept < RING, EPOLLIN, task_mark(task, STDOUT + which));
}

void task_rewind(struct task *task, int which, u64 position) {
    struct out *out = &task->out[which];
    out->sent = position >= out->kept && position <= out->end ? position : out->kept;
    out->kept = out->sent;
    out->told = 0;
    task->told = 0;
    if (out->fd >= 0) watch(out->fd, &out->watched, out->end - out->kept < RING, EPOLLIN, task_mark(task, STDOUT + which));
}

static int send_some(struct task *task, int which) {
    struct out *out = &task->out[which];
    if (out->sent < out->end) {
        size at = out->sent % RING, count = RING - at;
        if (count > out->end - out->sent) count = (size)(out->end - out->sent);
        if (count > CHUNK) count = CHUNK;
        if (port_room() < REPLY_ROOM + HEADER + count) return 0;
        port_send(DATA, task->channel, (u16)(STDOUT + which), out->ring + at, count);
        out->sent += count;
        return 1;
    }
    if (out->used && out->finished && !out->told && port_room() >= REPLY_ROOM + HEADER) {
        port_send(END, task->channel, (u16)(STDOUT + which), NULL, 0);
        out->told = 1;
    }
    return 0;
}

static void send_acknowledgement(struct task *task) {
    u64 written = task->in.written;
    if (task->in.acknowledged == written || port_room() < REPLY_ROOM + HEADER + sizeof written) return;
    port_send(ACK, task->channel, STDIN, &written, sizeof written);
    task->in.acknowledged = written;
}

/* UNKNOWN is never sent. */
static int words_sent(const struct task *task) {
    return task->out[0].sent >= task->out[0].last && task->out[1].sent >= task->out[1].last;
}

static void send_exit(struct task *task) {
    u8 bytes[128];
    struct message message = {bytes, 0, sizeof bytes, 0};
    put_number(&message, K_CODE, (u64)(u32)task->code);
    put_number(&message, K_OOM, task->oom);
    put_number(&message, K_FINISHED, task->finished_at);
    if (port_room() < REPLY_ROOM + HEADER + message.used) return;
    port_send(EXIT, task->channel, 0, bytes, message.used);
    task->told = 1;
}

void tasks_pump(void) {
    int busy = 1;
    while (attached && heard && busy) {
        busy = 0;
        for (size at = 0; at < TASKS; at++) {
            struct task *task = &tasks[at];
            if (task->kind == FREE || task->closed) continue;
            for (int which = 0; which < 2; which++) busy |= send_some(task, which);
            send_acknowledgement(task);
            if (task->exited && !task->told && words_sent(task)) send_exit(task);
        }
        port_flush();
    }
    port_flush();
}
