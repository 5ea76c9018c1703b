"""The style sheet of the page."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c2128;--soft:#57606a;--line:#d9dde2;--card:#f6f8fa;--trough:#e4e8ec}
:root{--blue:#0072B2;--green:#00795a;--amber:#9a6700;--gray:#57606a;--red:#b3420e}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink)}
body{font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1000px;margin:0 auto;padding:24px 24px 64px}
header p{color:var(--soft);margin:.1em 0 0}
h1{font-size:1.15rem;margin:0;font-weight:600}
h2{font-size:1.25rem;margin:2.2em 0 .4em;padding-top:.6em;border-top:1px solid var(--line)}
.verdict{margin:16px 0;padding:18px 22px;border-radius:10px;border-left:8px solid;background:var(--card)}
.verdict h2{border:0;margin:.15em 0 .3em;padding:0;font-size:1.6rem;line-height:1.25}
.verdict h3{font-size:1rem;margin:.9em 0 .2em}
.verdict p{margin:.3em 0}
.verdict ol{margin:.2em 0;padding-left:1.4em}
code{font:.9em ui-monospace,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
.verdict .tag{display:inline-block;font-size:.8rem;font-weight:700;letter-spacing:.04em}
.verdict .tag{padding:2px 10px;border-radius:99px;color:#fff}
.holds{border-color:var(--green)}.holds .tag{background:var(--green)}
.partly{border-color:var(--amber)}.partly .tag{background:var(--amber)}
.open{border-color:var(--gray)}.open .tag{background:var(--gray)}
.weak{border-color:var(--red)}.weak .tag{background:var(--red)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:16px 0}
.tile{border:1px solid var(--line);border-radius:10px;padding:12px 16px}
.tile b{display:block;font-size:1.7rem;line-height:1.2;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:.85rem;display:block;line-height:1.35}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.93rem}
th{text-align:left;font-weight:600;color:var(--soft);font-size:.85rem}
th,td{padding:7px 10px;border-bottom:1px solid var(--line);vertical-align:middle}
td.n,th.n{text-align:right;white-space:nowrap}
.bar{display:block;height:12px;border-radius:3px;background:var(--trough);min-width:120px}
.bar i{display:block;height:100%;border-radius:3px;background:var(--blue)}
figure{margin:14px 0}
figure svg{width:100%;height:auto;display:block}
figcaption{color:var(--soft);font-size:.9rem}
.get{font-size:.85rem;white-space:nowrap}
a{color:var(--blue)}
.scroll{overflow-x:auto}
details{margin:10px 0}
summary{cursor:pointer;color:var(--blue)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;font-size:.93rem;margin:8px 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
.note{color:var(--soft);font-size:.9rem}
@media (max-width:720px){main{padding:16px}figure svg{min-width:640px}
table.cards thead,table.cards .wide{display:none}
table.cards tr{display:block;padding:8px 0;border-bottom:1px solid var(--line)}
table.cards td{display:block;border:0;padding:2px 0;text-align:left;white-space:normal}
table.cards td[data-label]{display:flex;justify-content:space-between;gap:16px}
table.cards td[data-label]::before{content:attr(data-label);color:var(--soft)}
dl{grid-template-columns:1fr}dd{margin-bottom:6px}}
@media screen and (prefers-color-scheme:dark){
:root{--paper:#0f1317;--ink:#e6eaef;--soft:#9aa4af;--line:#2d343c;--card:#181d23;--trough:#2a3139}
:root{--blue:#4fb3ea;--green:#1f9d78;--amber:#b98117;--gray:#6b7580;--red:#d2603a}
figure svg{filter:invert(.93) hue-rotate(180deg)}}
@media print{body{font-size:11pt}main{max-width:none;padding:0}h2{break-after:avoid}
figure,tr,.verdict,.tiles{break-inside:avoid}
.get{display:none}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
