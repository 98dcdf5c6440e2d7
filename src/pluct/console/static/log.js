// The live log: rows as they come, newest first, as text and nothing else. So many are kept.
"use strict";

const ROWS_MAX = 200;
const list = document.getElementById("log");
const state = document.getElementById("state");
const pause = document.getElementById("pause");
let source = null;

function piece(text, className) {
  const span = document.createElement("span");
  span.textContent = text;
  if (className) span.className = className;
  return span;
}

function link(address, id, shown) {
  const anchor = document.createElement("a");
  anchor.href = address + encodeURIComponent(id);
  anchor.textContent = shown;
  anchor.className = "id";
  return anchor;
}

function add(row) {
  list.prepend(row);
  while (list.children.length > ROWS_MAX) list.lastElementChild.remove();
}

function show(event) {
  const row = document.createElement("li");
  const kind = event.status < 400 ? "good" : event.status < 500 ? "warn" : "bad";
  row.append(
    piece(new Date(event.at).toTimeString().slice(0, 8), "soft"), piece(String(event.status), "state " + kind),
    piece(event.method + " " + event.route), piece(Math.round(event.ms * 10) / 10 + " ms", "soft"),
  );
  if (event.code) row.append(piece(event.code.replaceAll("_", " ")));
  if (event.userId) row.append(link("/console/user?id=", event.userId, event.userId));
  const ticket = event.ticketId;
  if (ticket) row.append(link("/console/ticket?id=", ticket, "ticket " + ticket.slice(0, 8) + "…"));
  if (event.replayed) row.append(piece("replayed", "soft"));
  add(row);
}

function lost(count) {
  const row = document.createElement("li");
  row.append(piece(`… and ${count.toLocaleString()} more`, "soft"));
  add(row);
}

function start() {
  state.textContent = "Connecting…";
  source = new EventSource(list.dataset.stream);
  source.onopen = () => { state.textContent = "Watching. Rows appear as requests are answered."; };
  source.onmessage = (message) => show(JSON.parse(message.data));
  source.addEventListener("lost", (message) => lost(JSON.parse(message.data).lost));
  source.onerror = () => {
    state.textContent = source.readyState === EventSource.CLOSED
      ? "The server does not show it now: too many watch, or you are signed out. Reload the page."
      : "The connection was lost; trying again…";
  };
  pause.textContent = "Pause";
}

pause.addEventListener("click", () => {
  if (source === null) return start();
  source.close();
  source = null;
  state.textContent = "Paused. What happens meanwhile is not shown.";
  pause.textContent = "Go on";
});
pause.hidden = false;
start();
