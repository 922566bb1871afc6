/* Frames in and out of the port; see port.h. */
#include "port.h"

#include <linux/eventpoll.h>

enum { SERIAL_TRIES = 10000, VSOCK_PORT = 1024, SOCK_STREAM_CLOEXEC = 1 | O_CLOEXEC | O_NONBLOCK, AF_VSOCK_FAMILY = 40 };

int port = -1;
int attached;

static int listener = -1;
static u8 received[HEADER + FRAME_MAX];
static size have;
static u8 assembled[MESSAGE_MAX];
static size gathered;
static u8 waiting[SEND_ROOM];
static size first, last;

static void forget(void) { have = gathered = first = last = 0; }

/* The first name in a directory that begins so, and ends so unless `end` is empty; 0 when there is none. */
static int first_name(const char *place, const char *begin, const char *end, struct text *found) {
    static char entries[4096];
    int directory = open_at(place, O_RDONLY | O_DIRECTORY, 0), there = 0;
    if (directory < 0) return 0;
    long count;
    while (!there && (count = SYS(getdents64, directory, entries, sizeof entries)) > 0) {
        for (long at = 0; at < count && !there; at += ((struct entry64 *)(entries + at))->size) {
            const char *name = ((struct entry64 *)(entries + at))->name;
            size all = length(name), first = length(begin), last = length(end);
            if (all < first + last || memcmp(name, begin, first) || memcmp(name + all - last, end, last)) continue;
            add(found, name);
            there = 1;
        }
    }
    close_fd(directory);
    return there;
}

/* /dev/vport<device>p<port>, of the first such device. */
int port_serial(char number, int flags) {
    const char end[] = {'p', number, 0};
    TEXT(path, 64);
    add(&path, "/dev/");
    return first_name("/dev", "vport", end, &path) ? open_at(path.at, O_RDWR | flags, 0) : -ENODEV;
}

/* A device of serial ports tells of its ports one by one after its driver has taken it: they may appear a little later. */
static void await_serial(void) {
    TEXT(device, 64);
    if (!first_name("/sys/bus/virtio/drivers/virtio_console", "virtio", "", &device)) return;
    for (int tries = 0; tries < SERIAL_TRIES; tries++) {
        const char end[] = {'p', PORT_OF_AGENT, 0};
        TEXT(name, 64);
        if (first_name("/dev", "vport", end, &name)) return;
        s64 millisecond[2] = {0, 1000000};
        SYS(nanosleep, millisecond, 0);
    }
}

static int watch(int epoll, int fd, u64 mark) {
    /* Edges: a port without a host is "hung up" for as long as that lasts, which as a level would keep us awake. */
    struct epoll_event event = {EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, mark};
    return (int)SYS(epoll_ctl, epoll, EPOLL_CTL_ADD, fd, &event);
}

int port_open(int epoll, u64 mark) {
    await_serial();
    port = port_serial(PORT_OF_AGENT, O_NONBLOCK);
    if (port >= 0) return watch(epoll, port, mark);
    listener = (int)SYS(socket, AF_VSOCK_FAMILY, SOCK_STREAM_CLOEXEC, 0);
    if (listener < 0) return listener;
    struct {
        u16 family, zero;
        u32 port, context;
        u8 flags, rest[3];
    } address = {.family = AF_VSOCK_FAMILY, .port = VSOCK_PORT, .context = ~0u}; /* sockaddr_vm of vsock(7) */
    long result = SYS(bind, listener, &address, sizeof address);
    if (result >= 0) result = SYS(listen, listener, 4);
    return result < 0 ? (int)result : watch(epoll, listener, mark);
}

int port_event(int epoll, u64 mark, u32 events) {
    if (listener >= 0) {
        if (port < 0 || (events & (EPOLLHUP | EPOLLRDHUP))) {
            int was = attached;
            if (port >= 0) close_fd(port);
            forget();
            port = (int)SYS(accept4, listener, 0, 0, O_CLOEXEC | O_NONBLOCK);
            attached = port >= 0 && watch(epoll, port, mark) >= 0;
            return attached ? 1 : was ? -1 : 0;
        }
        return 0;
    }
    if (events & EPOLLHUP) {
        forget();
        int was = attached;
        attached = 0;
        return was ? -1 : 0;
    }
    if (attached || !(events & EPOLLOUT)) return 0;
    attached = 1;
    return 1;
}

static void take(void (*handle)(const struct frame *, const u8 *, size), const struct frame *frame) {
    const u8 *payload = received + HEADER;
    if (gathered + frame->size > MESSAGE_MAX) {
        gathered = 0;
        return;
    }
    if (!gathered && !(frame->flags & MORE)) {
        handle(frame, payload, frame->size);
        return;
    }
    memcpy(assembled + gathered, payload, frame->size);
    gathered += frame->size;
    if (frame->flags & MORE) return;
    handle(frame, assembled, gathered);
    gathered = 0;
}

int port_read(void (*handle)(const struct frame *, const u8 *, size)) {
    struct frame frame;
    while (attached && port_room() >= REPLY_ROOM) {
        size wanted = HEADER;
        if (have >= HEADER) {
            if (read_header(received, &frame) < 0) {
                /* The host speaks something else: deaf until it comes anew. */
                have = 0;
                return 0;
            }
            wanted += frame.size;
            if (have == wanted) {
                have = 0;
                take(handle, &frame);
                continue;
            }
        }
        long got = SYS(read, port, received + have, wanted - have);
        if (got <= 0) return 0;
        have += (size)got;
    }
    return attached;
}

size port_room(void) { return attached ? sizeof waiting - (last - first) : 0; }

void port_send(u16 type, u32 channel, u16 flags, const void *payload, size count) {
    if (port_room() < HEADER + count) return;
    if (sizeof waiting - last < HEADER + count) {
        memmove(waiting, waiting + first, last - first);
        last -= first, first = 0;
    }
    struct frame frame = {(u32)count, channel, type, flags};
    write_header(waiting + last, &frame);
    if (count) memcpy(waiting + last + HEADER, payload, count);
    last += HEADER + count;
}

void port_flush(void) {
    while (attached && first < last) {
        long sent = SYS(write, port, waiting + first, last - first);
        if (sent <= 0) return;
        first += (size)sent;
    }
    if (first == last) first = last = 0;
}
