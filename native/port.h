/* The one connection to the host: a virtio-serial port, or a vsock connection where there is no such port.
 *
 * Reading hands whole messages to `handle`; writing goes through a buffer that is flushed as the host takes it. When the
 * host has gone, what was half sent or half received is forgotten: the next connection begins with a new frame.
 */
#ifndef PORT_H
#define PORT_H

#include "wire.h"

enum { SEND_ROOM = 1 << 17, REPLY_ROOM = FRAME_MAX + HEADER };

extern int port;     /* file descriptor, -1: none */
extern int attached; /* a host is at the other end */

/* Serial ports of virtio by their numbers: one for this protocol, one for file requests (relay.c). */
enum { PORT_OF_AGENT = '1', PORT_OF_FILES = '2' };
/* The port's device, opened; -ENODEV when there is none of that number. */
int port_serial(char number, int flags);
/* Open the port and watch it with `epoll`; data is `mark`. Negative errno when there is neither port nor vsock. */
int port_open(int epoll, u64 mark);
/* What epoll said about it. Returns 1 when a host has just come, -1 when it has just gone, else 0. */
int port_event(int epoll, u64 mark, u32 events);
/* Take in what has arrived; complete messages go to `handle`. 1: stopped, because there is no room for an answer. */
int port_read(void (*handle)(const struct frame *frame, const u8 *message, size count));
/* How much can be sent now. */
size port_room(void);
/* The caller has made sure of the room. */
void port_send(u16 type, u32 channel, u16 flags, const void *payload, size count);
void port_flush(void);

#endif
