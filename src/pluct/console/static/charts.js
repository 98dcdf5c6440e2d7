// Draws the charts of a page: each canvas carries its figures. In the colours of the page, also when those change.
"use strict";

const dark = matchMedia("(prefers-color-scheme: dark)");
const drawn = [];

function label(at, step) {
  const time = new Date(at);
  return step === "day"
    ? time.toLocaleDateString(undefined, { day: "numeric", month: "short", timeZone: "UTC" })
    : time.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" });
}

// A value with none before it and none after it would be a line of no length.
function alone(values, at) {
  return values[at - 1] == null && values[at + 1] == null;
}

function draw(canvas) {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const chart = JSON.parse(canvas.dataset.chart);
  const bars = chart.kind === "bar";
  const axis = (more) => ({
    ...more, grid: { color: colour("line") }, border: { color: colour("line") },
    ticks: { color: colour("soft"), maxRotation: 0, autoSkipPadding: 16, precision: bars ? 0 : undefined },
  });
  return new Chart(canvas, {
    type: chart.kind,
    data: {
      labels: chart.at.map((at) => label(at, canvas.dataset.step)),
      datasets: chart.series.map((series) => ({
        label: series.name, data: series.values, backgroundColor: colour(series.colour),
        borderColor: colour(series.colour), borderWidth: bars ? 0 : 2, pointHitRadius: 12,
        pointRadius: (at) => (alone(series.values, at.dataIndex) ? 2 : 0),
      })),
    },
    options: {
      animation: false, maintainAspectRatio: false, interaction: { mode: "index", intersect: false },
      scales: { x: axis({ stacked: bars }), y: axis({ stacked: bars, beginAtZero: true }) },
      plugins: {
        legend: { display: chart.series.length > 1, position: "bottom",
          labels: { color: colour("ink"), boxWidth: 12, boxHeight: 12 } },
        tooltip: { callbacks: { label: (item) => ` ${item.dataset.label}: ${item.formattedValue} ${chart.unit}` } },
      },
    },
  });
}

function drawAll() {
  for (const chart of drawn.splice(0)) chart.destroy();
  for (const canvas of document.querySelectorAll("canvas[data-chart]")) drawn.push(draw(canvas));
}

dark.addEventListener("change", drawAll);
drawAll();
