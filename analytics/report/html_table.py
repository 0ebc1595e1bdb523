"""A table of texts on the page."""

from collections.abc import Iterable
from html import escape


def html_table(header: Iterable[str], rows: Iterable[Iterable[str]], named: Iterable[str] = ()) -> str:
    """Header words begin with a capital, but for those of `named`, which stand behind them as they are: names of arms."""
    words = [*(word[:1].upper() + word[1:] if len(word) > 1 else word for word in header), *named]
    head = "".join(f"<th>{escape(word)}</th>" for word in words)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
