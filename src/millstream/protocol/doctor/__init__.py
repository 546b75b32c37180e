"""What ``millstream doctor`` knows: what to ask a server, and what the answers mean for messages."""
