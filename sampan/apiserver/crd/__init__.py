"""Custom resources: what a CustomResourceDefinition adds to the resource table, and what is particular to its objects.

definitions   follows the stored definitions and keeps the table's rows in step, in this server and at start
version       what a row of a custom resource carries: schema, columns, scale, conversion
conversion    between versions: by name only, or by a webhook
strategy      the rules of writing: of custom objects, and of definitions themselves
conditions    the status of a definition as a pure function; controller writes it, and empties deleted kinds
decode        bodies of custom objects; columns, scale, openapi   their tables, Scale objects and published schemas
"""
