INTERFACES: dict = {"wasi:http/types": {}}
