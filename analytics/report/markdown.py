"""The Markdown of our formula pages as HTML: headings, paragraphs, lists, tables, code. Nothing else is understood."""

import re
from html import escape
from itertools import groupby


def to_html(text: str) -> str:
    """HTML of a page; everything in it is escaped, and links keep only their words (the page must need nothing else)."""
    parts, fenced = [], False
    for block in re.split(r"(^```.*?^```\s*$)", text, flags=re.M | re.S):
        fenced = block.startswith("```")
        if fenced:
            parts.append(f"<pre>{escape(block.strip().removeprefix('```').removesuffix('```').strip(chr(10)))}</pre>")
        else:
            parts += [_paragraph(paragraph) for paragraph in re.split(r"\n\s*\n", block.strip()) if paragraph.strip()]
    return "\n".join(parts)


def _paragraph(text: str) -> str:
    lines = text.splitlines()
    if lines[0].startswith("#"):
        rest = "\n".join(lines[1:]).strip()
        return f"<h3>{_inline(lines[0].lstrip('# '))}</h3>" + (_paragraph(rest) if rest else "")
    if lines[0].startswith("- "):
        items = re.split(r"^- ", text, flags=re.M)[1:]
        return "<ul>" + "".join(f"<li>{_inline(' '.join(item.split()))}</li>" for item in items) + "</ul>"
    if lines[0].startswith("|"):
        return _table(lines)
    return f"<p>{_inline(' '.join(lines))}</p>"


def _table(lines: list[str]) -> str:
    rows = [
        [_inline(cell.strip()) for cell in line.strip().strip("|").split("|")] for line in lines if not re.fullmatch(r"[\s|:\-]+", line)
    ]
    head = "".join(f"<th>{cell}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f'<div class="wide"><table class="words"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _inline(text: str) -> str:
    """Code, bold, and the words of links; code is left as it is."""
    made = []
    for code, run in groupby(re.split(r"(`[^`]+`)", text), key=lambda piece: piece.startswith("`")):
        for piece in run:
            if code:
                made.append(f"<code>{escape(piece.strip('`'))}</code>")
            else:
                words = escape(re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", piece))
                made.append(re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", words))
    return "".join(made)
