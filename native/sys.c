/* What the compiler and the other files take for granted: memory, short texts, small files. */
#include "sys.h"

#include <linux/mman.h>

void *memcpy(void *to, const void *from, size count) {
    u8 *out = to;
    const u8 *in = from;
#if defined __x86_64__
    __asm__ volatile("rep movsb" : "+D"(out), "+S"(in), "+c"(count) : : "memory");
#else
    for (; count >= 8; count -= 8, out += 8, in += 8) __builtin_memcpy_inline(out, in, 8);
    while (count--) *out++ = *in++;
#endif
    return to;
}

void *memmove(void *to, const void *from, size count) {
    u8 *out = to;
    const u8 *in = from;
    if (out <= in || out >= in + count) return memcpy(to, from, count);
    while (count--) out[count] = in[count];
    return to;
}

void *memset(void *to, int value, size count) {
    volatile u8 *out = to;
    while (count--) *out++ = (u8)value;
    return to;
}

int memcmp(const void *left, const void *right, size count) {
    const u8 *l = left, *r = right;
    for (; count; count--, l++, r++)
        if (*l != *r) return *l < *r ? -1 : 1;
    return 0;
}

size length(const char *text) {
    size count = 0;
    while (text[count]) count++;
    return count;
}

int same(const char *left, const char *right) {
    while (*left && *left == *right) left++, right++;
    return *left == *right;
}

void add_bytes(struct text *text, const char *what, size count) {
    for (; count && text->used + 1 < text->room; count--) text->at[text->used++] = *what++;
    text->at[text->used] = 0;
}

void add(struct text *text, const char *what) { add_bytes(text, what, length(what)); }

void add_number(struct text *text, u64 number) {
    char digits[20];
    size at = sizeof digits;
    do digits[--at] = (char)('0' + number % 10);
    while (number /= 10);
    add_bytes(text, digits + at, sizeof digits - at);
}

int open_at(const char *path, int flags, int mode) {
    return (int)SYS(openat, AT_FDCWD, path, flags | O_CLOEXEC, mode);
}

int close_fd(int fd) { return (int)SYS(close, fd); }

int write_file(const char *path, const char *what, size count) {
    int fd = open_at(path, O_WRONLY, 0);
    if (fd < 0) return fd;
    long done = SYS(write, fd, what, count);
    close_fd(fd);
    return done < 0 ? (int)done : 0;
}

long read_file(const char *path, char *into, size room) {
    into[0] = 0;
    int fd = open_at(path, O_RDONLY, 0);
    if (fd < 0) return fd;
    size used = 0;
    while (used + 1 < room) {
        long got = SYS(read, fd, into + used, room - 1 - used);
        if (got <= 0) break;
        used += (size)got;
    }
    close_fd(fd);
    into[used] = 0;
    return (long)used;
}

int make_directories(const char *path, int mode) {
    char part[4096];
    size count = length(path);
    if (!count || count >= sizeof part) return -ENAMETOOLONG;
    memcpy(part, path, count + 1);
    for (size at = 1; at < count; at++) {
        if (part[at] != '/') continue;
        part[at] = 0;
        SYS(mkdirat, AT_FDCWD, part, mode);
        part[at] = '/';
    }
    long result = SYS(mkdirat, AT_FDCWD, part, mode);
    return result == -EEXIST ? 0 : (int)result;
}

u64 parse_number(const char *text) {
    u64 number = 0;
    while (*text >= '0' && *text <= '9') number = number * 10 + (u64)(*text++ - '0');
    return number;
}

u64 number_after(const char *text, const char *key) {
    size count = length(key);
    while (*text) {
        if (!memcmp(text, key, count) && text[count] == ' ') return parse_number(text + count + 1);
        while (*text && *text != '\n') text++;
        if (*text) text++;
    }
    return 0;
}

void *pages(size count) {
    long at = SYS(mmap, 0, count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return at < 0 && at > -4096 ? NULL : (void *)at;
}

void free_pages(void *at, size count) {
    if (at) SYS(munmap, at, count);
}
