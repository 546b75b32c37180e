"""``millstream demo``: count the standard library, kill a worker on the way, and lose nothing.

``count``, ``tasks`` and, for who reads the topic, ``index`` are what a user would write; the other
modules run and show it. The worker processes import only the first two, so nothing is imported here.
"""
