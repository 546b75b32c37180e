"""Runs servers for messages: one, replicas with Sentinels, or a cluster, all on this machine.

What is wanted are values (``Settings``, ``Access``, ``Layout``); ``configuration`` turns them into
files, and ``launcher`` runs the processes in the foreground.
"""
