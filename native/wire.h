/* The guest protocol's frames and fields, see docs/guest-protocol.md. Pure: it reads memory and nothing else.
 *
 * What arrives is not trusted: every length is checked against what is there before it is used.
 */
#ifndef WIRE_H
#define WIRE_H

#include "sys.h"

enum { VERSION = 1, HEADER = 12, FRAME_MAX = 32768, MESSAGE_MAX = 1 << 20 };

enum type {
    HELLO = 1, SETUP, IMAGE, START, EXEC, CONNECT, SIGNAL, RESIZE, REMOVE, STATS, UPDATE, PUT, GET, POWEROFF, CLOSE, SHARE,
    STAGE,
    DATA = 32, END, ACK,
    REPLY = 64, EXIT, READY,
};

enum { MORE = 0x8000 }; /* in `flags`: the message goes on in the next frame of the channel */
enum { STDIN, STDOUT, STDERR }; /* in `flags` of DATA, END and ACK */

enum key {
    K_ERROR = 1, K_WHERE, K_VERSION, K_PID, K_CODE, K_OOM, K_FINISHED, K_CONTENT, K_BOOT,
    K_ENTROPY = 16, K_TIME, K_HOSTNAME, K_MAC, K_ADDRESS, K_NETMASK, K_GATEWAY, K_MTU, K_SYSCTL, K_SHARE_PIDS,
    K_LOOPBACK_MASK,
    K_SLOT = 32, K_ID, K_CHANNEL, K_LIMIT, K_READONLY, K_ARG, K_ENV, K_CWD, K_UID, K_GID, K_GROUP, K_UMASK,
    K_CAPS_PERMITTED, K_CAPS_BOUNDING, K_NO_NEW_PRIVILEGES, K_SECCOMP, K_TTY, K_STDIN, K_MOUNT, K_MASKED,
    K_READONLY_PATH, K_CGROUP, K_RLIMIT, K_OOM_SCORE, K_PRIVILEGED, K_PID_MODE, K_TARGET = 59,
    K_OUT_SEEN, K_ERR_SEEN, K_IN_TAKEN, K_INIT, K_UPPER,
    K_NUMBER = 80, K_ROWS, K_COLUMNS, K_PORT, K_ALL,
    K_OP = 96, K_PATH, K_MODE, K_LINK,
    K_TASK = 112, K_CPU, K_MEMORY, K_WORKING_SET, K_RSS, K_PIDS, K_DISK, K_RX, K_TX,
};

struct frame {
    u32 size, channel;
    u16 type, flags;
};

struct field {
    u16 key;
    u32 size;
    const u8 *at;
};

/* The header at `bytes`, of which HEADER are there. Negative: no frame can begin so. */
int read_header(const u8 *bytes, struct frame *frame);
void write_header(u8 *bytes, const struct frame *frame);

/* The field at *offset of a message; moves *offset behind it. 1: there was one, 0: the end, negative: malformed. */
int next_field(const u8 *message, size count, size *offset, struct field *field);
/* 0 when every field of the message is whole. */
int check_fields(const u8 *message, size count);
u64 field_number(const struct field *field);
/* Numbers (little endian, 1 to 8 bytes); `otherwise` when there is no such field. */
u64 get_number(const u8 *message, size count, u16 key, u64 otherwise);
/* The first such field; 0 when there is none. */
int get_field(const u8 *message, size count, u16 key, struct field *field);
/* Copied with a NUL behind it; 0 when it is missing or does not fit. */
int get_text(const u8 *message, size count, u16 key, char *into, size room);

/* A message under construction; `full` is set when something did not fit. */
struct message {
    u8 *at;
    size used, room;
    int full;
};
void put_field(struct message *message, u16 key, const void *what, size count);
void put_number(struct message *message, u16 key, u64 number);
void put_text(struct message *message, u16 key, const char *text);

#endif
