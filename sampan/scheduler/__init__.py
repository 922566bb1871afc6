"""The scheduler: finds a node for every pod that has none, and says why when there is none.

An ordinary API client: it watches pods and nodes, and binds through `pods/binding`, so it runs against any Kubernetes.
"""
