"""The look of the page: one accent colour, system fonts, light and dark."""

STYLE = """
:root{--paper:#fbfaf8;--card:#fff;--ink:#1d1b19;--quiet:#6d6862;--line:#e6e2dc;--accent:#5b3fd6;--soft:#ece8fb;--good:#1a7f4b;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--paper:#151416;--card:#1d1c1f;--ink:#ece9e4;--quiet:#9b958d;--line:#35323a;--accent:#a592ff;
--soft:#2a2440;--good:#62c894;--bad:#ff8a80}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.6 ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:56px 32px 96px}
h1{font-size:40px;line-height:1.15;letter-spacing:-.02em;margin:0 0 8px;overflow-wrap:anywhere}
h2{font-size:20px;letter-spacing:-.01em;margin:0 0 16px}
section{margin-top:48px}
p{margin:0}
.quiet,.quiet li{color:var(--quiet)}
.kicker{color:var(--quiet);font-size:14px;margin-bottom:4px}
.banner{margin-top:32px;padding:28px 32px;border-radius:16px;background:var(--soft);border-left:6px solid var(--accent)}
.banner.good{border-left-color:var(--good)}
.banner.bad{border-left-color:var(--bad)}
.banner h2{font-size:30px;font-weight:500;margin:0 0 8px}
.banner p{max-width:46em}
.banner ul{margin:16px 0 0;padding-left:20px;color:var(--quiet);font-size:14px}
figure{margin:0 0 24px;padding:24px;background:var(--card);border:1px solid var(--line);border-radius:16px}
figcaption{font-weight:600;margin-bottom:16px}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:24px}
.pair figure{margin:0}
svg{display:block;width:100%;height:auto;font:13px ui-sans-serif,system-ui,sans-serif;font-variant-numeric:tabular-nums}
svg text{fill:var(--ink)} svg .q{fill:var(--quiet)}
svg .axis{stroke:var(--line)} svg .zero{stroke:var(--quiet)}
svg .thick{stroke:var(--accent);stroke-width:7;stroke-linecap:round} svg .thin{stroke:var(--accent);stroke-width:1.5}
svg .dot{fill:var(--card);stroke:var(--accent);stroke-width:2.5} svg .bar{fill:var(--accent)} svg .base{fill:var(--quiet);opacity:.55}
svg .whisker{stroke:var(--ink);stroke-width:2}
svg .dash{stroke:var(--bad);stroke-width:1.5;stroke-dasharray:3 3}
.legend{margin-top:12px;color:var(--quiet);font-size:13px}
.key{display:inline-block;width:24px;margin:0 8px 3px 16px;border-top:1.5px solid var(--accent)}
.key:first-child{margin-left:0}
.key.thick{border-top-width:6px;border-radius:3px;margin-bottom:1px} .key.dash{border-top:1.5px dashed var(--bad)}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th{text-align:right;font-weight:500;color:var(--quiet);padding:8px 10px;border-bottom:1px solid var(--line);vertical-align:bottom}
td{text-align:right;padding:10px;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0;white-space:normal}
.tag{display:inline-block;padding:0 8px;border-radius:9px;background:var(--soft);color:var(--quiet);font-size:12px;white-space:nowrap}
.tag.good{color:var(--good)} .tag.bad{color:var(--bad)}
code{font:12px ui-monospace,SFMono-Regular,Menlo,monospace}
.gallery th,.gallery td{text-align:center;white-space:normal;padding:10px}
.gallery tbody th{text-align:left;vertical-align:middle;color:var(--ink);max-width:260px}
.gallery img{width:128px;height:128px;object-fit:contain;border-radius:12px;background:#fff;border:1px solid var(--line)}
.checks{list-style:none;margin:0;padding:0}
.checks li{padding:10px 0;border-bottom:1px solid var(--line);color:var(--quiet)}
.checks b{display:inline-block;min-width:150px;color:var(--ink);font-weight:500}
.checks li::before{content:"✓";color:var(--good);display:inline-block;width:28px;font-weight:700}
.checks .bad::before{content:"✗";color:var(--bad)}
@media (max-width:720px){main{padding:32px 16px}.pair{grid-template-columns:1fr}h1{font-size:30px}.banner{padding:20px}}
"""
