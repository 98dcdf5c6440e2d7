"use strict";
// Reads /openapi.json and shows every route with a form to try it. Secrets live in `secrets` only, as long as the page.

const TIMEOUT_MS = 30_000;
const DEPTH_MAX = 3;
const secrets = {}; // by security scheme
let api; // the document

/** An element: `el("p.quiet", {id: "x"}, "text", child)`. */
function el(kind, attributes = {}, ...children) {
  const [tag, ...classes] = kind.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.flat(9).filter(Boolean));
  return node;
}

/** A sentence, with `code` between backticks. */
const prose = (text) => text.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));

/** A long name that may break after its slashes and underscores. */
const breakable = (text) => text.match(/[^/_]*[/_]|[^/_]+$/g).flatMap((part) => [part, el("wbr")]);

// Schemas

/** A schema without its reference, and without the null that only says "may be left out". */
function resolved(schema = {}) {
  if (schema.$ref) return resolved(api.components.schemas[schema.$ref.split("/").pop()]);
  const others = schema.anyOf?.filter((choice) => choice.type !== "null") ?? [];
  return others.length === 1 ? { ...resolved(others[0]), ...schema, anyOf: undefined } : schema;
}

function typeName(raw) {
  const schema = resolved(raw);
  if (schema.anyOf) return schema.anyOf.map(typeName).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  return schema.type === "array" ? `list of ${typeName(schema.items)}s` : schema.type ?? "anything";
}

/** A type with its limits and default, as "integer, 0 to 100, default 50". */
function typeText(raw, ...notes) {
  const schema = resolved(raw);
  const limits = (low, high, unit) => {
    if (low !== undefined && high !== undefined) return `${low} to ${high}${unit}`;
    if (low !== undefined) return `at least ${low}${unit}`;
    return high !== undefined && `at most ${high}${unit}`;
  };
  return [
    typeName(schema), limits(schema.minimum, schema.maximum, ""),
    limits(schema.minLength, schema.maxLength, " characters"), ...notes,
    (schema.default ?? null) !== null && `default ${JSON.stringify(schema.default)}`,
  ].filter(Boolean).join(", ");
}

const row = (name, type, text) =>
  el("tr", {}, el("th", { scope: "row" }, el("code", {}, name)), el("td", {}, type, text && el("small", {}, prose(text))));

/** The rows of a table: a schema's fields, and under each the fields of what it holds. */
function rowsOf(raw, note, prefix = "", depth = 1) {
  const schema = resolved(raw);
  return Object.entries(schema.properties ?? {}).flatMap(([name, field]) => {
    const { type, items, description, default: standard } = resolved(field);
    const here = row(prefix + name, typeText(field, note(schema.required?.includes(name), standard)), description);
    if (depth === DEPTH_MAX) return [here];
    const [held, joint] = type === "array" ? [items, "[]."] : [field, "."];
    return [here, ...rowsOf(held, note, prefix + name + joint, depth + 1)];
  });
}
const asked = (required) => required && "required";
const told = (required, standard) => !required && standard === null && "if there is one";

/** A heading, a sentence or none, and a table or none. */
const section = (title, text, rows) =>
  [el("h3", {}, title), text && el("p.quiet", {}, prose(text)), rows.length > 0 && el("table", {}, el("tbody", {}, rows))];

/** The document's own example, or the fields that must be there. */
function example(raw) {
  const { examples, required = [], properties } = resolved(raw);
  const values = { integer: 1, boolean: true, array: [], object: {} };
  const least = () => Object.fromEntries(required.map((name) => [name, values[resolved(properties[name]).type] ?? "…"]));
  return JSON.stringify(examples?.[0] ?? least(), null, 2);
}

// Routes

/** The security schemes a route takes, each with its roles; none if anyone may ask. */
function schemesOf(operation) {
  const found = {};
  for (const choice of operation.security ?? []) {
    for (const [scheme, roles] of Object.entries(choice)) (found[scheme] ??= []).push(...roles);
  }
  return found;
}

const jsonOf = (holder) => holder?.content?.["application/json"]?.schema;

function routeView(path, method, operation) {
  const { operationId, summary, description, parameters = [], requestBody, responses } = operation;
  const roles = [...new Set(Object.values(schemesOf(operation)).flat())].join(", ") || "anyone";
  const body = jsonOf(requestBody);
  const answer = jsonOf(responses[200]);
  const view = el("details.route", { id: operationId },
    el("summary", {},
      el(`span.method.${method}`, {}, method.toUpperCase()), el("code", {}, breakable(path)),
      el("span", {}, summary), el("span.quiet", {}, roles)),
    el("div.inside", {},
      el("div", {},
        description && el("p", {}, prose(description)),
        el("p", {}, `For: ${roles}.`),
        parameters.length > 0 && section("Parameters", null, parameters.map((parameter) =>
          row(parameter.name, typeText(parameter.schema, `in the ${parameter.in}`, asked(parameter.required)), parameter.description))),
        body && section("Body", resolved(body).description, rowsOf(body, asked)),
        section("Answer", answer ? resolved(answer).description : responses[200].description, rowsOf(answer, told)),
        section("Errors", responses.default.description, []),
        el("p", {}, el("a", { href: "#errors" }, "All error codes"))),
      tryForm(path, method, operation)));
  view.dataset.find = [method, path, summary, description, roles].join(" ").toLowerCase();
  return view;
}

function field(title, hint, input) {
  return el("label", {}, title, " ", hint && el("small", {}, prose(hint)), input);
}

/** The form that sends one request, shows the answer, and the same call for the command line. */
function tryForm(path, method, operation) {
  const text = { autocomplete: "off", autocapitalize: "off", spellcheck: "false" };
  const schemes = schemesOf(operation);
  const inputs = (operation.parameters ?? []).map((parameter) => {
    const input = el("input", { ...text, ...(parameter.required && { required: "" }) });
    return { parameter, input, label: field(parameter.name, `in the ${parameter.in}`, input) };
  });
  const content = jsonOf(operation.requestBody);
  const body = content && el("textarea", { ...text, rows: 6 });
  if (body) body.value = example(content);
  const credentials = Object.entries(schemes).map(([scheme, roles]) => {
    const input = el("input", { ...text, type: "password" });
    input.dataset.scheme = scheme;
    input.addEventListener("input", () => keepSecret(scheme, input.value));
    return field(api.components.securitySchemes[scheme].description, `(${roles.join(", ")})`, input);
  });
  const status = el("p", { role: "status" });
  const result = el("div", { hidden: "" });
  const command = el("pre", { tabindex: 0, "aria-label": "The same call with curl" });
  const copied = el("p.quiet", { role: "status" });
  const copy = el("button", { type: "button" }, "Copy");
  const form = el("form", {}, el("h3", {}, "Try it"),
    inputs.map(({ label }) => label), body && field("Body", "JSON", body), credentials,
    credentials.length > 0 && el("p.quiet", {},
      credentials.length > 1 && "The first one filled in is sent. ", "Secrets stay in this page until you close it."),
    el("div.row", {}, el("button.send", {}, "Send"), status), result,
    el("h4", {}, "With curl"), command, el("div.row", {}, copy, copied));

  const call = () => requestOf(path, method, schemes, inputs, body);
  const refresh = () => command.replaceChildren(curl(call()));
  let busy = false;
  form.addEventListener("refresh", refresh);
  form.addEventListener("input", refresh);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (busy) return;
    busy = true;
    status.replaceChildren("Sending…");
    await send(call(), status, result);
    busy = false;
  });
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command.textContent);
      copied.textContent = "Copied.";
    } catch { // only https and localhost may write to the clipboard
      getSelection().selectAllChildren(command);
      copied.textContent = "Selected: copy it with your keyboard.";
    }
  });
  refresh();
  return form;
}

/** Remember a secret, and show it in every form that takes it. */
function keepSecret(scheme, value) {
  secrets[scheme] = value;
  for (const input of document.querySelectorAll(`[data-scheme="${scheme}"]`)) {
    if (input.value !== value) input.value = value;
    input.form.dispatchEvent(new Event("refresh"));
  }
}

// Requests

/** What a form asks for. A secret is named here by its scheme only. */
function requestOf(path, method, schemes, inputs, body) {
  const query = new URLSearchParams();
  const headers = body ? { "Content-Type": "application/json" } : {};
  let address = path;
  for (const { parameter, input: { value } } of inputs) {
    if (parameter.in === "path") address = address.replace(`{${parameter.name}}`, value ? () => encodeURIComponent(value) : "$&");
    else if (value && parameter.in === "query") query.set(parameter.name, value);
    else if (value) headers[parameter.name] = value;
  }
  const names = Object.keys(schemes);
  const scheme = names.find((name) => secrets[name]) ?? names[0];
  const search = query.size ? `?${query}` : "";
  return { url: location.origin + address + search, method: method.toUpperCase(), headers, body: body?.value, scheme };
}

/** The header that carries a credential. */
function credential(scheme, secret) {
  const { type, name } = api.components.securitySchemes[scheme];
  return type === "http" ? ["Authorization", `Bearer ${secret}`] : [name, secret];
}

/** The call as a shell command; a secret is a variable such as $API_KEY. */
function curl({ url, method, headers, body, scheme }) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const parts = [`curl ${method === "GET" ? "" : `-X ${method} `}${quoted(url)}`];
  for (const [name, value] of Object.entries(headers)) parts.push(`-H ${quoted(`${name}: ${value}`)}`);
  if (scheme) parts.push(`-H "${credential(scheme, `$${scheme.replace(/[A-Z]/g, "_$&").toUpperCase()}`).join(": ")}"`);
  if (body !== undefined) parts.push(`--data-raw ${quoted(body)}`);
  return parts.join(" \\\n  ");
}

/** Send a request and show what came of it. */
async function send({ url, method, headers, body, scheme }, status, result) {
  const given = Object.entries(headers);
  if (secrets[scheme]) given.push(credential(scheme, secrets[scheme]));
  const bytes = (text) => String.fromCharCode(...new TextEncoder().encode(text)); // headers go as UTF-8
  const started = performance.now();
  try {
    const answer = await fetch(url, {
      method, body, headers: given.map(([name, value]) => [name, bytes(value)]),
      cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    const text = await answer.text();
    const took = Math.round(performance.now() - started);
    const shown = pretty(text);
    status.replaceChildren(...el("p", {},
      el(answer.ok ? "strong" : "strong.bad", {}, `${answer.status} ${answer.statusText}`.trim()), ` in ${took} ms`,
      document.getElementById(shown.code) && [" ", el("a", { href: `#${shown.code}` }, "What this means")]).childNodes);
    result.replaceChildren(
      el("h4", {}, "Answer"), el("pre", { tabindex: 0, "aria-label": "Answer" }, shown.text || "(empty)"),
      el("h4", {}, "Headers"), el("pre", { tabindex: 0, "aria-label": "Headers" }, [...answer.headers].map((h) => h.join(": ")).join("\n")));
    result.hidden = false;
  } catch (error) {
    result.hidden = true;
    const late = error.name === "TimeoutError" && `No answer within ${TIMEOUT_MS / 1000} seconds.`;
    status.replaceChildren(el("span.bad", {}, late || `The request could not be sent: ${error.message}.`));
  }
}

/** JSON with indents, and its error code if it has one; any other text as it is. */
function pretty(text) {
  try {
    const value = JSON.parse(text);
    return { text: JSON.stringify(value, null, 2), code: value?.code };
  } catch {
    return { text };
  }
}

// The page

function groupViews() {
  const groups = new Map(api.tags.map(({ name, description }) => [name, { description, routes: [] }]));
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      groups.get(operation.tags[0]).routes.push(routeView(path, method, operation));
    }
  }
  return [...groups].map(([name, { description, routes }]) =>
    el("section", {}, el("h2", {}, name), el("p", {}, prose(description)), el("div.group", {}, routes)));
}

function errorsView() {
  const cells = ({ status, code, detail }) => {
    const view = el("tr", { id: code },
      el("td", {}, String(status)), el("th", { scope: "row" }, el("code", {}, breakable(code))), el("td", {}, prose(detail)));
    view.dataset.find = `${status} ${code} ${detail}`.toLowerCase();
    return view;
  };
  const heads = ["Status", "Code", "What it means"].map((title) => el("th", { scope: "col" }, title));
  return el("section", { id: "errors" }, el("h2", {}, "Errors"),
    el("p", {}, "What each code means. The answer's own sentence often says more."),
    el("div.group.errors", {}, el("table", {}, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, api["x-errors"].map(cells)))),
    section("The fields of an error", resolved(api.components.schemas.Problem).description, rowsOf(api.components.schemas.Problem, told)));
}

/** Hide what does not have every word, and say how much is left. */
function filter(words, count) {
  const left = { DETAILS: 0, TR: 0 };
  for (const view of document.querySelectorAll("[data-find]")) {
    view.hidden = !words.every((word) => view.dataset.find.includes(word));
    if (!view.hidden) left[view.tagName] += 1;
  }
  for (const part of document.querySelectorAll("main section")) {
    part.hidden = !part.querySelector("[data-find]:not([hidden])");
  }
  const plural = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
  count.textContent = `${plural(left.DETAILS, "route")}, ${plural(left.TR, "error code")}`;
}

function show() {
  const { title, version, description } = api.info;
  document.title = title;
  document.querySelector("h1").textContent = title;
  const search = el("input", { type: "search", autocomplete: "off", spellcheck: "false" });
  const count = el("p.quiet", { role: "status" });
  const apply = () => filter(search.value.toLowerCase().split(/\s+/).filter(Boolean), count);
  const reveal = () => {
    const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (named?.closest("[hidden]")) {
      search.value = "";
      apply();
    }
    if (named?.tagName === "DETAILS") named.open = true;
  };
  document.querySelector("main").replaceChildren(
    el("p", {}, prose(description)),
    el("p.quiet", {}, `Version ${version}. For machines: `, el("a", { href: "/openapi.json" }, "/openapi.json"), "."),
    el("div.filter", { id: "routes", tabindex: -1 }, field("Filter", "a path, a word, a role or an error code", search)), count,
    ...groupViews(), errorsView());
  search.addEventListener("input", apply);
  addEventListener("hashchange", () => {
    reveal();
    document.querySelector(":target")?.scrollIntoView();
  });
  apply();
  reveal();
  if (location.hash) location.replace(location.href); // now that its target is there
}

fetch("/openapi.json").then((answer) => answer.json()).then((found) => {
  api = found;
  show();
}).catch((error) => {
  document.querySelector("main").replaceChildren(
    el("p.bad", { role: "alert" }, `The document /openapi.json could not be shown: ${error.message}. Reload to try again.`));
});
