"""The fault suite: a record of everything that many processes do, through faults, and its proof."""
