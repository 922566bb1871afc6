"""Devices of the node: kubelet's device plugin API (v1beta1) and pod resources API (v1).

`broker` keeps what plug-ins offer and what pods hold, `ledger` remembers it across restarts, `plugin` talks to one plug-in,
`services` answers those who call. Nothing of gRPC is loaded before a plug-in or an agent calls.
"""
