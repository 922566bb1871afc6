"""Any Kubernetes API, as a client sees it: `client.py` on a transport (`http.py`, or `inprocess.py` beside the API server).

On it stand `informer.py` (a cache that follows a watch), `workqueue.py`, `leader.py` and `events.py`: what controllers, scheduler
and node are made of. `resources.py` names the kinds in use.
"""
