"""The files that a session has open: they keep their content when their last name goes, as on a mount."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tzfs import files
from tzfs.filesystem import Filesystem


class OpenFiles:
    """The open files of one session.

    release: what to do with inodes that the session was the last to hold.
    """

    def __init__(self, fs: Filesystem, release: Callable[[set[int]], object]) -> None:
        """Begin with none."""
        self._fs = fs
        self._release = release
        self._opened: Counter[int] = Counter()
        self.paths: dict[int, str] = {}
        """By which files were opened to be changed: one may have no other way to it that is known."""

    def run(self, command: str, arguments: files.Json) -> files.Outcome:
        """Run a command, see `run`, and note what it opens or closes."""
        result, changed = files.run(self._fs, command, arguments)
        if command in {"file_find_file", "file_open_file"} and result.get("at") is None:
            self._opened[result["number"]] += 1
            self._fs.held[result["number"]] += 1
            if command == "file_open_file":
                self.paths[result["number"]] = arguments["path"]
        elif command == "file_close" and self._opened[arguments["number"]]:
            self._close(arguments["number"], 1)
        return result, changed

    def _close(self, number: int, times: int) -> None:
        self._opened[number] -= times
        if not self._opened[number]:
            del self._opened[number]
            self.paths.pop(number, None)
        self._fs.held[number] -= times
        if not self._fs.held[number]:
            del self._fs.held[number]
            self._release({number})

    def close(self) -> None:
        """Close all."""
        for number, times in list(self._opened.items()):
            self._close(number, times)

    def __len__(self) -> int:
        return len(self._opened)
