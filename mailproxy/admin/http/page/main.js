// Asks for the status every few seconds while the page is seen, and draws it.

import { drawCharts } from "./charts.js";
import { ACME, ADVICE, CERTIFICATES, DRAINS, ENDS, EVENTS, FRONTENDS, SERVERS, WORKERS } from "./columns.js";
import { act, ask, isUnlocked, watchToken, word } from "./commands.js";
import { bytes, count, duration, moment } from "./format.js";
import { clearSessions, watchSessions } from "./sessions.js";
import { fillTable, makeButton, setText } from "./tables.js";

const INTERVAL_MS = 2000;
const byId = (id) => document.getElementById(id);

let status = null;  // what was drawn last
let timer = 0;
let isAsking = false;

async function poll() {
  clearTimeout(timer);
  if (document.hidden || isAsking) return;
  isAsking = true;
  try {
    setConnection(await fetchStatus());
  } finally {
    isAsking = false;
    timer = setTimeout(poll, INTERVAL_MS);
  }
}

/** Get the status and draw it. Return what is wrong; "" if nothing is. */
async function fetchStatus() {
  let response;
  try {
    response = await fetch("/api/status", { signal: AbortSignal.timeout(10_000) });
    if (response.status === 401) return "The proxy asks for the token: load this page again.";
    if (!response.ok) return `The proxy answers with the error ${response.status}.`;
    status = await response.json();
  } catch {
    return "The proxy does not answer.";
  }
  draw();
  return "";
}

function setConnection(problem) {
  const isOld = problem && status ? ` What you see is as of ${moment(status.time)}.` : "";
  setText(byId("connection"), problem ? problem + isOld : "Live", problem ? "bad" : "good");
}

function draw() {
  if (status === null) return;
  setText(byId("updated"), moment(status.time));
  setText(byId("version"), status.process.version);
  const servers = listServers();
  drawOverview(status.process);
  announce(servers);
  fillTable(byId("servers"), isUnlocked() ? [...SERVERS, SERVER_ACTIONS] : SERVERS, servers, (each) => each.name);
  fillTable(byId("drains"), isUnlocked() ? [...DRAINS, DRAIN_ACTIONS] : DRAINS, status.drains, (each) => each.what);
  const frontends = Object.entries(status.frontends).map(([name, frontend]) => ({ ...frontend, name }));
  fillTable(byId("frontends"), FRONTENDS, frontends, (each) => each.name);
  fillTable(byId("events"), EVENTS, numbered(status.events), (each) => each.rowKey);
  const ends = byId("only-failures").checked ? status.recent_failures : status.recent_ends;
  fillTable(byId("ends"), ENDS, numbered(ends), (each) => each.rowKey);
  fillTable(byId("certificates"), CERTIFICATES, numbered(status.certificates), (each) => each.rowKey);
  fillTable(byId("acme"), ACME, numbered(status.acme), (each) => each.rowKey);
  fillTable(byId("workers"), WORKERS, status.workers, (each) => `${each.name} ${each.pid}`);
  fillTable(byId("advice"), ADVICE, numbered(status.advice), (each) => each.rowKey);
  drawSeries(frontends, servers);
  fillSelect(byId("sessions-server"), [["", "all servers"], ...servers.map(({ name }) => [name, name])]);
}

function listServers() {
  return Object.entries(status.backends).flatMap(([backend, { servers }]) =>
    Object.entries(servers).map(([server, each]) => ({ ...each, name: `${backend}/${server}` })));
}

/** Items with keys that stay the same from poll to poll. */
function numbered(items) {
  const seen = new Map();
  return items.map((item) => {
    const text = JSON.stringify([item.time, item.id, item.event, item.message, item.file, item.where, item.key]);
    seen.set(text, (seen.get(text) ?? 0) + 1);
    return { ...item, rowKey: `${text} ${seen.get(text)}` };
  });
}

function drawOverview(process) {
  const state = process.stopping ? "draining" : process.ready ? "ready" : "not ready";
  const figures = [
    ["State", state, process.ready ? "good" : "bad"],
    ["Sessions", `${count(process.sessions)} of ${count(process.max_sessions)}`],
    ["New a second", count(process.session_rate)],
    ["Sessions so far", count(process.sessions_total)],
    ["Failures so far", count(process.failures)],
    ["From clients", bytes(process.bytes_in)],
    ["From servers", bytes(process.bytes_out)],
    ["Running for", duration(process.uptime_seconds)],
    ["Loop lag", `${count(process.loop_lag_seconds * 1000)} ms`],
    ["Workers restarted", count(process.worker_restarts)],
    ["Log lines lost", count(process.log_lines_lost)],
  ];
  setText(byId("not-ready"), process.not_ready.length ? `Not ready: ${process.not_ready.join("; ")}.` : "", "bad");
  const list = byId("overview");
  figures.forEach(([title, text, style], index) => {
    const box = list.children[index] ?? list.appendChild(document.createElement("div"));
    if (!box.firstChild) box.append(document.createElement("dt"), document.createElement("dd"));
    setText(box.firstChild, title);
    setText(box.lastChild, text, style);
  });
}

const statesBefore = new Map();

/** Say which servers have changed since the last poll; the title says how many are down. */
function announce(servers) {
  const changed = servers.filter(({ name, state }) => (statesBefore.get(name) ?? state) !== state);
  if (changed.length) {
    const sentences = changed.map(({ name, state }) => `Server ${name} is ${state}.`);
    setText(byId("news"), `${moment(status.time)}: ${sentences.join(" ")}`);
  }
  for (const { name, state } of servers) statesBefore.set(name, state);
  const down = servers.filter(({ state }) => state === "DOWN").length;
  document.title = down ? `${down} down – mailproxy` : "mailproxy";
}

function drawSeries(frontends, servers) {
  const { interval, end } = status.series;
  const subjects = new Map([["proxy", status]]);
  for (const each of frontends) subjects.set(`frontend ${each.name}`, each);
  for (const [name, each] of Object.entries(status.backends)) subjects.set(`backend ${name}`, each);
  for (const each of servers) subjects.set(`server ${each.name}`, each);
  fillSelect(byId("subject"), [...subjects.keys()].map((name) => [name, name]));
  drawCharts(byId("charts"), subjects.get(byId("subject").value).series, interval, end);
}

/** Set a list of choices, and keep the one that is chosen. */
function fillSelect(select, choices) {
  const before = [...select.options].map((option) => option.value).join("\n");
  if (before === choices.map(([value]) => value).join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(...choices.map(([value, text]) => new Option(text, value)));
  if (choices.some(([value]) => value === chosen)) select.value = chosen;
}

async function drain(name) {
  const deadline = await ask(`Drain ${name} and end its sessions?`, "Drain", { hasDeadline: true });
  if (deadline !== null) await command(`drain server ${word(name)} within ${deadline}`);
}

async function command(text) {
  await act(text);
  await poll();
}

const SERVER_ACTIONS = {
  title: "Actions",
  buttons: ({ name }) => [
    makeButton("Ready", name, () => command(`set server ${word(name)} state ready`)),
    makeButton("Drain", `${name}, its sessions go on`, () => command(`set server ${word(name)} state drain`)),
    makeButton("Maintenance", name, () => command(`set server ${word(name)} state maint`)),
    makeButton("Drain and end…", `${name}, its sessions end`, () => drain(name)),
  ],
};

const DRAIN_ACTIONS = {
  title: "Actions",
  buttons: ({ what }) => {
    const [kind, name] = what.split(/ (.*)/s);  // a drain of the process cannot be cancelled
    return name ? [makeButton("Cancel", `drain of ${what}`, () => command(`cancel drain ${kind} ${word(name)}`))] : [];
  },
};

byId("only-failures").addEventListener("change", draw);
byId("subject").addEventListener("change", draw);
document.addEventListener("visibilitychange", poll);
watchSessions();
watchToken(() => {
  clearSessions();
  draw();
});
poll();
