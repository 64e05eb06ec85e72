"""The doctor's report: read from the files that the program's processes wrote, and formatted as text.

Guarantees: if a process was killed in the middle of a line, its other lines are read. What cannot be read is left out.
A hazard that several forks from one place share is reported once, with the number of those forks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from forksafe.diagnostics.hangs.hang import Hang

__all__ = ["Events", "Fork", "Report", "hang_of", "hazards_of", "text_of", "text_of_hang"]


class Events:
    """What the program's processes have recorded. new() returns what was added since its last call."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}  # how many bytes of each file

    def new(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self._folder.glob("events-*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                lines = file.read()
            lines = lines[: lines.rfind(b"\n") + 1]  # the last line may be incomplete
            self._read[path] = self._read.get(path, 0) + len(lines)
            for line in lines.decode("utf-8", "replace").splitlines():
                try:
                    yield json.loads(line)
                except ValueError:
                    continue


@dataclass
class Fork:
    """One fork. child: the process that it made, None if that is unknown."""

    number: str
    pid: int
    time: float
    thread: str
    where: str
    hazards: list[dict[str, Any]]
    stacks: dict[str, list[str]]
    child: int | None = None


@dataclass
class Report:
    """command: the program, without its arguments. status: its exit status. hangs: each a Hang, with pid and fork."""

    command: str
    status: int
    forks: list[Fork]
    hangs: list[dict[str, Any]]
    processes: dict[int, tuple[float, float]]  # by pid: the times of its first and last record

    @classmethod
    def read(cls, folder: Path, command: str, status: int) -> Report:
        forks: dict[str, Fork] = {}
        hangs: list[dict[str, Any]] = []
        processes: dict[int, tuple[float, float]] = {}
        children: dict[str, int] = {}
        for event in sorted(Events(folder).new(), key=lambda event: event["time"]):
            pid, when = event["pid"], event["time"]
            processes[pid] = processes.get(pid, (when, when))[0], when
            if event["event"] == "fork":
                forks[event["fork"]] = Fork(
                    event["fork"], pid, when, event["thread"], event["where"], event["hazards"], event["stacks"]
                )
            elif event["event"] == "child":
                children[event["fork"]] = pid
            elif event["event"] == "hang":
                hangs.append(event)
        for number, pid in children.items():
            if number in forks:
                forks[number].child = pid
        return cls(command, status, list(forks.values()), hangs, processes)

    def has_problems(self) -> bool:
        """Whether a child hung, or a hazard is more than a note."""
        return bool(self.hangs) or any(hazard["severity"] != "note" for fork in self.forks for hazard in fork.hazards)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "command": self.command,
            "status": self.status,
            "forks": [vars(fork) for fork in self.forks],
            "hangs": self.hangs,
        }

    def by_place(self) -> dict[str, list[Fork]]:
        """The forks, by the line that made them."""
        places: dict[str, list[Fork]] = {}
        for fork in self.forks:
            places.setdefault(fork.where, []).append(fork)
        return places


def text_of(report: Report) -> str:
    """The report for a terminal."""
    count = len(report.forks)
    lines = [
        f"forksafe doctor: {report.command} ended with status {report.status}",
        f"{count} fork{'s' * (count != 1)}, {len(report.hangs)} child{'ren' * (len(report.hangs) != 1)} that hung",
    ]
    for where, forks in report.by_place().items():
        times = f"{len(forks)} forks" if len(forks) > 1 else "a fork"
        lines += ["", f"{times} at {where}"]
        found = hazards_of(forks)
        lines += [] if found else ["  nothing that would break"]
        for hazard, often in found:
            lines += _lines_of(hazard, f" (at {often} of them)" if often < len(forks) else "")
    return "\n".join([*lines, ""])


def hazards_of(forks: list[Fork]) -> list[tuple[dict[str, Any], int]]:
    """The hazards of forks from one place, each once, with the number of forks that it was there at."""
    found: dict[tuple[str, str, str], tuple[dict[str, Any], int]] = {}
    for fork in forks:
        for hazard in fork.hazards:
            key = hazard["kind"], hazard["what"], hazard["thread"]
            found[key] = hazard, found.get(key, (hazard, 0))[1] + 1
    return list(found.values())


def _lines_of(hazard: dict[str, Any], often: str) -> list[str]:
    lines = [f"  {hazard['severity']:7} {hazard['kind']}: {hazard['what']}{often}"]
    if hazard["thread"] and hazard["where"]:
        since = f", for {hazard['since']:.2f} s" if hazard["since"] is not None else ""
        lines.append(f"          {hazard['thread']} is at {hazard['where']}{since}")
    return [*lines, f"          {hazard['consequence']}", f"          -> {hazard['cure']}"]


def hang_of(event: dict[str, Any]) -> Hang:
    return Hang(*(event[field.name] for field in fields(Hang)))


def text_of_hang(event: dict[str, Any]) -> str:
    """For a terminal, as soon as a child hangs."""
    blocked = f"process {event['pid']} has been blocked for {event['seconds']:.1f} s"
    return f"forksafe doctor: {blocked}\n{hang_of(event).text()}"
