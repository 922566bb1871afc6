/* The file server of a pod's machine: directories of the host, as a guest sees them through FUSE.
 *
 * Requests are those of <linux/fuse.h>, as the guest's kernel makes them; they come over one stream and are answered in
 * order. Nothing is ever looked up by a path: a share is a descriptor that the runtime hands over, a file below it one that
 * was opened from its directory by one name, which is neither `..` nor a link. What runs here has no path to anything.
 */
#ifndef SHARE_H
#define SHARE_H

#include "../sys.h"

#include <linux/fuse.h>

enum { NODES = 1 << 20, SHARES = 128, PAYLOAD_MAX = 1 << 17, TEXT_MAX = 4096 };

/* What the guest knows by a number: a file that it has looked up and not forgotten. */
struct node {
    int fd; /* O_PATH; -1: free */
    u32 next, device, share;
    u64 inode, lookups;
    u32 kind; /* S_IFMT */
};

/* Node 1 is a directory of the server's own, in which share n is called n. */
struct node *node_at(u64 number);
int node_readonly(const struct node *node);
/* 0: the number of the new share, or -errno. `fd` becomes the table's. */
int share_add(int fd, int readonly);
/* Find or make the node of what `fd` names, count it as looked up, and describe it; `fd` is taken. 0 or -errno. */
int node_enter(int fd, u32 share, struct fuse_entry_out *entry);
void node_forget(u64 number, u64 lookups);
int describe(const struct node *node, struct fuse_attr *attributes);
/* The descriptor of share `name` for a look-up in node 1, not the caller's; -ENOENT. */
int share_named(const char *name, u32 *share);

/* An open file or directory, named by its descriptor; only what was opened for the guest is one. */
void handle_add(int fd, int directory);
int handle_at(u64 number, int directory);
void handle_drop(u64 number);

/* /proc/self/fd/N: how a descriptor without access is opened, changed or linked. */
struct fd_path {
    char text[32];
};
struct fd_path path_of(int fd);

/* Whoever serves without root shows its own files as root's, and gives files to nobody else. */
extern u32 squashed;

struct request {
    const struct fuse_in_header *head;
    const u8 *body;
    size count;
};
/* What is answered, behind the header: its size, or -errno; SILENT when there is no answer. */
enum { SILENT = -512 };
long serve(const struct request *request, u8 *answer);

#endif
