"use strict";
// Draws the charts in the colours of the page, and again if those change (light, dark, print).
const figures = JSON.parse(document.getElementById("figures").textContent);
const style = getComputedStyle(document.documentElement);
const touch = matchMedia("(pointer: coarse)").matches; // dragging scrolls the page instead of zooming

function resolve(value) {
  if (typeof value === "string") return value.startsWith("--") ? style.getPropertyValue(value).trim() : value;
  if (Array.isArray(value)) return value.map(resolve);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, resolve(inner)]));
}

function draw() {
  for (const [id, figure] of Object.entries(figures)) {
    const chart = document.getElementById(id);
    const layout = { ...resolve(figure.layout), autosize: true, dragmode: touch ? false : "zoom" };
    Plotly.react(chart, resolve(figure.data), layout, {
      responsive: true,
      displayModeBar: false,
    });
    Plotly.Plots.resize(chart);
  }
}

draw();
for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", draw);
