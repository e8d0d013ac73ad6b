// Keys, and votes that are sent until they are taken. Without this script the page is forms that the browser sends.
// A vote names the showing that it answers, so sending it again after a failure counts once.
"use strict";

const KEYS_OFF = "trainyard-keys-off";
const SETTLING_MS = 250; // a second press of the same key is not meant for the comparison that has just appeared
const LOOK_AGAIN_MS = 5000;
let picks = [];
let busy = false;
let appeared = 0;
let lookingAgain = 0;
let hiding = 0;

const one = (selector) => document.querySelector(selector);
const task = () => one('main[data-state="task"]');
const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

function say(words, trouble = false) {
  const said = one("#said");
  clearTimeout(hiding);
  said.textContent = words;
  said.classList.toggle("trouble", trouble);
  said.classList.toggle("shown", Boolean(words));
  if (words && !trouble) hiding = setTimeout(() => said.classList.remove("shown"), 1800);
}

// Ask until there is an answer; a server that is away or overwhelmed is asked again, more and more seldom.
async function send(url, options, trying) {
  for (let pause = 300; ; pause = Math.min(pause * 1.7, 5000)) {
    let answer = null;
    try {
      answer = await fetch(url, { credentials: "same-origin", ...options });
      if (answer.status < 500 && answer.status !== 429) return { status: answer.status, html: await answer.text() };
    } catch {
      answer = null;
    }
    const told = Number(answer && answer.headers.get("Retry-After")) * 1000;
    if (trying) say(answer && answer.status === 429 ? "A moment, please…" : trying, true);
    await wait(Math.max(pause, told || 0));
  }
}

// Take over what the server's page shows, but not its scripts, which would not run anyway.
function show(html, focus) {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  const main = fresh.querySelector("main");
  if (!main) return;
  one("main").replaceWith(main);
  for (const part of ["header", "footer", "#undo"]) {
    const now = one(part);
    const next = fresh.querySelector(part);
    if (now && next) now.replaceWith(next);
  }
  begin();
  if (focus) {
    scrollTo(0, 0);
    const heading = one("main h1");
    if (heading) heading.focus({ preventScroll: true });
  }
  const said = fresh.querySelector("#said");
  return said ? said.textContent.trim() : "";
}

async function post(form, button) {
  if (busy) return;
  busy = true;
  const data = new URLSearchParams(new FormData(form));
  if (button && button.name) data.set(button.name, button.value);
  const skipped = data.get("answer") === "skip";
  const undoing = form.id === "undo";
  one("main").setAttribute("aria-busy", "true");
  const trying = undoing ? "The server is away. Trying again…" : "Your answer is not saved yet. Trying again…";
  const answer = await send(form.action, { method: "POST", body: data }, trying);
  const said = show(answer.html, true);
  busy = false;
  one("main").removeAttribute("aria-busy");
  if (answer.status >= 400) say(said || "That was not taken.", true);
  else say(undoing ? "Taken back." : skipped ? "Skipped." : "Saved.");
}

function begin() {
  picks = [];
  appeared = performance.now();
  clearTimeout(lookingAgain);
  const main = one("main");
  if (main.dataset.state === "waiting") lookingAgain = setTimeout(lookAgain, LOOK_AGAIN_MS);
  const keys = one(".keys");
  if (keys) keys.hidden = false;
  const save = one(".save");
  if (save) save.hidden = false;
  showKeys();
}

async function lookAgain() {
  if (document.hidden || busy) {
    lookingAgain = setTimeout(lookAgain, LOOK_AGAIN_MS);
    return;
  }
  const answer = await send("./", {}, "");
  if (answer.status < 400 && !busy) show(answer.html, !answer.html.includes('data-state="waiting"'));
}

// Ranking of more than two: in the order in which they are picked; picked again, one is taken out.
function pick(button) {
  const place = Number(button.value);
  picks = picks.includes(place) ? picks.filter((each) => each !== place) : [...picks, place];
  showPicks();
}

function showPicks() {
  const buttons = [...document.querySelectorAll("[data-rank]")];
  for (const button of buttons) {
    const rank = picks.indexOf(Number(button.value)) + 1;
    button.closest("article").classList.toggle("picked", rank > 0);
    button.setAttribute("aria-pressed", String(rank > 0));
    button.querySelector(".label").textContent = rank ? `Rank ${rank}` : `Rank response ${button.value}`;
  }
  // The last one's rank follows from the others'.
  const ready = picks.length >= buttons.length - 1;
  one(".save").disabled = !ready;
  one('input[name="picks"]').value = picks.join(",");
  say(ready ? "Ready to save." : "");
}

const keysOff = () => localStorage.getItem(KEYS_OFF) === "yes";

function showKeys() {
  const button = one("#keys");
  if (!button) return;
  button.setAttribute("aria-pressed", String(!keysOff()));
  button.textContent = `Keyboard shortcuts: ${keysOff() ? "off" : "on"}`;
  document.documentElement.classList.toggle("keys-off", keysOff());
}

function toggle(details) {
  if (!details) return;
  details.open = !details.open;
  const field = details.querySelector("textarea");
  if (details.open && field) field.focus();
}

function press(selector) {
  const button = one(selector);
  if (button && !button.disabled) button.click();
}

function onKey(event) {
  const typing = event.target.closest("textarea, input:not([type=hidden])");
  if (event.key === "Escape" && typing) {
    typing.blur();
    return;
  }
  if (typing || event.repeat || event.ctrlKey || event.metaKey || event.altKey || keysOff()) return;
  const key = event.key.toLowerCase();
  if (key === "u") press(".undo");
  if (!task()) return;
  const actions = {
    t: () => press('[value="tie"]'),
    b: () => press('[value="both_bad"]'),
    s: () => press('[value="skip"]'),
    n: () => toggle(one(".note")),
    g: () => toggle(one(".guidelines")),
  };
  const count = Number(task().dataset.responses);
  for (let place = 1; place <= count; place++) actions[place] = () => press(`.choose[value="${place}"]`);
  if (count === 2) {
    actions.arrowleft = actions[1];
    actions.arrowright = actions[2];
  } else {
    actions.backspace = () => { picks.pop(); showPicks(); };
    if (event.target.tagName !== "BUTTON" && event.target.tagName !== "SUMMARY") actions.enter = () => press(".save");
  }
  if (!(key in actions)) return;
  event.preventDefault();
  if (key !== "n" && key !== "g" && performance.now() - appeared < SETTLING_MS) return;
  actions[key]();
}

document.addEventListener("keydown", onKey);
document.addEventListener("submit", (event) => {
  event.preventDefault();
  const button = event.submitter;
  if (button && "rank" in button.dataset) pick(button);
  else post(event.target, button);
});
document.addEventListener("click", (event) => {
  if (!event.target.closest("#keys")) return;
  localStorage.setItem(KEYS_OFF, keysOff() ? "no" : "yes");
  showKeys();
});
addEventListener("beforeunload", (event) => { if (busy) event.preventDefault(); });
if (one("main")) begin();
if (one("#said.shown")) say(one("#said").textContent);
