// Small charts as SVG: stacked areas over time, sparklines, bars, and the time line of one hook.

import { h, s } from "./dom.js";
import { grouped } from "./words.js";

/** Points of a step line through values of one second each; nulls are gaps at zero. */
function area(lower, upper, scale, height) {
  const y = (value) => (height - Math.min(1, value * scale) * height).toFixed(2);
  const forth = upper.map((value, at) => `${at === 0 ? "M" : "L"}${at} ${y(value)}L${at + 1} ${y(value)}`).join("");
  const back = lower
    .map((value, at) => `L${at + 1} ${y(value)}L${at} ${y(value)}`)
    .reverse()
    .join("");
  return `${forth}${back}Z`;
}

/** A round number not below the value, whose half is easily read too. */
export function roundUp(value) {
  if (value <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10].map((step) => Math.round(step * power * 10) / 10).find((step) => step >= value);
}

/**
 * Stacked areas. `series` are `{key, colour, values}` from the bottom up, all of one length.
 * Answers the value at the top of the scale.
 */
export function stacked(parent, series, label) {
  const length = series[0]?.values.length ?? 0;
  const sums = new Array(length).fill(0);
  for (const { values } of series) values.forEach((value, at) => (sums[at] += value ?? 0));
  const top = roundUp(Math.max(0.5, ...sums));
  const picture = s("svg", { viewBox: `0 0 ${Math.max(1, length)} 100`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  for (const line of [25, 50, 75]) {
    picture.append(s("line", { x1: 0, x2: length, y1: line, y2: line, class: "grid", "vector-effect": "non-scaling-stroke" }));
  }
  const below = new Array(length).fill(0);
  for (const { colour, values } of series) {
    if (!values.some((value) => value > 0)) continue;
    const above = values.map((value, at) => below[at] + (value ?? 0));
    picture.append(s("path", { d: area(below, above, 1 / top, 100), class: `fill-${colour}` }));
    above.forEach((value, at) => (below[at] = value));
  }
  parent.replaceChildren(
    picture,
    h("span", { class: "axis top", "aria-hidden": "true" }, grouped(top)),
    h("span", { class: "axis middle", "aria-hidden": "true" }, grouped(Math.round(top * 5) / 10)),
  );
  return top;
}

/** A sparkline: all hooks, and over them those that failed. */
export function sparkline(rates, failures) {
  const length = rates.length;
  const top = Math.max(0.5, ...rates);
  const zero = new Array(length).fill(0);
  return s(
    "svg",
    { viewBox: `0 0 ${Math.max(1, length)} 24`, preserveAspectRatio: "none", class: "spark", "aria-hidden": "true" },
    s("path", { d: length ? area(zero, rates, 1 / top, 24) : "", class: "fill-ok" }),
    failures.some((value) => value > 0) ? s("path", { d: area(zero, failures, 1 / top, 24), class: "fill-failure" }) : null,
  );
}

/** One bar of parts, `[{colour, share}]` with shares of 1. */
export function bar(parts, label) {
  const picture = s("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", class: "share", role: "img", "aria-label": label });
  let left = 0;
  for (const { colour, share } of parts) {
    const width = share * 100;
    if (width > 0) picture.append(s("rect", { x: left.toFixed(2), y: 0, width: width.toFixed(2), height: 8, class: `fill-${colour}` }));
    left += width;
  }
  return picture;
}

/** Milliseconds that the time line shows: up to the budget's end, unless the hook took but a small part of it. */
export function timelineSpan(duration, budget) {
  const taken = Math.max(duration ?? 0, 0.001);
  return budget && taken > budget / 5 ? Math.max(taken, budget) : taken;
}

/** One hook on a line of its own time: where its attempts lay, and where its budget ended. All in milliseconds. */
export function timeline({ duration, budget, attempts }) {
  const end = timelineSpan(duration, budget) * 1.02;
  const x = (at) => ((Math.max(0, at) / end) * 1000).toFixed(2);
  const rows = Math.max(1, attempts.length);
  const height = rows * 22 + 8;
  const picture = s("svg", { viewBox: `0 0 1000 ${height}`, preserveAspectRatio: "none", class: "timeline", "aria-hidden": "true" });
  picture.append(s("rect", { x: 0, y: 0, width: x(duration), height, class: "whole" }));
  attempts.forEach((attempt, row) => {
    const y = row * 22 + 6;
    const queued = attempt.queued_ms ?? 0;
    const began = attempt.began_ms ?? 0;
    if (queued > 0) picture.append(s("rect", { x: x(began), y: y + 5, width: x(queued), height: 6, class: "queued" }));
    const width = Math.max(4, Number(x((attempt.duration_ms ?? 0) - queued)));
    picture.append(s("rect", { x: x(began + queued), y, width, height: 16, class: `fill-${attempt.colour}` }));
  });
  if (budget && budget < end) {
    picture.append(s("line", { x1: x(budget), x2: x(budget), y1: 0, y2: height, class: "budget", "vector-effect": "non-scaling-stroke" }));
  }
  return picture;
}
