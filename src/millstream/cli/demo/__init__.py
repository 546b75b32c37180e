"""``millstream demo``: count the standard library, kill a worker on the way, and lose nothing.

``count`` and ``tasks`` are what a user would write; the other modules run and show it. The worker
processes import only these two, so nothing is imported here.
"""
