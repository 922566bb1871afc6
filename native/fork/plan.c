/* What a copy of the process must not share with it: descriptors that wake or are written to, and memory.
 *
 * Counters and signal sets are made anew under the same number, in the same state; sockets, devices and files that are written
 * to must be replaced by what the runtime sends; what can only be read stays. Anything else is a reason to refuse.
 */
#include "fork.h"

#include <linux/mman.h>

enum { GET_SEALS = 1034, SEALED_WRITE = 8, SEMAPHORE = 1, MAPS_ROOM = 1 << 17 };

u64 parse_hex(const char *text) {
    u64 number = 0;
    for (;; text++) {
        char digit = *text;
        if (digit >= '0' && digit <= '9') number = number << 4 | (u64)(digit - '0');
        else if (digit >= 'a' && digit <= 'f') number = number << 4 | (u64)(digit - 'a' + 10);
        else return number;
    }
}

u64 parse_octal(const char *text) {
    u64 number = 0;
    for (; *text >= '0' && *text <= '7'; text++) number = number << 3 | (u64)(*text - '0');
    return number;
}

static int begins(const char *text, const char *with) {
    while (*with)
        if (*text++ != *with++) return 0;
    return 1;
}

const char *value_of(const char *text, const char *key) {
    while (*text) {
        if (begins(text, key)) {
            text += length(key);
            while (*text == ' ' || *text == '\t') text++;
            return text;
        }
        while (*text && *text != '\n') text++;
        if (*text) text++;
    }
    return NULL;
}

static int index_of(int number, const int *numbers, size count) {
    for (size at = 0; at < count; at++)
        if (numbers[at] == number) return (int)at;
    return -1;
}

static const char *decide(struct step *step, const char *link, const char *facts) {
    const char *value;
    if (same(link, "anon_inode:[eventfd]")) {
        if (!(value = value_of(facts, "eventfd-count:"))) return "the kernel does not show event counters";
        step->deed = EVENTS;
        step->value = parse_hex(value);
        if ((value = value_of(facts, "eventfd-semaphore:")) && *value == '1') step->flags |= SEMAPHORE;
        return NULL;
    }
    if (same(link, "anon_inode:[signalfd]")) {
        if (!(value = value_of(facts, "sigmask:"))) return "the kernel does not show signal sets";
        step->deed = SIGNALS;
        step->value = parse_hex(value);
        return NULL;
    }
    step->deed = LEAVE;
    if (link[0] == '/' && (step->flags & O_ACCMODE) == O_RDONLY) return NULL;
    long seals = SYS(fcntl, step->number, GET_SEALS, 0);
    if (seals >= 0 && (seals & SEALED_WRITE)) return NULL;
    static char said[100];
    struct text why = {said, 0, sizeof said};
    add(&why, "a copy would share "), add(&why, link);
    return why.at;
}

static const char *plan_one(struct step *step, const int *numbers, size count, const int *own, size own_count) {
    static char link[PATH_ROOM], facts[1024];
    TEXT(path, 64);
    add(&path, "/proc/self/fd/"), add_number(&path, (u64)step->number);
    long size = SYS(readlinkat, AT_FDCWD, path.at, link, sizeof link - 1);
    if (size < 0) return "a descriptor is not shown";
    link[size] = 0;
    TEXT(about, 64);
    add(&about, "/proc/self/fdinfo/"), add_number(&about, (u64)step->number);
    if (read_file(about.at, facts, sizeof facts) <= 0) return "a descriptor is not shown";
    const char *flags = value_of(facts, "flags:");
    step->flags = flags ? (int)parse_octal(flags) : 0;
    int at = index_of(step->number, numbers, count);
    if (at >= 0) {
        step->deed = REPLACE;
        step->value = (u64)at;
        return NULL;
    }
    if (index_of(step->number, own, own_count) >= 0) {
        step->deed = CLOSE;
        return NULL;
    }
    return decide(step, link, facts);
}

const char *make_plan(struct plan *plan, const int *numbers, size count, const int *own, size own_count) {
    static u8 listing[8192] __attribute__((aligned(8)));
    plan->count = 0;
    int directory = open_at("/proc/self/fd", O_RDONLY | O_DIRECTORY, 0);
    if (directory < 0) return "descriptors are not shown";
    const char *refusal = NULL;
    for (long got; !refusal && (got = SYS(getdents64, directory, listing, sizeof listing)) > 0;)
        for (long at = 0; at < got && !refusal;) {
            struct entry64 *entry = (struct entry64 *)(listing + at);
            at += entry->size;
            int number = (int)parse_number(entry->name);
            if (entry->name[0] == '.' || number == directory) continue;
            if (plan->count == DESCRIPTORS) refusal = "too many descriptors";
            else plan->steps[plan->count].number = number, refusal = plan_one(&plan->steps[plan->count++], numbers, count, own, own_count);
        }
    close_fd(directory);
    return refusal;
}

/* A descriptor takes the place of another, with its flag to be closed. */
static int take_place(int made, const struct step *step) {
    if (made < 0) return made;
    int result = (int)SYS(dup3, made, step->number, step->flags & O_CLOEXEC);
    close_fd(made);
    return result;
}

const char *carry_out(const struct plan *plan, const int *came) {
    for (size at = 0; at < plan->count; at++) {
        const struct step *step = &plan->steps[at];
        int flags = step->flags & (O_NONBLOCK | O_CLOEXEC);
        if (step->deed == REPLACE && SYS(dup3, came[step->value], step->number, step->flags & O_CLOEXEC) < 0) return "replace a descriptor";
        if (step->deed == EVENTS && take_place((int)SYS(eventfd2, (u32)step->value, flags | (step->flags & SEMAPHORE)), step) < 0)
            return "make an event counter";
        if (step->deed == SIGNALS && take_place((int)SYS(signalfd4, -1, &step->value, sizeof step->value, flags), step) < 0)
            return "make a signal descriptor";
    }
    for (size at = 0; at < plan->count; at++)
        if (plan->steps[at].deed == CLOSE) close_fd(plan->steps[at].number);
    return NULL;
}

const char *check_mappings(void) {
    char *text = pages(MAPS_ROOM);
    if (!text) return "no memory";
    long size = read_file("/proc/self/maps", text, MAPS_ROOM);
    const char *refusal = size <= 0 || size == MAPS_ROOM - 1 ? "the memory's mappings are not shown" : NULL;
    for (char *line = text; !refusal && *line;) {
        u64 from = parse_hex(line);
        char *at = line;
        while (*at != '-') at++;
        u64 to = parse_hex(++at);
        while (*at != ' ') at++;
        at++;
        if (at[1] == 'w' && at[3] == 's') refusal = "memory would be shared";
        /* QEMU keeps the guest's memory out of its children. */
        if (at[1] == 'w' && at[3] == 'p') SYS(madvise, from, to - from, MADV_DOFORK);
        while (*line && *line != '\n') line++;
        if (*line) line++;
    }
    free_pages(text, MAPS_ROOM);
    return refusal;
}
