/* A small HTTP service as a CGI program: it says who answered.
 *
 * The same source is a WebAssembly module (wasm32-wasi), which Sampan serves by WAGI, and a Linux program, which busybox
 * httpd runs. Both read the request from the environment and write the response to stdout (RFC 3875).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __wasi__
#define KIND "wasm"
#else
#define KIND "container"
#endif

static const char *variable(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}

int main(void) {
    const char *path = variable("PATH_INFO", "/");

    if (strcmp(path, "/missing") == 0) {
        fputs("Status: 404 Not Found\nContent-Type: text/plain\n\nnothing here\n", stdout);
        return 0;
    }
    printf("Content-Type: text/plain\n\n");
    printf("hello from %s, pod %s, %s %s\n", KIND, variable("POD_NAME", variable("HOSTNAME", "unknown")),
           variable("REQUEST_METHOD", "GET"), path);
    return 0;
}
