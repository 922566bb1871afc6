"""What Sampan costs, measured: one module a bench, each run alone by `python -m bench NAME`, all by `make bench`.

A bench makes what it measures (a store, a server, a cluster) in a temporary directory, removes it, and hands its figures to
`bench.table.show`. Nothing is asserted: a figure beside its budget is for a reader, who also sees how busy the machine was.
"""

import os

# What is measured starts from compiled modules, as an installed Sampan does: compiling them at each start costs seconds, and
# leaves heaps 7 MB larger all in all.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
