"""Networks of pods and the way to them. Begin with `pods.py`, the contract of a pod's network, and `services.py`.

`pods.py` is implemented by `loopback.py` (no privilege: an address of 127/8 a pod), `bridge.py` and `cni.py`. Services are one
table of rules, carried out by `nft.py` in the kernel or by `userspace.py`; policies are `policies.py` and
`policytable.py`; names are `zone.py` and `dns.py`. Nothing here knows pods' life cycle: whoever calls does.
"""
