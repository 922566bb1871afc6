"""Server-side apply (KEP-555): who owns which field, and what an applied configuration makes of an object.

The algorithm is structured-merge-diff's, version 6, in the layers that Kubernetes 1.36 puts around it:

    fields       sets of fields, as they are on the wire       types     what a schema says of merging
    compare      what became of an object                      values    a value by its type
    merge        two objects made into one                     managers  managedFields, read and written
    updater      ownership, conflicts, pruning                 operations  created · updated · applied

It is pure: conversion between API versions is asked for by yielding (`updater.done`), time is given. A custom resource
plugs in by `types.of_custom(openAPIV3Schema)` alone.
"""
