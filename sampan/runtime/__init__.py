"""CRI service: sandboxes, containers, records, logs, stats, garbage. Kinds of sandbox are in the rooms below it."""
