/* Frames in and out of the port; see port.h. */
#include "port.h"

#include <linux/eventpoll.h>

enum { VSOCK_PORT = 1024, SOCK_STREAM_CLOEXEC = 1 | O_CLOEXEC | O_NONBLOCK, AF_VSOCK_FAMILY = 40 };

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

/* /dev/vport<device>p<port>, of the first such device. */
int port_serial(char number, int flags) {
    static char entries[4096];
    int directory = open_at("/dev", O_RDONLY | O_DIRECTORY, 0), found = -ENODEV;
    if (directory < 0) return directory;
    long count;
    while (found < 0 && (count = SYS(getdents64, directory, entries, sizeof entries)) > 0) {
        for (long at = 0; at < count; at += ((struct entry64 *)(entries + at))->size) {
            const char *name = ((struct entry64 *)(entries + at))->name;
            size count_of_name = length(name);
            if (memcmp(name, "vport", 5) || name[count_of_name - 1] != number || name[count_of_name - 2] != 'p') continue;
            TEXT(path, 64);
            add(&path, "/dev/");
            add(&path, name);
            found = open_at(path.at, O_RDWR | flags, 0);
            break;
        }
    }
    close_fd(directory);
    return found;
}

static int watch(int epoll, int fd, u64 mark) {
    /* Edges: a port without a host is "hung up" for as long as that lasts, which as a level would keep us awake. */
    struct epoll_event event = {EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, mark};
    return (int)SYS(epoll_ctl, epoll, EPOLL_CTL_ADD, fd, &event);
}

int port_open(int epoll, u64 mark) {
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
