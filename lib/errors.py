"""Errors a user can act on: what is wrong, where, and what to do."""

from __future__ import annotations


class GridsinkError(Exception):
    """A failure whose cause is known.

    what: what is wrong, in one line. where: the table, region, network, row, file or key. remedy: what to do about it.
    """

    exit_code = 1

    def __init__(self, what: str, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.remedy = what, where, remedy

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.remedy:
            lines.append(f"  remedy: {self.remedy}")
        return "\n".join(lines)


class SettingsError(GridsinkError):
    """Settings or options that cannot be used; `problems` holds every one of them."""

    exit_code = 2

    def __init__(self, problems: list[str]) -> None:
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        super().__init__(
            f"the settings have {count}:\n" + "\n".join(f"  - {problem}" for problem in problems),
            remedy="correct them; `./spark-submit.sh config show` lists every key",
        )
        self.problems = problems


class AlreadyRunning(GridsinkError):
    """Another process holds the lock of the same job on the same lake."""

    exit_code = 4
