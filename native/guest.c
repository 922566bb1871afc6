/* Boot and identity; see guest.h. */
#include "guest.h"

#include "early.h"

#include <linux/mount.h>
#include <linux/random.h>
#include <linux/reboot.h>
#include <linux/resource.h>

enum { DETACH = 2, CLOCK_REALTIME = 0, DRIVES = 24, PLUG_TRIES = 5000 };

static int random_device = -1; /* open before there is a pod */
static int plugged;             /* there was no drive at boot: each is plugged in when it is needed */

void guest_boot(void) {
    SYS(mkdirat, AT_FDCWD, "/dev", 0755);
    mount_at("devtmpfs", "/dev", MS_NOSUID, "mode=755");
    for (int fd = 0; fd < 3; fd++) open_at("/dev/null", O_RDWR, 0);
    for (int fd = 0; fd < 3; fd++) SYS(fcntl, fd, F_SETFD, 0);
    load_modules("/modules/");
    /* The first root cannot be pivoted away from (pivot_root(2)): go on in a tmpfs mounted over it. */
    mount_at("tmpfs", "/root", 0, "mode=755");
    SYS(mkdirat, AT_FDCWD, "/root/dev", 0755);
    SYS(mount, "/dev", "/root/dev", 0, MS_MOVE, 0);
    SYS(chdir, "/root");
    SYS(mount, ".", "/", 0, MS_MOVE, 0);
    SYS(chroot, ".");
    SYS(chdir, "/");
    mount_kernel();
    mount_at("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755");
    make_directories("/run/image", 0755);
    make_directories("/run/v", 0755);
    mount_at("tmpfs", "/run/shm", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=65536k");
    static const char *const controllers[] = {"+cpu", "+memory", "+pids", "+cpuset"};
    for (size at = 0; at < COUNT(controllers); at++)
        write_file("/sys/fs/cgroup/cgroup.subtree_control", controllers[at], length(controllers[at]));
    /* A guest whose agent is ended for want of memory would be lost; a container's process is not. */
    write_file("/proc/self/oom_score_adj", "-1000", 5);
    /* Containers that are prepared see what is mounted after them. */
    SYS(mount, 0, "/", 0, MS_REC | MS_SHARED, 0);
    random_device = open_at("/dev/urandom", O_WRONLY, 0);
    plugged = SYS(faccessat, AT_FDCWD, "/dev/vda", 0) < 0;
    /* Pods have no IPv6 address, so eth0 shall neither give itself one nor ask around for routers. */
    write_file("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1", 1);
    /* A pod's ports are its own, so any user in it may have any of them. */
    write_file("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0", 1);
    /* The kernel would allow a plain user as few processes as the guest's memory is small; cgroups are for that. */
    static const u64 unlimited[2] = {~0ull, ~0ull};
    SYS(prlimit64, 0, RLIMIT_NPROC, unlimited, 0);
    network_begin();
    /* Nothing wakes a guest that has nothing to do: no memory is compacted in advance, few figures are gathered. */
    write_file("/proc/sys/vm/compaction_proactiveness", "0", 1);
    write_file("/proc/sys/vm/stat_interval", "60", 2);
}

/* Clones of one snapshot would all draw the same numbers: credit fresh ones and make the kernel use them at once. */
static struct failure seed(const struct field *entropy) {
    struct {
        int bits, bytes;
        u8 data[256];
    } pool = {0};
    pool.bytes = (int)(entropy->size > sizeof pool.data ? sizeof pool.data : entropy->size);
    pool.bits = pool.bytes * 8;
    memcpy(pool.data, entropy->at, (size)pool.bytes);
    long result = SYS(ioctl, random_device, RNDADDENTROPY, &pool);
    if (result >= 0) result = SYS(ioctl, random_device, RNDRESEEDCRNG, 0);
    return fail(result, "seed the random number generator");
}

struct failure guest_setup(const u8 *message, size count) {
    struct field field;
    struct failure failure = fail(-EINVAL, "SETUP without entropy");
    if (!get_field(message, count, K_ENTROPY, &field) || field.size < 32) return failure;
    failure = seed(&field);
    u64 now = get_number(message, count, K_TIME, 0);
    s64 time[2] = {(s64)(now / 1000000000), (s64)(now % 1000000000)};
    if (!failure.error && now) failure = fail(SYS(clock_settime, CLOCK_REALTIME, time), "set the clock");
    if (!failure.error && get_field(message, count, K_HOSTNAME, &field))
        failure = fail(SYS(sethostname, field.at, field.size), "set the host name");
    if (!failure.error) failure = network_setup(message, count);
    size offset = 0;
    while (!failure.error && next_field(message, count, &offset, &field) > 0) {
        if (field.key != K_SYSCTL) continue;
        TEXT(path, 256);
        add(&path, "/proc/sys/");
        size name = 0;
        while (name < field.size && field.at[name] != '=') name++;
        add_bytes(&path, (const char *)field.at, name);
        if (name < field.size)
            failure = fail(write_file(path.at, (const char *)field.at + name + 1, field.size - name - 1), "set a sysctl");
    }
    if (!failure.error && get_number(message, count, K_SHARE_PIDS, 0)) failure = fail(pause_start(), "start process 1 of the pod");
    return failure;
}

static u64 mounted; /* drives, a bit each */

static u64 image_path(const u8 *message, size count, struct text *path) {
    u64 slot = get_number(message, count, K_SLOT, DRIVES);
    add(path, "/run/image/");
    add_number(path, slot);
    return slot;
}

/* Drives that were there at boot have the letters of their numbers. Others have any, and say in their serial number which
 * they are; they may appear a little after the host was told that they are plugged in. */
static char letter_of(u64 slot) {
    TEXT(wanted, 32);
    add(&wanted, "drive");
    add_number(&wanted, slot);
    for (int tries = 0; plugged && tries < PLUG_TRIES; tries++) {
        for (char letter = 'a'; letter <= 'z'; letter++) {
            char path[] = "/sys/block/vd?/serial", serial[32];
            path[sizeof "/sys/block/vd" - 1] = letter;
            if (read_file(path, serial, sizeof serial) > 0 && same(serial, wanted.at)) return letter;
        }
        s64 millisecond[2] = {0, 1000000};
        SYS(nanosleep, millisecond, 0);
    }
    return (char)('a' + slot);
}

struct failure guest_image(const u8 *message, size count) {
    TEXT(path, 32);
    u64 slot = image_path(message, count, &path);
    if (slot >= DRIVES) return fail(-EINVAL, "the drive's number");
    if (mounted >> slot & 1) return fail(0, "");
    TEXT(device, 32);
    add(&device, "/dev/vd");
    char letter = letter_of(slot);
    add_bytes(&device, &letter, 1);
    make_directories(path.at, 0755);
    int writable = get_number(message, count, K_UPPER, 0) != 0;
    long result = writable ? SYS(mount, device.at, path.at, "ext4", MS_NODEV, 0) : SYS(mount, device.at, path.at, "erofs", MS_RDONLY, 0);
    if (result >= 0 && writable) {
        static const char *const names[] = {"/upper", "/work"};
        for (size at = 0; at < COUNT(names); at++) {
            TEXT(inside, 48);
            add(&inside, path.at);
            add(&inside, names[at]);
            make_directories(inside.at, 0755);
        }
    }
    if (result >= 0) mounted |= 1ull << slot;
    return fail(result, writable ? "mount the disk" : "mount the image");
}

struct failure guest_remove_image(const u8 *message, size count) {
    TEXT(path, 32);
    u64 slot = image_path(message, count, &path);
    if (slot >= DRIVES || !(mounted >> slot & 1)) return fail(0, "");
    long result = SYS(umount2, path.at, DETACH);
    if (result >= 0) mounted &= ~(1ull << slot);
    return fail(result, "unmount the image");
}

static u64 number_in(const char *path) {
    char content[32];
    read_file(path, content, sizeof content);
    return parse_number(content);
}

void guest_traffic(struct message *reply) {
    put_number(reply, K_RX, number_in("/sys/class/net/eth0/statistics/rx_bytes"));
    put_number(reply, K_TX, number_in("/sys/class/net/eth0/statistics/tx_bytes"));
}

void guest_end(void) {
    SYS0(sync);
    for (;;) SYS(reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_RESTART, 0);
}
