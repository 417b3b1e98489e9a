// The last hour as lines in SVG, each with its figures as text.

import { bytes, count, moment } from "./format.js";
import { setText } from "./tables.js";

const SVG = "http://www.w3.org/2000/svg";
const POINTS = 120;
const HEIGHT = 30;
const CHARTS = [
  { name: "sessions", title: () => "Sessions", format: count },
  { name: "new", title: (interval) => `New sessions in ${interval} s`, format: count },
  { name: "bytes", title: (interval) => `Bytes in ${interval} s`, format: bytes },
  { name: "failures", title: (interval) => `Failures in ${interval} s`, format: count },
];

/** Draw the charts of one object: `series` has its points by name, the oldest first. */
export function drawCharts(container, series, interval, end) {
  CHARTS.forEach(({ name, title, format }, index) => {
    const figure = container.children[index] ?? container.appendChild(makeFigure());
    const [svg, caption] = figure.children;
    const points = series[name] ?? [];
    const heading = title(interval);
    setText(caption.firstChild, heading);
    if (points.length === 0) {
      setText(caption.lastChild, "no figures yet");
      svg.setAttribute("aria-label", `${heading}: no figures yet`);
      svg.firstChild.setAttribute("d", "");
      return;
    }
    const highest = Math.max(...points);
    const figures = `${format(points.at(-1))} now, ${format(highest)} at most`;
    setText(caption.lastChild, figures);
    svg.setAttribute("aria-label",
      `${heading} from ${moment(end - points.length * interval)} to ${moment(end)}: ${figures}`);
    svg.firstChild.setAttribute("d", path(points, highest));
  });
}

/** The newest point is at the right edge. */
function path(points, highest) {
  const left = POINTS - points.length;
  const places = points.map((point, index) => {
    const y = HEIGHT - 1 - (point / (highest || 1)) * (HEIGHT - 2);
    return `${left + index + 0.5} ${y.toFixed(2)}`;
  });
  if (places.length === 1) places.unshift(places[0].replace(/^\S+/, String(left)));
  return `M${places.join("L")}`;
}

function makeFigure() {
  const figure = document.createElement("figure");
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("role", "img");
  svg.setAttribute("viewBox", `0 0 ${POINTS} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.append(document.createElementNS(SVG, "path"));
  const caption = document.createElement("figcaption");
  caption.append(document.createElement("b"), document.createElement("span"));
  figure.append(svg, caption);
  return figure;
}
