"""Style sheet and script of the report, embedded in every file: it must open offline and inside other pages."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f5f6f8; --card: #ffffff; --ink: #1a1f2b; --muted: #626b7c; --line: #e3e6ec; --grid: #eceef3;
  --accent: #2f5fd0; --shade: rgba(20, 28, 48, .14);
  --shadow: 0 1px 2px rgba(20, 28, 48, .05), 0 4px 16px rgba(20, 28, 48, .04);
  --c0: #2f5fd0; --c1: #d9730d; --c2: #0b8a6a; --c3: #b83a7e; --c4: #7a55c7; --c5: #2893b8; --c6: #9a7b00;
  --c7: #5d6675;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12151c; --card: #1a1e27; --ink: #e6e9f0; --muted: #98a1b3; --line: #2b313e; --grid: #262b37;
    --accent: #86a8ff; --shadow: none; --shade: rgba(0, 0, 0, .55);
    --c0: #86a8ff; --c1: #f5a35c; --c2: #4fcfa8; --c3: #ee86b7; --c4: #b79bf2; --c5: #6cc8e6; --c6: #dcc255;
    --c7: #a3adbf;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink); overflow-wrap: break-word;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif;
}
main { max-width: 1200px; margin: 0 auto; padding: clamp(24px, 5vw, 64px) clamp(16px, 4vw, 40px) 80px; }
h1 {
  margin: 0; font-size: clamp(27px, 4.2vw, 40px); line-height: 1.15; letter-spacing: -.02em; font-weight: 680;
  text-wrap: balance;
}
h2 { margin: 0; font-size: 23px; line-height: 1.25; letter-spacing: -.012em; font-weight: 650; }
h3 { margin: 0 0 10px; font-size: 15px; font-weight: 600; }
.lead, .text, .note { color: var(--muted); white-space: pre-line; text-wrap: pretty; }
.lead { margin: 14px 0 0; max-width: 68ch; font-size: 18px; }
.text { margin: 8px 0 0; max-width: 72ch; }
.cards {
  display: grid; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); gap: 12px; margin: 32px 0 0;
}
.card, .block, .chart {
  background: var(--card); border: 1px solid var(--line); border-radius: 14px; box-shadow: var(--shadow);
}
.card { display: flex; flex-direction: column-reverse; justify-content: flex-end; padding: 16px 18px; }
.card dt { font-size: 13.5px; color: var(--muted); line-height: 1.35; margin-top: 2px; }
.card dd {
  margin: 0; font-size: 28px; line-height: 1.25; font-weight: 640; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums;
}
@media (max-width: 900px) { .cards { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
.block.details { margin: 16px 0 0; padding: 4px 18px; }
.details div {
  display: flex; flex-wrap: wrap; gap: 0 24px; padding: 10px 0; border-top: 1px solid var(--line);
  font-size: 15px;
}
.details div:first-child { border-top: 0; }
.details dt { color: var(--muted); flex: 0 0 180px; }
.details dd { margin: 0; flex: 1 1 240px; min-width: 0; }
nav { display: flex; flex-wrap: wrap; gap: 8px; margin: 24px 0 0; }
nav a {
  padding: 5px 13px; border-radius: 99px; border: 1px solid var(--line); background: var(--card);
  color: var(--ink); font-size: 14px; text-decoration: none;
}
nav a:hover { border-color: var(--accent); color: var(--accent); }
section { margin: 56px 0 0; scroll-margin-top: 24px; }
section > .block, section > .charts, section > .legend { margin-top: 20px; }
.block { padding: 18px 20px; }
.note { margin: 12px 0 0; font-size: 14px; }
/* A shade at an edge tells that a wide table goes on there. */
.scroll {
  overflow-x: auto; margin: 0 -20px; padding: 0 20px;
  background:
    linear-gradient(to right, var(--card) 50%, transparent) 0 0 / 48px 100% no-repeat local,
    linear-gradient(to left, var(--card) 50%, transparent) 100% 0 / 48px 100% no-repeat local,
    linear-gradient(to right, var(--shade), transparent) 0 0 / 16px 100% no-repeat scroll,
    linear-gradient(to left, var(--shade), transparent) 100% 0 / 16px 100% no-repeat scroll;
}
table { border-collapse: collapse; width: 100%; font-size: 15px; font-variant-numeric: tabular-nums; }
th, td { padding: 9px 14px; border-top: 1px solid var(--line); text-align: left; vertical-align: baseline; }
thead th {
  border-top: 0; color: var(--muted); font-size: 13.5px; font-weight: 550; line-height: 1.3;
  vertical-align: bottom;
}
tbody th { font-weight: 550; }
th:first-child, td:first-child { padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
.number { text-align: right; white-space: nowrap; }
tr > .number + :not(.number) { padding-left: 32px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 16px; }
.charts.single { max-width: 760px; }
.chart { display: flex; flex-direction: column; margin: 0; padding: 16px 18px 14px; min-width: 0; }
.chart figcaption {
  display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 10px; margin-bottom: 10px; font-size: 15px;
}
.chart figcaption b { font-weight: 600; }
.unit { color: var(--muted); font-size: 13.5px; }
.chart svg { display: block; width: 100%; height: auto; }
.chart svg svg { overflow: hidden; }
.chart text { fill: var(--muted); font-size: 12.5px; font-variant-numeric: tabular-nums; }
.charts.single text { font-size: 10px; }
.chart .grid { stroke: var(--grid); }
.chart path { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.chart path.raw { stroke-width: .8; opacity: .32; }
.chart path.dashed { stroke-dasharray: 5 5; }
.chart circle { fill: var(--c); stroke: var(--card); stroke-width: 1.2; }
.empty { display: grid; flex: 1; place-items: center; min-height: 160px; margin: 0; color: var(--muted); }
.legend {
  display: flex; flex-wrap: wrap; gap: 5px 20px; margin: 8px 0 0; padding: 0; list-style: none;
  font-size: 14px; line-height: 1.4;
}
.legend li { display: flex; align-items: baseline; gap: 8px; min-width: 0; }
.legend li b { font-weight: 500; color: var(--muted); font-variant-numeric: tabular-nums; white-space: nowrap; }
.legend i { flex: none; width: 16px; align-self: center; border-top: 3px solid var(--c); border-radius: 2px; }
.legend i.dashed { border-top-style: dashed; }
.legend i.swatch { width: 14px; height: 14px; border: 1px solid var(--line); border-radius: 4px; background: var(--c); }
.s0 { --c: var(--c0); } .s1 { --c: var(--c1); } .s2 { --c: var(--c2); } .s3 { --c: var(--c3); }
.s4 { --c: var(--c4); } .s5 { --c: var(--c5); } .s6 { --c: var(--c6); } .s7 { --c: var(--c7); }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 180px), 1fr)); gap: 14px; }
.pictures figure { margin: 0; min-width: 0; max-width: 512px; }
.pictures button {
  display: block; width: 100%; padding: 0; border: 0; border-radius: 10px; overflow: hidden;
  background: var(--grid); cursor: zoom-in;
}
.pictures img { display: block; width: 100%; height: auto; max-height: 420px; object-fit: contain; }
.pictures figcaption { margin-top: 6px; font-size: 14px; color: var(--muted); line-height: 1.4; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
dialog {
  width: 100vw; height: 100dvh; max-width: none; max-height: none; margin: 0; padding: 0; border: 0;
  background: #0c0e13; color: #eef0f5;
}
dialog[open] { display: grid; grid-template-rows: minmax(0, 1fr) auto; }
dialog img { width: 100%; height: 100%; padding: 20px; object-fit: contain; cursor: zoom-out; }
dialog footer {
  display: flex; gap: 10px; align-items: center; justify-content: center; padding: 0 16px 18px;
  font-size: 15px;
}
dialog p { flex: 0 1 34em; margin: 0; text-align: center; min-width: 0; }
dialog footer button {
  flex: none; min-width: 44px; padding: 0 14px; height: 44px; border: 1px solid #434a59; border-radius: 99px;
  background: #1d222c; color: inherit; font: inherit; cursor: pointer;
}
dialog footer button:hover { border-color: #86a8ff; }
@media (max-width: 560px) {
  section { margin-top: 44px; }
  .cards { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .card { padding: 13px 14px; }
  .card dd { font-size: 23px; }
  .block { padding: 16px; }
  .scroll { margin: 0 -16px; padding: 0 16px; }
  table { font-size: 14px; }
  th, td { padding: 8px; }
  tbody th { min-width: 7.5em; }
  tr > .number + :not(.number) { padding-left: 16px; }
  .chart { padding: 14px 12px 12px; }
  .chart text, .charts.single text { font-size: 16px; }
  .pictures { grid-template-columns: 1fr 1fr; gap: 12px; }
}
@media print {
  body { background: #fff; }
  nav { display: none; }
  .block, .chart, .card { break-inside: avoid; box-shadow: none; }
}
"""

# Arrow keys: left and right walk through all pictures, up and down stay in the column and change the row.
SCRIPT = """
const zoom = document.querySelector('dialog'), shown = zoom.querySelector('img'), label = zoom.querySelector('p');
const buttons = [...document.querySelectorAll('.pictures button')];
let at = 0;
function show(index) {
  at = (index + buttons.length) % buttons.length;
  const picture = buttons[at].firstElementChild;
  shown.src = picture.src; shown.alt = picture.alt; label.textContent = picture.alt;
}
function changeRow(by) {
  const rows = [...document.querySelectorAll('.pictures')], row = buttons[at].closest('.pictures');
  const column = [...row.querySelectorAll('button')].indexOf(buttons[at]);
  const next = rows[(rows.indexOf(row) + by + rows.length) % rows.length].querySelectorAll('button');
  show(buttons.indexOf(next[Math.min(column, next.length - 1)]));
}
buttons.forEach((button, index) => button.onclick = () => { show(index); zoom.showModal(); });
shown.onclick = () => zoom.close();
zoom.onclose = () => buttons[at].focus();
zoom.querySelector('.back').onclick = () => show(at - 1);
zoom.querySelector('.next').onclick = () => show(at + 1);
zoom.querySelector('.close').onclick = () => zoom.close();
zoom.onkeydown = event => {
  const step = {ArrowLeft: () => show(at - 1), ArrowRight: () => show(at + 1),
                ArrowUp: () => changeRow(-1), ArrowDown: () => changeRow(1)}[event.key];
  if (step) { event.preventDefault(); step(); }
};
"""
