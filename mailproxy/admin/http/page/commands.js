// Commands of the operator. They need the token, which this tab keeps.

const KEY = "mailproxy-token";
const byId = (id) => document.getElementById(id);

export function isUnlocked() {
  return sessionStorage.getItem(KEY) !== null;
}

/** Return a name as a word of a command: blanks, semicolons and backslashes are escaped. */
export function word(name) {
  return name.replace(/[\s;\\]/g, "\\$&");
}

/** Carry a command out. Return its answer; null if it failed, which the page says. */
export async function run(command) {
  const { text, isGood } = await send(command, sessionStorage.getItem(KEY) ?? "");
  if (!isGood) say(text);
  return isGood ? text : null;
}

/** Carry out a command that changes something, and say that it is done. */
export async function act(command) {
  const answer = await run(command);
  if (answer !== null) say(`Done: ${command}\n${answer}`.trim());
  return answer !== null;
}

/** Ask the operator. Return the deadline ("" if there was none to give); null if the operator declines. */
export function ask(title, verb, { hasDeadline = false } = {}) {
  const dialog = byId("question");
  const deadline = byId("deadline");
  byId("question-title").textContent = title;
  byId("question-yes").textContent = verb;
  byId("question-deadline").hidden = !hasDeadline;
  deadline.disabled = !hasDeadline;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      if (dialog.returnValue !== "yes") resolve(null);
      else resolve(hasDeadline ? deadline.value : "");
    }, { once: true });
  });
}

/** Make the form of the token work. `changed` is called whenever the page is unlocked or locked. */
export function watchToken(changed) {
  const show = () => {
    byId("token-form").hidden = isUnlocked();
    byId("unlocked").hidden = !isUnlocked();
    byId("sessions-section").hidden = !isUnlocked();
    changed();
  };
  byId("token-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const token = byId("token").value.trim();
    const { text, isGood } = await send("show version", token);
    if (isGood) {
      sessionStorage.setItem(KEY, token);
      byId("token").value = "";
    }
    say(isGood ? "The token is right." : text);
    show();
    if (isGood) byId("operate-title").focus();
  });
  byId("lock").addEventListener("click", () => {
    sessionStorage.removeItem(KEY);
    say("The token is forgotten.");
    show();
    byId("operate-title").focus();
  });
  byId("question-no").addEventListener("click", () => byId("question").close());
  byId("question").querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    byId("question").close("yes");
  });
  show();
}

function say(text) {
  byId("result").textContent = text;
}

async function send(command, token) {
  if (!/^[\x21-\x7e]+$/.test(token)) return { isGood: false, text: "A token is printable ASCII without blanks." };
  let response;
  try {
    response = await fetch("/api/command", {
      method: "POST",
      body: command,
      headers: { Authorization: `Bearer ${token}`, "Content-Type": "text/plain" },
      credentials: "omit",  // otherwise a wrong token opens the browser's own dialog
      signal: AbortSignal.timeout(20_000),
    });
  } catch {
    return { isGood: false, text: `The proxy does not answer. It may not have received: ${command}` };
  }
  if (response.status === 401) return { isGood: false, text: "The token is wrong." };
  if (response.status === 404) {
    return { isGood: false, text: "This proxy takes no commands: admin.token_file is not set." };
  }
  const text = (await response.text()).trim();
  return response.ok ? { isGood: true, text } : { isGood: false, text: `Refused: ${command}\n${text}` };
}
