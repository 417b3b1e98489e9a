// The columns of the tables, as tables.js describes them.

import { bytes, count, day, duration, milliseconds, moment } from "./format.js";

const STATE_STYLES = { UP: "good", DOWN: "bad" };

export const SERVERS = [
  { title: "Server", text: (each) => each.name },
  { title: "State", text: (each) => each.state, style: (each) => STATE_STYLES[each.state] ?? "warn" },
  { title: "For", text: (each) => duration(each.seconds_in_state) },
  { title: "Sessions", text: (each) => count(each.sessions) + (each.max_sessions ? ` of ${count(each.max_sessions)}` : "") },
  { title: "Queue", text: (each) => count(each.queue) },
  { title: "Weight", text: (each) => count(each.weight) + (each.backup ? ", backup" : "") },
  { title: "Failures", text: (each) => count(each.failures) },
  { title: "Last check", text: describeCheck, style: (each) => (each.check?.passed === false ? "bad" : "") },
  { title: "Address", text: (each) => each.address },
];

function describeCheck({ check, checked, checks_paused: isPaused }) {
  if (!checked) return "not checked";
  if (isPaused) return "paused";
  if (!check) return "not yet";
  const time = check.milliseconds === null ? "" : ` in ${milliseconds(check.milliseconds)}`;
  return `${check.text}${time}${check.info ? `: ${check.info}` : ""}`;
}

export const DRAINS = [
  { title: "Drain", text: (each) => each.what },
  { title: "Sessions left", text: (each) => count(each.left) },
  { title: "Of these idle", text: (each) => count(each.idle) },
  { title: "Deadline in", text: (each) => duration(each.seconds) },
];

export const FRONTENDS = [
  { title: "Frontend", text: (each) => each.name },
  { title: "State", text: (each) => each.state, style: (each) => (each.state === "OPEN" ? "good" : "warn") },
  { title: "Protocol", text: (each) => each.protocol },
  { title: "Sessions", text: (each) => `${count(each.sessions)} of ${count(each.max_sessions)}` },
  { title: "New a second", text: (each) => count(each.session_rate) },
  { title: "Bytes", text: (each) => bytes(each.bytes_in + each.bytes_out) },
  { title: "Failures", text: (each) => count(each.failures) },
];

const LEVEL_STYLES = { error: "bad", warning: "warn" };

export const EVENTS = [
  { title: "Time", text: (each) => moment(each.time) },
  { title: "Level", text: (each) => each.level, style: (each) => LEVEL_STYLES[each.level] ?? "" },
  { title: "Event", text: (each) => each.event },
  { title: "Message", text: (each) => each.message },
];

export const ENDS = [
  { title: "Time", text: (each) => moment(each.time) },
  { title: "End", text: (each) => each.end, style: (each) => (each.failed ? "bad" : "") },
  { title: "Reason", text: (each) => each.reason + (each.detail ? ` (${each.detail})` : "") },
  { title: "Frontend", text: (each) => each.frontend },
  { title: "Server", text: (each) => (each.server ? `${each.backend}/${each.server}` : "–") },
  { title: "Took", text: (each) => milliseconds(each.milliseconds) },
  { title: "Bytes", text: (each) => bytes(each.bytes_in + each.bytes_out) },
];

export const CERTIFICATES = [
  { title: "Names", text: (each) => each.names.join(", ") || "–" },
  { title: "Expires", text: (each) => day(each.not_after) },
  { title: "Days left", text: (each) => count(each.days_left), style: (each) => (each.days_left < 14 ? "bad" : "") },
  { title: "File", text: (each) => each.file },
];

export const ACME = [
  { title: "Names", text: (each) => each.names.join(", ") },
  { title: "Key", text: (each) => each.key_type },
  { title: "Expires", text: (each) => (each.not_after === null ? "no certificate yet" : day(each.not_after)) },
  { title: "Last attempt", text: (each) => (each.last_attempt === null ? "–" : moment(each.last_attempt)) },
  { title: "Result", text: describeResult, style: (each) => (each.failures && !each.is_running ? "bad" : "") },
  { title: "Next attempt", text: (each) => (each.next_attempt === null ? "–" : moment(each.next_attempt)) },
  { title: "From", text: (each) => `acme.${each.authority}` },
];

function describeResult({ is_running, last_result, failures }) {
  if (is_running) return "under way";
  return failures > 1 ? `${last_result} (${failures} failures in a row)` : last_result || "–";
}

export const WORKERS = [
  { title: "Process", text: (each) => each.name },
  { title: "Id", text: (each) => String(each.pid) },
  { title: "State", text: describeWorker, style: (each) => (each.ready && each.responsive ? "good" : "bad") },
];

function describeWorker({ ready, responsive }) {
  if (!responsive) return "does not answer";
  return ready ? "accepts sessions" : "starts";
}

export const ADVICE = [
  { title: "Key", text: (each) => each.key },
  { title: "Advice", text: (each) => each.message },
  { title: "Where", text: (each) => each.where },
];
