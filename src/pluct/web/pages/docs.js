"use strict";
// Reads /openapi.json and shows every route with a form to try it. Secrets live in `secrets` only, as long as the page.

const TIMEOUT_MS = 30_000;
const secrets = {}; // by security scheme
let description; // the document

/** An element: `el("p.quiet", {id: "x"}, "text", child)`. */
function el(kind, attributes = {}, ...children) {
  const [tag, ...classes] = kind.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.flat().filter((child) => child !== null));
  return node;
}

/** A sentence, with `code` between backticks. */
const prose = (text) => text.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));

/** A long name that may break after its slashes and underscores. */
const breakable = (text) => text.match(/[^/_]*[/_]|[^/_]+$/g).flatMap((part) => [part, el("wbr")]);

// Schemas

/** A schema without its reference, and without the null that only says "may be left out". */
function resolved(schema) {
  if (schema?.$ref) return resolved(description.components.schemas[schema.$ref.split("/").pop()]);
  const others = schema?.anyOf?.filter((choice) => choice.type !== "null");
  return others?.length === 1 ? { ...resolved(others[0]), ...schema, anyOf: undefined } : schema ?? {};
}

function typeName(raw) {
  const schema = resolved(raw);
  if (schema.anyOf) return schema.anyOf.map(typeName).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  return schema.type === "array" ? `list of ${typeName(schema.items)}s` : schema.type ?? "anything";
}

/** A type with its limits and default, as "integer, 0 to 100, default 50". */
function typeText(raw, ...more) {
  const schema = resolved(raw);
  const span = (low, high, unit) =>
    low === undefined ? high !== undefined && `at most ${high}${unit}`
    : high === undefined ? `at least ${low}${unit}` : `${low} to ${high}${unit}`;
  const standard = schema.default ?? null;
  return [
    typeName(schema), span(schema.minimum, schema.maximum, ""), span(schema.minLength, schema.maxLength, " characters"),
    standard !== null && `default ${JSON.stringify(standard)}`, ...more,
  ].filter(Boolean).join(", ");
}

/** The rows of a table: a schema's fields, and the fields of what they hold. */
function fieldRows(raw, isRequest, prefix = "", depth = 0) {
  const schema = resolved(raw);
  return Object.entries(schema.properties ?? {}).flatMap(([name, field]) => {
    const inner = resolved(field);
    const must = schema.required?.includes(name);
    const note = isRequest ? must && "required" : !must && inner.default === null && "if there is one";
    const row = fieldRow(prefix + name, typeText(field, note), inner.description);
    const [held, joint] = inner.type === "array" ? [inner.items, "[]."] : [inner, "."];
    return [row, ...(depth < 3 ? fieldRows(held, isRequest, prefix + name + joint, depth + 1) : [])];
  });
}

const fieldRow = (name, type, text) =>
  el("tr", {}, el("th", { scope: "row" }, el("code", {}, name)), el("td", {}, type, text ? el("small", {}, prose(text)) : null));

const titledTable = (title, rows, text) =>
  [el("h3", {}, title), text ? el("p.quiet", {}, prose(text)) : null, rows.length ? el("table", {}, el("tbody", {}, rows)) : null];

/** The document's own example, or the fields that must be there. */
function example(raw) {
  const schema = resolved(raw);
  const value = (field) => ({ integer: 1, boolean: true, array: [], object: {} })[resolved(field).type] ?? "…";
  const made = (schema.required ?? []).map((name) => [name, value(schema.properties[name])]);
  return JSON.stringify(schema.examples?.[0] ?? Object.fromEntries(made), null, 2);
}

// One route

/** The security schemes a route takes, each with its roles; none if anyone may ask. */
function schemesOf(operation) {
  const found = {};
  for (const choice of operation.security ?? []) {
    for (const [scheme, roles] of Object.entries(choice)) (found[scheme] ??= []).push(...roles);
  }
  return found;
}

function routeView(path, method, operation) {
  const roles = [...new Set(Object.values(schemesOf(operation)).flat())].join(", ") || "anyone";
  const summary = el("summary", {},
    el(`span.method.${method}`, {}, method.toUpperCase()), el("code", {}, breakable(path)),
    el("span", {}, operation.summary), el("span.quiet", {}, roles));
  const about = el("div", {}, operation.description ? el("p", {}, prose(operation.description)) : null, el("p", {}, `For: ${roles}.`));
  const parameters = operation.parameters ?? [];
  if (parameters.length) {
    about.append(...titledTable("Parameters", parameters.map((p) =>
      fieldRow(p.name, typeText(p.schema, `in the ${p.in}`, p.required && "required"), p.description))));
  }
  const body = operation.requestBody?.content["application/json"].schema;
  if (body) about.append(...titledTable("Body", fieldRows(body, true), resolved(body).description).filter(Boolean));
  for (const [status, response] of Object.entries(operation.responses)) {
    const schema = Object.values(response.content ?? {})[0]?.schema;
    const rows = schema ? fieldRows(schema, false) : [];
    const text = [response.description, schema && resolved(schema).description].filter(Boolean).join(" ");
    const title = status === "default" ? ["Errors ", el("a", { href: "#errors" }, "and their codes")] : `Answer ${status}`;
    about.append(...titledTable("", rows, text).slice(1).filter(Boolean).reduce((all, n) => [...all, n], [el("h3", {}, title)]));
  }
  const view = el("details.route", { id: operation.operationId }, summary, el("div.inside", {}, about, tryForm(path, method, operation)));
  view.dataset.find = `${method} ${path} ${operation.summary} ${operation.description ?? ""} ${roles}`.toLowerCase();
  return view;
}
