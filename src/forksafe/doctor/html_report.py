"""The doctor's report as an HTML page: one file that loads nothing and runs no scripts.

It has a timeline of processes with their forks and hangs, and of the threads and held locks at each fork; then each
fork's hazards, with their cures. Everything that comes from the program is escaped.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any

from forksafe.doctor.report import Fork, Report, hang_of, hazards_of

__all__ = ["page_of"]

_WIDTH, _ROW, _LEFT = 960, 22, 220

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; color: #1d2330; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; border-bottom: 1px solid #d6dae3; }
code, pre { font: 13px/1.45 ui-monospace, monospace; background: #f3f5f9; border-radius: 3px; }
code { padding: 1px 4px; } pre { padding: .7em; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; } td { vertical-align: top; padding: .45em .6em; }
tr + tr td { border-top: 1px solid #e4e7ee; }
.danger { color: #a3142b; font-weight: 600; } .warning { color: #8a5a00; font-weight: 600; } .note { color: #5b6475; }
.cure { color: #14643c; } svg { width: 100%; height: auto; background: #fafbfd; border: 1px solid #e4e7ee; }
svg text { font: 11px system-ui, sans-serif; fill: #1d2330; }
.hang { border-left: 4px solid #a3142b; padding-left: 1em; }
@media (prefers-color-scheme: dark) {
  body { background: #14171e; color: #dde2ec; } code, pre { background: #20252f; } svg { background: #1a1e27; }
  svg text { fill: #dde2ec; } tr + tr td, svg { border-color: #303746; } .danger { color: #ff8095; }
  .warning { color: #ffc766; } .note { color: #9aa5b8; } .cure { color: #7fdba8; }
}
"""


def page_of(report: Report) -> str:
    """The whole page."""
    name = escape(report.command)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>forksafe doctor: {name}</title><style>{_STYLE}</style></head><body>",
        f"<h1>forksafe doctor: <code>{name}</code></h1>",
        f"<p>It ended with status {report.status}:",
        f"{_count(len(report.forks), 'fork')}, {_count(len(report.hangs), 'child', 'children')} that hung.</p>",
    ]
    if report.forks:
        parts += ["<h2>When</h2>", _timeline(report)]
    if report.hangs:
        parts += ["<h2>Children that hung</h2>", *map(_hang, report.hangs)]
    for where, forks in report.by_place().items():
        parts += [f"<h2>{_count(len(forks), 'fork')} at <code>{escape(where)}</code></h2>", _hazards(forks)]
    return "\n".join([*parts, "</body></html>", ""])


def _count(number: int, one: str, more: str = "") -> str:
    return f"{number} {one if number == 1 else more or one + 's'}"


def _hazards(forks: list[Fork]) -> str:
    found = hazards_of(forks)
    if not found:
        return "<p>Nothing that would break.</p>"
    rows = []
    for hazard, often in found:
        at = f"{hazard['thread']} at {hazard['where']}" if hazard["thread"] and hazard["where"] else ""
        times = f" <span class=note>(at {often} of {len(forks)})</span>" if often < len(forks) else ""
        rows.append(
            f'<tr><td class="{escape(hazard["severity"])}">{escape(hazard["severity"])}</td>'
            f"<td>{escape(hazard['kind'])}</td><td>{escape(hazard['what'])}{times}"
            + (f"<br><code>{escape(at)}</code>" if at else "")
            + f"<br>{escape(hazard['consequence'])}<br><span class=cure>{escape(hazard['cure'])}</span></td></tr>"
        )
    return f"<table>{''.join(rows)}</table>"


def _hang(event: dict[str, Any]) -> str:
    parts = [
        f"<div class=hang><p>Process {event['pid']} was blocked for {event['seconds']:.1f} s:",
        f"{escape(event['thread'])} waits for <b>{escape(event['on'])}</b>. It is at</p>",
        f"<pre>{escape(chr(10).join(event['stack']))}</pre>",
    ]
    if event["holder"]:
        parts.append(f"<p>It was {escape(hang_of(event).text_of_holder())}.</p>")
    if event["holder_stack"]:
        parts.append(f"<p>At the fork it was at</p><pre>{escape(chr(10).join(event['holder_stack']))}</pre>")
    return "\n".join([*parts, f"<p class=cure>{escape(event['cure'])}</p></div>"])


# The timeline: a row for each process; below it a row for each thread and each lock that was seen at its forks.


def _timeline(report: Report) -> str:
    begin = min(first for first, _ in report.processes.values())
    end = max(*(last for _, last in report.processes.values()), begin + 0.001)
    rows: list[str] = []

    def x(when: float) -> float:
        return _LEFT + (when - begin) / (end - begin) * (_WIDTH - _LEFT - 20)

    def bar(text: str, first: float, last: float, colour: str, title: str = "") -> None:
        y = len(rows) * _ROW + 6
        width = max(x(last) - x(first), 3)
        rows.append(
            f'<g><title>{escape(title or text)}</title><text x="8" y="{y + 11}">{escape(_short(text))}</text>'
            f'<rect x="{x(first):.1f}" y="{y}" width="{width:.1f}" height="14" rx="3" fill="{colour}"/></g>'
        )

    for pid, (first, last) in sorted(report.processes.items(), key=lambda item: item[1]):
        forks = [fork for fork in report.forks if fork.pid == pid]
        hangs = [event for event in report.hangs if event["pid"] == pid]
        since = min((event["time"] - event["seconds"] for event in hangs), default=last)
        bar(f"process {pid}", first, max(since, first), "#5b7bd5")
        for event in hangs:
            bar(f"  hangs: {event['on']}", event["time"] - event["seconds"], max(last, event["time"]), "#d0405a")
        for title, (seen_first, seen_last, colour) in _seen_at(forks).items():
            bar(f"  {title}", seen_first, seen_last, colour)
        if forks:
            marks = "".join(_mark(x(fork.time), len(rows), fork) for fork in forks[:200])
            rows.append(f'<g>{marks}<text x="8" y="{len(rows) * _ROW + 17}">  forks</text></g>')
    height = len(rows) * _ROW + 12
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="timeline">{"".join(rows)}</svg>'


def _mark(x: float, row: int, fork: Fork) -> str:
    y = row * _ROW + 13
    child = f", made process {fork.child}" if fork.child else ""
    return f'<circle cx="{x:.1f}" cy="{y}" r="4" fill="#14643c"><title>{escape(fork.where + child)}</title></circle>'


def _seen_at(forks: list[Fork]) -> dict[str, tuple[float, float, str]]:
    """Threads and held locks, from the first fork that saw them (a lock: since it was held) to the last."""
    seen: dict[str, tuple[float, float, str]] = {}
    for fork in forks:
        for name in fork.stacks:
            first = seen.get(f"thread {name}", (fork.time, 0.0, ""))[0]
            seen[f"thread {name}"] = first, fork.time, "#9fb3e6"
        for hazard in fork.hazards:
            if hazard["kind"] == "lock":
                found = re.match(r"\S+ (\S+),", hazard["what"])
                title = f"lock {found.group(1) if found else hazard['what']}"
                first = min(seen.get(title, (fork.time, 0.0, ""))[0], fork.time - (hazard["since"] or 0.0))
                seen[title] = first, fork.time, "#e0a43a"
    return dict(list(seen.items())[:40])


def _short(text: str) -> str:
    return text if len(text) <= 36 else text[:35] + "\u2026"
