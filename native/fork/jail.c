/* A copy's own jail, taken on before anything of the guest runs in it.
 *
 * Namespaces (mount, IPC, UTS, PID) came with the copy's birth, the network's comes from the runtime, which has put the machine's tap
 * there. /proc goes: it was needed to make the copy. Then the user id, no group, no capability, no new privileges, the filter.
 */
#include "fork.h"

#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>

enum { DETACH = 2 };

const char *lock_in(const struct request *request) {
    SYS0(setsid);
    if (request->flags & JAILED) {
        struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
        struct __user_cap_data_struct none[2] = {{0}, {0}};
        u32 uid = request->uid;
        if (SYS(umount2, "/proc", DETACH) < 0) return "unmount /proc";
        if (SYS(setgroups, 0, NULL) < 0 || SYS(setresgid, uid, uid, uid) < 0 || SYS(setresuid, uid, uid, uid) < 0) return "become its user";
        if (SYS(capset, &header, none) < 0) return "give up capabilities";
    }
    struct sock_fprog filter = {(u16)request->instructions, (struct sock_filter *)request->filter};
    if (SYS(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return "gain no privileges";
    if (SYS(seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) < 0) return "install the filter";
    return NULL;
}
