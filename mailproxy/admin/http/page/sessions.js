// The list of live sessions. It has addresses of clients, so it needs the token.

import { act, ask, run, word } from "./commands.js";
import { bytes } from "./format.js";
import { fillTable, makeButton } from "./tables.js";

const SHOWN_MAX = 200;
const byId = (id) => document.getElementById(id);

export function watchSessions() {
  byId("sessions-form").addEventListener("submit", (event) => {
    event.preventDefault();
    list();
  });
}

export function clearSessions() {
  draw([]);
}

async function list() {
  const server = byId("sessions-server").value;
  const answer = await run(server ? `show sess server ${word(server)}` : "show sess");
  if (answer !== null) draw(answer.split("\n").filter(Boolean).map(parse));
}

/** Read a line of `show sess`: an id, then NAME=VALUE. */
function parse(line) {
  const [id, ...words] = line.split(" ");
  return { id: id.replace(/:$/, ""), ...Object.fromEntries(words.map((word) => word.split(/=(.*)/s, 2))) };
}

function draw(sessions) {
  fillTable(byId("sessions"), COLUMNS, sessions.slice(0, SHOWN_MAX), (session) => session.id);
  const more = sessions.length - SHOWN_MAX;
  const note = byId("sessions").nextElementSibling;
  note.textContent = more > 0 ? `${more} more sessions are not shown.` : "No sessions are listed.";
  note.hidden = more <= 0 && sessions.length > 0;
}

async function end(session) {
  const answer = await ask(`End the session ${session.id} of ${session.src}?`, "End the session");
  if (answer !== null && await act(`shutdown session ${session.id}`)) await list();
}

const COLUMNS = [
  { title: "Session", text: (session) => session.id },
  { title: "Client", text: (session) => session.src },
  { title: "Frontend", text: (session) => session.fe },
  { title: "Server", text: (session) => `${session.be}/${session.srv}` },
  { title: "Age", text: (session) => session.age },
  { title: "Idle", text: (session) => session.idle },
  { title: "Bytes", text: (session) => bytes(Number(session.bytes_in) + Number(session.bytes_out)) },
  { title: "Action", buttons: (session) => [makeButton("End", `session ${session.id}`, () => end(session))] },
];
