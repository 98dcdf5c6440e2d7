"use strict";
// Reads /openapi.json and shows it: each route with what it takes and answers, and a form to try it.

function el(tag, props = {}, ...children) {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
}

const LINES_MAX = 200; // of a stream, which has no end

let api;

function resolve(schema) {
  return schema && schema.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema || {};
}

function kindOf(schema) {
  const s = resolve(schema);
  if (s.anyOf) return s.anyOf.map(kindOf).filter((kind) => kind !== "null").join(" or ");
  if (s.enum) return s.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (s.type === "array") return `list of ${kindOf(s.items)}`;
  if (s.$ref || s.properties) return s.title || "object";
  const limits = [s.minimum !== undefined ? `from ${s.minimum}` : "", s.maximum !== undefined ? `to ${s.maximum}` : ""];
  return [s.type === "integer" ? "whole number" : s.type || "any", ...limits].filter(Boolean).join(" ");
}

function defaultOf(field) {
  return field.default === undefined || field.default === null ? "" : `default ${JSON.stringify(field.default)}`;
}

// The objects that a schema is made of, each once, in the order they are named; one that holds its like has an end.
function objectsIn(schema, found = new Map()) {
  const s = resolve(schema);
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    if (found.has(name)) return found;
    found.set(name, s);
  }
  const parts = [...Object.values(s.properties || {}), ...(s.anyOf || []), s.items, s.additionalProperties];
  for (const part of parts) if (part && typeof part === "object") objectsIn(part, found);
  return found;
}

// A table of what the schema has, and below it one for each object that is named in it.
function fields(schema, what) {
  const itself = resolve(schema);
  const below = [...objectsIn(schema)].filter(([, object]) => object.properties && object !== itself);
  return el("div", {}, fieldTable(schema, what),
    ...below.flatMap(([name, object]) => [el("h4", { textContent: name }), fieldTable(object, what)]));
}

function fieldTable(schema, what) {
  const s = resolve(schema);
  const required = new Set(s.required || []);
  const rows = Object.entries(s.properties || {}).map(([name, field]) =>
    el("tr", {}, el("td", {}, el("code", { textContent: name })), el("td", { textContent: kindOf(field) }),
      el("td", { textContent: required.has(name) ? what : defaultOf(field) })));
  return el("div", { className: "scroll", tabIndex: 0 }, el("table", {}, el("tbody", {}, ...rows)));
}

function shellQuoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function curl(request) {
  const secrets = { authorization: "Bearer $PLUCT_KEY", "x-webhook-secret": "$WEBHOOK_SECRET" };
  const lines = [`curl -X ${request.method} ${shellQuoted(request.url)}`];
  for (const [name, value] of Object.entries(request.headers)) {
    lines.push(secrets[name] ? `-H "${name}: ${secrets[name]}"` : `-H ${shellQuoted(`${name}: ${value}`)}`);
  }
  if (request.body !== undefined) lines.push(`-d ${shellQuoted(request.body)}`);
  return lines.join(" \\\n  ");
}

// Why these headers cannot be sent, where they cannot.
function unsendable(headers) {
  for (const [name, value] of Object.entries(headers)) {
    const odd = value.match(/[^\t\x20-\xff]/u);
    if (odd && name === "authorization") return `The key has characters that no key has: “${odd[0]}”.`;
    if (odd) return `${name} has characters that no header can have: “${odd[0]}”.`;
  }
  return "";
}

// The last lines of a stream, as they come.
async function follow(answer, into) {
  const lines = [];
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let begun = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const came = (begun + value).split("\n");
    begun = came.pop();
    lines.push(...came.filter((line) => line.trim()));
    lines.splice(0, lines.length - LINES_MAX);
    const last = into.scrollTop + into.clientHeight >= into.scrollHeight - 4;
    into.textContent = lines.join("\n");
    if (last) into.scrollTop = into.scrollHeight;
  }
}

async function showAnswer(answer, started, shown) {
  const type = answer.headers.get("content-type") || "";
  const streams = type.startsWith("text/event-stream");
  const text = streams ? "" : await answer.text();
  const ms = Math.round(performance.now() - started);
  const headers = [...answer.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
  const said = el("pre", { textContent: type.includes("json") ? JSON.stringify(JSON.parse(text), null, 2) : text });
  if (streams) Object.assign(said, { className: "stream", tabIndex: 0, ariaLive: "off" });
  shown.replaceChildren(
    el("h3", { textContent: `${answer.status} in ${ms} ms`, className: answer.ok ? "" : "bad" }),
    ...(streams ? [el("p", { textContent: `Lines as they come, the last ${LINES_MAX} of them:` })] : []), said,
    el("details", {}, el("summary", { textContent: "Headers" }), el("pre", { textContent: headers })),
  );
  if (!streams) return;
  await follow(answer, said);
  shown.append(el("p", { textContent: "The stream has ended." }));
}

// What a form does when it is sent. One request at a time: a stream that nobody reads would keep its connection.
function sender(request, shown, stop) {
  let running = null;
  stop.addEventListener("click", () => running.abort());
  return async (event) => {
    event.preventDefault();
    running?.abort();
    const mine = running = new AbortController();
    const asked = request();
    const wrong = unsendable(asked.headers);
    if (wrong) return shown.replaceChildren(el("p", { className: "bad", textContent: wrong }));
    shown.replaceChildren(el("p", { className: "wait", textContent: "Sending…" }));
    stop.hidden = false;
    const started = performance.now();
    try {
      await showAnswer(await fetch(asked.url, { ...asked, signal: mine.signal }), started, shown);
    } catch (error) {
      if (running !== mine) return;
      if (!mine.signal.aborted) {
        shown.replaceChildren(el("p", { className: "bad", textContent: `Nothing came back: ${error.message}` }));
      } else if (shown.querySelector(".wait")) {
        shown.replaceChildren(el("p", { textContent: "Stopped. What was asked may have been done." }));
      } else {
        shown.append(el("p", { textContent: "Stopped." }));
      }
    } finally {
      if (running === mine) stop.hidden = true;
    }
  };
}

function form(method, path, route) {
  const inputs = route.parameters.map((parameter) => {
    const input = el("input", { autocomplete: "off", spellcheck: false, required: parameter.required });
    if (parameter.name === "userId") input.value = "test-user-1";
    if (parameter.schema.default) input.placeholder = parameter.schema.default;
    return { parameter, input };
  });
  const taken = route.requestBody && route.requestBody.content["application/json"];
  const text = taken && JSON.stringify(taken.example ?? {}, null, 2);
  const body = taken && el("textarea", { value: text, rows: text.split("\n").length + 1, spellcheck: false });
  const shown = el("div", { ariaLive: "polite" });
  const copied = el("div", { ariaLive: "polite" });
  const stop = el("button", { type: "button", className: "quiet", textContent: "Stop", hidden: true });

  function request() {
    let url = path;
    const query = new URLSearchParams();
    const headers = {};
    for (const { parameter, input } of inputs) {
      if (parameter.in === "path") url = url.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
      else if (parameter.in === "query" && input.value) query.set(parameter.name, input.value);
      else if (parameter.in === "header" && input.value) headers[parameter.name] = input.value;
    }
    const bearer = document.getElementById("bearer").value;
    const webhook = document.getElementById("webhook").value;
    if (bearer) headers.authorization = `Bearer ${bearer}`;
    if (webhook) headers["x-webhook-secret"] = webhook;
    if (body) headers["content-type"] = "application/json";
    if (query.size) url += `?${query}`;
    return { method: method.toUpperCase(), url: location.origin + url, headers, body: body && body.value };
  }

  async function copy() {
    const text = curl(request());
    const line = el("pre", { textContent: text });
    try {
      await navigator.clipboard.writeText(text);
      copied.replaceChildren(el("p", { textContent: "Copied:" }), line);
    } catch {
      copied.replaceChildren(el("p", { textContent: "To copy:" }), line);
    }
  }

  const labels = inputs.map(({ parameter, input }) => el("label", {}, `${parameter.name} (${parameter.in})`, input));
  const made = el("form", {}, el("h3", { textContent: "Try it" }), ...labels,
    ...(body ? [el("label", {}, "Body", body)] : []),
    el("button", { textContent: "Send" }), stop,
    el("button", { type: "button", className: "quiet", textContent: "As curl", onclick: copy }), copied, shown);
  made.addEventListener("submit", sender(request, shown, stop));
  return made;
}

function routeNode(method, path, route) {
  const inside = el("div", { className: "inside" });
  const done = Object.entries(route.responses).find(([status]) => status.startsWith("2"))[1];
  const answer = done.content && done.content["application/json"];
  const node = el("details", { className: "route" },
    el("summary", {}, el("span", { className: `method ${method}`, textContent: method.toUpperCase() }),
      el("span", { className: "path", textContent: path }),
      el("span", { className: "about", textContent: route.summary })), inside);
  node.dataset.find = `${method} ${path} ${route.summary} ${route.description}`.toLowerCase();
  node.addEventListener("toggle", () => {
    if (!node.open || inside.childNodes.length) return;
    for (const line of route.description.split("\n\n")) inside.append(el("p", { textContent: line }));
    const takes = route.requestBody && route.requestBody.content["application/json"].schema;
    if (takes) inside.append(el("h3", { textContent: "Takes" }), fields(takes, "required"));
    if (answer) inside.append(el("h3", { textContent: "Answers" }), fields(answer.schema, ""));
    inside.append(form(method, path, route));
  });
  return node;
}

function show() {
  const groups = new Map(api.tags.map((tag) => [tag.name, [el("p", { textContent: tag.description })]]));
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, route] of Object.entries(methods)) {
      groups.get(route.tags[0]).push(routeNode(method, path, route));
    }
  }
  const sections = [...groups].map(([name, nodes]) => el("section", {}, el("h2", { textContent: name }), ...nodes));
  document.getElementById("routes").replaceChildren(...sections);
  document.querySelector("#errors tbody").replaceChildren(...api["x-errors"].map((error) =>
    el("tr", { id: error.code }, el("td", {}, el("code", { textContent: error.code })),
      el("td", { textContent: error.status }), el("td", { textContent: error.description }))));
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

document.getElementById("filter").addEventListener("input", (event) => {
  const words = event.target.value.toLowerCase().split(/\s+/);
  const routes = [...document.querySelectorAll(".route")];
  for (const node of routes) node.hidden = !words.every((word) => node.dataset.find.includes(word));
  const none = routes.length && routes.every((node) => node.hidden);
  document.getElementById("none").textContent = none ? "No route has these words." : "";
  for (const section of document.querySelectorAll("#routes section")) {
    section.hidden = !section.querySelector(".route:not([hidden])");
  }
});

async function begin() {
  try {
    api = await (await fetch("/openapi.json")).json();
    show();
  } catch (error) {
    const sentence = `The interface could not be read: ${error.message}. Reload to try again.`;
    document.getElementById("routes").replaceChildren(el("p", { className: "bad", textContent: sentence }));
  }
}

begin();
