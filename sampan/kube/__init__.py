"""The Kubernetes API as pure data: no I/O, no asyncio, no HTTP. Objects are plain dicts with the API's own field names.

`schema/` says what fields there are, `defaulting/`, `validation/` and `warnings/` what an object becomes and why it is refused,
`patch/` and `apply/` how two are merged, `structural/` and `cel/` the same for kinds that users define.
"""
