INTERFACES: dict = {
    "wasi:filesystem/types": {},
    "wasi:filesystem/preopens": {"get-directories": lambda _: []},
}
