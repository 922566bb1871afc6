"""CRI v1, the contract between a node and its runtime: messages, client, server, streaming. Never an implementation."""
