/* Process 1 of an image that is a machine by itself: no agent, no host, everything in RAM (sampan image build --microvm).
 *
 * The root is the initial file system itself. What to run is in /.sampan/start, texts that each end in a NUL:
 *
 *     host name, working directory, uid, gid, number of arguments, arguments …, environment …
 *
 * The kernel's command line may say
 *
 *     sampan.ip=ADDRESS/BITS[,GATEWAY]   of eth0; without it only lo is set up
 *     sampan.end=reset                   how the machine ends: where there is no ACPI to power off by
 */
#include "../early.h"
#include "../guest.h"

#include <linux/mount.h>
#include <linux/reboot.h>
#include <linux/signal.h>

enum { TAKE_TERMINAL = 0x540E /* TIOCSCTTY */, START_LIMIT = 1 << 20, WORDS_MAX = 4096, COMMAND_LINE = 4096 };

static char command_line[COMMAND_LINE];

static void say(const char *before, u64 number, const char *after) {
    TEXT(line, 512);
    add(&line, "sampan: ");
    add(&line, before);
    if (number != ~0ull) add_number(&line, number);
    add(&line, after);
    add(&line, "\n");
    SYS(write, 2, line.at, line.used);
}

/* What follows `name` on the kernel's command line, NULL when it is not there. */
static const char *option(const char *name) {
    size count = length(name);
    for (const char *at = command_line; *at;) {
        while (*at == ' ' || *at == '\n') at++;
        if (!memcmp(at, name, count)) return at + count;
        while (*at && *at != ' ' && *at != '\n') at++;
    }
    return NULL;
}

__attribute__((noreturn)) static void end(void) {
    const char *how = option("sampan.end=");
    int reset = how && !memcmp(how, "reset", 5);
    SYS0(sync);
    for (;;)
        SYS(reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, reset ? LINUX_REBOOT_CMD_RESTART : LINUX_REBOOT_CMD_POWER_OFF, 0);
}

__attribute__((noreturn)) static void give_up(const char *what, long error) {
    say(what, (u64)-error, " (errno)");
    end();
}

/* ADDRESS as the four bytes of a network packet; moves *at behind it. */
static u32 address_at(const char **at) {
    u32 address = 0;
    for (int part = 0; part < 4; part++) {
        address |= (u32)(parse_number(*at) & 0xff) << (8 * part);
        while (**at >= '0' && **at <= '9') ++*at;
        if (part < 3 && **at == '.') ++*at;
    }
    return address;
}

static void set_up_network(void) {
    u8 bytes[128];
    struct message message = {bytes, 0, sizeof bytes, 0};
    const char *at = option("sampan.ip=");
    if (at) {
        u32 address = address_at(&at), gateway = 0;
        u64 bits = *at == '/' ? parse_number(at + 1) : 32;
        u32 ones = bits ? ~0u << (32 - (bits > 32 ? 32 : bits)) : 0, mask = __builtin_bswap32(ones);
        while (*at && *at != ',' && *at != ' ' && *at != '\n') at++;
        if (*at == ',') at++, gateway = address_at(&at);
        put_field(&message, K_ADDRESS, &address, sizeof address);
        put_field(&message, K_NETMASK, &mask, sizeof mask);
        if (gateway) put_field(&message, K_GATEWAY, &gateway, sizeof gateway);
    }
    network_begin();
    struct failure failure = network_setup(message.at, message.used);
    if (failure.error) say(failure.where, (u64)failure.error, " (errno)");
}

static void boot(void) {
    mount_at("devtmpfs", "/dev", MS_NOSUID, "mode=755");
    int console = open_at("/dev/console", O_RDWR, 0);
    for (int fd = 0; console >= 0 && fd < 3; fd++)
        if (fd != console) SYS(dup3, console, fd, 0);
    for (int fd = 0; fd < 3; fd++) SYS(fcntl, fd, F_SETFD, 0);
    mount_kernel();
    mount_at("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=620,gid=5,ptmxmode=666");
    mount_at("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777");
    read_file("/proc/cmdline", command_line, sizeof command_line);
    load_modules("/.sampan/modules/");
    set_up_network();
}

struct start {
    char *host, *directory;
    u32 uid, gid;
    char **arguments, **environment;
};

static char *words[WORDS_MAX + 2];

static struct start read_start(void) {
    static const char place[] = "/.sampan/start";
    char *content = pages(START_LIMIT);
    if (!content) give_up("no memory: ", -ENOMEM);
    long count = read_file(place, content, START_LIMIT);
    if (count < 0) give_up("cannot read /.sampan/start: ", count);
    size found = 0;
    for (char *at = content; at < content + count && found < WORDS_MAX; at += length(at) + 1) words[found++] = at;
    size arguments = found > 4 ? parse_number(words[4]) : 0;
    if (!arguments || 5 + arguments > found) give_up("/.sampan/start is malformed: ", -EINVAL);
    /* The environment begins where the arguments' NULL is wanted: move it up by one. */
    for (size at = found; at > 5 + arguments; at--) words[at] = words[at - 1];
    words[5 + arguments] = NULL;
    words[found + 1] = NULL;
    return (struct start){words[0], words[1], (u32)parse_number(words[2]), (u32)parse_number(words[3]), words + 5, words + 6 + arguments};
}

static const char *value_of(char *const *environment, const char *name) {
    size count = length(name);
    for (; *environment; environment++)
        if (!memcmp(*environment, name, count)) return *environment + count;
    return "";
}

/* A session of its own on the real console, so that ^C works: /dev/console cannot be a controlling terminal. */
static void take_terminal(void) {
    char active[64];
    SYS0(setsid);
    if (read_file("/sys/class/tty/console/active", active, sizeof active) <= 0) return;
    const char *last = active;
    for (char *at = active; *at; at++) {
        if (*at == '\n') {
            *at = 0;
            break;
        }
        if (*at == ' ') last = at + 1;
    }
    TEXT(path, 96);
    add(&path, "/dev/");
    add(&path, last);
    int fd = open_at(path.at, O_RDWR, 0);
    if (fd < 0) return;
    SYS(ioctl, fd, TAKE_TERMINAL, 0);
    for (int at = 0; at < 3; at++) SYS(dup3, fd, at, 0);
}

__attribute__((noreturn)) static void become(const struct start *start) {
    take_terminal();
    make_directories(start->directory, 0755);
    SYS(chdir, start->directory);
    if (start->uid || start->gid) {
        SYS(setgroups, 0, NULL);
        SYS(setresgid, start->gid, start->gid, start->gid);
        SYS(setresuid, start->uid, start->uid, start->uid);
    }
    const char *program = start->arguments[0];
    long error = -ENOENT;
    int has_slash = 0;
    for (const char *at = program; *at; at++) has_slash |= *at == '/';
    if (has_slash) {
        error = SYS(execve, program, start->arguments, start->environment);
    } else {
        for (const char *path = value_of(start->environment, "PATH="); *path;) {
            TEXT(candidate, 4096);
            const char *stop = path;
            while (*stop && *stop != ':') stop++;
            add_bytes(&candidate, path, (size)(stop - path));
            add(&candidate, "/");
            add(&candidate, program);
            long result = SYS(execve, candidate.at, start->arguments, start->environment);
            if (result != -ENOENT && result != -ENOTDIR) error = result;
            path = *stop ? stop + 1 : stop;
        }
    }
    TEXT(what, 256);
    add(&what, "cannot execute ");
    add(&what, program);
    add(&what, ": ");
    say(what.at, (u64)-error, " (errno)");
    for (;;) SYS(exit_group, 127);
}

__attribute__((noreturn, used)) void init_main(void) {
    boot();
    struct start start = read_start();
    SYS(sethostname, start.host, length(start.host));
    int child = (int)SYS(clone, SIGCHLD, 0, 0, 0, 0);
    if (!child) become(&start);
    if (child < 0) give_up("cannot fork: ", child);
    for (;;) {
        int status, pid = (int)SYS(wait4, -1, &status, 0, 0);
        if (pid != child && pid != -ECHILD) continue;
        int signal = status & 0x7f;
        TEXT(what, 256);
        add(&what, start.arguments[0]);
        add(&what, " ended with code ");
        say(what.at, (u64)(signal ? 128 + signal : status >> 8 & 0xff), "");
        end();
    }
}

#if defined __x86_64__
__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n and $-16, %rsp\n call init_main\n");
#elif defined __aarch64__
__asm__(".globl _start\n_start:\n mov x29, #0\n mov x30, #0\n bl init_main\n");
#endif
