/* Directories of the host in the guest: what this kernel's FUSE asks goes to the host's file server (native/share), by a port
 * of its own, and the answers come back. Two processes, one for each direction, so that neither waits for the other.
 *
 * A request is one read of /dev/fuse, an answer one write; both begin with their own size (<linux/fuse.h>).
 */
#include "guest.h"
#include "port.h"

#include <linux/close_range.h>
#include <linux/fuse.h>
#include <linux/mount.h>
#include <linux/signal.h>

enum { PAYLOAD_MAX = 1 << 17, ROOM = PAYLOAD_MAX + 8192, FUSE_FD = 0, PORT_FD = 1 };

static const char place[] = "/run/share";

__attribute__((noreturn)) static void leave(void) {
    for (;;) SYS(exit_group, 0);
}

static void write_all(const u8 *at, size count) {
    while (count) {
        long sent = SYS(write, PORT_FD, at, count);
        if (sent == -EINTR) continue;
        if (sent <= 0) leave();
        at += sent, count -= (size)sent;
    }
}

static void request(u8 *bytes) {
    long got = SYS(read, FUSE_FD, bytes, ROOM);
    if (got > 0) write_all(bytes, (size)got);
    else if (got != -EINTR && got != -EAGAIN && got != -ENOENT) leave();
}

static void read_all(u8 *at, size count) {
    while (count) {
        long got = SYS(read, PORT_FD, at, count);
        if (got == -EINTR) continue;
        if (got <= 0) leave(); /* the server has ended, and the machine is about to */
        at += got, count -= (size)got;
    }
}

static void answer(u8 *bytes) {
    const struct fuse_out_header *head = (const struct fuse_out_header *)bytes;
    read_all(bytes, sizeof *head);
    if (head->len < sizeof *head || head->len > ROOM) leave();
    read_all(bytes + sizeof *head, head->len - sizeof *head);
    SYS(write, FUSE_FD, bytes, head->len);
}

__attribute__((noreturn)) static void relay(int fuse, int serial) {
    SYS(dup3, fuse, FUSE_FD, 0);
    SYS(dup3, serial, PORT_FD, 0);
    /* The agent's descriptors too: a pipe that is held here would never end. */
    SYS(close_range, 2, ~0u, 0);
    u8 *bytes = pages(ROOM);
    if (!bytes) leave();
    /* A write waits until the host is there; a read before that would be the end. So there is one request first. */
    request(bytes);
    if (SYS(clone, SIGCHLD, 0, 0, 0, 0) == 0)
        for (;;) answer(bytes);
    for (;;) request(bytes);
}

struct failure guest_share(void) {
    static int shared;
    if (shared) return fail(0, "");
    int serial = port_serial(PORT_OF_FILES, 0);
    if (serial < 0) return fail(serial, "open the port for files");
    int fuse = open_at("/dev/fuse", O_RDWR, 0);
    long result = fuse;
    const char *where = "open /dev/fuse";
    if (fuse >= 0) {
        TEXT(options, 96);
        add(&options, "rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,fd=");
        add_number(&options, (u64)fuse);
        make_directories(place, 0755);
        where = "mount the host's directories";
        result = SYS(mount, "host", place, "fuse", MS_NODEV, options.at);
        if (result >= 0) {
            result = SYS(clone, SIGCHLD, 0, 0, 0, 0);
            if (result == 0) relay(fuse, serial);
            if (result < 0) SYS(umount2, place, 2 /* MNT_DETACH */);
        }
        close_fd(fuse);
    }
    close_fd(serial);
    shared = result > 0;
    return fail(result, where);
}
