"""Research agents that fail, retry and lose nothing: what tzfs is for, on the real thing.

topics, content   what each workflow must produce: a function of the seed
workspace         plain files on a mount, or the Python API
activities        verify, perhaps fail, write, snapshot
runner            many workflows at once: retries, kills, verification
manifest          what happened, in SQLite
dashboard         what is happening, on the terminal
page              report: one HTML page
browse            a shell in a snapshot
temporal          the same activities under Temporal
"""
