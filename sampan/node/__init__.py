"""Node agent: runs the pods that are bound to this node, through CRI, and tells the API what became of them.

    agent ── informer of pods ──→ worker (one per pod) ── plan (pure) ──→ actions ──→ CRI, volumes, images
                                     ↑                                      │
                CRI events, probes, timers                               status (pure) ──→ PATCH pods/status

It talks to sandboxes through CRI alone and never asks which kind one is. Everything that decides (`plan`, `status`,
`environment`, `sandboxconfig`, `containerconfig`) is a pure function of plain data; everything that acts is around it.
Import what you need from the modules: this file stays empty so that a role pays only for what it uses.
"""
