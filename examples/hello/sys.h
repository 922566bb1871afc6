/* The two things that a CGI program needs of its host, without a C library: its environment, and to write.
 *
 * On WebAssembly they are imports of WASI preview 1; on Linux the environment lies on the stack behind the arguments, and
 * writing is a system call. So the program is a kilobyte, compiles in a blink, and starts as fast as the sandbox does.
 */
#ifndef SYS_H
#define SYS_H

typedef __SIZE_TYPE__ size;

static size length(const char *text) {
    size count = 0;
    while (text[count]) count++;
    return count;
}

static char **environment;

#ifdef __wasm__

#define WASI(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name)))
struct slice { const char *data; size count; };
WASI(fd_write) int fd_write(int fd, const struct slice *slices, size count, size *written);
WASI(environ_sizes_get) int environ_sizes_get(size *count, size *bytes);
WASI(environ_get) int environ_get(char **pointers, char *bytes);

static void put(const char *text, size count) {
    while (count) {
        struct slice slice = {text, count};
        size written = 0;
        if (fd_write(1, &slice, 1, &written) || !written) return;
        text += written, count -= written;
    }
}

static char *pointers[1024];
static char bytes[65536];

#define PROGRAM(body)                                                                          \
    __attribute__((export_name("_start"))) void start(void) {                                 \
        size count = 0, room = 0;                                                              \
        environment = pointers;                                                                \
        if (!environ_sizes_get(&count, &room) && count < 1024 && room <= sizeof bytes)         \
            environ_get(pointers, bytes);                                                      \
        body();                                                                                \
    }

#else

static long call(long number, long a, long b, long c) {
    long result;
#if defined __x86_64__
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
#elif defined __aarch64__
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    result = x0;
#endif
    return result;
}

#if defined __x86_64__
enum { WRITE = 1, EXIT = 231 };
#define ENTRY "mov %rsp, %rdi\n and $-16, %rsp\n call begin\n"
#elif defined __aarch64__
enum { WRITE = 64, EXIT = 94 };
#define ENTRY "mov x0, sp\n bl begin\n"
#endif

static void put(const char *text, size count) {
    while (count) {
        long written = call(WRITE, 1, (long)text, (long)count);
        if (written <= 0) return;
        text += written, count -= (size)written;
    }
}

/* At the entry the stack holds argc, argv, a null, then the environment and a null. */
#define PROGRAM(body)                                                                          \
    __asm__(".globl _start\n_start:\n" ENTRY);                                                 \
    __attribute__((used)) void begin(long *stack) {                                            \
        environment = (char **)(stack + stack[0] + 2);                                         \
        body();                                                                                \
        call(EXIT, 0, 0, 0);                                                                   \
    }

#endif

static void say(const char *text) { put(text, length(text)); }

static const char *variable(const char *name, const char *otherwise) {
    size count = length(name);
    for (char **each = environment; *each; each++) {
        size i = 0;
        while (i < count && (*each)[i] == name[i]) i++;
        if (i == count && (*each)[i] == '=' && (*each)[i + 1]) return *each + i + 1;
    }
    return otherwise;
}

static int equal(const char *one, const char *other) {
    while (*one && *one == *other) one++, other++;
    return *one == *other;
}

#endif
