"""Admission: the rules that look beyond the object itself. `chain.py` runs them, each other file is one plug-in."""
