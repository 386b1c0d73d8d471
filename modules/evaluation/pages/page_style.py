"""The CSS of `report.html`: readable on a phone, and part of the page."""

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; color: #1b2430; background: #f4f6f8; }
header, main { max-width: 76rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 1.5rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 0 0 .6rem; }
h3 { font-size: 1.05rem; margin: 0 0 .6rem; overflow-wrap: anywhere; }
h4 { font-size: .85rem; margin: .9rem 0 .2rem; color: #4a5665; text-transform: uppercase; letter-spacing: .04em; }
div > h4:first-child { margin-top: 0; }
section { background: #fff; border: 1px solid #d9dfe6; border-radius: .5rem; padding: 1rem 1.2rem; margin: 1rem 0; }
.study { border-top: 1px solid #d9dfe6; padding: 1rem 0; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem; margin: .8rem 0; }
a { color: #0b5cad; }
:is(a, summary, input, .sentence, .scroll):focus-visible { outline: 3px solid #0b5cad; outline-offset: 2px; }
summary { cursor: pointer; padding: .3rem 0; font-weight: 600; }
.note, .why, .details { color: #4a5665; font-size: .875rem; }
.why { font-weight: 400; margin-left: .4rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e6eaef; white-space: nowrap; }
th { font-weight: 600; }
th:first-child, tbody th { text-align: left; }
tbody th { font-weight: 400; }
th.group { font-weight: 600; padding-top: .8rem; color: #4a5665; }
td.model { font-weight: 600; }
.graph td:last-child, .graph th:last-child { text-align: left; white-space: normal; }
.measure { display: inline-block; width: 4rem; height: .55rem; margin-left: .5rem; background: #e6eaef; }
.measure span { display: block; height: 100%; background: #3b78b5; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); gap: 1rem; }
.plots { margin: .5rem 0 1rem; }
figure { margin: 0; }
figcaption { font-size: .9rem; font-weight: 600; }
.plot { width: 100%; height: auto; display: block; }
.plot .grid { stroke: #e1e6ec; } .plot .axis { stroke: #6b7786; }
.plot .tick { font-size: 11px; fill: #4a5665; }
.plot .line { fill: none; stroke: #1f5f9e; stroke-width: 2; stroke-linejoin: round; }
.plot .point { fill: #1f5f9e; stroke: #fff; stroke-width: 1; }
.plot .bar { fill: #9cc3e6; }
.plot .ideal { stroke: #6b7786; stroke-width: 1.5; stroke-dasharray: 5 4; }
.panes { display: grid; grid-template-columns: minmax(16rem, 26rem) 1fr; gap: 1.5rem; align-items: start; }
.panes > div:first-child { position: sticky; top: .5rem; }
.image { width: 100%; height: auto; display: block; background: #000; border-radius: .3rem; }
.image rect { fill: none; stroke: #9aa7b5; stroke-width: 1; vector-effect: non-scaling-stroke; }
.image text { fill: #fff; paint-order: stroke; stroke: #000; stroke-linejoin: round; visibility: hidden; }
.image .coloured rect { stroke: var(--colour); stroke-width: 2.5; }
.image .coloured text { fill: var(--colour); visibility: visible; }
.image .reference rect { stroke: #fff; stroke-width: 1.5; stroke-dasharray: 5 4; }
.study:has(.show-reference:not(:checked)) .reference { display: none; }
.study:has(.show-predicted:not(:checked)) .predicted { display: none; }
.study:has(.sentence:is(:hover, :focus)) .image g { opacity: .15; }
.study:has(.sentence:is(:hover, :focus)) .image text { visibility: hidden; }
.switches { margin: .4rem 0; font-size: .875rem; } .switches label { margin-right: 1rem; white-space: nowrap; }
.sentences .section { font-weight: 600; margin: .5rem 0 .2rem; }
.sentences { list-style: none; margin: 0; padding: 0; }
.sentence { border-left: .5rem solid var(--colour, #c4ccd6); padding: .25rem .6rem; margin: .3rem 0;
  background: color-mix(in srgb, var(--colour, #c4ccd6) 14%, #fff); cursor: default; }
.sentence:is(:hover, :focus) { background: color-mix(in srgb, var(--colour, #c4ccd6) 38%, #fff); }
.sentence .text { display: block; }
.details > span { margin-right: .8rem; white-space: nowrap; } .details > .attended { white-space: normal; }
.agreed, .verdict.right { color: #17692f; } .missed { color: #0b5cad; } .added, .verdict.wrong { color: #a33b00; }
.verdict.wrong { font-weight: 600; }
@media (max-width: 52rem) {
  .panes { grid-template-columns: 1fr; }
  .panes > div:first-child { position: static; }
  section { padding: .8rem .7rem; }
  th, td { padding: .2rem .4rem; }
}
@media print { body { background: #fff; } .study, figure { break-inside: avoid; } }
"""
