// The client of the chat: one connection that reconnects, the list of members, and the view.
"use strict";

const $ = (id) => document.getElementById(id);
const store = {
  get(area, key) {
    try { return window[area].getItem(key) ?? ""; } catch { return ""; }
  },
  set(area, key, value) {
    try { window[area].setItem(key, value); } catch { /* The browser stores nothing, which the chat does not need. */ }
  },
};

// Monotonic milliseconds. Date.now() is for times that people read.
const ticks = () => performance.now();

const LINES_KEPT = 500;
// Notices must not push messages out of the log.
const NOTICES_KEPT = 50;
const SILENCE_MS = 8000;
const title = document.title;

let room = "";
let name = "";
let rules = { limit: 2000, announce: 5, forget: 13 };

// The connection ---------------------------------------------------------------------------------------------------

let socket = null;
let me = "";
let wanted = false;
let attempts = 0;
let retryAt = 0;
let announcedAt = 0;
// Time of the first announcement without an answer. The room receives every announcement, and so does this page.
let askedAt = 0;
// Timer of the announcement that answers a new member.
let answering = 0;

const answerWithin = () => Math.min(people.size() * 5, rules.announce * 1000);
const connected = () => me !== "" && socket !== null && socket.readyState === WebSocket.OPEN;

function connect() {
  retryAt = 0;
  setState("connecting", attempts ? "Connecting again…" : "Connecting…");
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const before = people.mine ? `?before=${encodeURIComponent(people.mine)}` : "";
  const path = `/chat/${encodeURIComponent(room)}/${encodeURIComponent(name)}`;
  const opened = new WebSocket(`${scheme}//${location.host}${path}${before}`);
  socket = opened;
  askedAt = ticks();
  // Events of a connection that was abandoned are ignored.
  opened.onmessage = (event) => { if (socket === opened) heard(event.data); };
  opened.onclose = (event) => { if (socket === opened) lost(event.code); };
}

function send(message) {
  if (connected()) socket.send(JSON.stringify(message));
}

function announce() {
  announcedAt = ticks();
  clearTimeout(answering);
  answering = 0;
  if (!askedAt) askedAt = announcedAt;
  send({ type: "here" });
}

function giveUp() {
  const old = socket;
  socket = null;
  me = "";
  askedAt = 0;
  if (old) old.close();
}

function lost(code) {
  const wasConnected = me !== "";
  giveUp();
  if (code === 4400) return leave();
  if (!wanted) return;
  if (wasConnected) {
    notice("You lost the connection");
    for (const [key, line] of pending) failed(line, key);
    pending.clear();
  }
  const wait = Math.min(500 * 2 ** attempts, 10000) * (0.5 + Math.random() / 2);
  attempts += 1;
  retryAt = ticks() + wait;
  setState("lost", "Not connected");
  $("lost-text").textContent = wasConnected || people.mine ? "Connection lost." : "The chat cannot be reached.";
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
  const now = ticks();
  if (!wanted) return;
  if (connected()) {
    if (now - announcedAt >= rules.announce * 1000) announce();
    if (!document.hidden) people.forget(now - rules.forget * 1000);
  }
  // The message may have been dropped because a channel was full. If it arrives later, it counts as delivered.
  for (const [key, line] of pending) if (now - line.sentAt > SILENCE_MS) failed(line, key);
  if (socket && askedAt && now - askedAt > SILENCE_MS) lost(0);
  if (retryAt) {
    const left = Math.ceil((retryAt - now) / 1000);
    $("countdown").textContent = left > 0 ? `Trying again in ${left} s` : "Trying again…";
    if (left <= 0) connect();
  } else {
    $("countdown").textContent = "Trying again…";
  }
}

// Asks whether the server reaches other servers, or carries messages between its own clients only.
async function askMode() {
  if (connected() && !document.hidden) {
    try {
      const answer = await fetch("/mode", { cache: "no-store", signal: AbortSignal.timeout(5000) });
      // A server without this route is not asked again.
      if (!answer.ok) return;
      $("alone").hidden = (await answer.text()) !== "local_only";
    } catch (error) {
      // The server does not answer. The socket reports a server that has died.
      if (error.name === "TimeoutError") return;
    }
  }
  setTimeout(askMode, 1500);
}

askMode();
setInterval(tick, 500);
$("retry").onclick = () => { if (wanted && !socket) connect(); };
window.addEventListener("online", () => { if (wanted && !socket) connect(); });
window.addEventListener("offline", () => { if (socket) lost(0); });
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  setUnread(0);
  people.trust();
  if (connected()) announce();
  else if (wanted && !socket) connect();
});

// Events of the chat ------------------------------------------------------------------------------------------------

function heard(data) {
  askedAt = 0;
  const event = JSON.parse(data);
  const handler = handlers[event.type];
  if (handler) handler(event);
}

const handlers = {
  welcome(event) {
    const again = people.mine !== "";
    me = event.id;
    ({ room, name } = event);
    rules = event;
    attempts = 0;
    people.welcome(event);
    setState("online", `Connected as ${name}`);
    $("lost").hidden = true;
    $("lost-text").textContent = "";
    setHint("");
    notice(again ? "You are back" : "You joined");
  },
  joined(event) {
    // Another worker may have sent the "left" of this member before this worker sent the "joined".
    if (event.id === me || people.gone.has(event.id)) return;
    const back = people.joined(event);
    notice(`${event.name} ${back ? "is back" : "joined"}`, event.at);
    // A new member knows no other. In a full room the members answer at different times, and one answer serves all
    // members that join together, as after a restart of the server.
    answering ||= setTimeout(announce, Math.random() * answerWithin());
  },
  left(event) {
    if (people.left(event)) notice(`${event.name} left`, event.at);
  },
  here(event) {
    for (const person of event.people) people.here(person);
    if (ticks() - announcedAt > rules.announce * 800) announce();
  },
  message(event) {
    people.here(event);
    if (event.id === me && event.key !== undefined && pending.has(event.key)) {
      delivered(pending.get(event.key), event.at);
      pending.delete(event.key);
      return;
    }
    inOrder(showMessage(event.id === me, event.name, event.text, event.at), event);
    if (document.hidden) setUnread(unread + 1);
  },
  error(event) {
    if (me) setHint(event.text, true);
    else refuse(event.text);
  },
};

// Members -----------------------------------------------------------------------------------------------------------

const people = {
  // By connection: the name, and the time of the last announcement.
  known: new Map(),
  // Members that left, so that a late announcement does not add them again.
  gone: new Map(),
  lost: new Set(),
  mine: "",
  // Time at which members without an answer since this connection opened count as gone.
  sureAt: 0,

  size() { return this.known.size; },
  reset() {
    this.known.clear();
    this.gone.clear();
    this.lost.clear();
    this.mine = "";
    this.show();
  },
  welcome({ id, name: mine }) {
    this.known.delete(this.mine);
    this.mine = id;
    // A member that reconnected before this page has another id now. Only an answer confirms that it is here.
    for (const person of this.known.values()) person.unsure = true;
    this.sureAt = ticks() + answerWithin() + 2000;
    this.known.set(id, { name: mine, heard: Infinity });
    this.trust();
    this.show();
  },
  joined({ id, name: theirs, before }) {
    // Any client may claim to replace another.
    const known = before !== undefined && before !== this.mine;
    const back = known && (this.known.delete(before) || this.lost.delete(before));
    if (known) this.gone.set(before, ticks());
    this.here({ id, name: theirs });
    this.show();
    return back;
  },
  left({ id }) {
    this.gone.set(id, ticks());
    const known = this.known.delete(id);
    if (known) this.show();
    return known;
  },
  here({ id, name: theirs }) {
    if (this.gone.has(id)) return;
    if (id === this.mine) return;
    const known = this.known.has(id);
    this.known.set(id, { name: theirs, heard: ticks() });
    if (known) return;
    if (this.lost.delete(id)) notice(`${theirs} is back`);
    this.show();
  },
  forget(before) {
    for (const [id, person] of this.known) {
      const silent = person.unsure && ticks() > this.sureAt;
      if (person.heard >= before && !silent) continue;
      this.known.delete(id);
      this.lost.add(id);
      if (!silent) notice(`${person.name} lost the connection`);
      this.show();
    }
    // A connection that still announces itself has not left: another client claimed to replace it.
    for (const [id, since] of this.gone) if (since < before) this.gone.delete(id);
  },
  // After a time without a connection, no member counts as silent.
  trust() {
    for (const person of this.known.values()) person.heard = Math.max(person.heard, ticks());
  },
  show() {
    const rows = [...this.known].map(([id, person]) => ({ id, name: person.name, you: id === this.mine }));
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

function clock(at) {
  const date = new Date(at);
  const time = element("time", "", date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  time.dateTime = date.toISOString();
  time.title = date.toLocaleString();
  return time;
}

// Whether the view is at the end. It stays there while the conversation or the window changes its size.
let atEnd = true;

function append(line) {
  $("empty").hidden = true;
  $("log").append(line);
  const notices = $("log").getElementsByClassName("notice");
  if (notices.length > NOTICES_KEPT) notices[0].remove();
  while ($("log").childElementCount > LINES_KEPT) $("log").firstElementChild.remove();
  if (atEnd || line.classList.contains("mine")) toEnd();
  else if (!line.classList.contains("notice")) $("newer").hidden = false;
}

function toEnd() {
  atEnd = true;
  $("scroll").scrollTop = $("scroll").scrollHeight;
  $("newer").hidden = true;
}

function notice(text, at = Date.now()) {
  const line = element("li", "notice");
  const what = element("span", "");
  what.append(element("bdi", "", text), clock(at));
  line.append(what);
  last = { who: "", at: 0 };
  append(line);
}

function showMessage(mine, from, text, at) {
  const line = element("li", mine ? "mine" : "");
  const who = element("span", "who");
  const author = element("b", "", mine ? "You" : from);
  author.dir = "auto";
  author.style.setProperty("--hue", hue(from));
  who.append(author, clock(at));
  const bubble = element("div", "bubble", text);
  bubble.dir = "auto";
  line.append(who, bubble);
  const author_key = mine ? "\n" : from;
  if (last.who === author_key && at - last.at < 120000) line.classList.add("follows");
  last = { who: author_key, at };
  append(line);
  return line;
}

// Several workers may send two messages of one person in the wrong order. The later line is then moved up.
function inOrder(line, { id, order }) {
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

function say(text) {
  const key = nextKey++;
  const line = showMessage(true, name, text, Date.now());
  line.classList.add("pending");
  line.sentAt = ticks();
  pending.set(key, line);
  send({ type: "message", text, key });
}

function delivered(line, at) {
  line.classList.remove("pending", "failed");
  line.querySelector(".failure")?.remove();
  line.querySelector("time").replaceWith(clock(at));
}

function failed(line, key) {
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
    say(text);
  };
  note.append(again);
  line.append(note);
}

function setUnread(count) {
  unread = count;
  document.title = `${count ? `(${count}) ` : ""}${wanted ? `${room} · ` : ""}${title}`;
}

$("newer").onclick = toEnd;
$("scroll").onscroll = () => {
  const scroll = $("scroll");
  atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 80;
  if (atEnd) $("newer").hidden = true;
};
new ResizeObserver(() => { if (atEnd) toEnd(); }).observe($("scroll"));

// Writing -----------------------------------------------------------------------------------------------------------

const draft = () => `draft:${room}`;

function setHint(text, wrong = false) {
  $("hint").textContent = text;
  $("hint").classList.toggle("wrong", wrong);
}

function grow() {
  const text = $("text");
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
}

$("text").oninput = () => {
  const length = [...$("text").value.trim()].length;
  const over = length > rules.limit;
  if (length > rules.limit * 0.9) setHint(`${length} of ${rules.limit} characters`, over);
  else setHint("");
  store.set("sessionStorage", draft(), $("text").value);
  grow();
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
  say(text);
};

// Joining and leaving -----------------------------------------------------------------------------------------------

function refuse(text) {
  $("refused").textContent = text;
  $("refused").hidden = false;
}

function enter(newName, newRoom) {
  name = newName.trim();
  room = newRoom.trim();
  $("refused").hidden = true;
  if (!name || !room) return refuse("Please choose a name and a room.");
  if (room.includes("/") || /^\.+$/.test(room) || /^\.+$/.test(name)) {
    return refuse("A room cannot contain a slash, and a room or a name cannot consist of dots only.");
  }
  store.set("localStorage", "name", name);
  const address = new URL(location.href);
  address.search = new URLSearchParams({ room, name });
  history.replaceState(null, "", address);
  wanted = true;
  attempts = 0;
  setUnread(0);
  $("room-title").textContent = room;
  $("entrance").hidden = true;
  $("chat").hidden = false;
  $("text").value = store.get("sessionStorage", draft());
  grow();
  $("text").focus();
  connect();
}

function leave() {
  wanted = false;
  retryAt = 0;
  giveUp();
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
  enter($("name").value, $("room").value);
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

const asked = new URLSearchParams(location.search);
$("name").value = asked.get("name") ?? store.get("localStorage", "name");
$("room").value = asked.get("room") ?? "lobby";
if (asked.get("room") && asked.get("name")) enter(asked.get("name"), asked.get("room"));
else $("name").focus();
