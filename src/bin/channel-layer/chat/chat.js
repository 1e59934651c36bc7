// The client of the chat: one connection that reconnects, the list of members, and the view.
"use strict";

const $ = (id) => document.getElementById(id);
const store = {
  get(area, key) {
    try { return window[area].getItem(key) ?? ""; } catch { return ""; }
  },
  set(area, key, value) {
    try { window[area].setItem(key, value); } catch { /* The chat also works if the browser stores nothing. */ }
  },
};

// Monotonic time in milliseconds. Date.now() is only for displayed times.
const monotonicNow = () => performance.now();

const MAX_LINES = 500;
// Notices must not push messages out of the log.
const MAX_NOTICES = 50;
const RESPONSE_TIMEOUT_MS = 8000;
const title = document.title;

let room = "";
let name = "";
let rules = { limit: 2000, announce: 5, forget: 13 };

// The connection ---------------------------------------------------------------------------------------------------

let socket = null;
let myId = "";
let active = false;
let failedAttempts = 0;
let retryAt = 0;
let announcedAt = 0;
// Time of the first announcement without an answer. The room receives every announcement, and so does this page.
let unansweredSince = 0;
// Timer of the announcement that answers a new member.
let answerTimer = 0;

const answerWindow = () => Math.min(people.size() * 5, rules.announce * 1000);
const connected = () => myId !== "" && socket !== null && socket.readyState === WebSocket.OPEN;

function connect() {
  retryAt = 0;
  setState("connecting", failedAttempts ? "Reconnecting…" : "Connecting…");
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const before = people.ownId ? `?before=${encodeURIComponent(people.ownId)}` : "";
  const path = `/chat/${encodeURIComponent(room)}/${encodeURIComponent(name)}`;
  const opened = new WebSocket(`${scheme}//${location.host}${path}${before}`);
  socket = opened;
  unansweredSince = monotonicNow();
  // Events of a connection that was abandoned are ignored.
  opened.onmessage = (event) => { if (socket === opened) handleMessage(event.data); };
  opened.onclose = (event) => { if (socket === opened) handleClose(event.code); };
}

function send(message) {
  if (connected()) socket.send(JSON.stringify(message));
}

function announce() {
  announcedAt = monotonicNow();
  clearTimeout(answerTimer);
  answerTimer = 0;
  if (!unansweredSince) unansweredSince = announcedAt;
  send({ type: "here" });
}

function abandonSocket() {
  const old = socket;
  socket = null;
  myId = "";
  unansweredSince = 0;
  if (old) old.close();
}

function handleClose(code) {
  const wasConnected = myId !== "";
  abandonSocket();
  if (code === 4400) return leave();
  if (!active) return;
  if (wasConnected) {
    notice("You lost the connection");
    for (const [key, line] of pending) markFailed(line, key);
    pending.clear();
  }
  const wait = Math.min(500 * 2 ** failedAttempts, 10000) * (0.5 + Math.random() / 2);
  failedAttempts += 1;
  retryAt = monotonicNow() + wait;
  setState("lost", "Not connected");
  $("lost-text").textContent = wasConnected || people.ownId ? "Connection lost." : "The chat cannot be reached.";
  $("lost").hidden = false;
  $("alone").hidden = true;
  tick();
}

function setState(state, text) {
  $("state").dataset.state = state;
  $("state").textContent = text;
  $("chat").dataset.online = String(state === "online");
}

// Timers of a hidden page may run only once a minute. Urgent work runs when a message arrives.
function tick() {
  const now = monotonicNow();
  if (!active) return;
  if (connected()) {
    if (now - announcedAt >= rules.announce * 1000) announce();
    if (!document.hidden) people.forget(now - rules.forget * 1000);
  }
  // The message may have been dropped because a channel was full. If it arrives later, it counts as delivered.
  for (const [key, line] of pending) if (now - line.sentAt > RESPONSE_TIMEOUT_MS) markFailed(line, key);
  if (socket && unansweredSince && now - unansweredSince > RESPONSE_TIMEOUT_MS) handleClose(0);
  if (retryAt) {
    const left = Math.ceil((retryAt - now) / 1000);
    $("countdown").textContent = left > 0 ? `Trying again in ${left} s` : "Trying again…";
    if (left <= 0) connect();
  } else {
    $("countdown").textContent = "Trying again…";
  }
}

// Polls whether the server reaches other servers, or only sends messages between its own clients.
async function pollMode() {
  if (connected() && !document.hidden) {
    try {
      const answer = await fetch("/mode", { cache: "no-store", signal: AbortSignal.timeout(5000) });
      // A server without this route is not polled again.
      if (!answer.ok) return;
      $("alone").hidden = (await answer.text()) !== "local_only";
    } catch (error) {
      // The server does not answer. The socket reports a server that has died.
      if (error.name === "TimeoutError") return;
    }
  }
  setTimeout(pollMode, 1500);
}

pollMode();
setInterval(tick, 500);
$("retry").onclick = () => { if (active && !socket) connect(); };
window.addEventListener("online", () => { if (active && !socket) connect(); });
window.addEventListener("offline", () => { if (socket) handleClose(0); });
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  setUnread(0);
  people.resetSilence();
  if (connected()) announce();
  else if (active && !socket) connect();
});

// Events of the chat ------------------------------------------------------------------------------------------------

function handleMessage(data) {
  unansweredSince = 0;
  const event = JSON.parse(data);
  const handler = handlers[event.type];
  if (handler) handler(event);
}

const handlers = {
  welcome(event) {
    const again = people.ownId !== "";
    myId = event.id;
    ({ room, name } = event);
    rules = event;
    failedAttempts = 0;
    people.welcome(event);
    setState("online", `Connected as ${name}`);
    $("lost").hidden = true;
    $("lost-text").textContent = "";
    setHint("");
    notice(again ? "You are back" : "You joined");
  },
  joined(event) {
    // Another worker may have sent the "left" of this member before this worker sent the "joined".
    if (event.id === myId || people.leftAt.has(event.id)) return;
    const back = people.joined(event);
    notice(`${event.name} ${back ? "is back" : "joined"}`, event.at);
    // A new member knows no other. In a full room the members answer at different times, and one answer serves all
    // members that join together, as after a restart of the server.
    answerTimer ||= setTimeout(announce, Math.random() * answerWindow());
  },
  left(event) {
    if (people.left(event)) notice(`${event.name} left`, event.at);
  },
  here(event) {
    for (const person of event.people) people.confirm(person);
    if (monotonicNow() - announcedAt > rules.announce * 800) announce();
  },
  message(event) {
    people.confirm(event);
    if (event.id === myId && event.key !== undefined && pending.has(event.key)) {
      markDelivered(pending.get(event.key), event.at);
      pending.delete(event.key);
      return;
    }
    moveIntoOrder(showMessage(event.id === myId, event.name, event.text, event.at), event);
    if (document.hidden) setUnread(unread + 1);
  },
  error(event) {
    if (myId) setHint(event.text, true);
    else showRefusal(event.text);
  },
};

// Members -----------------------------------------------------------------------------------------------------------

const people = {
  // By connection: the name, and the time of the last announcement.
  known: new Map(),
  // Members that left, with the time, so that a late announcement does not add them again.
  leftAt: new Map(),
  silent: new Set(),
  ownId: "",
  // Members that have not announced themselves on this connection by this time are removed.
  confirmBy: 0,

  size() { return this.known.size; },
  reset() {
    this.known.clear();
    this.leftAt.clear();
    this.silent.clear();
    this.ownId = "";
    this.show();
  },
  welcome({ id, name: mine }) {
    this.known.delete(this.ownId);
    this.ownId = id;
    // A member that reconnected before this page has another id now. Only an answer confirms that it is here.
    for (const person of this.known.values()) person.unconfirmed = true;
    this.confirmBy = monotonicNow() + answerWindow() + 2000;
    this.known.set(id, { name: mine, seenAt: Infinity });
    this.resetSilence();
    this.show();
  },
  joined({ id, name: theirs, before }) {
    // Any client may claim to replace another.
    const known = before !== undefined && before !== this.ownId;
    const back = known && (this.known.delete(before) || this.silent.delete(before));
    if (known) this.leftAt.set(before, monotonicNow());
    this.confirm({ id, name: theirs });
    this.show();
    return back;
  },
  left({ id }) {
    this.leftAt.set(id, monotonicNow());
    const known = this.known.delete(id);
    if (known) this.show();
    return known;
  },
  confirm({ id, name: theirs }) {
    if (this.leftAt.has(id)) return;
    if (id === this.ownId) return;
    const known = this.known.has(id);
    this.known.set(id, { name: theirs, seenAt: monotonicNow() });
    if (known) return;
    if (this.silent.delete(id)) notice(`${theirs} is back`);
    this.show();
  },
  forget(before) {
    for (const [id, person] of this.known) {
      const unanswered = person.unconfirmed && monotonicNow() > this.confirmBy;
      if (person.seenAt >= before && !unanswered) continue;
      this.known.delete(id);
      this.silent.add(id);
      if (!unanswered) notice(`${person.name} lost the connection`);
      this.show();
    }
    // A connection that still announces itself has not left: another client claimed to replace it.
    for (const [id, since] of this.leftAt) if (since < before) this.leftAt.delete(id);
  },
  // After a time without a connection, no member counts as silent.
  resetSilence() {
    for (const person of this.known.values()) person.seenAt = Math.max(person.seenAt, monotonicNow());
  },
  show() {
    const rows = [...this.known].map(([id, person]) => ({ id, name: person.name, you: id === this.ownId }));
    rows.sort((a, b) => b.you - a.you || a.name.localeCompare(b.name) || a.id.localeCompare(b.id));
    $("people").replaceChildren(...rows.map(personRow));
    $("count").textContent = rows.length;
    $("people-toggle").setAttribute("aria-label", `${rows.length} here. Show who.`);
  },
};

function personRow(person) {
  const face = element("span", "face", [...person.name][0].toLocaleUpperCase());
  face.style.setProperty("--hue", hue(person.name));
  face.setAttribute("aria-hidden", "true");
  const row = element("li", "");
  row.append(face, element("bdi", "", person.name));
  if (person.you) row.append(element("span", "you", "you"));
  return row;
}

// The conversation --------------------------------------------------------------------------------------------------

// Own messages that the room has not returned yet, by key.
const pending = new Map();
let nextKey = 1;
let unread = 0;
let last = { who: "", at: 0 };

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function hue(text) {
  let hash = 7;
  for (const character of text) hash = (hash * 31 + character.codePointAt(0)) % 3600;
  return hash / 10;
}

function timeElement(at) {
  const date = new Date(at);
  const time = element("time", "", date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  time.dateTime = date.toISOString();
  time.title = date.toLocaleString();
  return time;
}

// Whether the view is at the end. It stays there while the conversation or the window changes its size.
let atEnd = true;

function appendLine(line) {
  $("empty").hidden = true;
  $("log").append(line);
  const notices = $("log").getElementsByClassName("notice");
  if (notices.length > MAX_NOTICES) notices[0].remove();
  while ($("log").childElementCount > MAX_LINES) $("log").firstElementChild.remove();
  if (atEnd || line.classList.contains("mine")) scrollToEnd();
  else if (!line.classList.contains("notice")) $("newer").hidden = false;
}

function scrollToEnd() {
  atEnd = true;
  $("scroll").scrollTop = $("scroll").scrollHeight;
  $("newer").hidden = true;
}

function notice(text, at = Date.now()) {
  const line = element("li", "notice");
  const what = element("span", "");
  what.append(element("bdi", "", text), timeElement(at));
  line.append(what);
  last = { who: "", at: 0 };
  appendLine(line);
}

function showMessage(mine, from, text, at) {
  const line = element("li", mine ? "mine" : "");
  const who = element("span", "who");
  const author = element("b", "", mine ? "You" : from);
  author.dir = "auto";
  author.style.setProperty("--hue", hue(from));
  who.append(author, timeElement(at));
  const bubble = element("div", "bubble", text);
  bubble.dir = "auto";
  line.append(who, bubble);
  const authorKey = mine ? "\n" : from;
  if (last.who === authorKey && at - last.at < 120000) line.classList.add("follows");
  last = { who: authorKey, at };
  appendLine(line);
  return line;
}

// Several workers may send two messages of one person in the wrong order. The later line is then moved up.
function moveIntoOrder(line, { id, order }) {
  line.dataset.from = id;
  line.dataset.order = order;
  let before = null;
  for (let other = line.previousElementSibling, looked = 0; other && looked < 20; looked++) {
    if (other.dataset.from === id && Number(other.dataset.order) > order) before = other;
    other = other.previousElementSibling;
  }
  if (!before) return;
  line.classList.toggle("follows", before.classList.contains("follows"));
  before.classList.add("follows");
  before.before(line);
}

function sendText(text) {
  const key = nextKey++;
  const line = showMessage(true, name, text, Date.now());
  line.classList.add("pending");
  line.sentAt = monotonicNow();
  pending.set(key, line);
  send({ type: "message", text, key });
}

function markDelivered(line, at) {
  line.classList.remove("pending", "failed");
  line.querySelector(".failure")?.remove();
  line.querySelector("time").replaceWith(timeElement(at));
}

function markFailed(line, key) {
  if (line.classList.contains("failed")) return;
  line.classList.replace("pending", "failed");
  const note = element("span", "failure", "May not be delivered.");
  const again = element("button", "", "Send again");
  again.type = "button";
  again.onclick = () => {
    if (!connected()) return setHint("Not connected yet.", true);
    const text = line.querySelector(".bubble").textContent;
    line.remove();
    pending.delete(key);
    sendText(text);
  };
  note.append(again);
  line.append(note);
}

function setUnread(count) {
  unread = count;
  document.title = `${count ? `(${count}) ` : ""}${active ? `${room} · ` : ""}${title}`;
}

$("newer").onclick = scrollToEnd;
$("scroll").onscroll = () => {
  const scroll = $("scroll");
  atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 80;
  if (atEnd) $("newer").hidden = true;
};
new ResizeObserver(() => { if (atEnd) scrollToEnd(); }).observe($("scroll"));

// Writing -----------------------------------------------------------------------------------------------------------

const draftKey = () => `draft:${room}`;

function setHint(text, wrong = false) {
  $("hint").textContent = text;
  $("hint").classList.toggle("wrong", wrong);
}

function resizeInput() {
  const text = $("text");
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
}

$("text").oninput = () => {
  const length = [...$("text").value.trim()].length;
  const over = length > rules.limit;
  if (length > rules.limit * 0.9) setHint(`${length} of ${rules.limit} characters`, over);
  else setHint("");
  store.set("sessionStorage", draftKey(), $("text").value);
  resizeInput();
};

$("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
};

$("composer").onsubmit = (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  if ([...text].length > rules.limit) return setHint(`A message has at most ${rules.limit} characters.`, true);
  if (!connected()) return setHint("Not connected. Your text is kept here until you are back.", true);
  $("text").value = "";
  $("text").oninput();
  $("text").focus();
  sendText(text);
};

// Joining and leaving -----------------------------------------------------------------------------------------------

function showRefusal(text) {
  $("refused").textContent = text;
  $("refused").hidden = false;
}

function join(newName, newRoom) {
  name = newName.trim();
  room = newRoom.trim();
  $("refused").hidden = true;
  if (!name || !room) return showRefusal("Please choose a name and a room.");
  if (room.includes("/") || /^\.+$/.test(room) || /^\.+$/.test(name)) {
    return showRefusal("A room cannot contain a slash, and a room or a name cannot consist of dots only.");
  }
  store.set("localStorage", "name", name);
  const address = new URL(location.href);
  address.search = new URLSearchParams({ room, name });
  history.replaceState(null, "", address);
  active = true;
  failedAttempts = 0;
  setUnread(0);
  $("room-title").textContent = room;
  $("entrance").hidden = true;
  $("chat").hidden = false;
  $("text").value = store.get("sessionStorage", draftKey());
  resizeInput();
  $("text").focus();
  connect();
}

function leave() {
  active = false;
  retryAt = 0;
  abandonSocket();
  people.reset();
  pending.clear();
  $("log").replaceChildren();
  $("empty").hidden = false;
  $("lost").hidden = true;
  $("alone").hidden = true;
  $("chat").hidden = true;
  $("entrance").hidden = false;
  $("name").value = name;
  $("room").value = room;
  $("name").focus();
  setUnread(0);
}

$("join").onsubmit = (event) => {
  event.preventDefault();
  join($("name").value, $("room").value);
};
$("leave").onclick = () => {
  leave();
  history.replaceState(null, "", location.pathname);
};
$("people-toggle").onclick = () => {
  const open = $("chat").classList.toggle("people-open");
  $("people-toggle").setAttribute("aria-expanded", String(open));
};
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && $("chat").classList.contains("people-open")) $("people-toggle").click();
});

const query = new URLSearchParams(location.search);
$("name").value = query.get("name") ?? store.get("localStorage", "name");
$("room").value = query.get("room") ?? "lobby";
if (query.get("room") && query.get("name")) join(query.get("name"), query.get("room"));
else $("name").focus();
