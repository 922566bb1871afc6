"""Volumes of a pod: made before its containers, brought up to date when objects change, taken away after it.

payload     what configMap, secret, downwardAPI and projected volumes hold: pure
atomic      writes such a payload so that a reader sees all of it or none
places      emptyDir, hostPath and claims: a directory, a mount, or somebody else's path
claims      from a pod's claim to its PersistentVolume
directories the node's own volumes: made when first mounted, removed when asked
subpath     a path inside a volume that cannot lead out of it
pod         PodVolumes: all volumes of one pod, and the mounts of a container
"""
