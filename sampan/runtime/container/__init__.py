"""The kind `container`: an OCI engine (crun or runc) under conmon, overlayfs, cgroups; no pause process, no daemon."""
