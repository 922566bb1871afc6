"""What cAdvisor would measure of a container: from its cgroup, on v1 and v2, and from /proc of its processes."""

from __future__ import annotations

import os
from pathlib import Path

from sampan.runtime import kernel
from sampan.runtime.container.cgroups import Cgroup
from sampan.runtime.sandbox import Measures

TICK = os.sysconf("SC_CLK_TCK")
TRAFFIC = (  # column of /proc/net/dev → metric
    (0, "receive_bytes"), (1, "receive_packets"), (2, "receive_errors"), (3, "receive_packets_dropped"),
    (8, "transmit_bytes"), (9, "transmit_packets"), (10, "transmit_errors"), (11, "transmit_packets_dropped"),
)  # fmt: skip
FAULTS = (("pgfault", "pgfault"), ("pgmajfault", "pgmajfault"))
OPERATIONS = {"Read": "read", "Write": "write", "rbytes": "read", "wbytes": "write"}


def of_container(cgroup: Cgroup, pid: int, directory: Path, written: int) -> Measures:
    """`directory`: the container's, on the file system that its writable layer (of `written` bytes) takes from."""
    return {
        **cpu(cgroup),
        **memory(cgroup),
        **pressure(cgroup),
        **io(cgroup),
        **hugepages(cgroup),
        **processes(cgroup, pid),
        **filesystem(directory, written),
    }


def one(value: int) -> dict[tuple[str, ...], int]:
    return {(): value}


def cpu(cgroup: Cgroup) -> Measures:
    stat = cgroup.flat("cpu", "cpu.stat")
    if cgroup.unified:
        used = stat.get("usage_usec", 0) // 10**6
        user, system = stat.get("user_usec", 0) // 10**6, stat.get("system_usec", 0) // 10**6
        throttled = stat.get("throttled_usec", 0) // 10**6
    else:
        spent = cgroup.flat("cpuacct", "cpuacct.stat")
        used = cgroup.number("cpuacct", "cpuacct.usage") // 10**9
        user, system = spent.get("user", 0) // TICK, spent.get("system", 0) // TICK
        throttled = stat.get("throttled_time", 0) // 10**9
    return {
        "cpu_usage_seconds_total": {("total",): used},
        "cpu_user_seconds_total": one(user),
        "cpu_system_seconds_total": one(system),
        "cpu_cfs_periods_total": one(stat.get("nr_periods", 0)),
        "cpu_cfs_throttled_periods_total": one(stat.get("nr_throttled", 0)),
        "cpu_cfs_throttled_seconds_total": one(throttled),
    }


def memory(cgroup: Cgroup) -> Measures:
    stat = cgroup.flat("memory", "memory.stat")
    basic = cgroup.stats()
    if cgroup.unified:
        events = cgroup.flat("memory", "memory.events")
        cache, mapped = stat.get("file", 0), stat.get("file_mapped", 0)
        failed, killed = events.get("max", 0), events.get("oom_kill", 0)
        swap, kernel_bytes = cgroup.number("memory", "memory.swap.current"), stat.get("kernel", 0)
        most = cgroup.number("memory", "memory.peak")
    else:
        cache, mapped = stat.get("total_cache", 0), stat.get("total_mapped_file", 0)
        failed = cgroup.number("memory", "memory.failcnt")
        killed = cgroup.flat("memory", "memory.oom_control").get("oom_kill", 0)
        swap = stat.get("total_swap", 0)
        kernel_bytes = cgroup.number("memory", "memory.kmem.usage_in_bytes")
        most = cgroup.number("memory", "memory.max_usage_in_bytes")
    prefix = "" if cgroup.unified else "total_"
    faults: dict[tuple[str, ...], int] = {
        (kind, scope): stat.get(f"{prefix if scope == 'hierarchy' else ''}{name}", 0)
        for kind, name in FAULTS
        for scope in ("container", "hierarchy")
    }
    return {
        "memory_cache": one(cache),
        "memory_failcnt": one(failed),
        "memory_failures_total": faults,
        "memory_kernel_usage": one(kernel_bytes),
        "memory_mapped_file": one(mapped),
        "memory_max_usage_bytes": one(most),
        "memory_rss": one(basic.memory_rss),
        "memory_swap": one(swap),
        "memory_usage_bytes": one(basic.memory_bytes),
        "memory_working_set_bytes": one(basic.memory_working_set),
        "oom_events_total": one(killed),
    }


def pressure(cgroup: Cgroup) -> Measures:
    """Pressure stall information is of v2 alone: lines `some|full avg10=… total=µs`."""
    found: Measures = {}
    for resource in ("cpu", "io", "memory") if cgroup.unified else ():
        for line in cgroup.text("", f"{resource}.pressure").splitlines():
            words = line.split()
            total = int(words[-1].removeprefix("total=")) // 10**6
            state = "waiting" if words[0] == "some" else "stalled"
            found[f"pressure_{resource}_{state}_seconds_total"] = one(total)
    return found


def io(cgroup: Cgroup) -> Measures:
    """By device: v2 has one line `8:0 rbytes=… wbytes=… rios=… wios=…`, v1 one for each operation."""
    amounts: dict[tuple[str, str, str], int] = {}  # (major, minor, operation)
    counts: dict[tuple[str, str, str], int] = {}
    if cgroup.unified:
        for line in cgroup.text("", "io.stat").splitlines():
            numbers, *pairs = line.split()
            major, _, minor = numbers.partition(":")
            entries = dict(pair.split("=") for pair in pairs)
            for name, operation in (("r", "read"), ("w", "write")):
                amounts[major, minor, operation] = int(entries.get(f"{name}bytes", 0))
                counts[major, minor, operation] = int(entries.get(f"{name}ios", 0))
    else:
        for target, file in (
            (amounts, "blkio.throttle.io_service_bytes_recursive"),
            (counts, "blkio.throttle.io_serviced_recursive"),
        ):
            for line in cgroup.text("blkio", file).splitlines():
                words = line.split()
                if len(words) == 3 and words[1] in OPERATIONS:
                    major, _, minor = words[0].partition(":")
                    target[major, minor, OPERATIONS[words[1]]] = int(words[2])
    found: Measures = {
        "blkio_device_usage_total": {
            (device(major, minor), major, minor, operation.capitalize()): value
            for (major, minor, operation), value in amounts.items()
        }
    }
    for operation, name in (("read", "fs_reads"), ("write", "fs_writes")):
        for figures, suffix in ((amounts, "_bytes_total"), (counts, "_total")):
            found[name + suffix] = {
                (device(major, minor),): value
                for (major, minor, what), value in figures.items()
                if what == operation
            }
    return found


def device(major: str, minor: str) -> str:
    try:
        return "/dev/" + os.path.basename(os.readlink(f"/sys/dev/block/{major}:{minor}"))
    except OSError:
        return f"{major}:{minor}"


def hugepages(cgroup: Cgroup) -> Measures:
    directory = cgroup.directory("hugetlb")
    current: dict[tuple[str, ...], int] = {}
    most: dict[tuple[str, ...], int] = {}
    suffix, peak = (
        (".current", ".max") if cgroup.unified else (".usage_in_bytes", ".max_usage_in_bytes")
    )
    for path in directory.glob(f"hugetlb.*{suffix}") if directory else ():
        size = path.name.split(".")[1]
        if "rsvd" not in path.name and not path.name.endswith(f"max{suffix}"):
            current[(size,)] = cgroup.number("hugetlb", path.name)
            if not cgroup.unified:
                most[(size,)] = cgroup.number("hugetlb", f"hugetlb.{size}{peak}")
    return {"hugetlb_usage_bytes": current, "hugetlb_max_usage_bytes": most}


def processes(cgroup: Cgroup, pid: int) -> Measures:
    descriptors = sockets = 0
    members = cgroup.members()
    for member in members:
        try:
            for entry in os.scandir(f"/proc/{member}/fd"):
                descriptors += 1
                sockets += os.readlink(entry.path).startswith("socket:")
        except OSError:
            continue  # it has ended
    most = cgroup.text("pids", "pids.max").strip()
    return {
        "file_descriptors": one(descriptors),
        "sockets": one(sockets),
        "processes": one(len(members)),
        "threads": one(cgroup.number("pids", "pids.current")),
        "threads_max": one(int(most) if most.isdecimal() else 0),
        "ulimits_soft": {("max_open_files",): open_files(pid)},
    }


def open_files(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    except OSError:
        return 0
    soft = next((line[26:].split()[0] for line in lines if line.startswith("Max open files")), "0")
    return int(soft) if soft.isdecimal() else 0


def filesystem(directory: Path, written: int) -> Measures:
    figures = os.statvfs(directory)
    number = os.stat(directory).st_dev
    label = (device(str(os.major(number)), str(os.minor(number))),)
    return {
        "fs_inodes_free": {label: figures.f_ffree},
        "fs_inodes_total": {label: figures.f_files},
        "fs_limit_bytes": {label: figures.f_blocks * figures.f_frsize},
        "fs_usage_bytes": {label: written},
    }


def of_network(namespace: str) -> Measures:
    """Every interface of the pod but its loopback; runs in a thread of its own."""
    kernel.enter(namespace, kernel.CLONE_NEWNET)
    found: Measures = {}
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        name, _, figures = line.partition(":")
        columns = figures.split()
        if not columns or name.strip() == "lo":
            continue
        for column, metric in TRAFFIC:
            values = found.setdefault(f"network_{metric}_total", {})
            values[(name.strip(),)] = int(columns[column])
    return found
