// The requests and the stream of the chat: which node is asked, and what happens when it does not answer.
//
// The page knows all nodes (HELLO, and the status later). A request that fails goes to the next one under the same key, so it
// is carried out once; the stream is opened on the next one after the position that was read last, so nothing is missed or
// doubled. A browser opens six connections to a node at most: a hidden tab keeps no stream, and opens one every few seconds.
// Not here: what the page shows (chat.js).
"use strict";

const chatClient = () => {
  const ATTEMPT_MS = 3000; // Give one node up for one request.
  const GIVE_UP_MS = 30000; // Give a request up.
  const SILENCE_MS = 4500; // The stream beats every two seconds.
  const RETRY_MS = 150;
  const LOOK_MS = 500; // A hidden tab closes its stream when nothing has come for so long,
  const REST_MS = 4000; // and opens it again after so long, or when it is shown.
  const LOOPBACK = /^(localhost|127\.[\d.]+|\[::1\])(?=:|$)/i;

  const nodes = new Map(HELLO.nodes.map((node) => [node.id, reached(node)])); // id -> http://host:port
  let node = HELLO.node; // who is asked first
  let token = sessionStorage.getItem("chat-token");
  let follower = null;

  /** Where this page reaches a node. Its own is where it came from, which may be a proxy; one on loopback is on that machine. */
  function reached(node) {
    if (node.id === HELLO.node) return location.origin;
    return `http://${LOOPBACK.test(location.hostname) ? node.http : node.http.replace(LOOPBACK, location.hostname)}`;
  }

  const pause = (ms) => new Promise((done) => setTimeout(done, ms));

  /** What a node wants to see first where a password is set; the user's own token has a header of its own. */
  const withAccess = () => (HELLO.access === null ? {} : { Authorization: `Bearer ${HELLO.access}` });

  class Refused extends Error {
    constructor(status, words) {
      super(words);
      this.status = status;
    }
  }

  function nextNode(failed) {
    if (node !== failed) return; // another request has moved on already
    const ids = [...nodes.keys()].sort((a, b) => a - b);
    node = ids[(ids.indexOf(failed) + 1) % ids.length];
  }

  /** Asks until a node answers. The key is the same on each try: what is asked for happens once. */
  async function ask(method, path, body, { isWhole = false } = {}) {
    const key = crypto.randomUUID ? crypto.randomUUID() : `${Date.now()}-${Math.random()}`;
    const until = performance.now() + GIVE_UP_MS;
    let words = "no node answers";
    while (performance.now() < until) {
      const at = node;
      const controller = new AbortController();
      const timer = setTimeout(() => controller.abort(), ATTEMPT_MS);
      try {
        const headers = withAccess();
        if (token) headers["X-Phalanx-Chat-Token"] = token;
        if (method !== "GET") {
          headers["Content-Type"] = "application/json";
          headers["Idempotency-Key"] = key;
        }
        const answer = await fetch(`${nodes.get(at)}${isWhole ? path : `/v1/chat/${path}`}`, {
          method,
          headers,
          body: method === "GET" || method === "DELETE" ? undefined : JSON.stringify(body || {}),
          signal: controller.signal,
          cache: "no-store",
          credentials: "omit",
        });
        const value = await answer.json().catch(() => ({}));
        if (answer.ok) return value;
        words = value.error || `status ${answer.status}`;
        if (answer.status < 500) throw new Refused(answer.status, words);
      } catch (error) {
        if (error instanceof Refused) throw error;
      } finally {
        clearTimeout(timer);
      }
      nextNode(at);
      await pause(RETRY_MS);
    }
    throw new Error(words);
  }

  /** Learns the nodes that have joined since the page was loaded. */
  async function learnNodes() {
    const status = await ask("GET", "/v1/status", null, { isWhole: true }).catch(() => null);
    for (const row of status ? status.nodes : []) if (row.http) nodes.set(row.id, reached(row));
  }

  /**
   * Reads the stream after `page.position()` until `stop` is called: `onLine` gets each event, `onLive` and `onLost` the node
   * that serves or stopped answering. `onLoggedOut`: the token is no longer valid. `onUnknownPosition`: the position is not of
   * this cluster.
   */
  async function follow(page) {
    const controller = new AbortController();
    follower = controller;
    const isMine = () => follower === controller;
    while (isMine()) {
      const at = node;
      const round = new AbortController();
      const stop = () => round.abort();
      controller.signal.addEventListener("abort", stop);
      let timer = setTimeout(stop, ATTEMPT_MS);
      let isResting = false;
      const wait = () => {
        clearTimeout(timer);
        timer = setTimeout(() => {
          isResting = document.hidden;
          stop();
        }, document.hidden ? LOOK_MS : SILENCE_MS);
      };
      try {
        const answer = await fetch(`${nodes.get(at)}/v1/chat/stream?after=${page.position()}`, {
          headers: { ...withAccess(), "X-Phalanx-Chat-Token": token },
          signal: round.signal,
          cache: "no-store",
          credentials: "omit",
        });
        if (answer.status === 401) return isMine() && page.onLoggedOut();
        if (answer.status === 400) await page.onUnknownPosition();
        if (answer.ok) {
          const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
          document.addEventListener("visibilitychange", wait, { signal: round.signal });
          let text = "";
          for (;;) {
            wait();
            const { value, done } = await reader.read();
            if (done || !isMine()) break;
            page.onLive(at);
            const lines = (text + value).split("\n");
            text = lines.pop();
            for (const line of lines) if (line) page.onLine(JSON.parse(line));
            if (!isMine()) return;
          }
        }
      } catch {
        // Broken off, silent, or not to be reached: the same.
      }
      clearTimeout(timer);
      stop();
      controller.signal.removeEventListener("abort", stop);
      if (!isMine()) return;
      if (isResting) {
        await rest();
        continue;
      }
      page.onLost(at);
      nextNode(at);
      await pause(RETRY_MS);
    }
  }

  /** Ends when the tab is shown, or after a while. */
  function rest() {
    return new Promise((done) => {
      const end = () => {
        clearTimeout(timer);
        document.removeEventListener("visibilitychange", end);
        done();
      };
      const timer = setTimeout(end, REST_MS);
      document.addEventListener("visibilitychange", end);
    });
  }

  function stopFollowing() {
    if (follower) follower.abort();
    follower = null;
  }

  /** `null`: logged out. */
  function setToken(value) {
    token = value;
    if (token) sessionStorage.setItem("chat-token", token);
    else sessionStorage.removeItem("chat-token");
  }

  return { Refused, addressOf: (id) => nodes.get(id), ask, follow, hasToken: () => Boolean(token), learnNodes, setToken, stopFollowing };
};
