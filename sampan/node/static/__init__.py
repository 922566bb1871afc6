"""Static pods: manifests in a directory of the node's, run without an API server and mirrored into it when there is one.

`manifests` turns a file into a pod, `directory` watches the files, `mirrors` keeps the API's picture of them.
"""
