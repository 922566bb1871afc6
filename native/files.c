/* Files that the host gives to the guest, one change a message, and files that it takes back. */
#include "guest.h"

#include <asm/stat.h>
#include <linux/fs.h>

/* K_OP */
enum change { DIRECTORY = 1, WHOLE, APPEND, LINK, RENAME, REMOVE_TREE, IN_PLACE };

/* Remove `name` in `directory` and all below; symlinks are not followed. Depth is that of the tree, which the host made. */
static long remove_tree(int directory, const char *name, int depth) {
    long result = SYS(unlinkat, directory, name, 0);
    if (result != -EISDIR && result != -EPERM) return result;
    if (depth > 64) return -ELOOP;
    int fd = (int)SYS(openat, directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return fd;
    char entries[1024];
    for (int again = 1; again;) {
        again = 0;
        SYS(lseek, fd, 0, 0);
        long count;
        while ((count = SYS(getdents64, fd, entries, sizeof entries)) > 0) {
            for (long at = 0; at < count; at += ((struct entry64 *)(entries + at))->size) {
                const char *each = ((struct entry64 *)(entries + at))->name;
                if (same(each, ".") || same(each, "..")) continue;
                if (remove_tree(fd, each, depth + 1) == 0) again = 1;
            }
        }
    }
    close_fd(fd);
    return SYS(unlinkat, directory, name, AT_REMOVEDIR);
}

static long write_content(const char *path, int flags, const u8 *message, size count) {
    int fd = open_at(path, O_WRONLY | O_NOFOLLOW | flags, get_number(message, count, K_MODE, 0600));
    if (fd < 0) return fd;
    struct field field;
    long result = 0;
    if (get_field(message, count, K_CONTENT, &field)) {
        for (u32 done = 0; done < field.size;) {
            result = SYS(write, fd, field.at + done, field.size - done);
            if (result <= 0) break;
            done += (u32)result;
        }
    }
    if (result >= 0 && (flags & O_TRUNC)) {
        u32 uid = (u32)get_number(message, count, K_UID, 0), gid = (u32)get_number(message, count, K_GID, 0);
        u32 mode = (u32)get_number(message, count, K_MODE, 0600);
        struct stat status;
        result = SYS(fstat, fd, &status);
        if (result >= 0 && (status.st_uid != uid || status.st_gid != gid)) result = SYS(fchown, fd, uid, gid);
        if (result >= 0 && (status.st_mode & 07777) != mode) result = SYS(fchmod, fd, mode);
    }
    close_fd(fd);
    return result < 0 ? result : 0;
}

struct failure file_put(const u8 *message, size count) {
    char path[4096], other[4096];
    if (!get_text(message, count, K_PATH, path, sizeof path) || path[0] != '/') return fail(-EINVAL, "the file's path");
    get_text(message, count, K_LINK, other, sizeof other);
    u64 mode = get_number(message, count, K_MODE, 0755);
    long result = -EINVAL;
    switch (get_number(message, count, K_OP, 0)) {
    case DIRECTORY:
        result = make_directories(path, 0755);
        if (result >= 0)
            result = SYS(fchownat, AT_FDCWD, path, get_number(message, count, K_UID, 0), get_number(message, count, K_GID, 0), 0);
        if (result >= 0) result = SYS(fchmodat, AT_FDCWD, path, mode);
        break;
    case WHOLE: result = write_content(path, O_CREAT | O_TRUNC, message, count); break;
    case IN_PLACE: result = write_content(path, O_TRUNC, message, count); break;
    case APPEND: result = write_content(path, O_APPEND, message, count); break;
    case LINK:
        result = SYS(symlinkat, other, AT_FDCWD, path);
        if (result >= 0) SYS(fchownat, AT_FDCWD, path, get_number(message, count, K_UID, 0), get_number(message, count, K_GID, 0), AT_SYMLINK_NOFOLLOW);
        break;
    case RENAME: result = SYS(renameat2, AT_FDCWD, path, AT_FDCWD, other, 0); break;
    case REMOVE_TREE:
        result = remove_tree(AT_FDCWD, path, 0);
        if (result == -ENOENT) result = 0;
        break;
    }
    return fail(result, "change a file");
}

struct failure file_get(const u8 *message, size count, struct message *reply) {
    static char content[FRAME_MAX - 256];
    char path[4096];
    if (!get_text(message, count, K_PATH, path, sizeof path)) return fail(-EINVAL, "the file's path");
    long got = read_file(path, content, sizeof content);
    if (got < 0) return fail(got, "read a file");
    put_field(reply, K_CONTENT, content, (size)got);
    return fail(0, "");
}
