"""The kind `microvm`: every pod a virtual machine of its own, started from a template."""
