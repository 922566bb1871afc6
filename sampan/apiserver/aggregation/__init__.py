"""Other API servers as part of this one (APIServices): `aggregator.py` decides, `backend.py` is the way there."""
