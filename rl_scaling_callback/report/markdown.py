"""The report in Markdown."""

from __future__ import annotations

from rl_scaling_callback.report.report import Report
from rl_scaling_callback.report.text import printable
from rl_scaling_callback.report.wording import COLUMNS, Section, closing, decision, details, verdict_text


def to_markdown(report: Report) -> str:
    """Return a report in GitHub-flavoured Markdown."""
    lines: list[str] = []

    def add(section: Section, level: str) -> None:
        lines.extend([f"{level} {_escape(section.title)}", "", *(f"- {_escape(line)}" for line in section.lines), ""])
        if section.code:
            lines.extend(["```python", section.code, "```", ""])

    for study in report.studies:
        lines += [f"## {_escape(study.study.title)}", "", f"**{_escape(verdict_text(study))}**", ""]
        add(decision(study), "###")
        lines.append("| " + " | ".join(column.title for column in COLUMNS) + " |")
        lines.append("|" + "|".join("---:" if column.numeric else "---" for column in COLUMNS) + "|")
        lines += ["| " + " | ".join(_escape(column.cell(c)) for column in COLUMNS) + " |" for c in study.configurations]
        lines.append("")
        for section in details(study):
            add(section, "###")
    add(closing(report), "##")
    return "\n".join(lines)


def _escape(text: str) -> str:
    """Return the text with Markdown's special characters escaped."""
    return "".join(f"\\{character}" if character in "\\`*_[]<>|#" else character for character in printable(text))
