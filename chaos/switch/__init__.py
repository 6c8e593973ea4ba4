"""A switch in userspace, one TAP device a namespace: delay, jitter, loss, rate and cuts of every direction alone.

A program of its own (`python -m chaos.switch SPEC`), so that nothing else of a run holds up a frame. What becomes
of a frame is decided in fabric.py, without I/O; taps.py opens the devices; __main__.py moves frames and listens to its
owner.
"""
