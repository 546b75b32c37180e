"""The protocol: operations as values. Nothing in here knows a socket, a clock or a thread."""
