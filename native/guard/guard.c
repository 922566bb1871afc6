/* Loaded into a VMM without root, whose user-mode network makes the guest's connections in the host's: which of them may be.
 *
 * The host's loopback is nobody's to give, but the cluster's pods and services are on networks of 127/8 too. SAMPAN_REACH
 * names those, "127.42.0.0/16,127.43.0.0/16"; every other address of 127/8, 0/8 (which is this host as well), multicast and IPv6
 * are refused. Everything else is outside, where a guest may call as any pod may.
 *
 * SAMPAN_SHIFT is the first port that services can be bound at: what is below it is served at port + 10000 of the same
 * address (docs/network.md), which a guest shall not have to know.
 *
 * libslirp reaches the network by these four functions alone; the symbols of a preloaded object come before the C library's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { NETWORKS = 8, SHIFT = 10000, DESCRIPTORS = 1 << 16, LOOPBACK = 127, MULTICAST = 224 };

static struct {
    uint32_t address, mask;
} reach[NETWORKS];
static unsigned count, first_port;
static uint16_t shifted[DESCRIPTORS]; /* by descriptor, the port that the guest has named */

__attribute__((constructor)) static void begin(void) {
    const char *at = getenv("SAMPAN_REACH"), *shift = getenv("SAMPAN_SHIFT");
    first_port = shift ? (unsigned)atoi(shift) : 0;
    while (at && *at && count < NETWORKS) {
        char *end = NULL;
        uint32_t address = 0;
        for (int part = 0; part < 4; part++) {
            address = address << 8 | (uint32_t)(strtoul(at, &end, 10) & 255);
            at = *end ? end + 1 : end;
        }
        unsigned long bits = strtoul(at, &end, 10);
        if (bits < 8 || bits > 32) break; /* no network of 127/8 */
        reach[count].mask = ~(uint32_t)0 << (32 - bits);
        reach[count].address = address & reach[count].mask;
        count++;
        at = *end ? end + 1 : end;
    }
}

static int is_cluster(uint32_t address) {
    for (unsigned each = 0; each < count; each++)
        if ((address & reach[each].mask) == reach[each].address) return 1;
    return 0;
}

/* Where to go instead of `to`, in `changed` when it is elsewhere; NULL when it may not be gone to. */
static const struct sockaddr *way(int fd, const struct sockaddr *to, struct sockaddr_in *changed) {
    if (to == NULL || (to->sa_family != AF_INET && to->sa_family != AF_INET6)) return to;
    if (to->sa_family == AF_INET6) return NULL;
    memcpy(changed, to, sizeof *changed);
    uint32_t address = ntohl(changed->sin_addr.s_addr);
    uint8_t top = (uint8_t)(address >> 24);
    if (top == 0 || top >= MULTICAST || (top == LOOPBACK && !is_cluster(address))) return NULL;
    uint16_t port = ntohs(changed->sin_port);
    int moves = top == LOOPBACK && port && port < first_port;
    if (fd >= 0 && fd < DESCRIPTORS) shifted[fd] = moves ? port : 0;
    if (!moves) return to;
    changed->sin_port = htons((uint16_t)(port + SHIFT));
    return (const struct sockaddr *)changed;
}

static int refuse(void) {
    errno = ECONNREFUSED;
    return -1;
}

int connect(int fd, const struct sockaddr *to, socklen_t size) {
    struct sockaddr_in changed;
    to = way(fd, to, &changed);
    return to ? (int)syscall(SYS_connect, fd, to, size) : refuse();
}

ssize_t sendto(int fd, const void *data, size_t length, int flags, const struct sockaddr *to, socklen_t size) {
    struct sockaddr_in changed;
    const struct sockaddr *there = way(fd, to, &changed);
    if (to && !there) return refuse();
    return syscall(SYS_sendto, fd, data, length, flags, there, size);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    struct sockaddr_in changed;
    struct msghdr sent = *message;
    sent.msg_name = (void *)way(fd, message->msg_name, &changed);
    if (message->msg_name && !sent.msg_name) return refuse();
    return syscall(SYS_sendmsg, fd, &sent, flags);
}

ssize_t recvfrom(int fd, void *data, size_t length, int flags, struct sockaddr *from, socklen_t *size) {
    ssize_t result = syscall(SYS_recvfrom, fd, data, length, flags, from, size);
    if (result >= 0 && from && fd >= 0 && fd < DESCRIPTORS && shifted[fd] && from->sa_family == AF_INET) {
        struct sockaddr_in *source = (struct sockaddr_in *)from;
        if (source->sin_port == htons((uint16_t)(shifted[fd] + SHIFT))) source->sin_port = htons(shifted[fd]);
    }
    return result;
}
