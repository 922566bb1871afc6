"""Where a commit waits for the disk: on the event loop when the disk is quick, in the writer thread when it is not.

To hand a commit to a thread and its end back to the loop costs two wake-ups, 0.15 to 0.2 ms each on a virtual machine, and
the GIL. A good disk syncs 64 kB in less, so waiting on the spot is cheaper, as with a lock that spins before it sleeps. What the loop
may lose so is bounded: only small commits, none that writes the log back into the file, and 2 ms in the mean of the last few.
Once they take longer, the next ones go to the thread, and twice as many each time that one on the loop is slow again. A disk that
hangs holds the loop for one commit.
"""

from __future__ import annotations

QUICK = (
    0.002  # seconds that a commit may keep the loop, in the mean: what a list of 2,000 objects does
)
RECENT = 10  # commits of which that is the mean, so that one during which another process ran decides nothing
SMALL = 256 << 10  # bytes
PENALTY = 64  # commits in the thread after slow ones
LONGEST = 4096
PAGE = 4096
ROW = 200  # bytes beside the value: keys, in both tables
CHECKPOINT = 1000  # pages in the log, SQLite's own number


class Pace:
    def __init__(self) -> None:
        self._away = 0  # commits that the thread still has to do
        self._penalty = PENALTY
        self._mean = 0.0  # seconds
        self._quick = 0  # commits on the loop since that was too long
        self._pages = 0  # in the log since it was last written back, roughly

    def add(self, writes: int, size: int) -> bool:
        """A commit comes, of so many writes and bytes. True: with it the log is due to be written back.

        What is new goes to the end of `log`; a row of `live` shares its page with a few others of the batch or with none,
        and some pages above them change with each commit. Measured: 10 for 16 small creates, 18 for 64.
        """
        self._pages += 4 + writes // 4 + (writes * ROW + size) // PAGE
        if self._pages < CHECKPOINT:
            return False
        self._pages = 0
        return True

    def on_loop(self, size: int) -> bool:
        """May the loop wait for this commit? Asked once for each."""
        if self._away:
            self._away -= 1
            return False
        return size <= SMALL

    def took(self, seconds: float) -> None:
        """So long the loop waited for a commit."""
        self._mean += (seconds - self._mean) / RECENT
        if self._mean <= QUICK:
            self._quick += 1
            if self._quick >= PENALTY:
                self._penalty = PENALTY
            return
        self._away, self._quick = self._penalty, 0
        self._penalty = min(2 * self._penalty, LONGEST)
        self._mean = QUICK  # the next one on the loop decides alone
