"""PersistentVolumes: claims find or get their volume, and volumes are given back when their claim has gone.

claims      what becomes of a claim: bound, waiting, provisioned, lost
volumes     what becomes of a volume: available, bound, released, reclaimed
binding     the writes by which both become one
localpath   volumes that are directories of a node: made and removed
growth      a claim that asks for more than it has
ephemeral   claims of generic ephemeral volumes

Which volume fits a claim is decided in `kube.persistent`, which the scheduler asks too.
"""
