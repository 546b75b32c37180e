"""What every store of a queue promises."""
