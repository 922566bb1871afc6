/* The agent's parser, for the host: cases on standard input, what it made of each on standard output.
 *
 * A case is four bytes of length and so many bytes. They are read as a header when there are enough, and as fields; the
 * answer is one line: what read_header said, what check_fields said, the number of fields, and a sum over all of them.
 * tests/microvm feeds it at random and compares with the parser in Python. It is no part of the agent.
 */
#include "../wire.h"

static u8 bytes[MESSAGE_MAX];

static int read_all(u8 *into, size count) {
    while (count) {
        long got = SYS(read, 0, into, count);
        if (got <= 0) return 0;
        into += got, count -= (size)got;
    }
    return 1;
}

static void add_signed(struct text *line, int number) {
    if (number < 0) add(line, "-");
    add_number(line, (u64)(number < 0 ? -number : number));
}

__attribute__((noreturn, used)) void harness(void) {
    u8 head[4];
    while (read_all(head, sizeof head)) {
        size count = head[0] | (size)head[1] << 8 | (size)head[2] << 16 | (size)head[3] << 24;
        if (count > sizeof bytes || !read_all(bytes, count)) break;
        struct frame frame = {0, 0, 0, 0};
        int header = count >= HEADER ? read_header(bytes, &frame) : 1;
        size offset = 0, fields = 0;
        u64 sum = 0;
        struct field field;
        while (next_field(bytes, count, &offset, &field) > 0) {
            fields++;
            sum += field.key + field.size + field_number(&field);
        }
        TEXT(line, 128);
        add_signed(&line, header);
        add(&line, " ");
        add_number(&line, frame.size);
        add(&line, " ");
        add_number(&line, check_fields(bytes, count) < 0);
        add(&line, " ");
        add_number(&line, fields);
        add(&line, " ");
        add_number(&line, sum);
        add(&line, "\n");
        SYS(write, 1, line.at, line.used);
    }
    for (;;) SYS(exit_group, 0);
}

#if defined __x86_64__
__asm__(".globl _start\n_start:\n xor %ebp, %ebp\n and $-16, %rsp\n call harness\n");
#elif defined __aarch64__
__asm__(".globl _start\n_start:\n mov x29, #0\n mov x30, #0\n bl harness\n");
#endif
