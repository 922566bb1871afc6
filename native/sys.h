/* The kernel's interface without a C library: system calls, and the little that C programs expect beside them.
 *
 * Numbers and structures come from the kernel's own headers. Every call returns a negative errno on failure.
 */
#ifndef SYS_H
#define SYS_H

#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/types.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s64 s64;
typedef __SIZE_TYPE__ size;

#define NULL ((void *)0)
#define COUNT(array) (sizeof(array) / sizeof *(array))

static inline long call6(long number, long a, long b, long c, long d, long e, long f) {
    long result;
#if defined __x86_64__
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
#elif defined __aarch64__
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c, x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    result = x0;
#else
#error "the agent is built for x86_64 and aarch64"
#endif
    return result;
}

#define SYS_PICK(_1, _2, _3, _4, _5, _6, _7, name, ...) name
#define SYS1(n) call6(n, 0, 0, 0, 0, 0, 0)
#define SYS2(n, a) call6(n, (long)(a), 0, 0, 0, 0, 0)
#define SYS3(n, a, b) call6(n, (long)(a), (long)(b), 0, 0, 0, 0)
#define SYS4(n, a, b, c) call6(n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define SYS5(n, a, b, c, d) call6(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define SYS6(n, a, b, c, d, e) call6(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define SYS7(n, a, b, c, d, e, f) call6(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
/* SYS(openat, dirfd, path, …) */
#define SYS(name, ...) SYS_PICK(0, ##__VA_ARGS__, SYS7, SYS6, SYS5, SYS4, SYS3, SYS2, SYS1)(__NR_##name, ##__VA_ARGS__)
#define SYS0(name) SYS1(__NR_##name)

void *memcpy(void *to, const void *from, size count);
void *memmove(void *to, const void *from, size count);
void *memset(void *to, int value, size count);
int memcmp(const void *left, const void *right, size count);
size length(const char *text);
int same(const char *left, const char *right);

/* What getdents64 gives: struct linux_dirent64 of getdents(2). */
struct entry64 {
    u64 inode, offset;
    u16 size;
    u8 type;
    char name[];
};

/* A bounded text under construction; what does not fit is cut, and the end is always NUL. */
struct text {
    char *at;
    size used, room;
};
#define TEXT(name, count)    \
    char name##_bytes[count]; \
    struct text name = {name##_bytes, 0, count}
void add(struct text *text, const char *what);
void add_bytes(struct text *text, const char *what, size count);
void add_number(struct text *text, u64 number);

/* sendmsg(2) and recvmsg(2) with one descriptor beside the bytes; the kernel's headers have these for itself only. */
struct descriptor {
    size size; /* DESCRIPTOR_SIZE */
    int level, kind, fd;
} __attribute__((aligned(8)));
enum { DESCRIPTOR_SIZE = sizeof(size) + 3 * sizeof(int), SOCKET_LEVEL = 1, RIGHTS = 1 };
struct part {
    const void *at;
    size count;
};
struct parcel {
    void *name;
    int name_size;
    struct part *parts;
    size count;
    void *control;
    size control_size;
    unsigned flags;
};

int open_at(const char *path, int flags, int mode);
int close_fd(int fd);
/* Write all of it to a file that exists (of the kernel's: one write). */
int write_file(const char *path, const char *what, size count);
/* At most `room` - 1 bytes and a NUL; the number of bytes. */
long read_file(const char *path, char *into, size room);
int make_directories(const char *path, int mode);
u64 number_after(const char *text, const char *key);
u64 parse_number(const char *text);
/* Zeroed pages of their own. */
void *pages(size count);
void free_pages(void *at, size count);

#endif
