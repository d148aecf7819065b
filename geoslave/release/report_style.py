"""How a report looks, on a screen and on A4."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 47rem; padding: 2.6rem 1.4rem 4rem; color: #1A1E24; background: #fff;
  font: 16px/1.55 "Source Sans 3", "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid #DFE2E6;
  break-after: avoid; }
p { margin: .6rem 0; }
.about { color: #6B7079; margin: 0 0 1rem; }
.statement { border-left: 4px solid #0072B2; padding: .55rem .9rem; background: #F3F7FA; font-size: .94rem; }
.notice { border-left: 4px solid #D55E00; padding: .55rem .9rem; background: #FDF4EE; font-weight: 600; }
.aside { color: #6B7079; font-style: italic; }
.cards { display: flex; flex-wrap: wrap; gap: .9rem; margin: 1.6rem 0 .4rem; }
.cards div { flex: 1 1 12rem; border: 1px solid #DFE2E6; border-radius: 6px; padding: .8rem 1rem; }
.cards b { display: block; font-size: 2.1rem; line-height: 1.1; font-variant-numeric: tabular-nums; }
.cards span { display: block; color: #1A1E24; }
.cards small { color: #6B7079; font-size: .9rem; }
.lead { color: #3A4048; }
figure { margin: 1.5rem 0; break-inside: avoid; }
figure svg { display: block; width: 100%; height: auto; }
figcaption, caption { color: #4A515A; font-size: .9rem; line-height: 1.45; text-align: left; }
figcaption { margin-top: .5rem; }
caption { margin-bottom: .4rem; caption-side: top; }
table { border-collapse: collapse; width: 100%; margin: 1.3rem 0; font-size: .93rem; break-inside: avoid; }
th, td { text-align: left; padding: .32rem .7rem .32rem 0; border-bottom: 1px solid #E9ECEF; vertical-align: top;
  font-variant-numeric: tabular-nums; }
thead th { border-bottom: 1.5px solid #1A1E24; font-weight: 600; }
.provenance th { width: 9rem; font-weight: 600; }
.provenance td { overflow-wrap: anywhere; font-size: .86rem; }
.provenance { break-inside: auto; }
ul { margin: .5rem 0; padding-left: 1.2rem; }
li { margin: .3rem 0; }
.references { font-size: .9rem; }
footer { margin-top: 2.6rem; color: #6B7079; font-size: .86rem; }
@page { size: A4; margin: 18mm 17mm 19mm;
  @bottom-right { content: counter(page) " / " counter(pages); color: #6B7079; font-size: 8.5pt; } }
@media print { body { padding: 0; max-width: none; font-size: 10.5pt; } h1 { font-size: 20pt; }
  .cards b { font-size: 22pt; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<footer>Written by geoslave. Everything in this file is in it: it loads nothing.</footer>
</body>
</html>
"""
