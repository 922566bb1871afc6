/* Random numbers that no two copies have in common.
 *
 * QEMU has those of its processor's instruction (RDRAND) from a library's generator, whose state lies in memory: copies would go on from
 * the same. That library tells a fork by handlers which fork(2) of the C library calls, and there is none here. So
 * the two names by which QEMU may ask are answered here, by the kernel.
 */
#include "fork.h"

enum { PIECE = 256 /* what getrandom(2) gives whole */ };

static void fill(u8 *into, size count) {
    while (count) {
        long got = SYS(getrandom, into, count < PIECE ? count : PIECE, 0);
        if (got > 0) into += got, count -= (size)got;
    }
}

__attribute__((visibility("default"))) int gnutls_rnd(int level, void *into, size count) {
    (void)level;
    fill(into, count);
    return 0;
}

__attribute__((visibility("default"))) void gcry_randomize(void *into, size count, int level) {
    (void)level;
    fill(into, count);
}
