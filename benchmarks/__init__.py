"""How fast Millstream is, as ratios to what a bare socket reaches on the same server in one run.

``python -m benchmarks``; docs/benchmarks.md says what is measured and how to read it.
"""
