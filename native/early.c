/* Mounts and modules; see early.h. */
#include "early.h"

#include <linux/mount.h>

enum { MODULES_MAX = 64 };

void mount_at(const char *kind, const char *at, u64 flags, const char *options) {
    make_directories(at, 0755);
    SYS(mount, kind, at, kind, flags, options);
}

void load_modules(const char *directory) {
    for (int number = 0; number < MODULES_MAX; number++) {
        TEXT(path, 64);
        add(&path, directory);
        add_number(&path, (u64)number);
        int fd = open_at(path.at, O_RDONLY, 0);
        if (fd < 0) return;
        SYS(finit_module, fd, "", 0);
        close_fd(fd);
        SYS(unlinkat, AT_FDCWD, path.at, 0);
    }
}

void mount_kernel(void) {
    static const char *const kinds[][2] = {{"proc", "/proc"}, {"sysfs", "/sys"}, {"cgroup2", "/sys/fs/cgroup"}};
    for (size at = 0; at < COUNT(kinds); at++) mount_at(kinds[at][0], kinds[at][1], MS_NOSUID | MS_NOEXEC | MS_NODEV, 0);
}
