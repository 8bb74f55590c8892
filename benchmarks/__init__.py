"""What tzfs costs, beside others: `python -m benchmarks`, see docs/performance.md.

Module map, in reading order:

- `__main__`: the command line
- `measuring`: samples, sizes, and the run that alternates between targets
- `targets`: what is measured: a tzfs mount, the empty handlers, any directory
- `empty_handlers`: a filesystem in memory on the same request loop, the limit of the stack
- `metadata`, `data`, `work`, `history`, `scale`: the families, each a few parts
- `inputs`: makes what `work` works on
- `report`, `plot`: tables, JSON, a picture

Never part of the tests: what a machine does in a second says nothing about whether the code is right.
"""
