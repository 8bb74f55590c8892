"""Open files: `io` objects over a connection."""

from __future__ import annotations

import io
import os
from typing import IO, TYPE_CHECKING, Final

from tzfs.api.connection import SLICE_BYTES, Connection
from tzfs.errors import NoEntry, Stale

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BUFFER_BYTES: Final = 128 << 10


class RawFile(io.RawIOBase):
    """One file, unbuffered. It is known by its inode, so renaming it changes nothing for who has it open.

    Removing it does not either, until it is closed. But it is gone with the session that opened it, when a
    daemon ends, or comes: then reading or writing it raises `Stale` (ESTALE), as NFS does.
    """

    def __init__(self, connection: Connection, number: int, at: int | None, name: str, mode: str) -> None:
        """Use `Tree.open`; `mode` as in `open`, without "b" and "t"."""
        super().__init__()
        self._session = connection.sessions
        self._connection = connection
        self._number = number
        self._at = at
        self._position = 0
        self._is_appending = "a" in mode
        self._can_read = "r" in mode or "+" in mode
        self._can_write = mode != "r"
        self.name = name
        self.mode = f"{mode}b"

    def readable(self) -> bool:
        """See `io.IOBase.readable`."""
        return self._can_read

    def writable(self) -> bool:
        """See `io.IOBase.writable`."""
        return self._can_write

    def seekable(self) -> bool:
        """See `io.IOBase.seekable`."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read up to 512 KiB into `buffer`; 0 is the end."""
        self._require(can=self._can_read, what="reading")
        view = memoryview(buffer).cast("B")
        data: bytes = self._slice(self._position, len(view))[0]
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def readall(self) -> bytes:
        """Read to the end in the largest slices there are; `io` would take 8 KiB at a time."""
        self._require(can=self._can_read, what="reading")
        parts = []
        while True:
            data = self._slice(self._position, SLICE_BYTES)[0]
            self._position += len(data)
            parts.append(data)
            if len(data) < SLICE_BYTES:
                return b"".join(parts)

    def _slice(self, offset: int, size: int) -> tuple[bytes, int]:
        """Return content, and the size of the file."""
        try:
            found = self._connection.call(
                "file_read_slice", about=self.name, number=self._number, offset=offset, size=size, at=self._at
            )
        except NoEntry:
            raise self._stale() from None
        return found["data"], found["size"]

    def _stale(self) -> Stale:
        from tzfs.api.errors import os_error  # noqa: PLC0415

        error = os_error(Stale("the file was removed"), self.name)
        assert isinstance(error, Stale)
        return error

    def write(self, data: object, /) -> int:
        """Write up to 512 KiB, atomically, and return how much; at the end of the file in mode "a"."""
        self._require(can=self._can_write, what="writing")
        view = memoryview(data)[:].cast("B")[:SLICE_BYTES]  # type: ignore[arg-type]
        if not len(view):
            return 0
        offset = None if self._is_appending else self._position
        try:
            done = self._connection.change(
                "file_write_slice", about=self.name, number=self._number, offset=offset, data=bytes(view)
            )
        except NoEntry:
            raise self._stale() from None
        self._position = done["end"]
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """See `io.IOBase.seek`."""
        self._require(can=True, what="seeking")
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            offset += self._slice(0, 0)[1]
        elif whence != os.SEEK_SET:
            raise ValueError(f"whence {whence}")
        if offset < 0:
            raise ValueError(f"negative seek position {offset}")
        self._position = offset
        return offset

    def tell(self) -> int:
        """See `io.IOBase.tell`."""
        return self._position

    def truncate(self, size: int | None = None, /) -> int:
        """Give the file another size, by default the position."""
        self._require(can=self._can_write, what="writing")
        size = self._position if size is None else size
        try:
            self._connection.change("file_truncate", about=self.name, number=self._number, size=size)
        except NoEntry:
            raise self._stale() from None
        return size

    def close(self) -> None:
        """See `io.IOBase.close`; a file that was removed meanwhile is gone then."""
        if not self.closed and self._at is None:
            self._connection.close_file(self._number, self._session)
        super().close()

    def _require(self, *, can: bool, what: str) -> None:
        """Refuse what the mode does not allow, as `io` does."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if not can:
            raise io.UnsupportedOperation(f"the file is not open for {what}")


def parse_mode(mode: str) -> tuple[str, bool]:
    """Return "r", "w", "a" or "x", with "+" if given, and whether it is binary; ValueError."""
    kind = mode.replace("b", "").replace("t", "")
    if kind not in {"r", "w", "a", "x", "r+", "w+", "a+", "x+", "+r", "+w", "+a", "+x"} or (
        "b" in mode and "t" in mode
    ):
        raise ValueError(f"invalid mode: {mode!r}")
    return kind.replace("+", "") + ("+" if "+" in kind else ""), "b" in mode


def wrap(
    raw: RawFile,
    *,
    binary: bool,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
) -> IO[bytes] | IO[str]:
    """Put on a raw file what `open` puts on one."""
    if binary and (encoding, errors, newline) != (None, None, None):
        raise ValueError("a binary file has no encoding, errors or newline")
    if buffering == 0:
        if not binary:
            raise ValueError("can't have unbuffered text I/O")
        return raw  # type: ignore[return-value]
    size = _BUFFER_BYTES if buffering < 2 else buffering
    buffered: io.BufferedRandom | io.BufferedReader | io.BufferedWriter
    if raw.readable() and raw.writable():
        buffered = io.BufferedRandom(raw, size)
    elif raw.writable():
        buffered = io.BufferedWriter(raw, size)
    else:
        buffered = io.BufferedReader(raw, size)
    if binary:
        return buffered
    text = io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline, line_buffering=buffering == 1)
    text.mode = raw.mode.replace("b", "")  # type: ignore[misc]
    return text
