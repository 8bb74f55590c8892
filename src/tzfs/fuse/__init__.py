"""The adapter: kernel requests in, one call of the core, kernel replies out.

    operations   the request handlers of pyfuse3
    boundary     the decorator where every error becomes an errno, and every request a log line
    attributes   the core's records to kernel structs, and back
    handles      what is remembered of the kernel: open handles, lookup counts, who asks
    views        the `.snapshots` tree: which inode of which snapshot a kernel inode number means
    loop         how requests are waited for

Only `operations`, `boundary`, `attributes` and `loop` import pyfuse3.
"""
