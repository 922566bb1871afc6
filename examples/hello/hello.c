/* A small HTTP service as a CGI program: it says who answered.
 *
 * The same source is a WebAssembly module, which Sampan serves by WAGI, and a Linux program, which busybox httpd runs. Both
 * read the request from the environment and write the response to stdout (RFC 3875).
 */
#include "sys.h"

#ifdef __wasm__
#define KIND "wasm"
#else
#define KIND "container"
#endif

static void answer(void) {
    const char *path = variable("PATH_INFO", "/");

    if (equal(path, "/missing")) {
        say("Status: 404 Not Found\nContent-Type: text/plain\n\nnothing here\n");
        return;
    }
    say("Content-Type: text/plain\n\nhello from ");
    say(variable("KIND", KIND));
    say(", pod ");
    say(variable("POD_NAME", variable("HOSTNAME", "unknown")));
    say(", ");
    say(variable("REQUEST_METHOD", "GET"));
    say(" ");
    say(path);
    say("\n");
}

PROGRAM(answer)
