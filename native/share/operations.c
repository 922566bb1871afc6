/* What each request does. Owners are the guest's, whoever serves: a file is made, then given to who asked for it.
 *
 * Permissions are checked by the guest's kernel, which knows its users and their groups (`default_permissions`); what a
 * share may not have changed is refused here. Nothing is valid for longer than its answer: the host changes files too.
 */
#include "share.h"

#include <linux/fs.h>
#include <linux/stat.h>

#define offsetof(type, member) __builtin_offsetof(type, member) /* <linux/fuse.h> takes it for granted */

enum { MINOR = 31, MINOR_LEAST = 23, RENAMES = 3 /* NOREPLACE, EXCHANGE */ };
enum { OPENED = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY };

struct time {
    s64 seconds, nanoseconds;
};
struct space {
    s64 type, block_size;
    u64 blocks, free, available, files, free_files;
    s64 id, name_length, fragment_size, flags, spare[4];
};
static const void *argument(const struct request *request, size count) { return request->count >= count ? request->body : NULL; }

/* One name of a directory, which begins at `offset` of the body; NULL when it is none. */
static const char *name_at(const struct request *request, size offset) {
    const char *name = (const char *)request->body + offset;
    size end = offset;
    while (end < request->count && request->body[end]) {
        if (request->body[end++] == '/') return NULL;
    }
    if (end >= request->count || end == offset || same(name, ".") || same(name, "..")) return NULL;
    return name;
}

/* A symlink's content, which may have slashes. */
static const char *text_at(const struct request *request, size offset) {
    for (size end = offset; end < request->count; end++)
        if (!request->body[end]) return (const char *)request->body + offset;
    return NULL;
}

static long look_up(const struct node *parent, const char *name, struct fuse_entry_out *entry) {
    u32 share = parent->share;
    long fd;
    if (parent->fd < 0) {
        fd = share_named(name, &share);
        if (fd >= 0) fd = SYS(fcntl, fd, F_DUPFD_CLOEXEC, 3);
    } else {
        fd = SYS(openat, parent->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    }
    if (fd < 0) return fd;
    long error = node_enter((int)fd, share, entry);
    return error ? error : (long)sizeof *entry;
}

static int setgid(const struct node *directory) {
    struct fuse_attr attributes;
    return describe(directory, &attributes) == 0 && (attributes.mode & S_ISGID);
}

/* What was just made as `name` becomes the asking user's, with the mode that was asked for. A directory with the set-group-ID
 * bit has given its group (and directories its bit) already, as open(2) and mkdir(2) have it. */
static long hand_over(const struct request *request, const struct node *parent, const char *name, u32 mode) {
    int inherited = setgid(parent);
    long fd = SYS(openat, parent->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC), result = fd;
    if (fd < 0) return fd;
    if (!squashed) result = SYS(fchownat, fd, "", request->head->uid, inherited ? ~0u : request->head->gid, AT_EMPTY_PATH);
    if (result >= 0 && !S_ISLNK(mode)) {
        if (inherited && S_ISDIR(mode)) mode |= S_ISGID;
        result = SYS(fchmodat, AT_FDCWD, path_of((int)fd).text, mode & 07777);
    }
    close_fd((int)fd);
    return result < 0 ? result : 0;
}

static long made(const struct request *request, const struct node *parent, const char *name, u32 mode, long result, u8 *answer) {
    if (result >= 0) result = hand_over(request, parent, name, mode);
    return result < 0 ? result : look_up(parent, name, (struct fuse_entry_out *)answer);
}

static long initialise(const struct request *request, u8 *answer) {
    const struct fuse_init_in *in = argument(request, 16);
    if (!in || in->major != FUSE_KERNEL_VERSION || in->minor < MINOR_LEAST) return -EPROTO;
    struct fuse_init_out *out = (struct fuse_init_out *)answer;
    *out = (struct fuse_init_out){
        .major = FUSE_KERNEL_VERSION, .minor = in->minor < MINOR ? in->minor : MINOR, .max_readahead = in->max_readahead,
        .flags = in->flags & (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_AUTO_INVAL_DATA | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES),
        .max_background = 16, .congestion_threshold = 12, .max_write = PAYLOAD_MAX, .time_gran = 1, .max_pages = PAYLOAD_MAX / 4096,
    };
    return sizeof *out;
}

static long attributes_of(const struct node *node, u8 *answer) {
    struct fuse_attr_out *out = (struct fuse_attr_out *)answer;
    *out = (struct fuse_attr_out){0};
    int error = describe(node, &out->attr);
    return error ? error : (long)sizeof *out;
}

static struct time instant(u32 valid, u32 given, u32 now, u64 seconds, u32 nanoseconds) {
    enum { NOW = (1 << 30) - 1, OMIT = (1 << 30) - 2 }; /* utimensat(2) */
    if (valid & now) return (struct time){0, NOW};
    return valid & given ? (struct time){(s64)seconds, nanoseconds} : (struct time){0, OMIT};
}

static long set_attributes(const struct request *request, const struct node *node, u8 *answer) {
    const struct fuse_setattr_in *in = argument(request, sizeof *in);
    if (!in) return -EINVAL;
    struct fd_path path = path_of(node->fd);
    long result = 0;
    if (in->valid & (FATTR_UID | FATTR_GID)) {
        u32 user = in->valid & FATTR_UID ? in->uid : ~0u, group = in->valid & FATTR_GID ? in->gid : ~0u;
        if (squashed) user = user ? user : ~0u, group = group ? group : ~0u;
        result = SYS(fchownat, node->fd, "", user, group, AT_EMPTY_PATH);
    }
    if (result >= 0 && (in->valid & FATTR_MODE))
        result = node->kind == S_IFLNK ? -EOPNOTSUPP : SYS(fchmodat, AT_FDCWD, path.text, in->mode & 07777);
    if (result >= 0 && (in->valid & FATTR_SIZE)) {
        int fd = in->valid & FATTR_FH ? handle_at(in->fh, 0) : -EBADF;
        result = node->kind != S_IFREG ? -EINVAL : fd >= 0 ? SYS(ftruncate, fd, in->size) : SYS(truncate, path.text, in->size);
    }
    if (result >= 0 && (in->valid & (FATTR_ATIME | FATTR_MTIME))) {
        struct time times[2] = {instant(in->valid, FATTR_ATIME, FATTR_ATIME_NOW, in->atime, in->atimensec),
                                instant(in->valid, FATTR_MTIME, FATTR_MTIME_NOW, in->mtime, in->mtimensec)};
        result = SYS(utimensat, node->fd, "", times, AT_EMPTY_PATH);
    }
    return result < 0 ? result : attributes_of(node, answer);
}

static long opened(long fd, int directory, struct fuse_open_out *out) {
    if (fd < 0) return fd;
    handle_add((int)fd, directory);
    *out = (struct fuse_open_out){.fh = (u64)fd};
    return sizeof *out;
}

static long open_node(const struct request *request, const struct node *node, u8 *answer) {
    const struct fuse_open_in *in = argument(request, sizeof *in);
    if (!in) return -EINVAL;
    if (node->kind != S_IFREG) return -EACCES; /* the guest has pipes and sockets of its own */
    u32 access = in->flags & O_ACCMODE;
    if (access != O_RDONLY && node_readonly(node)) return -EROFS;
    long fd = SYS(openat, AT_FDCWD, path_of(node->fd).text, access | (in->flags & O_APPEND) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0);
    return opened(fd, 0, (struct fuse_open_out *)answer);
}

static long open_directory(const struct node *node, u8 *answer) {
    if (node->fd < 0) {
        *(struct fuse_open_out *)answer = (struct fuse_open_out){0};
        return sizeof(struct fuse_open_out);
    }
    if (node->kind != S_IFDIR) return -ENOTDIR;
    long fd = SYS(openat, node->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return opened(fd, 1, (struct fuse_open_out *)answer);
}

static long create(const struct request *request, const struct node *parent, u8 *answer) {
    const struct fuse_create_in *in = argument(request, sizeof *in + 2);
    const char *name = in ? name_at(request, sizeof *in) : NULL;
    if (!name) return -EINVAL;
    u32 flags = (in->flags & (O_ACCMODE | O_APPEND)) | OPENED;
    long fd = SYS(openat, parent->fd, name, flags | O_CREAT | O_EXCL, 0600);
    if (fd >= 0) {
        long result = hand_over(request, parent, name, S_IFREG | in->mode);
        if (result < 0) {
            close_fd((int)fd);
            return result;
        }
    } else if (fd == -EEXIST && !(in->flags & O_EXCL)) {
        fd = SYS(openat, parent->fd, name, flags | (in->flags & O_TRUNC), 0);
    }
    if (fd < 0) return fd;
    long size = look_up(parent, name, (struct fuse_entry_out *)answer);
    if (size < 0) {
        close_fd((int)fd);
        return size;
    }
    return size + opened(fd, 0, (struct fuse_open_out *)(answer + size));
}

static long make(const struct request *request, const struct node *parent, u8 *answer) {
    const struct fuse_mknod_in *node = argument(request, sizeof *node);
    const struct fuse_mkdir_in *directory = argument(request, sizeof *directory);
    const char *name, *content;
    switch (request->head->opcode) {
    case FUSE_MKNOD:
        name = node ? name_at(request, sizeof *node) : NULL;
        if (!name) return -EINVAL;
        if (!S_ISREG(node->mode) && !S_ISFIFO(node->mode) && !S_ISSOCK(node->mode)) return -EPERM; /* no device of the host's */
        return made(request, parent, name, node->mode, SYS(mknodat, parent->fd, name, (node->mode & S_IFMT) | 0600, 0), answer);
    case FUSE_MKDIR:
        name = directory ? name_at(request, sizeof *directory) : NULL;
        if (!name) return -EINVAL;
        return made(request, parent, name, S_IFDIR | directory->mode, SYS(mkdirat, parent->fd, name, 0700), answer);
    default:
        name = name_at(request, 0);
        content = name ? text_at(request, length(name) + 1) : NULL;
        if (!content) return -EINVAL;
        return made(request, parent, name, S_IFLNK, SYS(symlinkat, content, parent->fd, name), answer);
    }
}

static long link_node(const struct request *request, const struct node *parent, u8 *answer) {
    const struct fuse_link_in *in = argument(request, sizeof *in);
    const char *name = in ? name_at(request, sizeof *in) : NULL;
    const struct node *old = in ? node_at(in->oldnodeid) : NULL;
    if (!name || !old || old->fd < 0) return -EINVAL;
    if (old->share != parent->share) return -EXDEV;
    long result = SYS(linkat, AT_FDCWD, path_of(old->fd).text, parent->fd, name, AT_SYMLINK_FOLLOW);
    return result < 0 ? result : look_up(parent, name, (struct fuse_entry_out *)answer);
}

static long rename_node(const struct request *request, const struct node *parent) {
    const struct fuse_rename2_in *in = argument(request, sizeof *in);
    const struct fuse_rename_in *old = argument(request, sizeof *old);
    int has_flags = request->head->opcode == FUSE_RENAME2;
    if (!old || (has_flags && !in)) return -EINVAL;
    size offset = has_flags ? sizeof *in : sizeof *old;
    u32 flags = has_flags ? in->flags : 0;
    const char *from = name_at(request, offset), *to = from ? name_at(request, offset + length(from) + 1) : NULL;
    const struct node *target = node_at(old->newdir);
    if (!to || !target || flags & ~(u32)RENAMES) return -EINVAL;
    if (target->share != parent->share || target->fd < 0) return -EXDEV;
    long result = SYS(renameat2, parent->fd, from, target->fd, to, flags);
    return result < 0 ? result : 0;
}

static long transfer(const struct request *request, u8 *answer) {
    const struct fuse_read_in *in = argument(request, sizeof *in);
    const struct fuse_write_in *out = argument(request, sizeof *out);
    if (request->head->opcode == FUSE_READ) {
        int fd = in ? handle_at(in->fh, 0) : -EINVAL;
        return fd < 0 ? fd : in->size > PAYLOAD_MAX ? -EINVAL : SYS(pread64, fd, answer, in->size, in->offset);
    }
    int fd = out ? handle_at(out->fh, 0) : -EINVAL;
    if (fd < 0) return fd;
    if (out->size > request->count - sizeof *out) return -EINVAL;
    long written = SYS(pwrite64, fd, request->body + sizeof *out, out->size, out->offset);
    if (written < 0) return written;
    *(struct fuse_write_out *)answer = (struct fuse_write_out){.size = (u32)written};
    return sizeof(struct fuse_write_out);
}

static long read_directory(const struct request *request, const struct node *node, u8 *answer) {
    static u8 entries[32768];
    const struct fuse_read_in *in = argument(request, sizeof *in);
    if (!in) return -EINVAL;
    if (node->fd < 0) return 0;
    int fd = handle_at(in->fh, 1);
    if (fd < 0) return fd;
    if (SYS(lseek, fd, in->offset, 0) < 0) return -EINVAL;
    size room = in->size < PAYLOAD_MAX ? in->size : PAYLOAD_MAX, used = 0;
    /* As many of the host's entries as surely fit: each takes at most 8 bytes more here. */
    long count = SYS(getdents64, fd, entries, room / 2 < sizeof entries ? room / 2 : sizeof entries);
    for (long at = 0; at < count; at += ((struct entry64 *)(entries + at))->size) {
        const struct entry64 *each = (const struct entry64 *)(entries + at);
        size name = length(each->name), whole = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + name);
        if (used + whole > room) break;
        struct fuse_dirent *out = (struct fuse_dirent *)(answer + used);
        memset(out, 0, whole);
        out->ino = each->inode, out->off = each->offset, out->namelen = (u32)name, out->type = each->type;
        memcpy(out->name, each->name, name);
        used += whole;
    }
    return count < 0 ? count : (long)used;
}

static long space_of(const struct node *node, u8 *answer) {
    struct space space = {.block_size = 4096, .name_length = 255};
    long result = node->fd < 0 ? 0 : SYS(fstatfs, node->fd, &space);
    if (result < 0) return result;
    struct fuse_statfs_out *out = (struct fuse_statfs_out *)answer;
    *out = (struct fuse_statfs_out){{.blocks = space.blocks, .bfree = space.free, .bavail = space.available, .files = space.files,
                                     .ffree = space.free_files, .bsize = (u32)space.block_size, .namelen = (u32)space.name_length,
                                     .frsize = (u32)(space.fragment_size ? space.fragment_size : space.block_size)}};
    return sizeof *out;
}

static long on_file(const struct request *request, u8 *answer) {
    const struct fuse_fsync_in *sync = argument(request, sizeof *sync);
    const struct fuse_lseek_in *seek = argument(request, sizeof *seek);
    const struct fuse_fallocate_in *room = argument(request, sizeof *room);
    u32 operation = request->head->opcode;
    int fd = request->count < sizeof(u64) ? -EINVAL : handle_at(*(const u64 *)request->body, operation == FUSE_FSYNCDIR);
    if (fd < 0) return fd;
    long result = -EINVAL;
    if (operation == FUSE_LSEEK && seek) {
        result = SYS(lseek, fd, seek->offset, seek->whence);
        if (result < 0) return result;
        *(struct fuse_lseek_out *)answer = (struct fuse_lseek_out){.offset = (u64)result};
        return sizeof(struct fuse_lseek_out);
    }
    if (operation == FUSE_FALLOCATE && room) result = SYS(fallocate, fd, room->mode, room->offset, room->length);
    if ((operation == FUSE_FSYNC || operation == FUSE_FSYNCDIR) && sync)
        result = sync->fsync_flags & FUSE_FSYNC_FDATASYNC ? SYS(fdatasync, fd) : SYS(fsync, fd);
    return result < 0 ? result : 0;
}

static void forget_each(const struct request *request) {
    const struct fuse_forget_in *one = argument(request, sizeof *one);
    const struct fuse_batch_forget_in *batch = argument(request, sizeof *batch);
    if (request->head->opcode == FUSE_FORGET) {
        if (one) node_forget(request->head->nodeid, one->nlookup);
        return;
    }
    const struct fuse_forget_one *each = (const struct fuse_forget_one *)(request->body + sizeof *batch);
    for (u32 at = 0; batch && at < batch->count && request->count >= sizeof *batch + (at + 1) * sizeof *each; at++)
        node_forget(each[at].nodeid, each[at].nlookup);
}

static int changes(u32 operation) {
    switch (operation) {
    case FUSE_SETATTR: case FUSE_SYMLINK: case FUSE_MKNOD: case FUSE_MKDIR: case FUSE_UNLINK: case FUSE_RMDIR: case FUSE_RENAME:
    case FUSE_RENAME2: case FUSE_LINK: case FUSE_CREATE: case FUSE_FALLOCATE:
        return 1;
    default: return 0;
    }
}

long serve(const struct request *request, u8 *answer) {
    u32 operation = request->head->opcode;
    const struct node *node;
    switch (operation) {
    case FUSE_INIT: return initialise(request, answer);
    case FUSE_DESTROY: return 0;
    case FUSE_INTERRUPT: return SILENT;
    case FUSE_FORGET: case FUSE_BATCH_FORGET: forget_each(request); return SILENT;
    }
    if (!(node = node_at(request->head->nodeid))) return -ESTALE;
    if (changes(operation) && node_readonly(node)) return -EROFS;
    const char *name;
    long result;
    switch (operation) {
    case FUSE_LOOKUP:
        name = name_at(request, 0);
        return name ? look_up(node, name, (struct fuse_entry_out *)answer) : -EINVAL;
    case FUSE_GETATTR: return attributes_of(node, answer);
    case FUSE_SETATTR: return set_attributes(request, node, answer);
    case FUSE_READLINK: return node->fd < 0 ? -EINVAL : SYS(readlinkat, node->fd, "", answer, TEXT_MAX - 1);
    case FUSE_SYMLINK: case FUSE_MKNOD: case FUSE_MKDIR: return make(request, node, answer);
    case FUSE_UNLINK: case FUSE_RMDIR:
        if (!(name = name_at(request, 0))) return -EINVAL;
        result = SYS(unlinkat, node->fd, name, operation == FUSE_RMDIR ? AT_REMOVEDIR : 0);
        return result < 0 ? result : 0;
    case FUSE_RENAME: case FUSE_RENAME2: return rename_node(request, node);
    case FUSE_LINK: return link_node(request, node, answer);
    case FUSE_OPEN: return open_node(request, node, answer);
    case FUSE_OPENDIR: return open_directory(node, answer);
    case FUSE_CREATE: return create(request, node, answer);
    case FUSE_READ: case FUSE_WRITE: return transfer(request, answer);
    case FUSE_READDIR: return read_directory(request, node, answer);
    case FUSE_RELEASE: case FUSE_RELEASEDIR:
        if (request->count >= sizeof(u64)) handle_drop(*(const u64 *)request->body);
        return 0;
    case FUSE_STATFS: return space_of(node, answer);
    case FUSE_FSYNC: case FUSE_FSYNCDIR: case FUSE_LSEEK: case FUSE_FALLOCATE: return on_file(request, answer);
    default: return -ENOSYS; /* the guest's kernel does without, and does not ask again */
    }
}
