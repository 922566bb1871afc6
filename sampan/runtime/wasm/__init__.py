"""The `wasm` sandbox kind: WebAssembly modules as pods.

    kind.py      SandboxKind, in the runtime process        zygote.py    warm parent that forks workers (spare.py, programs.py)
    sandbox.py   one pod                                     worker.py    one container: a WASI command
    process.py   one container, seen from outside            http.py      one container: an HTTP service (connections.py)
                                                             crew.py      its further processes, while it is busy
                                                             wagi.py      a CGI program behind it; component/: `wasi:http`
    link.py      starts, finds and talks to the zygote       engine.py    wasmtime, over its C API (capi.py)
    aot.py       compiled modules, cached                    isolation.py, seccomp.py, cgroups.py

The zygote and its workers are small because of what they do not import: everything that runs there (the right column
and launch.py, log.py, exits.py, wire.py, component/ but for preamble.py) uses os, socket, select, signal, mmap, ssl, ctypes and little else; no asyncio, no typing, no dataclasses.
"""
