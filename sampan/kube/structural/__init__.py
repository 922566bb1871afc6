"""Structural schemas: what a CustomResourceDefinition says about its objects (KEP-1139), as pure functions.

resource     one version of a kind, ready for use: fit an object, validate it
definition   is a CustomResourceDefinition valid?          structure, keywords, defaults   its schema
fit          pruning, nulls, defaulting                    values     OpenAPI keywords, with ratcheting
lists        lists of type set and map                     rules      x-kubernetes-validations (CEL)
embedded     whole objects inside an object                jsonpath, fieldpath   the two kinds of path
formats, patterns   formats of strings; RE2's regular expressions
"""
