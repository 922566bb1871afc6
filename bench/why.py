"""Why a budget is missed, written by hand from evidence: (bench, figure) to the sentences that follow it in docs/benchmarks.md.

Only what is missed now belongs here; a reason whose budget is kept is not printed, and is to be removed.
"""

WHY: dict[tuple[str, str], str] = {
    ("apiserver", "create ConfigMap, durable, 64 at once"): (
        "One event loop does the work of a write: 282 µs of processor each, where 4,200 /s on one core allows 238. The "
        "profile is flat: decoding, validation, SQL and encoding, with TLS and HTTP around them."
    ),
    ("apiserver", "create Pod, durable, 64 at once"): (
        "A pod costs twice a ConfigMap (573 µs of processor): defaults, validation, and admission, which adds the service "
        "account's volume and tolerations and looks up priority and runtime class."
    ),
    ("scheduler", "schedule 3,000 pods on 1,000 nodes"): (
        "The decisions take a sixteenth of the time; the rest is one durable binding a pod through the API server, on the "
        "same event loop."
    ),
    ("scheduler", "one pod, sent → bound"): (
        "Two durable writes one after the other, each with its own wait for the disk (2,241 such writes a second), and 1.2 ms "
        "until the first was answered."
    ),
    ("cri", "runtime: idle (PSS)"): (
        "Measured alone, where it shares its libraries with nobody; forked from the warm parent it is 24 MB. grpcio is "
        "3 MB of it."
    ),
    ("cri", "wasm: pod and container start"): (
        "The worker's own part is 4 to 5 ms of processor. The rest is three gRPC calls with client and server on two cores, a "
        "network namespace (3 ms) and version 1 cgroups, one directory a controller."
    ),
    ("cri", "container: pod and container start"): (
        "crun, conmon and our own part take at least 31 ms of processor together; best 35 ms."
    ),
    ("cluster", "first start → API ready"): (
        "0.29 s pass before the supervisor begins (Python, the command-line library); then importing, making six "
        "certificates beside it, and 0.2 s for the server's own modules."
    ),
    ("cluster", "start with existing data → API ready"): (
        "As the first start, without making certificates: 0.63 s from where the command itself begins to count."
    ),
    ("cluster", "wasm: +30 pods"): (
        "Bound by the processors: 1.32 s on two cores. Server, runtime and the workers themselves take 0.3 to 0.4 s each: "
        "about 12 ms a pod in the API server, for its creation, binding, token, status and events."
    ),
}
