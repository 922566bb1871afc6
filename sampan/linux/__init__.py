"""What the kernel gives to node and runtime alike: control groups, and trees of files that somebody else made.

Knows neither pods nor Kubernetes. Everything is blocking and quick, or says that it wants a thread.
"""
