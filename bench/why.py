"""Why a budget is missed, written by hand from evidence: (bench, figure) to the sentences that follow it in docs/benchmarks.md.

Only what is missed now belongs here; a reason whose budget is kept is not printed, and is to be removed.
"""

WHY: dict[tuple[str, str], str] = {}
