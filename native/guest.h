/* The guest as a whole: its first mounts and modules, and what makes a clone of a template a machine of its own. */
#ifndef GUEST_H
#define GUEST_H

#include "launch.h"

/* /proc, /dev, /sys, cgroups, the kernel modules of the initial file system; a root that containers can pivot away from. */
void guest_boot(void);
/* Entropy first, then clock, name, network and sysctls, by the message SETUP. */
struct failure guest_setup(const u8 *message, size count);
/* Mount the image in drive K_SLOT, once. */
struct failure guest_image(const u8 *message, size count);
/* Forget it again; nothing runs on it any more. Idempotent. */
struct failure guest_remove_image(const u8 *message, size count);
/* Mount the host's directories at /run/share, once. */
struct failure guest_share(void);
/* Bytes of eth0. */
void guest_traffic(struct message *reply);
__attribute__((noreturn)) void guest_end(void);

/* One change of a file, by the message PUT: see enum change in files.c. */
struct failure file_put(const u8 *message, size count);
/* The beginning of a file, at most what fits, as K_CONTENT. */
struct failure file_get(const u8 *message, size count, struct message *reply);

/* lo and eth0 up, without addresses yet. */
void network_begin(void);
/* eth0's address, by K_MAC, K_ADDRESS, K_NETMASK, K_GATEWAY, K_MTU, and lo's netmask by K_LOOPBACK_MASK. */
struct failure network_setup(const u8 *message, size count);
/* A connection to a TCP port of this guest, on loopback, else on its address; -errno. */
int network_connect(u16 port);

#endif
