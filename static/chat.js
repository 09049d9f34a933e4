// The page of the chat: the log-in, the list of conversations, and the one that is open.
//
// Text that is being written stays where it is, and is kept for a reload too. What people write becomes text nodes and nothing
// else. Nothing is fetched from anywhere but the nodes.
// Not here: requests, the stream, and the choice of the node (chat_client.js).
"use strict";

(() => {
  const PAGE = 50;

  const client = chatClient();
  const { Refused, ask } = client;
  const $ = (id) => document.getElementById(id);
  let me = null; // {account, name}
  let position = 0;
  let talks = new Map(); // conversation -> its row, with messages: Map number -> message, isWhole
  let open = null; // the conversation that is shown
  let pending = []; // {id, conversation, text, at_ms, state}
  let newFrom = null; // messages beyond this number were new when the conversation was opened

  // ---- small things ----

  function make(tag, className, ...inside) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.append(...inside);
    return element;
  }

  const draftKey = (id) => `chat-draft-${me.account}-${id}`;
  const DAY = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
  const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

  function nameOf(row) {
    if (row.kind === "room") return `# ${row.name}`;
    return row.name === null ? "deleted user" : row.name;
  }

  /** The first character as a reader sees it: an emoji may be several code points. */
  function firstOf(name) {
    if (!("Segmenter" in Intl)) return [...name][0];
    for (const { segment } of new Intl.Segmenter().segment(name)) return segment;
    return "?";
  }

  function face(element, name, id, isRoom) {
    element.className = `face${isRoom ? " is-room" : ""}${name === null ? " is-gone" : ""}`;
    element.textContent = isRoom ? "#" : name === null ? "?" : firstOf(name).toUpperCase();
    element.style.setProperty("--hue", String((id * 137) % 360));
    return element;
  }

  // ---- coming and going ----

  async function enter(path) {
    const buttons = [$("login"), $("signup")];
    $("enter-error").textContent = "";
    for (const button of buttons) button.disabled = true;
    try {
      const answer = await ask("POST", path, { name: $("name").value.trim(), password: $("password").value });
      client.setToken(answer.token);
      $("password").value = "";
      await begin();
    } catch (error) {
      $("enter-error").textContent = error.message;
    } finally {
      for (const button of buttons) button.disabled = false;
    }
  }

  async function begin() {
    try {
      me = await ask("GET", "me");
      await loadInbox();
    } catch (error) {
      if (error instanceof Refused) return leave("Please log in again.");
      return leave(error.message);
    }
    $("me").textContent = me.name;
    face($("me-face"), me.name, me.account, false);
    document.body.classList.remove("is-out");
    $("door").hidden = true;
    $("app").hidden = false;
    const last = Number(sessionStorage.getItem("chat-open"));
    if (talks.has(last)) show(last);
    client.follow({
      position: () => position,
      onLine: take,
      onLive: live,
      onLost: lost,
      onLoggedOut: () => leave("This session has ended. Please log in again."),
      onUnknownPosition: loadInbox,
    });
    client.learnNodes();
  }

  function leave(words) {
    client.setToken(null);
    client.stopFollowing();
    me = null;
    talks = new Map();
    pending = [];
    open = null;
    $("app").hidden = true;
    $("door").hidden = false;
    $("enter-error").textContent = words || "";
    document.title = "Phalanx chat";
    $("name").focus();
  }

  async function loadInbox() {
    const inbox = await ask("GET", "conversations");
    position = inbox.position;
    const before = talks;
    talks = new Map();
    for (const row of inbox.conversations) addTalk(row, before.get(row.conversation));
    drawTalks();
  }

  function addTalk(row, before) {
    talks.set(row.conversation, { ...row, messages: before ? before.messages : new Map(), isWhole: before ? before.isWhole : false });
  }

  // ---- the stream ----

  let lostNode = null;

  function live(at) {
    if (lostNode !== null && lostNode !== at) notice(`Node ${lostNode} stopped answering: now connected to node ${at}. No message was lost.`, 6000);
    lostNode = null;
    document.body.classList.remove("is-lost");
    const words = `live from node ${at}`;
    if ($("link-text").textContent !== words) $("link-text").textContent = words;
    for (const link of document.querySelectorAll("a.monitor")) link.href = `${client.addressOf(at)}/`;
    // A reload would ask the node that this page came from.
    const isHomeLost = at !== HELLO.node;
    $("door-link").hidden = !isHomeLost;
    if (isHomeLost) $("door-link").href = `${client.addressOf(at).replace(/:\d+$/, "")}:${HELLO.front_port}/chat`;
    $("link").dataset.node = at;
  }

  function lost(at) {
    if (lostNode === null) lostNode = at;
    document.body.classList.add("is-lost");
    $("link-text").textContent = `node ${lostNode} stopped answering: looking for another`;
  }

  let noticeTimer = 0;

  function notice(words, ms) {
    clearTimeout(noticeTimer);
    $("notice").textContent = words;
    $("notice").hidden = false;
    noticeTimer = setTimeout(() => ($("notice").hidden = true), ms || 5000);
  }

  /** One line of the stream. */
  function take(event) {
    if (event.type === "logged_out") return leave("This session has ended. Please log in again.");
    if (event.position !== undefined) {
      if (event.position <= position) return;
      position = event.position;
    }
    if (event.type === "joined" && event.row) {
      // A device that was offline does not get the messages it missed as events: it loads them as history.
      const before = talks.get(event.conversation);
      const isWhole = before && (before.messages.size === 0 || before.messages.has(event.row.newest));
      addTalk(event.row, isWhole ? before : undefined);
      if (!isWhole && open === event.conversation) show(open);
      return drawTalks();
    }
    const talk = talks.get(event.conversation);
    if (!talk) return;
    if (event.type === "message") takeMessage(talk, event);
    else if (event.type === "erased") {
      const message = talk.messages.get(event.number);
      if (message) message.text = null;
      if (talk.last && talk.last.number === event.number) talk.last.text = null;
      if (event.number > talk.read && talk.unread > 0) talk.unread -= 1;
      drawTalks();
      if (open === talk.conversation) drawMessages();
    } else if (event.type === "read") {
      // What is beyond the mark and not one's own; exact again with the next look at the inbox.
      if (event.number > talk.read) {
        talk.unread = Math.max(0, Math.min(talk.unread, talk.newest - event.number));
        talk.read = event.number;
      }
      drawTalks();
    } else if (event.type === "members") {
      talk.members = event.members;
      if (talk.kind === "direct" && event.members < 2) talk.name = null;
      drawTalks();
      if (open === talk.conversation) drawHead();
    } else if (event.type === "left") {
      talks.delete(talk.conversation);
      if (open === talk.conversation) close();
      drawTalks();
    }
  }

  function takeMessage(talk, event) {
    const { number, at_ms, from, text } = event;
    const isMine = from.account === me.account;
    if (!talk.messages.has(number)) talk.messages.set(number, { number, at_ms, from, text });
    if (number > talk.newest) {
      talk.newest = number;
      talk.last = { number, at_ms, from, text };
      if (isMine) {
        if (talk.unread === 0) talk.read = number; // as the service does it
      } else if (number > talk.read) talk.unread += 1;
    }
    if (isMine) {
      const sent = pending.findIndex((one) => one.conversation === talk.conversation && one.text === text);
      if (sent >= 0) pending.splice(sent, 1);
    }
    talks.delete(talk.conversation);
    talks = new Map([[talk.conversation, talk], ...talks]);
    drawTalks();
    if (open === talk.conversation) {
      drawMessages();
      markRead();
    }
  }

  // ---- the list ----

  function drawTalks() {
    let unread = 0;
    const rows = [...talks.values()].map((talk) => {
      const badge = make("span", "badge", talk.unread > 99 ? "99+" : String(talk.unread));
      badge.hidden = talk.unread === 0 || (talk.conversation === open && isLooking());
      if (!badge.hidden) unread += talk.unread;
      badge.setAttribute("aria-label", `${talk.unread} unread`);
      const time = make("time", "", talk.last ? shortTime(talk.last.at_ms) : "");
      const button = make(
        "button",
        "",
        face(make("span"), talk.name, talk.account ?? talk.conversation, talk.kind === "room"),
        make("span", "name", nameOf(talk)),
        time,
        make("span", "last", lastOf(talk)),
        badge,
      );
      button.type = "button";
      button.dataset.conversation = talk.conversation;
      button.setAttribute("aria-current", String(talk.conversation === open));
      button.addEventListener("click", () => show(talk.conversation));
      return make("li", "", button);
    });
    $("talks").replaceChildren(...rows);
    $("talks-empty").hidden = rows.length > 0;
    document.title = unread ? `(${unread}) Phalanx chat` : "Phalanx chat";
  }

  function lastOf(talk) {
    if (!talk.last) return "no messages yet";
    const words = talk.last.text === null ? "(deleted)" : talk.last.text;
    if (talk.last.from.account === me.account) return `You: ${words}`;
    return talk.kind === "room" ? `${talk.last.from.name ?? "deleted user"}: ${words}` : words;
  }

  function shortTime(ms) {
    const date = new Date(ms);
    return date.toDateString() === new Date().toDateString() ? TIME.format(date) : date.toLocaleDateString(undefined, { day: "numeric", month: "short" });
  }

  // ---- one conversation ----

  const isLooking = () => document.visibilityState === "visible";

  async function show(id) {
    keepDraft();
    const talk = talks.get(id);
    if (!talk) return;
    open = id;
    newFrom = talk.unread > 0 ? talk.read : null;
    sessionStorage.setItem("chat-open", String(id));
    $("app").classList.add("is-open");
    $("nothing").hidden = true;
    $("head").hidden = false;
    $("write").hidden = false;
    $("text").value = sessionStorage.getItem(draftKey(id)) || "";
    fit();
    drawHead();
    drawTalks();
    drawMessages(true);
    if (matchMedia("(min-width: 44rem)").matches) $("text").focus();
    await loadNewest(talk);
    if (open !== id) return;
    drawMessages(true);
    markRead();
  }

  function close() {
    keepDraft();
    open = null;
    sessionStorage.removeItem("chat-open");
    $("app").classList.remove("is-open");
    $("nothing").hidden = false;
    $("head").hidden = true;
    $("write").hidden = true;
    $("messages").replaceChildren();
    drawTalks();
  }

  function drawHead() {
    const talk = talks.get(open);
    if (!talk) return;
    face($("head-face"), talk.name, talk.account ?? talk.conversation, talk.kind === "room");
    $("title").textContent = nameOf(talk);
    $("subtitle").textContent = talk.kind === "room" ? `${talk.members} ${talk.members === 1 ? "member" : "members"}` : talk.name === null ? "has deleted the account" : "direct messages";
    $("leave").hidden = talk.kind !== "room";
  }

  function put(talk, page) {
    for (const message of page.messages) if (!talk.messages.has(message.number)) talk.messages.set(message.number, message);
    if (page.messages.length < PAGE || page.messages[0].number <= page.oldest) talk.isWhole = true;
  }

  async function loadNewest(talk) {
    // What the stream brought since is there; what was said before the page came is not.
    try {
      put(talk, await ask("GET", `conversations/${talk.conversation}/messages?limit=${PAGE}`));
    } catch (error) {
      notice(error.message);
    }
  }

  let isLoading = false;

  async function loadOlder() {
    const talk = talks.get(open);
    if (!talk || talk.isWhole || isLoading || talk.messages.size === 0) return;
    isLoading = true;
    const first = Math.min(...talk.messages.keys());
    try {
      put(talk, await ask("GET", `conversations/${talk.conversation}/messages?before=${first}&limit=${PAGE}`));
      const box = $("messages");
      const fromEnd = box.scrollHeight - box.scrollTop;
      if (open === talk.conversation) drawMessages();
      box.scrollTop = box.scrollHeight - fromEnd;
    } catch (error) {
      notice(error.message);
    }
    isLoading = false;
  }

  function drawMessages(toEnd) {
    const talk = talks.get(open);
    if (!talk) return;
    const box = $("messages");
    const wasAtEnd = toEnd || box.scrollHeight - box.scrollTop - box.clientHeight < 60;
    const top = box.scrollTop;
    const items = [];
    let day = "";
    let before = null;
    let isNewShown = false;
    const all = [...talk.messages.values()].sort((a, b) => a.number - b.number);
    const waiting = pending.filter((one) => one.conversation === open);
    for (const message of [...all, ...waiting]) {
      const date = new Date(message.at_ms);
      if (date.toDateString() !== day) {
        day = date.toDateString();
        items.push(make("li", "day", DAY.format(date)));
        before = null;
      }
      const isMine = message.number === undefined || message.from.account === me.account;
      if (newFrom !== null && !isNewShown && !isMine && message.number > newFrom) {
        isNewShown = true;
        items.push(make("li", "new-line", "new"));
        before = null;
      }
      const from = isMine ? me.account : message.from.account;
      const isFirst = !before || before.from !== from || message.at_ms - before.at_ms > 300000;
      before = { from, at_ms: message.at_ms };
      items.push(drawMessage(talk, message, isMine, isFirst));
    }
    box.replaceChildren(...items);
    box.scrollTop = wasAtEnd ? box.scrollHeight : top;
    if (box.scrollHeight <= box.clientHeight) loadOlder();
  }

  function drawMessage(talk, message, isMine, isFirst) {
    const isErased = message.text === null;
    const meta = make("div", "meta", make("time", "", TIME.format(new Date(message.at_ms))));
    const item = make(
      "li",
      `message${isMine ? " is-mine" : ""}${isFirst ? " is-first" : ""}${isErased ? " is-erased" : ""}`,
      make("span", "from", isMine ? "You" : message.from.name ?? "deleted user"),
      make("div", "bubble", isErased ? "deleted" : message.text),
      meta,
    );
    if (message.number === undefined) {
      item.classList.add(message.state === "failed" ? "is-failed" : "is-pending");
      if (message.state === "failed") {
        meta.append(make("span", "", message.why));
        meta.append(button("try again", () => deliver(message)), button("discard", () => discard(message)));
      } else meta.append(make("span", "", "sending"));
      return item;
    }
    item.dataset.number = message.number;
    if (isMine) meta.append(make("span", "", "✓"));
    if (isMine && !isErased) {
      meta.append(
        button("delete", async () => {
          try {
            await ask("DELETE", `conversations/${talk.conversation}/messages/${message.number}`);
          } catch (error) {
            notice(error.message);
          }
        }),
      );
    }
    return item;
  }

  function button(words, onClick) {
    const element = make("button", "", words);
    element.type = "button";
    element.addEventListener("click", onClick);
    return element;
  }

  let markTimer = 0;

  /** Says once a second at most how far this person has read. */
  function markRead() {
    if (markTimer) return;
    markTimer = setTimeout(async () => {
      markTimer = 0;
      const talk = talks.get(open);
      if (!talk || !isLooking() || talk.newest <= talk.read) return;
      const number = talk.newest;
      talk.read = number;
      talk.unread = 0;
      drawTalks();
      await ask("POST", `conversations/${talk.conversation}/read`, { number }).catch(() => {});
    }, 400);
  }

  // ---- writing ----

  function keepDraft() {
    if (open === null || !me) return;
    const text = $("text").value;
    if (text) sessionStorage.setItem(draftKey(open), text);
    else sessionStorage.removeItem(draftKey(open));
  }

  function fit() {
    const text = $("text");
    text.style.height = "auto";
    text.style.height = `${text.scrollHeight + 2}px`;
  }

  function write() {
    const text = $("text").value.replace(/\s+$/, "");
    if (!text || open === null) return;
    const id = crypto.randomUUID ? crypto.randomUUID() : `${Date.now()}-${Math.random()}`;
    const message = { id, conversation: open, text, at_ms: Date.now(), state: "sending" };
    pending.push(message);
    $("text").value = "";
    keepDraft();
    fit();
    drawMessages(true);
    deliver(message);
  }

  let delivery = Promise.resolve();

  /** One after another: messages are sent in the order in which they were written. */
  function deliver(message) {
    message.state = "sending";
    if (open === message.conversation) drawMessages();
    delivery = delivery.then(async () => {
      const { id, conversation, text } = message;
      try {
        const sent = await ask("POST", "messages", { conversation, text, client_id: id });
        const talk = talks.get(conversation);
        if (talk) takeMessage(talk, { number: sent.number, at_ms: message.at_ms, from: me, text });
        discard(message);
      } catch (error) {
        message.state = "failed";
        message.why = error.message;
      }
      if (open === conversation) drawMessages();
    });
  }

  function discard(message) {
    pending = pending.filter((one) => one !== message);
    if (open === message.conversation) drawMessages();
  }

  // ---- finding people and rooms ----

  let findTimer = 0;

  function find() {
    clearTimeout(findTimer);
    const text = $("find-text").value.trim();
    if (!text) return ($("found").hidden = true);
    findTimer = setTimeout(async () => {
      const name = text.replace(/^[#@]/, "");
      const pattern = encodeURIComponent(`*${name.replace(/[\\*?[]/g, "\\$&")}*`);
      const isRoomOnly = text.startsWith("#");
      const empty = { accounts: [], rooms: [] };
      const [people, rooms] = await Promise.all([
        isRoomOnly ? empty : ask("GET", `accounts?match=${pattern}&limit=8`).catch(() => empty),
        text.startsWith("@") ? empty : ask("GET", `rooms?match=${pattern}&limit=8`).catch(() => empty),
      ]);
      if ($("find-text").value.trim() !== text) return;
      const choices = [];
      for (const person of people.accounts) {
        if (person.account !== me.account) choices.push(choice(face(make("span"), person.name, person.account, false), person.name, () => direct(person.name)));
      }
      for (const room of rooms.rooms) {
        const words = `# ${room.name} (${room.members})${room.is_mine ? "" : ": join"}`;
        choices.push(choice(face(make("span"), room.name, room.conversation, true), words, () => join(room.conversation)));
      }
      if (name && !rooms.rooms.some((room) => room.name.toLowerCase() === name.toLowerCase())) {
        choices.push(choice(face(make("span"), name, 0, true), `Create the room # ${name}`, () => makeRoom(name)));
      }
      $("found").replaceChildren(...choices);
      $("found").hidden = choices.length === 0;
    }, 150);
  }

  function choice(picture, words, onClick) {
    const element = make("button", "", picture, make("span", "name", words));
    element.type = "button";
    element.addEventListener("click", onClick);
    return make("li", "", element);
  }

  async function goTo(asked) {
    $("found").hidden = true;
    $("find-text").value = "";
    try {
      const { conversation } = await asked;
      if (!talks.has(conversation)) {
        const row = await ask("GET", `conversations/${conversation}`);
        if (!talks.has(conversation)) addTalk(row);
      }
      show(conversation);
    } catch (error) {
      notice(error.message);
      $("talks-empty").textContent = error.message;
    }
  }

  const direct = (name) => goTo(ask("POST", "direct", { with: name }));
  const join = (id) => goTo(ask("POST", `rooms/${id}/join`));
  const makeRoom = (name) => goTo(ask("POST", "rooms", { name }));

  // ---- what people do ----

  $("enter").addEventListener("submit", (event) => {
    event.preventDefault();
    enter("login");
  });
  $("signup").addEventListener("click", () => $("enter").reportValidity() && enter("accounts"));
  $("logout").addEventListener("click", () => {
    ask("POST", "logout").catch(() => {});
    leave("");
  });
  $("find-text").addEventListener("input", find);
  $("find").addEventListener("submit", (event) => {
    event.preventDefault();
    const first = $("found").querySelector("button");
    if (!$("found").hidden && first) first.click();
  });
  $("find-text").addEventListener("keydown", (event) => {
    if (event.key === "Escape") $("found").hidden = true;
  });
  document.addEventListener("click", (event) => {
    if (!$("find").contains(event.target)) $("found").hidden = true;
  });
  $("back").addEventListener("click", close);
  $("leave").addEventListener("click", async () => {
    const talk = talks.get(open);
    if (!talk || !confirm(`Leave ${nameOf(talk)}?`)) return;
    try {
      await ask("POST", `rooms/${talk.conversation}/leave`);
      talks.delete(talk.conversation);
      if (open === talk.conversation) close();
    } catch (error) {
      notice(error.message);
    }
  });
  $("write").addEventListener("submit", (event) => {
    event.preventDefault();
    write();
  });
  $("text").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    write();
  });
  $("text").addEventListener("input", () => {
    fit();
    keepDraft();
  });
  $("messages").addEventListener("scroll", () => $("messages").scrollTop < 80 && loadOlder());
  document.addEventListener("visibilitychange", () => {
    if (!me) return;
    drawTalks();
    if (isLooking() && open !== null) markRead();
  });

  if (client.hasToken()) begin();
  else leave("");
})();
