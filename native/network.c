/* eth0 by ioctl (netdevice(7)), and connections to what listens in the guest. */
#include "guest.h"

#include <linux/sockios.h>

enum { STREAM = 1, DATAGRAM = 2, INET = 2, ETHERNET = 1, UP = 1, ROUTE_UP = 1, ROUTE_GATEWAY = 2 };

/* <linux/if.h> and <linux/route.h> want a C library's <sys/socket.h>; their layout is the kernel's binary interface. */
struct address {
    u16 family, port;
    u32 address;
    u8 rest[8];
};
struct request {
    char name[16];
    union {
        struct address address;
        struct {
            u16 family;
            u8 bytes[14];
        } hardware;
        short flags;
        int number;
        u8 room[24];
    };
};
struct route {
    unsigned long pad1;
    struct address destination, gateway, mask;
    u16 flags;
    short pad2;
    unsigned long pad3, pad4;
    short metric;
    const char *device;
    unsigned long mtu, window;
    u16 round_trip;
};

static u32 own_address; /* network byte order */
static int asking = -1; /* a socket to set things with; open before there is a pod, for its start costs time */

static u32 get_address(const u8 *message, size count, u16 key) {
    struct field field;
    u32 address = 0;
    if (get_field(message, count, key, &field) && field.size == sizeof address) memcpy(&address, field.at, sizeof address);
    return address;
}

static long flags_of(int fd, const char *name, short flags) {
    struct request request = {.flags = flags};
    memcpy(request.name, name, length(name));
    return SYS(ioctl, fd, SIOCSIFFLAGS, &request);
}

static long with_address(int fd, unsigned what, u32 address) {
    struct request request = {.name = "eth0", .address = {.family = INET, .address = address}};
    return SYS(ioctl, fd, what, &request);
}

void network_begin(void) {
    asking = (int)SYS(socket, INET, DATAGRAM | O_CLOEXEC, 0);
    flags_of(asking, "lo", UP);
    flags_of(asking, "eth0", UP);
}

struct failure network_setup(const u8 *message, size count) {
    struct field field;
    const char *where;
    long result;
    u32 before = own_address;
    own_address = get_address(message, count, K_ADDRESS);
    if (!own_address) return fail(0, "");
    if (before) { /* a guest that goes on elsewhere: routes end with the link, the address is set anew below */
        flags_of(asking, "eth0", 0);
        flags_of(asking, "eth0", UP);
    }
    if (get_field(message, count, K_MAC, &field) && field.size == 6) {
        struct request request = {.name = "eth0", .hardware = {.family = ETHERNET}};
        memcpy(request.hardware.bytes, field.at, 6);
        where = "set eth0's hardware address";
        if ((result = SYS(ioctl, asking, SIOCSIFHWADDR, &request)) < 0) goto done;
    }
    struct request mtu = {.name = "eth0", .number = (int)get_number(message, count, K_MTU, 1500)};
    where = "set eth0's MTU";
    if ((result = SYS(ioctl, asking, SIOCSIFMTU, &mtu)) < 0) goto done;
    where = "set eth0's address";
    if ((result = with_address(asking, SIOCSIFADDR, own_address)) < 0) goto done;
    if ((result = with_address(asking, SIOCSIFNETMASK, get_address(message, count, K_NETMASK))) < 0) goto done;
    /* Less than 127/8 is the guest's own, where the cluster has its addresses in the rest: see usernet.py. */
    u32 own_loopback = get_address(message, count, K_LOOPBACK_MASK);
    if (own_loopback) {
        struct request mask = {.name = "lo", .address = {.family = INET, .address = own_loopback}};
        where = "set lo's netmask";
        if ((result = SYS(ioctl, asking, SIOCSIFNETMASK, &mask)) < 0) goto done;
    }
    u32 gateway = get_address(message, count, K_GATEWAY);
    if (gateway) {
        struct route route = {.flags = ROUTE_UP | ROUTE_GATEWAY, .device = "eth0", .gateway = {.family = INET, .address = gateway},
                              .destination = {.family = INET}, .mask = {.family = INET}};
        where = "set the default route";
        result = SYS(ioctl, asking, SIOCADDRT, &route);
        if (result == -EEXIST) result = 0; /* the very same one */
    }
done:
    return fail(result, where);
}

static int connect_to(u32 address, u16 port) {
    int fd = (int)SYS(socket, INET, STREAM | O_CLOEXEC, 0);
    if (fd < 0) return fd;
    struct address to = {.family = INET, .port = (u16)(port >> 8 | port << 8), .address = address};
    long result = SYS(connect, fd, &to, sizeof to);
    if (result < 0) {
        close_fd(fd);
        return (int)result;
    }
    SYS(fcntl, fd, F_SETFL, O_NONBLOCK);
    return fd;
}

int network_connect(u16 port) {
    /* Both are this guest's own: the kernel answers a connect at once, by a listener or by a refusal. */
    int fd = connect_to(0x0100007f, port);
    if (fd < 0 && own_address) fd = connect_to(own_address, port);
    return fd;
}
