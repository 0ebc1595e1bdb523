"""The look of the page: one accent colour, system fonts, light and dark, on a phone and on paper."""

STYLE = """
:root{--paper:#fbfaf8;--card:#fff;--ink:#1d1b19;--quiet:#6d6862;--line:#e6e2dc;--accent:#5b3fd6;--soft:#ece8fb;--good:#1a7f4b;--bad:#b3261e;
--teal:#0f766e;--amber:#b45309;--rose:#be185d;--sky:#0369a1}
@media (prefers-color-scheme:dark){:root{--paper:#151416;--card:#1d1c1f;--ink:#ece9e4;--quiet:#a09a92;--line:#35323a;--accent:#a592ff;
--soft:#2a2440;--good:#62c894;--bad:#ff8a80;--teal:#5eead4;--amber:#fbbf24;--rose:#f9a8d4;--sky:#7dd3fc}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink)}
.salon{max-width:1080px;margin:0 auto;padding:56px 32px 96px;
font:16px/1.6 ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;background:var(--paper);color:var(--ink)}
h1{font-size:40px;line-height:1.15;letter-spacing:-.02em;margin:0 0 8px;overflow-wrap:anywhere}
h2{font-size:20px;letter-spacing:-.01em;margin:0 0 16px}
h2.aside{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
section{margin-top:48px}
p{margin:0}
a{color:var(--accent);text-decoration:none} a:hover{text-decoration:underline}
.lead{margin:-8px 0 16px;max-width:46em}
.quiet,.quiet li{color:var(--quiet)}
.kicker{color:var(--quiet);font-size:14px;margin-bottom:4px}
.banner{margin-top:32px;padding:28px 32px;border-radius:16px;background:var(--soft);border-left:6px solid var(--accent)}
.banner.good{border-left-color:var(--good)}
.banner.bad{border-left-color:var(--bad)}
.banner h2{font-size:30px;font-weight:500;line-height:1.25;margin:0 0 8px;overflow-wrap:anywhere}
.banner p{max-width:46em;overflow-wrap:anywhere}
.banner .plain{font-size:18px;margin-bottom:8px}
.banner ul{margin:16px 0 0;padding-left:20px;color:var(--quiet);font-size:14px}
figure{margin:0 0 24px;padding:24px;background:var(--card);border:1px solid var(--line);border-radius:16px;min-width:0}
figcaption{font-weight:600;margin-bottom:16px;overflow-wrap:anywhere}
.pair{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:24px}
.pair figure{margin:0}
svg{display:block;font:12px ui-sans-serif,system-ui,sans-serif;font-variant-numeric:tabular-nums}
svg text{fill:var(--ink)} svg .q{fill:var(--quiet)} svg .alarm{fill:var(--bad)}
svg .axis{stroke:var(--line)} svg .zero{stroke:var(--quiet)}
svg .thick{stroke:var(--accent);stroke-width:7;stroke-linecap:round} svg .thin{stroke:var(--accent);stroke-width:1.5}
svg .dot{fill:var(--card);stroke:var(--accent);stroke-width:2.5} svg .bar{fill:var(--accent)} svg .base{fill:var(--quiet);opacity:.55}
svg .whisker{stroke:var(--ink);stroke-width:2} svg .mark{stroke:var(--accent);stroke-width:2}
svg .dash{stroke:var(--bad);stroke-width:1.5;stroke-dasharray:3 3}
svg .band{fill:var(--accent);opacity:.18}
svg .course{stroke-width:2.2;stroke-linecap:round} svg .dashed{stroke-width:1;stroke-dasharray:3 4}
svg line.c0{stroke:var(--accent)} svg line.c1{stroke:var(--teal)} svg line.c2{stroke:var(--amber)} svg line.c3{stroke:var(--rose)}
svg line.c4{stroke:var(--sky)}
svg circle.c0{fill:var(--accent)} svg circle.c1{fill:var(--teal)} svg circle.c2{fill:var(--amber)} svg circle.c3{fill:var(--rose)}
svg circle.c4{fill:var(--sky)}
.row{display:grid;grid-template-columns:220px minmax(0,1fr) 84px;gap:12px;align-items:center}
.narrow .row{grid-template-columns:110px minmax(0,1fr) 72px}
.row .name{font-size:14px;line-height:1.3;overflow-wrap:anywhere} .row .name span{display:block;font-size:13px}
.row .value{text-align:right;font-size:14px;font-variant-numeric:tabular-nums}
.tight .name span{display:inline;margin-left:8px}
.legend>span:not(.key){white-space:nowrap;margin-right:16px}
.legend{margin-top:12px;color:var(--quiet);font-size:13px}
.key{display:inline-block;width:24px;margin:0 8px 3px 0;border-top:1.5px solid var(--accent)}
.key.thick{border-top-width:6px;border-radius:3px;margin-bottom:1px} .key.dash{border-top:1.5px dashed var(--bad)}
.key.dashed{border-top:1.5px dashed var(--quiet)} .key.c0,.key.c1,.key.c2,.key.c3,.key.c4{border-top-width:3px;margin-bottom:2px}
.key.c1{border-color:var(--teal)} .key.c2{border-color:var(--amber)} .key.c3{border-color:var(--rose)} .key.c4{border-color:var(--sky)}
.notes{margin:12px 0 0;padding-left:20px;color:var(--quiet);font-size:14px} .notes .bad{color:var(--bad)}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th{text-align:right;font-weight:500;color:var(--quiet);padding:8px 10px;border-bottom:1px solid var(--line);vertical-align:bottom}
td{text-align:right;padding:10px;border-bottom:1px solid var(--line);white-space:nowrap;vertical-align:top}
th:first-child,td:first-child{text-align:left;padding-left:0;white-space:normal}
.history td:last-child{white-space:normal;text-align:left;min-width:260px} .history th:last-child{text-align:left}
td:nth-child(2){white-space:normal;overflow-wrap:anywhere;min-width:72px}
.words td,.words th{text-align:left;white-space:normal}
tr:has(+.method) td{border-bottom:0;padding-bottom:2px}
.method td{text-align:left;white-space:normal;font-size:12px;line-height:1.45;color:var(--quiet);padding-top:0}
.tag{display:inline-block;padding:0 8px;border-radius:9px;background:var(--soft);color:var(--quiet);font-size:12px;white-space:nowrap}
.tag.good{color:var(--good)} .tag.bad{color:var(--bad)}
code{font:12px ui-monospace,SFMono-Regular,Menlo,monospace;overflow-wrap:anywhere}
pre{font:12px/1.5 ui-monospace,SFMono-Regular,Menlo,monospace;overflow-x:auto;padding:12px 16px;margin:8px 0;background:var(--paper);
border:1px solid var(--line);border-radius:8px}
.folds{border-top:1px solid var(--line)}
details{border-bottom:1px solid var(--line);font-size:14px;scroll-margin-top:16px}
details>*:not(summary){margin-left:18px;margin-bottom:10px}
details h3{font-size:15px;margin:0 0 8px} details:target{background:var(--soft)}
summary{cursor:pointer;padding:10px 0} summary .quiet{font-size:13px;margin-left:8px}
.gallery th,.gallery td{text-align:center;white-space:normal;padding:10px}
.gallery tbody th{text-align:left;vertical-align:middle;color:var(--ink);min-width:110px;max-width:260px}
.gallery img{width:128px;height:128px;object-fit:contain;border-radius:12px;background:#fff;border:1px solid var(--line)}
.checks{list-style:none;margin:0;padding:0}
.checks li{display:grid;grid-template-columns:28px 160px minmax(0,1fr);
padding:10px 0;border-bottom:1px solid var(--line);color:var(--quiet)}
.checks b{color:var(--ink);font-weight:500}
.checks li::before{content:"✓";color:var(--good);font-weight:700}
.checks .bad::before{content:"✗";color:var(--bad)}
@media (max-width:720px){.salon{padding:28px 14px}.pair{grid-template-columns:minmax(0,1fr)}h1{font-size:28px}.banner{padding:20px}
figure{padding:16px}.rows:not(.narrow) .row{grid-template-columns:minmax(0,1fr) auto;gap:2px 12px}
.rows:not(.narrow) .row .value{grid-column:2;grid-row:1}
.rows:not(.narrow) .row svg{grid-column:1/-1;grid-row:2}.checks li{grid-template-columns:24px minmax(0,1fr)}.checks li span{grid-column:2}}
@media print{:root{
--paper:#fff;--card:#fff;--ink:#000;--quiet:#444;--line:#bbb;--accent:#5b3fd6;--soft:#f3f1fb;--good:#1a7f4b;--bad:#b3261e}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}.salon{max-width:none;padding:0;font-size:12px}section{margin-top:24px}
figure,.banner,tr,.checks li{break-inside:avoid}.wide{overflow:visible}table{font-size:10px}td,th{padding:4px}
details::details-content{content-visibility:visible;display:block;height:auto}pre{white-space:pre-wrap}}
"""
