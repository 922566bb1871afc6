"""Probes and hooks: how a container is asked.

runners    one question: http, tcp, exec, grpc; each answers Answer(ok, text)
prober     when to ask: one timer per probe, no task while nothing is asked
"""
