/* Nodes, shares and open files; see share.h. */
#include "share.h"

#include <linux/stat.h>

enum { BUCKETS = 1 << 12, HANDLE_FILE = 1, HANDLE_DIRECTORY = 2, FIRST = 2, DESCRIPTORS = 1 << 20 };

static struct node nodes[NODES + 1];
static u32 buckets[BUCKETS], unused, used = FIRST;
static struct {
    int fd, readonly;
} shares[SHARES];
static u32 share_count;
static u8 handles[DESCRIPTORS];
static struct node top = {.fd = -1, .share = SHARES, .kind = S_IFDIR, .lookups = 1};
u32 squashed;

struct fd_path path_of(int fd) {
    struct fd_path path;
    struct text text = {path.text, 0, sizeof path.text};
    add(&text, "/proc/self/fd/");
    add_number(&text, (u64)fd);
    return path;
}

struct node *node_at(u64 number) {
    if (number == FUSE_ROOT_ID) return &top;
    return number >= FIRST && number < used && nodes[number].lookups ? &nodes[number] : NULL;
}

int node_readonly(const struct node *node) { return node->share >= share_count || shares[node->share].readonly; }

int share_add(int fd, int readonly) {
    if (share_count == SHARES) return -ENOSPC;
    shares[share_count].fd = fd;
    shares[share_count].readonly = readonly;
    return (int)share_count++;
}

int share_named(const char *name, u32 *share) {
    if (*name < '0' || *name > '9') return -ENOENT;
    *share = (u32)parse_number(name);
    return *share < share_count ? shares[*share].fd : -ENOENT;
}

static u32 *bucket_of(u64 inode, u32 device) { return &buckets[(inode ^ inode >> 12 ^ device * 31u) % BUCKETS]; }

static u32 device_of(const struct statx *status) { return status->stx_dev_major << 20 | status->stx_dev_minor; }

static u32 shown(u32 id) { return squashed && id == squashed ? 0 : id; }

static int look(int fd, struct statx *status, struct fuse_attr *attributes) {
    long result = SYS(statx, fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, status);
    if (result < 0) return (int)result;
    *attributes = (struct fuse_attr){
        .ino = status->stx_ino, .size = status->stx_size, .blocks = status->stx_blocks,
        .atime = (u64)status->stx_atime.tv_sec, .mtime = (u64)status->stx_mtime.tv_sec, .ctime = (u64)status->stx_ctime.tv_sec,
        .atimensec = status->stx_atime.tv_nsec, .mtimensec = status->stx_mtime.tv_nsec, .ctimensec = status->stx_ctime.tv_nsec,
        .mode = status->stx_mode, .nlink = status->stx_nlink, .uid = shown(status->stx_uid), .gid = shown(status->stx_gid),
        .rdev = status->stx_rdev_major << 8 | status->stx_rdev_minor, .blksize = status->stx_blksize,
    };
    return 0;
}

int describe(const struct node *node, struct fuse_attr *attributes) {
    struct statx status;
    if (node != &top) return look(node->fd, &status, attributes);
    *attributes = (struct fuse_attr){.ino = FUSE_ROOT_ID, .mode = S_IFDIR | 0755, .nlink = 2, .blksize = 4096};
    return 0;
}

int node_enter(int fd, u32 share, struct fuse_entry_out *entry) {
    struct statx status;
    *entry = (struct fuse_entry_out){0};
    int error = look(fd, &status, &entry->attr);
    u32 number = 0;
    if (!error) {
        u32 device = device_of(&status), *bucket = bucket_of(status.stx_ino, device);
        for (number = *bucket; number; number = nodes[number].next) {
            const struct node *each = &nodes[number];
            if (each->inode == status.stx_ino && each->device == device && each->share == share) break;
        }
        if (number) {
            close_fd(fd);
        } else if (!unused && used > NODES) {
            error = -ENFILE;
        } else {
            number = unused;
            if (number) unused = nodes[number].next;
            else number = used++;
            nodes[number] = (struct node){fd, *bucket, device, share, status.stx_ino, 0, status.stx_mode & S_IFMT};
            *bucket = number;
        }
    }
    if (error) {
        close_fd(fd);
        return error;
    }
    nodes[number].lookups++;
    entry->nodeid = number;
    return 0;
}

void node_forget(u64 number, u64 lookups) {
    struct node *node = node_at(number);
    if (!node || node == &top) return;
    node->lookups -= lookups < node->lookups ? lookups : node->lookups;
    if (node->lookups) return;
    u32 *link = bucket_of(node->inode, node->device);
    while (*link && *link != number) link = &nodes[*link].next;
    if (*link) *link = node->next;
    close_fd(node->fd);
    *node = (struct node){.fd = -1, .next = unused};
    unused = (u32)number;
}

void handle_add(int fd, int directory) {
    if (fd < DESCRIPTORS) handles[fd] = directory ? HANDLE_DIRECTORY : HANDLE_FILE;
}

int handle_at(u64 number, int directory) {
    return number < DESCRIPTORS && handles[number] == (directory ? HANDLE_DIRECTORY : HANDLE_FILE) ? (int)number : -EBADF;
}

void handle_drop(u64 number) {
    if (number >= DESCRIPTORS || !handles[number]) return;
    handles[number] = 0;
    close_fd((int)number);
}
