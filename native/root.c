/* A container's root: what can be made before START is known, and what START adds.
 *
 *     before   mounts that follow the agent's, the cgroup, /proc /sys /dev with their masks, as detached mounts
 *     by START the overlay on the image → volumes → pivot_root → all mounts to their places → what else is hidden or locked
 *
 * Sources of volumes are opened as detached mounts while the agent's tree is still in sight, and moved to their places
 * after the container's root has become /: so the kernel resolves an image's symlinks inside the image.
 */
#include "child.h"

#include <linux/mount.h>
#include <linux/sched.h>
#include <linux/stat.h>

enum { MOUNTS = 128, DETACH = 2 };

static void join_cgroup(u32 place) {
    TEXT(path, 96);
    place_name(&path, "/sys/fs/cgroup/c", place, "/cgroup.procs");
    must(CGROUP, write_file(path.at, "0", 1));
}

/* volumes */

struct volume {
    int fd, readonly, is_file;
    const char *target;
};

static struct volume volumes[MOUNTS];
static int volume_count;

int clone_tree(const char *path) {
    return (int)SYS(open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
}

static int is_file(int fd) {
    struct statx status;
    long result = SYS(statx, fd, "", AT_EMPTY_PATH, STATX_TYPE, &status);
    return result == 0 && (status.stx_mode & S_IFMT) != S_IFDIR;
}

long lock_mount(int fd, const char *path, int flags, u64 attributes) {
    struct mount_attr change = {.attr_set = attributes};
    return SYS(mount_setattr, fd, path, flags, &change, sizeof change);
}

/* K_MOUNT: flags (bit 0: read-only, bit 1: a device), source, NUL, target. */
static void open_volumes(void) {
    size offset = 0;
    struct field field;
    while (each(&offset, K_MOUNT, &field)) {
        if (field.size < 2 || volume_count == MOUNTS) must(MOUNT_SOURCE, -EINVAL);
        const char *source = keep(field.at + 1, field.size - 1);
        size count = length(source);
        if (count + 2 > field.size) must(MOUNT_SOURCE, -EINVAL);
        struct volume *volume = &volumes[volume_count++];
        volume->fd = clone_tree(source);
        must(MOUNT_SOURCE, volume->fd);
        volume->readonly = field.at[0] & 1;
        volume->is_file = is_file(volume->fd);
        volume->target = source + count + 1;
        must(MOUNT_SOURCE, lock_mount(volume->fd, "", AT_EMPTY_PATH | AT_RECURSIVE,
                                      (field.at[0] & 2 ? 0u : MOUNT_ATTR_NODEV) | (volume->readonly ? MOUNT_ATTR_RDONLY : 0u)));
    }
}

static void make_parent(const char *path) {
    char parent[4096];
    size end = length(path);
    if (end >= sizeof parent) return;
    while (end > 1 && path[end - 1] != '/') end--;
    if (end <= 1) return;
    memcpy(parent, path, end - 1);
    parent[end - 1] = 0;
    make_directories(parent, 0755);
}

void make_place_for(const char *path, int file) {
    make_parent(path);
    if (file) {
        int fd = open_at(path, O_WRONLY | O_CREAT | O_NONBLOCK, 0644);
        if (fd >= 0) close_fd(fd);
    } else {
        make_directories(path, 0755);
    }
}

static long attach_tree(int fd, const char *path) {
    return SYS(move_mount, fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS);
}

static void mount_volumes(void) {
    for (int at = 0; at < volume_count; at++) {
        struct volume *volume = &volumes[at];
        make_place_for(volume->target, volume->is_file);
        must(VOLUME, attach_tree(volume->fd, volume->target));
        close_fd(volume->fd);
    }
}

/* /proc, /sys and /dev: made under /run/c/<place>/special, and taken from there as detached mounts. */

static const char *const specials[] = {"/proc", "/sys", "/dev"};
static int special_trees[COUNT(specials)];
static const char *const nodes[] = {"null", "zero", "full", "random", "urandom", "tty"};

static void path_in(struct text *path, const char *base, const char *below) {
    path->used = 0;
    add(path, base);
    add(path, below);
}

static void make_dev(const char *base, int privileged) {
    TEXT(path, 128);
    path_in(&path, base, "/dev");
    if (privileged) {
        must(SPECIAL, SYS(mount, "dev", path.at, "devtmpfs", MS_NOSUID, 0));
    } else {
        /* Nodes are mounts of the agent's own; what a container makes itself is not a device here (nodev). */
        must(SPECIAL, SYS(mount, "dev", path.at, "tmpfs", MS_NOSUID | MS_NODEV | MS_STRICTATIME, "mode=755,size=65536k"));
        for (size at = 0; at < COUNT(nodes); at++) {
            TEXT(node, 32);
            path_in(&node, "/dev/", nodes[at]);
            path_in(&path, base, node.at);
            int tree = clone_tree(node.at);
            make_place_for(path.at, 1);
            must(SPECIAL, attach_tree(tree, path.at));
            close_fd(tree);
        }
    }
    path_in(&path, base, "/dev/pts");
    make_directories(path.at, 0755);
    must(SPECIAL, SYS(mount, "devpts", path.at, "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"));
    path_in(&path, base, "/dev/shm");
    make_directories(path.at, 0755);
    int shared_memory = clone_tree("/run/shm");
    must(SPECIAL, attach_tree(shared_memory, path.at));
    close_fd(shared_memory);
    path_in(&path, base, "/dev/mqueue");
    make_directories(path.at, 0755);
    SYS(mount, "mqueue", path.at, "mqueue", MS_NOSUID | MS_NOEXEC | MS_NODEV, 0);
    static const char *const links[][2] = {
        {"pts/ptmx", "/dev/ptmx"}, {"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"},
        {"/proc/self/fd/1", "/dev/stdout"}, {"/proc/self/fd/2", "/dev/stderr"},
    };
    for (size at = 0; at < COUNT(links); at++) {
        path_in(&path, base, links[at][1]);
        if (privileged && !at) SYS(unlinkat, AT_FDCWD, path.at, 0);
        SYS(symlinkat, links[at][0], AT_FDCWD, path.at);
    }
}

static void mask(const char *path) {
    int tree = clone_tree(path);
    if (tree < 0) return; /* what is not there needs no mask */
    int file = is_file(tree);
    close_fd(tree);
    if (!file) {
        must(MASK, SYS(mount, "masked", path, "tmpfs", MS_RDONLY | MS_NODEV, "size=0"));
        return;
    }
    tree = clone_tree("/dev/null");
    must(MASK, tree);
    must(MASK, attach_tree(tree, path));
    close_fd(tree);
}

static void lock_path(const char *path) {
    int tree = clone_tree(path);
    if (tree < 0) return;
    must(LOCK, lock_mount(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, MOUNT_ATTR_RDONLY));
    must(LOCK, attach_tree(tree, path));
    close_fd(tree);
}

static int is_special(const struct field *field) {
    for (size at = 0; at < COUNT(specials); at++) {
        size count = length(specials[at]);
        if (field->size > count && !memcmp(field->at, specials[at], count) && field->at[count] == '/') return 1;
    }
    return 0;
}

/* Lock and hide the message's paths: those in /proc, /sys and /dev under `base`, or else all the others. */
static void guard(const char *base) {
    static const u16 keys[] = {K_READONLY_PATH, K_MASKED};
    for (size at = 0; at < COUNT(keys); at++) {
        size offset = 0;
        struct field field;
        while (each(&offset, keys[at], &field)) {
            if (is_special(&field) != (base != NULL)) continue;
            char bytes[4096];
            struct text path = {bytes, 0, sizeof bytes};
            if (base) add(&path, base);
            add_bytes(&path, (const char *)field.at, field.size);
            if (keys[at] == K_MASKED) mask(path.at);
            else lock_path(path.at);
        }
    }
}

void root_prepare(const struct child *child) {
    int privileged = (int)number(K_PRIVILEGED, 0), init = (int)number(K_INIT, 0);
    u64 locked = MS_NOSUID | MS_NOEXEC | MS_NODEV;
    join_cgroup(child->place);
    /* What the agent mounts from now on, an image or a volume, is seen here too. */
    must(ENTER, SYS(mount, 0, "/", 0, MS_REC | MS_SLAVE, 0));
    SYS(unshare, CLONE_NEWCGROUP);
    TEXT(base, 64);
    place_name(&base, "/run/c/", child->place, "/special");
    TEXT(path, 128);
    for (size at = 0; at < COUNT(specials); at++) {
        path_in(&path, base.at, specials[at]);
        SYS(mkdirat, AT_FDCWD, path.at, 0755);
    }
    path_in(&path, base.at, "/proc");
    must(SPECIAL, SYS(mount, "proc", path.at, "proc", locked, 0));
    path_in(&path, base.at, "/sys");
    must(SPECIAL, SYS(mount, "sysfs", path.at, "sysfs", locked | (privileged ? 0 : MS_RDONLY), 0));
    path_in(&path, base.at, "/sys/fs/cgroup");
    must(SPECIAL, SYS(mount, "cgroup", path.at, "cgroup2", locked | (privileged || init ? 0 : MS_RDONLY), 0));
    make_dev(base.at, privileged);
    guard(base.at);
    for (size at = 0; at < COUNT(specials); at++) {
        path_in(&path, base.at, specials[at]);
        must(SPECIAL, SYS(mount, 0, path.at, 0, MS_REC | MS_PRIVATE, 0));
        special_trees[at] = clone_tree(path.at);
        must(SPECIAL, special_trees[at]);
        SYS(umount2, path.at, DETACH);
    }
}

static void mount_overlay(u32 place) {
    TEXT(layers, 256);
    add(&layers, "lowerdir=/run/image/");
    add_number(&layers, number(K_SLOT, 0));
    u32 disk = (u32)number(K_UPPER, 0);
    const char *upper = disk ? ",upperdir=/run/image/" : ",upperdir=/run/c/", *work = disk ? ",workdir=/run/image/" : ",workdir=/run/c/";
    place_name(&layers, upper, disk ? disk : place, "/upper");
    place_name(&layers, work, disk ? disk : place, "/work");
    TEXT(root, 64);
    place_name(&root, "/run/c/", place, "/root");
    must(ROOT, SYS(mount, "overlay", root.at, "overlay", MS_NODEV, layers.at));
    must(PIVOT, SYS(chdir, root.at));
}

/* What an init finds in a machine and a container has not: https://systemd.io/CONTAINER_INTERFACE. */
static void mount_for_init(void) {
    static const char *const places[][2] = {{"/run", "mode=755"}, {"/run/lock", "mode=1777"}, {"/tmp", "mode=1777"}};
    for (size at = 0; at < COUNT(places); at++) {
        must(SPECIAL, make_directories(places[at][0], 0755));
        must(SPECIAL, SYS(mount, "tmpfs", places[at][0], "tmpfs", MS_NOSUID | MS_NODEV, places[at][1]));
    }
}

void root_enter(const struct child *child) {
    must(ENTER, SYS(mount, 0, "/", 0, MS_REC | MS_PRIVATE, 0));
    mount_overlay(child->place);
    open_volumes();
    must(PIVOT, SYS(pivot_root, ".", "."));
    must(PIVOT, SYS(umount2, ".", DETACH));
    must(PIVOT, SYS(chdir, "/"));
    for (size at = 0; at < COUNT(specials); at++) {
        make_directories(specials[at], 0755);
        must(SPECIAL, attach_tree(special_trees[at], specials[at]));
        close_fd(special_trees[at]);
    }
    if (number(K_INIT, 0)) mount_for_init();
    mount_volumes();
    guard(NULL);
}
