"""`hypercluster bench`: what this cluster does on this machine, beside etcd where it is installed (PERF-1).

See report.py for the figures and their bars.
"""
