"""`wasi:http` components as services: a fresh instance for each request, everything it imports defined by the host.

    world.py     a component's imports, by its type      streams.py   wasi:io: streams, poll, error
    guest.py     one instance: handles, deadline, waits   clocks.py    wasi:clocks, wasi:random
    values.py    values to and from wasmtime's C form     command.py   wasi:cli
    exchange.py  one request and its answer on a socket   files.py     wasi:filesystem
    framing.py   bodies on the wire: RFC 9112             types.py     wasi:http/types (fields.py)
    client.py    requests that a guest makes              outgoing.py  wasi:http/outgoing-handler
    tls.py       TLS for them                             sockets.py   wasi:sockets (tcp.py, udp.py)
    names.py     host names, asked of the pod's DNS       proxy.py     a run of the handler
    preamble.py  what a binary exports                    service.py   the handler behind the server of http.py

WIT: github.com/WebAssembly/WASI, 0.2.x. All of it runs in a worker, so it imports what the zygote may (see wasm/__init__.py).
"""
