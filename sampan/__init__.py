"""Sampan: a small Kubernetes whose cargo is any sandbox (WebAssembly, microVM, container)."""

__version__ = "0.1.0"

# The Kubernetes API that this release serves; `kubectl version` shows it with our own build suffix.
KUBERNETES_VERSION = "v1.36.0"
