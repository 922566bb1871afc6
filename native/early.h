/* What any process 1 does first, the agent's and that of a machine that is an image by itself. */
#ifndef EARLY_H
#define EARLY_H

#include "sys.h"

/* Mount a file system of the kernel's own, whose directory is made. */
void mount_at(const char *kind, const char *at, u64 flags, const char *options);
/* `directory` (with its slash) 0, 1, …, as they were put in order; afterwards their memory is given back. Without a device
 * they do nothing. */
void load_modules(const char *directory);
/* /proc, /sys and the cgroups. */
void mount_kernel(void);

#endif
