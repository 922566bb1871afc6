"""The Kubernetes API. Begin with `server.py`, which puts the parts together, and `pipeline.py`, one request from door to bytes.

A kind is a row of `resources/`, and what is particular of it hangs on the row: `strategies/`, `subresources.py`, `tables/`. What
every write passes through: `auth.py`, `authz.py`, `fairness.py`, `admission/`, `registry.py`. Docs: architecture.md, admission.md.
"""
