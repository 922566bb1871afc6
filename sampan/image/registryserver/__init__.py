"""The embedded registry: OCI distribution specification 1.1 over the node's own image store.

What is pushed here is at once an image of the node, and is not collected while it is tagged; nothing is copied. skopeo, podman, docker
and `sampan image push` feed a cluster with it, without any registry outside. It listens on loopback unless asked, over TLS on any other
address, and nobody is anonymous.

    errors.py       the error codes of the specification
    credentials.py  who may come in
    uploads.py      blobs that are being uploaded: files that survive a restart
    manifests.py    what is checked of a manifest; how it becomes an image of the node
    answers.py      one method for each end point
    server.py       the port, routing and authentication
"""

from sampan.image.registryserver.server import RegistryServer

__all__ = ["RegistryServer"]
