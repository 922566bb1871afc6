/* The tests' program: small verbs that make a container do what a test wants to see. One source, two kinds.
 *
 *   echo WORD…      env      cat FILE…      exit CODE      write FILE TEXT      lines N      upper (stdin to stdout)
 *   ticks           a numbered line every 100 ms, for ever
 *   follow FILE     the file's content whenever it changes
 *   sleep           waits; on SIGTERM a Linux program says so and leaves with 0 (a WASI guest cannot catch signals)
 *   deaf            waits, and ignores SIGTERM on Linux
 *   trap  spin      what a broken program does
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <ctype.h>

#ifndef __wasi__
#include <signal.h>
#include <unistd.h>
static void leave(int number) {
    (void)number;
    static const char words[] = "asked to stop\n";
    if (write(1, words, sizeof words - 1) < 0) _exit(1);
    _exit(0);
}
#endif

extern char **environ;

static void pause_ms(long ms) {
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&time, NULL);
}

static int show(const char *path) {
    char buffer[4096];
    size_t length;
    FILE *file = fopen(path, "r");
    if (!file) {
        perror(path);
        return 1;
    }
    while ((length = fread(buffer, 1, sizeof buffer, file)) > 0) fwrite(buffer, 1, length, stdout);
    fclose(file);
    return 0;
}

static void follow(const char *path) {
    char last[4096] = "", now[4096];
    for (;;) {
        FILE *file = fopen(path, "r");
        size_t length = file ? fread(now, 1, sizeof now - 1, file) : 0;
        if (file) fclose(file);
        now[length] = 0;
        if (strcmp(now, last)) {
            strcpy(last, now);
            puts(now);
        }
        pause_ms(50);
    }
}

int main(int count, char **words) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *verb = count > 1 ? words[1] : "sleep";
#ifndef __wasi__
    signal(SIGTERM, strcmp(verb, "deaf") ? leave : SIG_IGN);
#endif
    if (!strcmp(verb, "echo")) {
        for (int i = 2; i < count; i++) printf("%s%c", words[i], i + 1 < count ? ' ' : '\n');
    } else if (!strcmp(verb, "env")) {
        for (char **entry = environ; *entry; entry++) puts(*entry);
    } else if (!strcmp(verb, "cat")) {
        int failed = 0;
        for (int i = 2; i < count; i++) failed |= show(words[i]);
        return failed;
    } else if (!strcmp(verb, "exit")) {
        printf("leaving with %s\n", words[2]);
        return atoi(words[2]);
    } else if (!strcmp(verb, "write")) {
        FILE *file = fopen(words[2], "w");
        if (!file) {
            perror(words[2]);
            return 1;
        }
        fprintf(file, "%s\n", words[3]);
        fclose(file);
    } else if (!strcmp(verb, "lines")) {
        for (int i = 1; i <= atoi(words[2]); i++) printf("line %d\n", i);
        for (;;) pause_ms(1000);
    } else if (!strcmp(verb, "upper")) {
        int c;
        while ((c = getchar()) != EOF) putchar(toupper(c));
    } else if (!strcmp(verb, "ticks")) {
        for (int i = 1;; i++) {
            printf("tick %d\n", i);
            pause_ms(100);
        }
    } else if (!strcmp(verb, "follow")) {
        follow(words[2]);
    } else if (!strcmp(verb, "trap")) {
        puts("about to trap");
        __builtin_trap();
    } else if (!strcmp(verb, "spin")) {
        puts("spinning");
        for (volatile unsigned i = 0;; i++) continue;
    } else {
        puts("waiting");
        for (;;) pause_ms(1000);
    }
    return 0;
}
